"""A model that a server holds: decoding, answers, explanations, and what it tells of itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from resnets.analysis import activation_maps
from resnets.inference import export_folder
from resnets.inference.predictor import Predictor
from resnets.models import complexity, zoo
from resnets.models.residual import ResidualNetwork
from resnets.serve.batching import Answered, Batcher, Ranking, Ticket
from resnets.serve.decoding import Decoders, Picture
from resnets.serve.limits import Limits
from resnets.serve.metrics import Metrics
from resnets.serve.problems import Problem, busy
from resnets.support.errors import UserError
from resnets.weights import model_file
from resnets.weights.card import measurements_of

MEASURED = ("dataset", "split", "protocol", "images", "error", "top5_error")
EXPLANATIONS = 8
"""Explanations that wait or are worked on; more are refused."""


@dataclass
class Served:
    """One model of a server.

    Args:
        name: by which requests call it.
        predictor: the model.
        decoders: shared by the models of a server.
    """

    name: str
    predictor: Predictor
    limits: Limits
    metrics: Metrics
    decoders: Decoders
    batcher: Batcher = field(init=False)

    def __post_init__(self) -> None:
        observe = self.metrics.observer(self.name)
        self.batcher = Batcher(self.predictor.runtime, self.limits, observe)
        self.metrics.watch_queue(self.name, lambda: self.batcher.taken)
        self._explainer = ThreadPoolExecutor(1, "explain")
        self._explaining = 0
        self._classes = self.predictor.classes

    async def picture(self, content: bytes) -> Picture:
        """An image file decoded; raises `Problem` if it cannot be."""
        return await self.decoders.picture(content, self.predictor)

    async def answer(self, content: bytes, ticket: Ticket) -> tuple[Picture, Answered]:
        """What the network says of an image file; raises `Problem` if it cannot be read."""
        try:
            picture = await self.picture(content)
        except BaseException:
            ticket.lost()
            raise
        return picture, await ticket.answer(picture.pixels)

    def top(self, ranking: Ranking, count: int) -> list[dict[str, Any]]:
        """The most probable classes."""
        best, chances = ranking.classes[:count].tolist(), ranking.probabilities[:count].tolist()
        return [
            {"class": self._classes[i], "index": i, "probability": round(chance, 6)}
            for i, chance in zip(best, chances, strict=True)
        ]

    async def explain(self, picture: Picture, index: int | None) -> activation_maps.Explanation:
        """Why the network answers so; raises `Problem` if it cannot be told."""
        if not self.explains:
            raise Problem(
                409, f"{self.name} has no weights beside it that could explain",
                "serve the model file, or leave model.safetensors in the export's folder",
            )  # fmt: skip
        if index is not None and not 0 <= index < len(self.predictor.classes):
            raise Problem(404, f"no class {index}", f"0 to {len(self.predictor.classes) - 1}")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._explainer, self._maps, picture, index)

    def check_explaining(self) -> None:
        """Raise `Problem` if too many explanations wait."""
        if self._explaining >= EXPLANATIONS:
            raise busy("too many explanations wait")

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Room for one more explanation; raises `Problem` if there is none."""
        self.check_explaining()
        self._explaining += 1
        try:
            yield
        finally:
            self._explaining -= 1

    def _maps(self, picture: Picture, index: int | None) -> activation_maps.Explanation:
        model = self._weights
        images = model.normalize(torch.device("cpu"))(picture.pixels[None])
        return activation_maps.stage_maps(model.network, images, index)

    @cached_property
    def _weights(self) -> model_file.Model:
        """The network in PyTorch; loaded when it is first asked to explain, in its thread."""
        source = self._source
        assert source is not None
        return model_file.load(str(source))

    @cached_property
    def _source(self) -> Path | None:
        """The model file, where it is."""
        with contextlib.suppress(UserError):
            return export_folder.source_of(self.predictor.name)
        return None

    @cached_property
    def explains(self) -> bool:
        """Whether explanations can be had."""
        residual = self.predictor.card["network"] not in zoo.VGG_NAMES
        return residual and self._source is not None

    @cached_property
    def description(self) -> dict[str, Any]:
        """What clients are told of the model."""
        card, look = self.predictor.card, self.predictor.preprocessing
        network = card["network"]
        with torch.device("meta"):
            module = zoo.build(network, len(self.predictor.classes))
        return {
            "name": self.name,
            "network": network,
            "runtime": self.predictor.runtime.name,
            "classes": self.predictor.classes,
            "size": look.size,
            "layers": complexity.describe(network, look.size).layers,
            "parameters": complexity.parameters(module),
            "explains": self.explains,
            "measured": [
                {key: test[key] for key in MEASURED if key in test}
                for test in measurements_of(card)
            ],
            "stages": _stages(network, look.size) if isinstance(module, ResidualNetwork) else [],
        }

    def warm_up(self) -> None:
        """Compute once at the smallest and the largest batch; gather what clients ask first."""
        size = self.predictor.preprocessing.size
        for batch in (1, self.limits.batch):
            self.predictor.runtime(torch.zeros(batch, 3, size, size, dtype=torch.uint8))
        _ = self.description

    def close(self) -> None:
        """Nothing comes any more."""
        self.batcher.close()
        self._explainer.shutdown(wait=False, cancel_futures=True)


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
