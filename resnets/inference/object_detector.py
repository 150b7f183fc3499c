"""Object detectors: trained detectors ready for use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from resnets.data.boxes.rescaling import Rescaling, scale_boxes
from resnets.detection.improvements import Improvements, parse_scales
from resnets.detection.metrics.detections import Detections, Thresholds
from resnets.inference import export_folder, tiles
from resnets.inference.detection_results import ImageDetections, as_objects
from resnets.inference.detector_engines import (
    NONE,
    DetectorEngine,
    ExportedDetector,
    TorchDetector,
    TorchLocalizer,
)
from resnets.inference.engine_choice import check_engine, device_for
from resnets.inference.engines import default_precision, threads
from resnets.inference.image_inputs import (
    ImageInput,
    as_images,
    input_name,
    open_image,
    open_sized,
)
from resnets.inference.predictor import Identity
from resnets.inference.videos import VideoFrame
from resnets.support.errors import UserError
from resnets.support.files import file_sha256
from resnets.support.parallel import in_threads
from resnets.weights import hub
from resnets.weights.card import DETECTION, LOCALIZATION, read_card, refuse_classifier

if TYPE_CHECKING:
    import torch

    from resnets.data.boxes.annotations import BoxSet
    from resnets.support.distributed import World

SCORE = 0.5
"""Minimum score of an object by default."""
Source: TypeAlias = ImageInput | VideoFrame
Seen = Callable[[ImageDetections, Image.Image], None]
"""Called with each result and its image, upright and in full size."""


@dataclass(frozen=True, repr=False)
class ObjectDetector:
    """A detector ready for use.

    ```python
    model = open_detector("runs/raccoons")
    for found in model.predict(["a.jpg", "b.jpg"]):
        print(found.image, [(one.name, one.score, one.box) for one in found.objects])
    ```

    Args:
        name: by which it was opened.
        card: network, categories, settings, provenance, measured precision.
        engine: the network in its engine.
        digest: SHA-256 of the weights' file; of an ensemble, of its members' digests.
        improvements: of the search, see `improved`.
    """

    name: str
    card: dict[str, Any]
    engine: DetectorEngine
    digest: str
    improvements: Improvements = NONE

    def __repr__(self) -> str:
        """Such as `<ObjectDetector runs/raccoons: 1 category, torch fp32>`."""
        count = len(self.classes)
        categories = "1 category" if count == 1 else f"{count} categories"
        return f"<ObjectDetector {self.name}: {categories}, {self.engine.name}>"

    @property
    def classes(self) -> list[str]:
        """Names of the categories."""
        return list(self.card["classes"])

    @property
    def identity(self) -> Identity:
        """What detections depend on, apart from images and options."""
        return Identity(self.card["network"], self.digest, self.engine.name, len(self.classes))

    @property
    def protocol(self) -> str:
        """How it searches an image, such as `shorter side 600, box refinement`."""
        members = self.engine.members
        words = self.improvements.words + (f", {members} models" if members > 1 else "")
        return f"shorter side {self.rescaling.size}{words}"

    def improved(self, refine: bool = False, scales: Sequence[int] | str = ()) -> ObjectDetector:
        """This detector with improvements of the paper's appendix B, which take more time.

        Args:
            refine: pool and score every box anew, and let boxes vote: twice the regions.
            scales: shorter sides of an image pyramid, rising, for multi-scale testing; as text,
                `200,400,600` or `paper`: the paper's in proportion to the detector's own.

        Raises:
            UserError: if the scales do not rise, or it is an export, which cannot do so.
        """
        sides = parse_scales(scales, self.rescaling.size) if isinstance(scales, str) else scales
        made = replace(self, improvements=Improvements(refine, tuple(sides)))
        made.thresholds()
        return made

    @property
    def _searches_whole_images(self) -> bool:
        """Whether the engine scales images itself: to several sizes."""
        return bool(self.improvements.scales) or self.engine.members > 1

    @property
    def _readers(self) -> int:
        """Threads that read images; whole ones take much memory."""
        return 1 if self._searches_whole_images else min(threads(), 16)

    @cached_property
    def rescaling(self) -> Rescaling:
        """The size in which it sees images."""
        return Rescaling(self.card[DETECTION]["size"], self.card[DETECTION]["max_size"])

    def thresholds(
        self, score: float | None = SCORE, nms: float | None = None, limit: int | None = None
    ) -> Thresholds:
        """Thresholds; those that are None are the detector's own.

        Raises:
            UserError: if one is out of its range, or an export has another.
        """
        own = Thresholds.of(self.card[DETECTION])
        made = Thresholds(
            own.score if score is None else score,
            own.nms if nms is None else nms,
            own.limit if limit is None else limit,
        )
        self.engine.check(made, self.improvements)
        return made

    def check_tile(self, tile: int | None) -> None:
        """Raise `UserError` if images cannot be searched in tiles of so many pixels a side."""
        if tile is not None and tile < 1:
            raise UserError(f"tile must be at least 1 pixel, not {tile}")
        if tile is not None and not self.engine.finds_parts:
            message = "a localizer cannot search tiles: it names one object of a whole image"
            raise UserError(message, self.name, "leave out the tile size, or take a detector")

    def predict(
        self,
        images: ImageInput | Iterable[ImageInput],
        score: float = SCORE,
        *,
        nms: float | None = None,
        limit: int | None = None,
        tile: int | None = None,
        refine: bool = False,
        scales: Sequence[int] | str = (),
    ) -> list[ImageDetections]:
        """Find the objects in images.

        ```python
        model.predict("a.jpg")[0].objects[0]    # DetectedObject(name='raccoon', score=0.99, ...)
        model.predict("a.jpg")[0].draw("a.jpg").save("boxes.png")
        model.predict("a.jpg")[0].objects[0].mask    # bool (height, width), if it finds masks
        model.predict("field.jpg", score=0.3, tile=1000)    # small objects in a large image
        ```

        Args:
            images: one image, several, or a batch: an array (N, H, W, 3) or a tensor (N, 3, H, W).
            score: objects with a lower score are left out.
            nms: of two boxes of a category with a larger IoU only the better one stays.
            limit: objects of an image, at most.
            tile: also search overlapping tiles of so many pixels a side, in images that are larger.
            refine, scales: as for `improved`.

        Returns:
            A result for each image, in their order. Images that cannot be read have an `error`.

        Raises:
            TypeError: if something is not an image.
            ValueError: if an array or tensor is not uint8 RGB.
            UserError: if an option is out of its range.
        """
        model = self.improved(refine, scales) if refine or scales else self
        chosen = model.thresholds(score, nms, limit)
        return list(model.iter_predictions(as_images(images), chosen, tile))

    def iter_predictions(
        self,
        images: Iterable[Source],
        thresholds: Thresholds | None = None,
        tile: int | None = None,
        seen: Seen | None = None,
    ) -> Iterator[ImageDetections]:
        """Yield results as they are computed, for any number of images; see `predict`.

        Args:
            images: they are read as they are needed, in threads.
            thresholds: as from `thresholds`.
            tile: as for `predict`.
            seen: called with each result and its image.
        """
        self.check_tile(tile)
        chosen = thresholds or self.thresholds()
        read = in_threads(
            lambda one: self._read(*one, tile is not None, seen is not None),
            enumerate(images),
            # Whole images take much memory, small ones little.
            1 if tile is not None or seen is not None else self._readers,
        )
        for found, picture, whole in read:
            if picture is not None:
                size = found.width, found.height
                objects = as_objects(self._find(picture, size, chosen, tile), self.classes, size)
                found = replace(found, objects=objects)
                if seen is not None and whole is not None:
                    seen(found, whole)
            yield found

    def detect(self, images: Iterable[ImageInput]) -> Iterator[Detections]:
        """Yield the detections in images, as arrays, by the detector's own thresholds.

        Args:
            images: as for `predict`.

        Raises:
            UserError: if an image cannot be read.
        """
        for picture, size in in_threads(self._open, images, self._readers):
            yield self._search(picture, size, None)

    def find_all(
        self,
        boxes: BoxSet,
        world: World,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Detections] | None:
        """The detections in test images, by the detector's own thresholds.

        Process r of W searches the images r, r + W, ...

        Args:
            boxes: the images.
            world: the processes that share the work.
            progress: called with the number of images that this process has searched.

        Returns:
            Those of each image, in the order of `boxes`; None in processes other than the first.

        Raises:
            UserError: if an image cannot be read.
        """
        own = range(world.rank, len(boxes), world.size)

        def search() -> list[Detections]:
            found = []
            for one in self.detect(boxes.images[at].path for at in own):
                found.append(one)
                progress(len(found))
            return found

        parts = world.each(search)
        if parts is None:
            return None
        return [parts[at % world.size][at // world.size] for at in range(len(boxes))]

    def _open(self, image: ImageInput) -> tuple[Image.Image, tuple[int, int]]:
        """An image as it is searched, scaled unless the engine does that, and its own size."""
        if self._searches_whole_images:
            return open_sized(image, min)
        picture, size = open_sized(image, lambda size: min(self.rescaling.scaled(*size)))
        scaled = self.rescaling.scaled(*size)
        if picture.size != scaled:
            picture = picture.resize(scaled, Image.Resampling.BILINEAR)
        return picture, size

    def _read(
        self, number: int, image: Source, tiled: bool, seen: bool
    ) -> tuple[ImageDetections, Image.Image | None, Image.Image | None]:
        """A result without objects yet; the image that is searched; the whole one, if `seen`."""
        if isinstance(image, VideoFrame):
            found, picture = ImageDetections(image.name), image.picture
            if isinstance(picture, UserError):
                return replace(found, error=picture.reason), None, None
            found = replace(found, frame=image.frame, seconds=image.seconds)
            return replace(found, width=picture.width, height=picture.height), picture, picture
        found = ImageDetections(input_name(image, number))
        try:
            picture, size = open_sized(image, min) if tiled else self._open(image)
            # What is found must not depend on whether it is drawn.
            whole = open_image(image) if seen and picture.size != size else picture
        except UserError as error:
            return replace(found, error=error.reason), None, None
        return replace(found, width=size[0], height=size[1]), picture, whole

    def _find(
        self, image: Image.Image, size: tuple[int, int], thresholds: Thresholds, tile: int | None
    ) -> Detections:
        if tile is None:
            return self._search(image, size, thresholds)
        return tiles.detect(
            lambda part: self._search(part, part.size, thresholds), image, tile, thresholds
        )

    def _search(
        self, image: Image.Image, size: tuple[int, int], thresholds: Thresholds | None
    ) -> Detections:
        """The detections in an image that may have been scaled, in pixels of the whole one."""
        if not self._searches_whole_images:
            image = self.rescaling.apply(image)
        found = self.engine.detect_pixels(np.asarray(image), thresholds, self.improvements)
        return replace(found, boxes=scale_boxes(found.boxes, image.size, size))


def is_detector(name: str) -> bool:
    """Whether a name, as `open_predictor` takes it, is that of a detector or localizer.

    Raises:
        UserError: if there is no such model.
    """
    if export_folder.is_export(name):
        return DETECTION in export_folder.read(Path(name)).card
    card = read_card(hub.resolve(name))[0]
    return DETECTION in card or LOCALIZATION in card


def is_localizer(name: str) -> bool:
    """Whether a name is that of a localizer; raises like `is_detector`."""
    if export_folder.is_export(name):
        return False
    return LOCALIZATION in read_card(hub.resolve(name))[0]


def open_detector(
    name: str,
    runtime: str = "auto",
    precision: str = "auto",
    device: str | torch.device | None = None,
    ensemble_with: Sequence[str] = (),
) -> ObjectDetector:
    """Open a detector by its name, or several as one; or a localizer.

    Args:
        name: a model file, a run folder, or an export, which has its own engine and precision.
        runtime: `torch` or `auto`; of an export also its own.
        precision: `fp32`, `bf16`, or `auto`: bf16 where the device multiplies it; of an export also
            its own.
        device: `auto`, `cpu`, `cuda`, ... or a torch device; None is the CPU.
        ensemble_with: other detectors of the same categories, which search together with it.

    Raises:
        UserError: if there is no such detector, or it cannot be run in this way.
    """
    if isinstance(device, str):
        device = device_for(name, "torch", device)
    if device is not None and device.type == "cpu":
        device = None
    _refuse_unfit_members(name, ensemble_with)
    if export_folder.is_export(name):
        export = export_folder.read(Path(name))
        refuse_classifier(export.card, name)
        export.check_options(runtime, precision, device)
        return ObjectDetector(name, export.card, ExportedDetector(export), export.digest)
    check_engine(name, runtime, precision)
    path = hub.resolve(name)
    card, crop = read_card(path)
    if LOCALIZATION not in card:
        refuse_classifier(card, name)
    for given, other, option in (
        (runtime, "openvino", "--runtime"),
        (precision, "int8", "--precision"),
    ):
        if given == other:
            hint = f"export it: resnets export {name} --to openvino"
            hint += " --precision int8 --calibrate DATA" if other == "int8" else ""
            if LOCALIZATION in card:
                raise UserError(f"a localizer does not run in {other}", f"{option} {other}")
            raise UserError(f"a detector runs in {other} as an export", f"{option} {other}", hint)
    import torch

    chosen = default_precision(device) if precision == "auto" else precision
    own_device = device or torch.device("cpu")
    files = [path, *map(hub.resolve, ensemble_with)]
    engine: DetectorEngine
    if LOCALIZATION in card:
        if ensemble_with:
            raise UserError("a localizer cannot be in an ensemble", name, "take detectors")
        engine = TorchLocalizer(path, own_device, chosen)
        card = {**card, DETECTION: engine.as_detector(crop.resize)}
    else:
        engine = TorchDetector(path, own_device, chosen, files[1:])
    digests = [file_sha256(file) for file in files]
    digest = digests[0] if len(files) == 1 else sha256("".join(digests).encode()).hexdigest()
    return ObjectDetector(name, card, engine, digest)


def _refuse_unfit_members(name: str, others: Sequence[str]) -> None:
    """Raise `UserError` unless the members of an ensemble are different model files."""
    members = [name, *others]
    for one in members if others else ():
        if members.count(one) > 1:
            raise UserError("is given twice", one, "an ensemble has different detectors")
        if export_folder.is_export(one):
            hint = "take the model that was exported"
            raise UserError("an export cannot be in an ensemble", one, hint)
