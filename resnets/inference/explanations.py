"""Explanations of many image files: pictures of what each stage looks at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from resnets.analysis import activation_maps, overlays
from resnets.analysis.activation_maps import Explanation, StageMap
from resnets.analysis.overlays import Panel
from resnets.data.images import read_image
from resnets.data.preprocessing import resized_crop, to_tensor
from resnets.inference import export_folder
from resnets.inference.explanation_page import Explained, page
from resnets.inference.neighbours import Nearest
from resnets.support.errors import UserError, nearest
from resnets.support.files import make_folder, write_bytes
from resnets.weights import model_file
from resnets.weights.model_file import Model

ALL = "all"
TOP = 5
RECORD, PAGE = "explanations.json", "index.html"


@dataclass(frozen=True)
class Wishes:
    """What is to be explained, and how it is drawn.

    Args:
        index: a class for all images; each one's most probable by default.
        stage: the name of one, or `all`.
        opacity: of the map over the photograph, in 0..1.
    """

    index: int | None = None
    stage: str = ALL
    opacity: float = 0.5


def open_network(name: str) -> Model:
    """A model whose answers can be explained.

    Args:
        name: as for predictions; of an export the network that it was made from is explained.

    Raises:
        UserError: if there is no such model, or it has no stages, or an export lies there
            without its source.
    """
    model = model_file.load(str(export_folder.source_of(name)))
    activation_maps.with_stages(model.network)
    return model


def find_class(classes: Sequence[str], wanted: str) -> int:
    """The index of a class that is given by its name, or by its number from 0.

    Raises:
        UserError: if there is none, or several have this name.
    """
    folded = wanted.strip().casefold()
    for same in (
        [i for i, name in enumerate(classes) if name == wanted],
        [int(wanted)] if wanted.isdecimal() and int(wanted) < len(classes) else [],
        [i for i, name in enumerate(classes) if name.casefold() == folded],
    ):
        if len(same) == 1:
            return same[0]
        if same:
            numbers = " or ".join(map(str, same))
            raise UserError("several classes have this name", wanted, f"give {numbers}")
    if wanted.lstrip("-").isdecimal():
        raise UserError("no such class", wanted, f"numbers go from 0 to {len(classes) - 1}")
    raise UserError("no such class", wanted, nearest(wanted, classes))


def explain(model: Model, image: Image.Image, index: int | None = None) -> Explanation:
    """What a model answers for an upright RGB image, and where each stage has the reasons."""
    look = model.preprocessing
    pixels = to_tensor(look.crop(image))[None]
    place = next(model.network.parameters()).device
    return activation_maps.stage_maps(
        model.network, model.normalize(place)(pixels.to(place)), index
    )


def prepare(model: Model, folder: Path, wishes: Wishes) -> None:
    """Make the folder for explanations; refuse what could only fail later.

    Args:
        folder: new, empty, or filled by an earlier call: its pictures may be replaced.

    Raises:
        UserError: if there is no such stage, the folder holds something else, or cannot be
            made.
    """
    known = [ALL, "stem", *activation_maps.with_stages(model.network).stage_names]
    if wishes.stage not in known:
        raise UserError("no such stage", f"--stage {wishes.stage}", f"known: {', '.join(known)}")
    make_folder(folder)
    if not (folder / RECORD).exists():
        if any(folder.iterdir()):
            raise UserError("holds other files", f"--out {folder}", "give a new folder")
        _record(folder, model.card["network"], [])  # from now on it shows whose it is


def explain_files(
    model: Model,
    images: Sequence[str],
    folder: Path,
    wishes: Wishes,
    neighbours: Mapping[str, Nearest] | None = None,
) -> Iterator[Explained]:
    """Explain image files one by one, each with its pictures; after the last, write the page.

    Images that cannot be read have their reason.

    Args:
        folder: for the pictures, prepared.
        neighbours: found for each image, to be shown too.

    Raises:
        UserError: if the folder cannot be written.
    """
    used: set[str] = set()
    done = []
    for file in images:
        found = _explain_file(model, file, folder, wishes, (neighbours or {}).get(file), used)
        done.append(found)
        yield found
    network = model.card["network"]
    _record(folder, network, done)
    write_bytes(folder / PAGE, page(network, done).encode("utf-8", "replace"))


def _record(folder: Path, network: str, done: Sequence[Explained]) -> None:
    facts = {"network": network, "images": [one.as_dict() for one in done]}
    write_bytes(folder / RECORD, (json.dumps(facts, indent=2) + "\n").encode())


def _explain_file(
    model: Model,
    file: str,
    folder: Path,
    wishes: Wishes,
    near: Nearest | None,
    used: set[str],
) -> Explained:
    try:
        image = read_image(Path(file))
    except UserError as error:
        return Explained(file, error=error.message)
    explanation = explain(model, image, wishes.index)
    chances = explanation.probabilities
    best = chances.topk(min(TOP, len(chances)))
    name = model.classes[explanation.index]
    chance = round(float(chances[explanation.index]), 5)
    stem = _unused(file, used)
    files = {}
    for what, picture in _pictures(
        model, image, explanation, wishes, f"{name}, {100 * chance:.1f} %", near
    ):
        files[what] = f"{stem}-{what}.png"
        write_bytes(folder / files[what], overlays.png(picture))
    return Explained(
        file,
        name,
        explanation.index,
        chance,
        tuple(
            (model.classes[i], round(p, 5))
            for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ),
        explanation.stages,
        files,
        near,
    )


def _pictures(
    model: Model,
    image: Image.Image,
    explanation: Explanation,
    wishes: Wishes,
    title: str,
    near: Nearest | None,
) -> Iterator[tuple[str, Image.Image]]:
    """The pictures of an image, each with what it shows."""
    look = model.preprocessing
    photo = resized_crop(image, look.box(*image.size), overlays.SIDE)
    small = look.crop(image)
    panels = [Panel(small, ("what the network sees", f"{look.size} x {look.size} pixels"))]
    for stage in explanation.stages:
        picture = overlays.overlay(photo, stage.values, wishes.opacity)
        panels.append(Panel(picture, _caption(stage)))
        if wishes.stage in (ALL, stage.stage):
            yield stage.stage, picture
    if wishes.stage == ALL:
        yield "stages", overlays.sheet(panels, title)
    if near is not None:
        yield "nearest", _neighbours(model, small, near)


def _caption(stage: StageMap) -> tuple[str, str]:
    height, width = stage.values.shape
    kind = "class activation map" if stage.method == "cam" else "Grad-CAM"
    nothing = "" if bool(stage.values.any()) else ", nothing for this class"
    return f"{stage.stage}: {kind}{nothing}", f"{stage.channels} x {height} x {width}"


def _neighbours(model: Model, small: Image.Image, near: Nearest) -> Image.Image:
    """A sheet of an image and of those that are like it, as the network sees them."""
    look = model.preprocessing
    panels = [Panel(small, ("the image",))]
    for neighbour in near.neighbours:
        try:
            other = read_image(Path(neighbour.image))
            picture = look.crop(other)
        except UserError:  # its features came from the cache, and now it is gone
            picture = Image.new("RGB", small.size, "grey")
        name = Path(neighbour.image).name
        panels.append(Panel(picture, (f"{neighbour.similarity:.3f}  {neighbour.label}", name)))
    return overlays.sheet(panels, "Nearest images by the cosine of pooled features")


def _unused(file: str, used: set[str]) -> str:
    """A name for an image's pictures: safe, short, and not used yet, whatever the case."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(file).stem)[:60].strip("_") or "image"
    name, number = stem, 1
    while name.lower() in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name.lower())
    return name
