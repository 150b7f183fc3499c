"""One training: the network, its optimizer, and the step that the paper describes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from resnets.data.batches import TrainBatches, resized
from resnets.data.cifar10 import CLASSES, Images
from resnets.models import zoo
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError
from resnets.training.hardware import Settings
from resnets.training.recipe import Recipe
from resnets.training.schedule import in_gentle_start, learning_rate


@dataclass(frozen=True)
class Reading:
    """Training loss and error (percent) over the updates since the last reading."""

    loss: float
    error: float

    @property
    def healthy(self) -> bool:
        return math.isfinite(self.loss) and self.loss < 1e3


class Training:
    """State of a training, moved forward by `update`; a function of recipe and step.

    Args:
        recipe: what to do.
        data: training images.
        device: where to do it.
        settings: precision and the like, already resolved for the device.
    """

    def __init__(
        self, recipe: Recipe, data: Images, device: torch.device, settings: Settings
    ) -> None:
        self.recipe, self.device, self.settings = recipe, device, settings
        self.depth = zoo.architecture(recipe.network).layers
        torch.manual_seed(recipe.seed)
        network = zoo.build(recipe.network, len(CLASSES)).to(device)
        assert isinstance(network, ResidualNetwork)
        if settings.channels_last:
            network = network.to(memory_format=torch.channels_last)
        self.network: ResidualNetwork = network
        self.batches = TrainBatches(
            data, recipe.batch, recipe.seed, device, recipe.augment.pad, recipe.augment.flip
        )
        self.optimizer = self._make_optimizer()
        self.step = 0
        self.last_rate = 0.0
        self.started: int | None = None
        """The step that ended the gentle start of a deep network."""
        self._totals = torch.zeros(3, device=device)
        if settings.compile:
            compile_network(network, device)

    def _make_optimizer(self) -> torch.optim.SGD:
        options = self.recipe.optimizer
        parameters = list(self.network.parameters())
        decayed = [p for p in parameters if options.decay == "all" or p.ndim > 1]
        spared = [p for p in parameters if options.decay == "weights" and p.ndim == 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": options.weight_decay},
            {"params": spared, "weight_decay": 0.0},
        ]
        return torch.optim.SGD(
            groups,
            lr=self.recipe.schedule.lr,
            momentum=options.momentum,
            nesterov=options.nesterov,
        )

    @property
    def rate(self) -> float:
        """Learning rate of the next update."""
        r = self.recipe
        return learning_rate(r.schedule, self.step, r.iterations, self.depth, self.started)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next update's images and labels."""
        images, labels = self.batches(self.step)
        progressive = self.recipe.progressive
        if progressive and self.step < progressive.until:
            images = resized(images, progressive.size)
        if not self.settings.channels_last:
            images = images.contiguous()
        return images, labels

    def update(self, images: Tensor, labels: Tensor) -> None:
        """One step of SGD. Waits for nothing: the metrics stay on the device."""
        self.last_rate = self.rate
        for group in self.optimizer.param_groups:
            group["lr"] = self.last_rate
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"
        ):
            logits = self.network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            wrong = (logits.argmax(1) != labels).sum()
            count = torch.full_like(loss, len(labels))
            self._totals += torch.stack([loss * len(labels), wrong, count])
        self.step += 1

    def read(self) -> Reading | None:
        """Loss and error since the last reading, which they end; None if no update was made.

        Also ends the gentle start of a deep network when the error has become small
        enough (section 4.2).
        """
        loss, wrong, count = self._totals.tolist()
        if not count:
            return None
        self._totals.zero_()
        reading = Reading(loss / count, 100 * wrong / count)
        gentle = self.recipe.schedule.gentle_start
        if (
            gentle is not None
            and in_gentle_start(self.recipe.schedule, self.depth, self.started)
            and reading.error < 100 * gentle.until_error
        ):
            self.started = self.step
        return reading

    def healthy(self) -> bool:
        """Whether every weight and the loss since the last reading are finite numbers."""
        tensors = [self._totals, *self.network.parameters()]
        return all(bool(torch.isfinite(t).all()) for t in tensors)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next update depends on, beside recipe and data."""
        tensors = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        tensors["totals"] = self._totals
        facts = {
            "step": self.step,
            "started": self.started,
            "network": self.recipe.network,
            "recipe": self.recipe.content_hash(),
        }
        return tensors, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go to the point that `state` described.

        Raises:
            UserError: if the checkpoint is of another network or recipe.
        """
        for what, mine in (
            ("network", self.recipe.network),
            ("recipe", self.recipe.content_hash()),
        ):
            if facts.get(what) != mine:
                raise UserError(
                    f"the checkpoint is of another {what} ({facts.get(what)}, not {mine})",
                    mend="give the run folder that it came from",
                )
        prefix = "network."
        weights = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(
                f"the checkpoint does not fit {self.recipe.network} "
                f"({' '.join(str(error).split())[:200]})"
            ) from error
        for name, parameter in self.network.named_parameters():
            momentum = tensors.get(f"momentum.{name}")
            if momentum is not None:
                buffer = torch.empty_like(parameter).copy_(momentum)
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self._totals.copy_(tensors["totals"])
        self.step, self.started = facts["step"], facts["started"]


def compile_network(network: ResidualNetwork, device: torch.device) -> None:
    """Have `network` compiled at its next call, in the way that pays on `device`.

    On GPUs every block on its own, so that equal blocks share one piece of compiled code.
    On CPUs the network as a whole: compiled block by block, its convolutions' backward
    passes fall off oneDNN's fast path and a step takes twice the time (docs/log.md).
    """
    # One entry for each shape of block and input, in training and in evaluation mode.
    torch._dynamo.config.recompile_limit = 64
    if device.type == "cuda":
        for _, block in network.blocks():
            block.compile(dynamic=False)
    else:
        network.compile(dynamic=False)
