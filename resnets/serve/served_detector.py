"""A detector of the server: its queue, detections and description."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from resnets.data.boxes.rescaling import Rescaling, scale_boxes
from resnets.data.preprocessing import Box
from resnets.detection.metrics.detections import Detections
from resnets.inference.detection_results import as_objects, rounded
from resnets.inference.object_detector import ObjectDetector
from resnets.models import complexity
from resnets.serve.batching import AcceptedImages, Batcher, ImageResult
from resnets.serve.decoding import DecodedImage, DecoderPool
from resnets.serve.limits import Limits
from resnets.serve.middleware import Metrics
from resnets.support.errors import valid_utf8
from resnets.weights.card import PRECISIONS, measurements_of

_MEASUREMENT_KEYS = ("dataset", "protocol", "images", *PRECISIONS)


@dataclass
class ServedDetector:
    """A detector of the server.

    Images are computed one by one: they differ in size, and padding them to one would change what
    is found.

    Args:
        name: by which requests name it.
        detector: ready for use.
        decoders: shared, like `limits` and `metrics`, by all models of the server.
    """

    name: str
    detector: ObjectDetector
    limits: Limits
    metrics: Metrics
    decoders: DecoderPool
    task: ClassVar[str] = "detection"
    batcher: Batcher = field(init=False)
    classes: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.batcher = self.new_batcher()
        self.metrics.watch_queue(self.name, lambda: self.batcher.accepted)
        self.classes = [valid_utf8(name) for name in self.detector.classes]

    def new_batcher(self) -> Batcher:
        """A batcher, which belongs to one event loop."""
        engine = self.detector.engine

        def detections(images: list[Tensor]) -> list[Detections]:
            return [engine.detect_pixels(one.permute(1, 2, 0).numpy()) for one in images]

        limits = replace(self.limits, batch=1)
        return Batcher(detections, limits, self.metrics.batch_recorder(self.name))

    async def detect(
        self, content: bytes, accepted: AcceptedImages
    ) -> tuple[DecodedImage, ImageResult]:
        """Decode and compute an image file of a request; raises `Problem`."""
        with accepted.discarded_on_error():
            image = await self.decoders.decode(content, _Whole(self.detector.rescaling))
        return image, await accepted.compute(image.pixels)

    def objects(
        self, image: DecodedImage, found: Detections, score: float, limit: int
    ) -> list[dict[str, Any]]:
        """Detections as JSON, best first, in pixels of the upright image; masks as polygons."""
        best = found.best(limit)
        height, width = image.pixels.shape[1:]
        size = image.properties["width"], image.properties["height"]
        boxes = scale_boxes(best.boxes, (width, height), size)
        chosen = as_objects(replace(best, boxes=boxes), self.classes, size)
        return [
            {
                "category": one.name,
                "index": one.index,
                "score": round(one.score, 6),
                "box": [round(side, 2) for side in one.box],
                "polygons": None if one.polygons is None else rounded(one.polygons),
            }
            for one in chosen
            if one.score >= score
        ]

    @cached_property
    def description(self) -> dict[str, Any]:
        """The model's entry in `/v1/models`."""
        card, network = self.detector.card, self.detector.card["network"]
        size = self.detector.rescaling.size
        return {
            "name": self.name,
            "task": self.task,
            "network": network,
            "runtime": self.detector.engine.name,
            "classes": self.classes,
            "size": size,
            "layers": complexity.describe(network, card["preprocessing"]["size"]).layers,
            "parameters": None,
            "explains": False,
            "measured": [
                {key: test[key] for key in _MEASUREMENT_KEYS if key in test}
                for test in measurements_of(card)
            ],
            "stages": [],
        }

    def warm_up(self) -> None:
        """Compute an image, and the description."""
        width, height = self.detector.rescaling.scaled(4, 3)
        self.detector.engine.detect_pixels(np.zeros((height, width, 3), np.uint8))
        _ = self.description

    def close(self) -> None:
        """Stop the model's threads."""
        self.batcher.close()


@dataclass(frozen=True)
class _Whole:
    """Whole images, scaled, as a detector sees them; see `ModelInputs`."""

    rescaling: Rescaling

    def shorter_side(self, size: tuple[int, int]) -> int:
        return min(self.rescaling.scaled(*size))

    def pixels(self, image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
        scaled = self.rescaling.scaled(*size)
        if image.size != scaled:
            image = image.resize(scaled, Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def crop(self, size: tuple[int, int]) -> Box:
        return (0.0, 0.0, float(size[0]), float(size[1]))
