"""A classifier of the server: its batches, predictions, explanations and description."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from resnets.analysis import activation_maps
from resnets.data.preprocessing import Box, stack
from resnets.inference import explanations, export_folder
from resnets.inference.predictions import top_classes
from resnets.inference.predictor import Predictor
from resnets.models import complexity, zoo
from resnets.models.residual import ResidualNetwork
from resnets.serve.batching import AcceptedImages, Batcher, ImageResult
from resnets.serve.decoding import DecodedImage, DecoderPool
from resnets.serve.limits import Limits
from resnets.serve.middleware import Metrics
from resnets.serve.problems import Problem, busy
from resnets.support.errors import UserError, valid_utf8
from resnets.weights import model_file
from resnets.weights.card import measurements_of

MAX_EXPLANATIONS = 8
"""Explanations of a model that may wait or be computed at the same time."""
_MEASUREMENT_KEYS = ("dataset", "split", "protocol", "images", "error", "top5_error")


@dataclass
class ServedModel:
    """A classifier of the server.

    Args:
        name: by which requests name it.
        decoders: shared, like `limits` and `metrics`, by all models of the server.
    """

    name: str
    predictor: Predictor
    limits: Limits
    metrics: Metrics
    decoders: DecoderPool
    task: ClassVar[str] = "classification"
    batcher: Batcher = field(init=False)
    classes: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.batcher = self.new_batcher()
        self.metrics.watch_queue(self.name, lambda: self.batcher.accepted)
        self._explain_thread = ThreadPoolExecutor(1, "explain")
        self._explanations = 0
        self.classes = [valid_utf8(name) for name in self.predictor.classes]

    def new_batcher(self) -> Batcher:
        """A batcher, which belongs to one event loop."""
        runtime = self.predictor.runtime

        def logits(images: list[Tensor]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = runtime(stack(images)).logits.numpy()
            return found

        return Batcher(logits, self.limits, self.metrics.batch_recorder(self.name))

    async def decode(self, content: bytes) -> DecodedImage:
        """Decode an image file; raises `Problem` (422)."""
        return await self.decoders.decode(content, _Crops(self.predictor))

    async def predict(
        self, content: bytes, accepted: AcceptedImages
    ) -> tuple[DecodedImage, ImageResult]:
        """Decode and compute an image file of a request; raises `Problem`."""
        with accepted.discarded_on_error():
            image = await self.decode(content)
        return image, await accepted.compute(image.pixels)

    def top(self, logits: NDArray[np.float32], count: int) -> list[dict[str, Any]]:
        """The most probable classes as JSON, best first."""
        (best,) = top_classes(logits[None], count, self.classes)
        return [
            {"class": c.name, "index": c.index, "probability": round(c.probability, 6)}
            for c in best
        ]

    def find_class(self, wanted: str) -> int:
        """The index of a class that a request gives by its index or name; raises `Problem` (404).

        Digits are always an index, also where a class has another number as its name.
        """
        index = int(wanted) if re.fullmatch("[0-9]{1,9}", wanted) else wanted
        try:
            return explanations.find_class(self.classes, index)
        except UserError as error:
            raise Problem(404, f"{error.message}: {wanted[:100]!r}", error.hint) from error

    def check_explanations(self) -> None:
        """Raise `Problem` (503) if too many explanations wait."""
        if self._explanations >= MAX_EXPLANATIONS:
            raise busy("too many explanations wait")

    @contextlib.contextmanager
    def accept_explanation(self) -> Iterator[None]:
        """Reserve room for one explanation; raises `Problem` (503) if there is none."""
        self.check_explanations()
        self._explanations += 1
        try:
            yield
        finally:
            self._explanations -= 1

    async def explain(self, image: DecodedImage, index: int | None) -> activation_maps.Explanation:
        """Compute the maps of a class, by default the most probable one.

        Raises:
            Problem: 409 if the weights are not available.
        """
        if not self.explains:
            raise Problem(
                409,
                f"{self.name} has no weights file for explanations",
                "serve the model file, or leave model.safetensors in the export's folder",
            )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._explain_thread, self._stage_maps, image, index)

    def _stage_maps(self, image: DecodedImage, index: int | None) -> activation_maps.Explanation:
        model = self._torch_model
        images = model.normalize(torch.device("cpu"))(image.pixels[None])
        return activation_maps.stage_maps(model.network, images, index)

    @cached_property
    def _torch_model(self) -> model_file.Model:
        """The network in PyTorch, loaded for the first explanation, in its thread."""
        assert self._weights_file is not None
        return model_file.load(str(self._weights_file))

    @cached_property
    def _weights_file(self) -> Path | None:
        with contextlib.suppress(UserError):
            return export_folder.source_of(self.predictor.name)
        return None

    @cached_property
    def explains(self) -> bool:
        """Whether explanations are available: the network has stages, and its weights file."""
        has_stages = self.predictor.card["network"] not in zoo.VGG_NAMES
        return has_stages and self._weights_file is not None

    @cached_property
    def description(self) -> dict[str, Any]:
        """The model's entry in `/v1/models`."""
        card, size = self.predictor.card, self.predictor.preprocessing.size
        network = card["network"]
        with torch.device("meta"):
            module = zoo.build(network, len(self.classes))
        return {
            "name": self.name,
            "task": self.task,
            "network": network,
            "runtime": self.predictor.runtime.name,
            "classes": self.classes,
            "size": size,
            "layers": complexity.describe(network, size).layers,
            "parameters": complexity.parameters(module),
            "explains": self.explains,
            "measured": [
                {key: test[key] for key in _MEASUREMENT_KEYS if key in test}
                for test in measurements_of(card)
            ],
            "stages": _stages(network, size) if isinstance(module, ResidualNetwork) else [],
        }

    def warm_up(self) -> None:
        """Compute a batch of the smallest and of the largest size, and the description."""
        size = self.predictor.preprocessing.size
        for batch in (1, self.limits.batch):
            self.predictor.runtime(torch.zeros(batch, 3, size, size, dtype=torch.uint8))
        _ = self.description

    def close(self) -> None:
        """Stop the model's threads."""
        self.batcher.close()
        self._explain_thread.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Crops:
    """Central crops, as a classifier sees images; see `ModelInputs`."""

    predictor: Predictor

    def shorter_side(self, size: tuple[int, int]) -> int:
        return self.predictor.shorter_side

    def pixels(self, image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
        return self.predictor.input_array(image)

    def crop(self, size: tuple[int, int]) -> Box:
        return self.predictor.preprocessing.box(*size)


def _stages(network: str, size: int) -> list[dict[str, Any]]:
    shortcut = zoo.architecture(network).shortcut
    return [
        {
            "stage": stage.name,
            "blocks": stage.blocks,
            "block": stage.kind if stage.blocks else "convolution",
            "shortcut": shortcut if stage.blocks else "none",
            "channels": stage.channels,
            "height": stage.height,
            "width": stage.width,
        }
        for stage in complexity.describe(network, size).stages
    ]
