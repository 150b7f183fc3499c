"""Explanations: where each stage of a network finds the evidence for a class, as pictures."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.analysis import activation_maps, overlays
from resnets.analysis.activation_maps import StageMap
from resnets.analysis.overlays import CaptionedPicture
from resnets.data.preprocessing import resized_crop, to_tensor
from resnets.inference import TOP, export_folder
from resnets.inference.predictions import ClassProbability, html_table, top_classes
from resnets.support.errors import UserError, nearest
from resnets.weights import model_file
from resnets.weights.model_file import Model

ALL = "all"
"""Stands for all stages where one may be named."""


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
        for one in self.stages:
            if one.stage == stage:
                return overlays.overlay(self.photo, one.values, opacity)
        raise _unknown_stage(stage, [one.stage for one in self.stages])

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


_INDEX = re.compile("[0-9]{1,9}")


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
        [int(wanted)] if _INDEX.fullmatch(wanted) and int(wanted) < len(classes) else [],
        [i for i, name in enumerate(classes) if name.casefold() == folded],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            numbers = " or ".join(map(str, matches))
            raise UserError("several classes have this name", wanted, f"give {numbers}")
    if re.fullmatch("-?[0-9]+", wanted):
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
    maps = activation_maps.stage_maps(model.network, model.normalize(device)(pixels), index)
    logits = maps.logits.numpy()
    (ranked,) = top_classes(logits[None], len(logits), model.classes, model.class_ids)
    box = model.preprocessing.box(*image.size)
    return ImageExplanation(
        image=name,
        explained=next(entry for entry in ranked if entry.index == maps.index),
        top=ranked[:TOP],
        stages=maps.stages,
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


def _caption(stage: StageMap) -> tuple[str, str]:
    height, width = stage.values.shape
    kind = "class activation map" if stage.method == "cam" else "Grad-CAM"
    empty = "" if bool(stage.values.any()) else ", no evidence for this class"
    return f"{stage.stage}: {kind}{empty}", f"{stage.channels} x {height} x {width}"
