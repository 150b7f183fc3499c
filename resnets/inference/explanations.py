"""Explanations: where each stage of a network finds the evidence for a class, as pictures.

One image is explained in memory; many files into a folder of pictures, with a page and a record.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.analysis import activation_maps, overlays
from resnets.analysis.activation_maps import StageMap
from resnets.analysis.overlays import CaptionedPicture
from resnets.data.images import read_image
from resnets.data.preprocessing import resized_crop, to_tensor
from resnets.inference import export_folder
from resnets.inference.predictions import DIGITS, ClassProbability, html_table, top_classes
from resnets.support.errors import UserError, nearest
from resnets.support.files import make_folder, write_bytes, write_json
from resnets.weights import model_file
from resnets.weights.model_file import Model

ALL = "all"
TOP = 5
RECORD, PAGE = "explanations.json", "index.html"


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


@dataclass(frozen=True, repr=False, eq=False)
class ImageExplanation:
    """The evidence for a class in one image, by stages.

    Args:
        image: its name.
        explained: the class.
        top: the most probable classes, best first.
        stages: a class activation map of the last stage, Grad-CAM of the stem and the others.
        logits: float32 (classes,).
        photo: what the network sees of the image, at `overlays.SIDE` pixels a side.
        network_input: the same at the network's resolution.
    """

    image: str
    explained: ClassProbability
    top: list[ClassProbability]
    stages: tuple[StageMap, ...]
    logits: NDArray[np.float32]
    photo: Image.Image
    network_input: Image.Image

    def overlay(self, stage: str, opacity: float = 0.5) -> Image.Image:
        """A stage's map in colour over the photograph in grey.

        Raises:
            UserError: if there is no map of such a stage.
        """
        for found in self.stages:
            if found.stage == stage:
                return overlays.overlay(self.photo, found.values, opacity)
        raise _unknown_stage(stage, [found.stage for found in self.stages])

    def sheet(self, opacity: float = 0.5) -> Image.Image:
        """The network's input and the maps of all stages side by side, with captions."""
        return self._sheet([self.overlay(stage.stage, opacity) for stage in self.stages])

    def _sheet(self, maps: Sequence[Image.Image]) -> Image.Image:
        size = f"{self.network_input.width} x {self.network_input.height} pixels"
        captioned = [CaptionedPicture(self.network_input, ("what the network sees", size))]
        captioned += map(CaptionedPicture, maps, map(_caption, self.stages))
        title = f"{self.explained.name}, {100 * self.explained.probability:.1f} %"
        return overlays.sheet(captioned, title)

    def pictures(self, stage: str = ALL, opacity: float = 0.5) -> dict[str, Image.Image]:
        """The overlays of all stages and under `stages` the sheet; or the overlay of one stage."""
        if stage != ALL:
            return {stage: self.overlay(stage, opacity)}
        drawn = {one.stage: self.overlay(one.stage, opacity) for one in self.stages}
        return {**drawn, "stages": self._sheet(list(drawn.values()))}

    def __repr__(self) -> str:
        """Such as `<Explanation of a.jpg: horse 99.9 %, stages stem, layer1, layer2>`."""
        stages = ", ".join(stage.stage for stage in self.stages)
        return f"<Explanation of {self.image}: {self.explained}, stages {stages}>"

    def _repr_html_(self) -> str:
        """The sheet and the most probable classes, for notebooks."""
        picture = base64.b64encode(overlays.png(self.sheet())).decode()
        return (
            f'<div><b>{html.escape(self.image)}</b><img src="data:image/png;base64,{picture}" '
            f'alt="{html.escape(repr(self))}" style="max-width:100%">{html_table(self.top)}</div>'
        )


@dataclass(frozen=True)
class Neighbour:
    """An image of a folder that is similar to another image.

    Args:
        image: its file.
        label: name of the folder that contains it; empty for the searched folder itself.
        similarity: cosine of the angle between the two pooled features; 1 is identical.
    """

    image: str
    label: str
    similarity: float

    def as_dict(self) -> dict[str, Any]:
        """The neighbour as JSON."""
        similarity = round(self.similarity, DIGITS)
        return {"image": self.image, "class": self.label, "similarity": similarity}


