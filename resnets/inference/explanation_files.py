"""A folder of explanations: pictures of many image files, a page that shows them, and a record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from resnets.analysis import overlays
from resnets.analysis.activation_maps import StageMap
from resnets.analysis.overlays import CaptionedPicture
from resnets.data.images import read_image
from resnets.inference.explanations import ALL, check_stage, explain
from resnets.inference.neighbours import Nearest
from resnets.inference.predictions import DIGITS, ClassProbability
from resnets.support.errors import UserError, valid_utf8
from resnets.support.files import (
    make_folder,
    refuse_unwritable,
    write_bytes,
    write_json,
    writing,
)
from resnets.support.names import listed
from resnets.weights.model_file import Model

RECORD, PAGE = "explanations.json", "index.html"
_PICTURE = re.compile(r"[A-Za-z0-9_-]+-(?:stem|layer[0-9]+|stages|nearest)\.png")
"""Names of the pictures; see `_unused_name`."""


@dataclass(frozen=True)
class ExplanationOptions:
    """Options of explanations in a folder.

    Args:
        index: the class to explain; by default each image's most probable one.
        stage: the one stage to draw, or `all`.
        opacity: of the maps over the photographs, in 0..1.
    """

    index: int | None = None
    stage: str = ALL
    opacity: float = 0.5


@dataclass(frozen=True)
class ExplainedFile:
    """The record of one explained image file, or the reason why there is none.

    Args:
        image: the file, as it was named.
        explained: the class.
        top: the most probable classes, best first.
        stages: the maps.
        files: names of the pictures in the folder, by stage; `stages` is the sheet of all,
            `nearest` the sheet of similar images.
        nearest: similar images of another folder, if they were requested.
        error: why the image could not be read.
    """

    image: str
    explained: ClassProbability | None = None
    top: Sequence[ClassProbability] = ()
    stages: tuple[StageMap, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    nearest: Nearest | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON; the maps themselves are in the pictures."""
        if self.explained is None:
            return {"image": valid_utf8(self.image), "error": valid_utf8(self.error or "")}
        facts: dict[str, Any] = {
            "image": valid_utf8(self.image),
            "class": valid_utf8(self.explained.name),
            "index": self.explained.index,
            "probability": round(self.explained.probability, DIGITS),
            "top": [entry.as_dict() for entry in self.top],
            "stages": [_stage_facts(stage) for stage in self.stages],
            "files": dict(self.files),
        }
        if self.nearest is not None:
            facts["nearest"] = [neighbour.as_dict() for neighbour in self.nearest.neighbours]
            facts["itself_left_out"] = self.nearest.itself
        return facts


def _stage_facts(stage: StageMap) -> dict[str, Any]:
    height, width = stage.values.shape
    return {
        "stage": stage.stage,
        "method": stage.method,
        "height": height,
        "width": width,
        "channels": stage.channels,
        "mean": round(stage.mean, 5),
        "deviation": round(stage.deviation, 5),
        "active": round(stage.active, 5),
    }


def check_folder(model: Model, folder: Path, stage: str = ALL) -> None:
    """Check what can be checked before anything is computed or written.

    Args:
        model: its network must have the stage.
        folder: new, empty, or filled by an earlier call, whose files will be replaced.
        stage: to be drawn, or `all`.

    Raises:
        UserError: if there is no such stage, or the folder holds other files or cannot be
            written.
    """
    check_stage(model, stage, "--stage", (ALL,))
    if folder.exists() and not folder.is_dir():
        raise UserError("a file is in the way", f"--out {folder}", "give a new folder")
    if others := _other_files(folder):
        message = f"holds other files: {listed(sorted(others))}"
        raise UserError(message, f"--out {folder}", "give a new folder")
    first = folder / RECORD if folder.is_dir() else folder
    while not first.parent.exists():
        first = first.parent
    refuse_unwritable(first)