@dataclass(frozen=True)
class Nearest:
    """The most similar images of a folder.

    Args:
        neighbours: the most similar first.
        itself: whether the image lies in the folder; it is then left out of its neighbours.
    """

    neighbours: list[Neighbour]
    itself: bool


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
            return {"image": self.image, "error": self.error}
        facts: dict[str, Any] = {
            "image": self.image,
            "class": self.explained.name,
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


def load_network(name: str) -> Model:
    """Load the PyTorch network of a model that is to be explained.

    Args:
        name: as for predictions; for an export the model file in its folder is loaded.

    Raises:
        UserError: if there is no such model, it has no stages (VGG), or an export's folder lacks
            the model file.
    """
    model = model_file.load(str(export_folder.source_of(name)))
    activation_maps.with_stages(model.network)
    return model


def find_class(classes: Sequence[str], wanted: str | int) -> int:
    """The index of a class that is given by its name or its index.

    A text is first a name, then an index, then a name in any letter case; an integer is an index.

    Raises:
        UserError: if there is no such class, or several have this name.
    """
    out_of_range = UserError(
        "no such class", str(wanted), f"numbers go from 0 to {len(classes) - 1}"
    )
    if isinstance(wanted, int):
        if 0 <= wanted < len(classes):
            return wanted
        raise out_of_range
    folded = wanted.strip().casefold()
    for matches in (
        [i for i, name in enumerate(classes) if name == wanted],
        [int(wanted)] if wanted.isdecimal() and int(wanted) < len(classes) else [],
        [i for i, name in enumerate(classes) if name.casefold() == folded],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            numbers = " or ".join(map(str, matches))
            raise UserError("several classes have this name", wanted, f"give {numbers}")
    if wanted.lstrip("-").isdecimal():
        raise out_of_range
    raise UserError("no such class", wanted, nearest(wanted, classes))


def explain(
    model: Model, image: Image.Image, index: int | None = None, name: str = ""
) -> ImageExplanation:
    """Explain a model's prediction for one image.

    Args:
        model: on any device.
        image: upright RGB.
        index: the class to explain; the most probable one by default.
        name: of the image, for the result.

    Raises:
        UserError: if the network has no stages (VGG), or there is no such class.
    """
    network_input = model.preprocessing.crop(image)
    device = next(model.network.parameters()).device
    pixels = to_tensor(network_input)[None].to(device)
    found = activation_maps.stage_maps(model.network, model.normalize(device)(pixels), index)
    logits = found.logits.numpy()
    (ranked,) = top_classes(logits[None], len(logits), model.classes, model.class_ids)
    box = model.preprocessing.box(*image.size)
    return ImageExplanation(
        image=name,
        explained=next(entry for entry in ranked if entry.index == found.index),
        top=ranked[:TOP],
        stages=found.stages,
        logits=logits,
        photo=resized_crop(image, box, overlays.SIDE),
        network_input=network_input,
    )


def check_stage(model: Model, stage: str, option: str = "", others: Sequence[str] = ()) -> None:
    """Raise `UserError` if the network has no such stage, or no stages at all (VGG).

    Args:
        model: the model.
        stage: a name such as `stem` or `layer1`.
        option: the command line's option that gave it, for the message.
        others: names that are allowed as well.
    """
    known = [*others, "stem", *activation_maps.with_stages(model.network).stage_names]
    if stage not in known:
        raise _unknown_stage(f"{option} {stage}".strip(), known)


def _unknown_stage(stage: str, known: Sequence[str]) -> UserError:
    return UserError("no such stage", stage, f"known: {', '.join(known)}")


def prepare_folder(model: Model, folder: Path, stage: str = ALL) -> None:
    """Create the folder for explanations, before anything is computed.

    Args:
        model: its network must have the stage.
        folder: new, empty, or filled by an earlier call: its pictures may be replaced.
        stage: to be drawn, or `all`.

    Raises:
        UserError: if there is no such stage, or the folder holds other files or cannot be
            created.
    """
    check_stage(model, stage, "--stage", (ALL,))
    make_folder(folder)
    if not (folder / RECORD).exists():
        if any(folder.iterdir()):
            raise UserError("holds other files", f"--out {folder}", "give a new folder")
        _write_record(folder, model.card["network"], [])  # marks the folder as ours


def explain_files(
    model: Model,
    images: Sequence[str],
    folder: Path,
    options: ExplanationOptions,
    similar: Mapping[str, Nearest] | None = None,
) -> Iterator[ExplainedFile]:
    """Explain image files one by one and write their pictures; at the end, the page.

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
    for file in images:
        try:
            image = read_image(Path(file))
        except UserError as error:
            found = ExplainedFile(file, error=error.message)
        else:
            explanation = explain(model, image, options.index, file)
            near = (similar or {}).get(file)
            files = {}
            stem = _unused_name(file, used)
            pictures = explanation.pictures(options.stage, options.opacity)
            if near is not None:
                pictures["nearest"] = _nearest_sheet(model, explanation.network_input, near)
            for kind, picture in pictures.items():
                files[kind] = f"{stem}-{kind}.png"
                write_bytes(folder / files[kind], overlays.png(picture))
            found = ExplainedFile(
                file, explanation.explained, explanation.top, explanation.stages, files, near
            )
        done.append(found)
        yield found
    network = model.card["network"]
    _write_record(folder, network, done)
    page = _PAGE.render(network=network, images=done)
    write_bytes(folder / PAGE, page.encode("utf-8", "replace"))


def _write_record(folder: Path, network: str, done: Sequence[ExplainedFile]) -> None:
    write_json(folder / RECORD, {"network": network, "images": [one.as_dict() for one in done]})


def _caption(stage: StageMap) -> tuple[str, str]:
    height, width = stage.values.shape
    kind = "class activation map" if stage.method == "cam" else "Grad-CAM"
    empty = "" if bool(stage.values.any()) else ", no evidence for this class"
    return f"{stage.stage}: {kind}{empty}", f"{stage.channels} x {height} x {width}"


def _nearest_sheet(model: Model, query: Image.Image, similar: Nearest) -> Image.Image:
    """A sheet of an image and its neighbours, as the network sees them."""
    captioned = [CaptionedPicture(query, ("the image",))]
    for neighbour in similar.neighbours:
        try:
            picture = model.preprocessing.crop(read_image(Path(neighbour.image)))
        except UserError:  # its features came from the cache, and the file is gone
            picture = Image.new("RGB", query.size, "grey")
        name = Path(neighbour.image).name
        caption = (f"{neighbour.similarity:.3f}  {neighbour.label}", name)
        captioned.append(CaptionedPicture(picture, caption))
    return overlays.sheet(captioned, "Nearest images by the cosine of pooled features")


def _unused_name(file: str, used: set[str]) -> str:
    """A name for an image's pictures: ASCII, short, and not used yet in any letter case."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(file).stem)[:60].strip("_") or "image"
    name, number = stem, 1
    while name.lower() in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name.lower())
    return name


_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Explanations of {{ network }}</title><style>
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem}
img{max-width:100%;height:auto;display:block;margin:.5rem 0}section{margin-bottom:2.5rem}
h1,h2,p{overflow-wrap:anywhere}h2{font-size:1.15rem;margin-bottom:0}p{margin:0;color:#555}
</style></head><body>
<h1>Explanations of {{ network }}</h1>
{% for one in images %}
<section><h2>{{ one.image }}</h2>
{% if one.error is not none %}
<p>{{ one.error }}</p>
{% else %}
<p>Explained: {{ one.explained.name }}. Most probable: {{ one.top | join(", ") }}.</p>
{% for kind, file in one.files.items() %}
{% if "stages" not in one.files or kind in ("stages", "nearest") %}
<a href="{{ file }}"><img src="{{ file }}" alt="{{ kind }} of {{ one.image }}"></a>
{% endif %}
{% endfor %}
{% endif %}
</section>
{% endfor %}
</body></html>
""")