def _other_files(folder: Path) -> list[str]:
    """Names of what an earlier call has not written, apart from hidden files, in a folder."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir()]
    if RECORD not in names:
        return names
    return [name for name in names if not (name.startswith(".") or _is_own(folder / name))]


def _is_own(path: Path) -> bool:
    return path.is_file() and (path.name in (RECORD, PAGE) or bool(_PICTURE.fullmatch(path.name)))


def refuse_own_inputs(folder: Path, images: Sequence[str]) -> None:
    """Raise `UserError` if an image to explain is a picture that would be replaced."""
    for image in map(Path, images):
        if image.parent.resolve() == folder.resolve() and _is_own(image):
            message = "would be deleted before it is read: it is a picture of an earlier call"
            raise UserError(message, str(image), f"give another folder than --out {folder}")


def prepare_folder(model: Model, folder: Path, stage: str = ALL) -> None:
    """Create the folder for explanations, without pictures of an earlier call.

    Arguments and errors are those of `check_folder`.
    """
    check_folder(model, folder, stage)
    make_folder(folder)
    _write_record(folder, model.card["network"], [])  # marks the folder as ours
    with writing(folder):
        for path in folder.iterdir():
            if path.name != RECORD and _is_own(path):
                path.unlink()


def explain_files(
    model: Model,
    images: Sequence[str],
    folder: Path,
    options: ExplanationOptions,
    similar: Mapping[str, Nearest] | None = None,
) -> Iterator[ExplainedFile]:
    """Explain image files one by one and write their pictures; at the end, or if the caller stops,
    the page.

    Files that cannot be read yield their error.

    Args:
        model: on any device.
        images: image files.
        folder: for the pictures, see `prepare_folder`.
        options: which class and stage, and how the maps are drawn.
        similar: similar images of each file, drawn as a sheet.

    Raises:
        UserError: if the folder cannot be written.
    """
    used: set[str] = set()
    done = []
    try:
        for file in images:
            near = (similar or {}).get(file)
            done.append(_explain_file(model, file, folder, options, near, used))
            yield done[-1]
    finally:  # also after Ctrl-C
        network = model.card["network"]
        _write_record(folder, network, done)
        write_bytes(folder / PAGE, _render(network, done))


def _explain_file(
    model: Model,
    file: str,
    folder: Path,
    options: ExplanationOptions,
    near: Nearest | None,
    used: set[str],
) -> ExplainedFile:
    """Explain one file and write its pictures, under a name that is not `used` yet."""
    try:
        image = read_image(Path(file))
    except UserError as error:
        return ExplainedFile(file, error=error.reason)
    explanation = explain(model, image, options.index, file)
    pictures = explanation.pictures(options.stage, options.opacity)
    if near is not None:
        pictures["nearest"] = _nearest_sheet(model, explanation.network_input, near)
    stem, files = _unused_name(file, used), {}
    for kind, picture in pictures.items():
        files[kind] = f"{stem}-{kind}.png"
        write_bytes(folder / files[kind], overlays.png(picture))
    return ExplainedFile(
        file, explanation.explained, explanation.top, explanation.stages, files, near
    )


def _write_record(folder: Path, network: str, done: Sequence[ExplainedFile]) -> None:
    write_json(folder / RECORD, {"network": network, "images": [one.as_dict() for one in done]})


def _render(network: str, images: Sequence[ExplainedFile]) -> bytes:
    """The page that shows the pictures."""
    text = resources.files("resnets.inference").joinpath("explanations.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(text).render(network=network, images=images)
    return valid_utf8(page).encode()


def _nearest_sheet(model: Model, query: Image.Image, similar: Nearest) -> Image.Image:
    """A sheet of an image and its neighbours, as the network sees them."""
    pictures = [CaptionedPicture(query, ("the image",))]
    for neighbour in similar.neighbours:
        try:
            picture = model.preprocessing.crop(read_image(Path(neighbour.image)))
        except UserError:  # its features came from the cache, and the file is gone
            picture = Image.new("RGB", query.size, "grey")
        name = Path(neighbour.image).name
        pictures.append(
            CaptionedPicture(picture, (f"{neighbour.similarity:.3f}  {neighbour.label}", name))
        )
    return overlays.sheet(pictures, "Nearest images by the cosine of pooled features")


def _unused_name(file: str, used: set[str]) -> str:
    """A name for an image's pictures: ASCII, short, and not used yet in any letter case."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(file).stem)[:60].strip("_") or "image"
    name, number = stem, 1
    while name.lower() in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name.lower())
    return name
