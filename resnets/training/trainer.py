"""One training: the network, its optimizer, and the step that the paper describes."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from resnets.kernels.fuse import use_cpu_kernels
from resnets.models import zoo
from resnets.models.batch_norm import norms
from resnets.models.residual import ResidualNetwork
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.training.averages import (
    MovingAverage,
    recompute_statistics,
    take_from_main,
)
from resnets.training.cuda_graphs import Replayed
from resnets.training.hardware import Settings
from resnets.training.objective import Task
from resnets.training.optimizers import groups, make_optimizers, momenta
from resnets.training.recipe import Recipe
from resnets.training.schedule import in_gentle_start, learning_rate
from resnets.weights.model_file import Model

NOTHING = -100
"""The label of an image that is none: it adds nothing to loss and gradients."""


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
        recipe: what to do, its length in iterations.
        task: the data to do it with.
        device: where to do it.
        settings: precision and the like, already resolved for the device.
        world: the processes that share every batch; each makes the same calls.
        init: the model whose weights to start from.

    Raises:
        UserError: if the batch does not divide among the processes, or BN or graphs cannot be
            had.
    """

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        device: torch.device,
        settings: Settings,
        world: World = World(),  # noqa: B008
        init: Model | None = None,
    ) -> None:
        self.recipe, self.device, self.settings, self.world = (
            recipe,
            device,
            settings,
            world,
        )
        self.depth = zoo.architecture(recipe.network).layers
        torch.manual_seed(recipe.seed)
        self.network = self._make_network(task, init)
        self.parts = shares(recipe, world)
        self._images = task.images
        self.batches = task.batches(self.parts)
        self.optimizers = make_optimizers(
            self.network,
            recipe,
            fused=settings.graphs or settings.kernels != "none",
            rates_on=device if settings.graphs else None,
        )
        self._momenta = momenta(self.network, self.optimizers)
        self.average = MovingAverage(self.network, recipe.ema) if recipe.ema else None
        self.step = 0
        self.last_rate = 0.0
        self.started: int | None = None
        """The step that ended the gentle start of a deep network."""
        self.errors: list[tuple[int, float]] = []
        """Training error at each test, for a rate that falls on plateaus."""
        self._totals = torch.zeros(3, device=device)
        self._since_test = [0.0, 0.0]
        if settings.compile:
            compile_network(self.network, device)
        if settings.kernels != "none":
            use_cpu_kernels(self.network)
        self._shared = self._share_gradients()
        self._replayed: Replayed | None = None
        if settings.graphs:
            if not world.size == len(self.parts) == 1:
                raise UserError(
                    "graphs = true needs one process and no micro_batch",
                    hint="use --set graphs=false",
                )
            self._replayed = Replayed(self._whole_batch, self._changed, device)

    def _make_network(self, task: Task, init: Model | None) -> ResidualNetwork:
        network = zoo.build(self.recipe.network, len(task.classes))
        assert isinstance(network, ResidualNetwork)
        if init is not None:
            start_from(network, init, task.classes)
        if self.recipe.batch_norm == "frozen":
            for layer in norms(network):
                layer.requires_grad_(False)
        if self.recipe.save_memory:
            for name in network.stage_names:
                network.get_submodule(name).save_memory = True  # type: ignore[assignment]
        if self.recipe.batch_norm == "sync":
            if self.device.type != "cuda":
                raise UserError(
                    "batch_norm = 'sync' needs GPUs",
                    hint="use --set batch_norm=batch, as the paper",
                )
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        network = network.to(self.device)
        if self.settings.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return network

    def _share_gradients(self) -> nn.Module:
        """The network, or a wrapper that averages the gradients of all processes."""
        if self.world.size == 1:
            return self.network
        with warnings.catch_warnings():
            # The name of an option that changes between the versions that are supported.
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            return DistributedDataParallel(
                self.network, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    @property
    def rate(self) -> float:
        """Learning rate of the next update."""
        r = self.recipe
        return learning_rate(r.schedule, self.step, r.steps, self.depth, self.started, self.errors)

    def batch(self, part: int = 0) -> tuple[Tensor, Tensor]:
        """A part of the next update's images and labels."""
        images, labels = self.batches(self.step, part)
        if not self.settings.channels_last:
            images = images.contiguous()
        return images, labels

    def update(self) -> float:
        """One step of SGD. Waits for no device: the metrics stay on it.

        Returns:
            Seconds that went into waiting for data.
        """
        self._set_rate()
        if self._replayed is None:
            self._forget_gradients()
        waited = 0.0
        for part in range(len(self.parts)):
            start = time.perf_counter()
            images, labels = self.batch(part)
            waited += time.perf_counter() - start
            if self._replayed is None:
                self._add_gradients(images, labels, last=part == len(self.parts) - 1)
            elif len(labels) == self.recipe.batch:
                self._replayed(images, labels)
            else:  # some images could not be read
                self._whole_batch(images, labels)
        if self._replayed is None:
            self._move_weights()
        self.step += 1
        if self.average is not None:
            self.average.update(self.network, self.step)
        return waited

    def _set_rate(self) -> None:
        self.last_rate = self.rate
        for group in groups(self.optimizers):
            rate = self.last_rate * group["head"]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _whole_batch(self, images: Tensor, labels: Tensor) -> None:
        """An update by a batch in one part."""
        self._forget_gradients()
        self._add_gradients(images, labels, last=True)
        self._move_weights()

    def _forget_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _move_weights(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def _changed(self) -> Iterator[Tensor]:
        """All that an update changes."""
        yield from self.network.state_dict().values()
        yield from self._momenta.values()
        yield self._totals

    def _add_gradients(self, images: Tensor, labels: Tensor, last: bool) -> None:
        """Forward and backward pass of a part of the batch."""
        if not len(labels):  # none could be read; the other processes wait for gradients: none
            images = images.new_zeros((2, *images.shape[1:]))
            labels = labels.new_full((2,), NOTHING)
        if self.recipe.batch_norm == "frozen":
            for layer in norms(self.network):
                layer.eval()
        wait = not last and isinstance(self._shared, DistributedDataParallel)
        with self._shared.no_sync() if wait else nullcontext():  # type: ignore[operator]
            with self._autocast(), _single_values():
                logits = self._shared(images)
            smoothing = self.recipe.label_smoothing
            loss = F.cross_entropy(
                logits.float(), labels, label_smoothing=smoothing, reduction="sum"
            )
            # The mean over this process's share of the batch; an image that could not be
            # read counts as one without gradient.
            share = sum(end - start for start, end in self.parts)
            (loss / share).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            shown = labels != NOTHING
            wrong = ((logits.argmax(1) != labels) & shown).sum()
            self._totals += torch.stack([loss, wrong, shown.sum()])

    def _autocast(self) -> torch.autocast:
        half = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    def read(self) -> Reading | None:
        """Loss and error since the last reading, which they end; None if no update was made.

        Also ends the gentle start of a deep network when the error has become small
        enough (section 4.2).
        """
        loss, wrong, count = self.world.all_reduce_sum(self._totals.clone()).tolist()
        if not count:
            return None
        self._totals.zero_()
        self._since_test = [self._since_test[0] + wrong, self._since_test[1] + count]
        reading = Reading(loss / count, 100 * wrong / count)
        gentle = self.recipe.schedule.gentle_start
        if (
            gentle is not None
            and in_gentle_start(self.recipe.schedule, self.depth, self.started)
            and reading.error < 100 * gentle.until_error
        ):
            self.started = self.step
        return reading

    def tested(self) -> None:
        """A test was made: remember the training error up to here, for plateaus."""
        wrong, count = self._since_test
        if count and self.recipe.schedule.kind == "plateau":
            self.errors.append((self.step, 100 * wrong / count))
        self._since_test = [0.0, 0.0]

    @contextmanager
    def presented(self) -> Iterator[ResidualNetwork]:
        """The network as it is tested and kept: averaged, its BN statistics taken anew."""
        with self.average.applied(self.network) if self.average else nullcontext():
            if self.recipe.recompute_bn:
                images = min(self.recipe.recompute_bn, self._images)
                steps = math.ceil(images / self.recipe.batch)
                with self._autocast():
                    recompute_statistics(
                        self.network, self._images_after_the_end(steps), self.world
                    )
            take_from_main(self.network, self.world)
            yield self.network

    def _images_after_the_end(self, steps: int) -> Iterator[Tensor]:
        """Training images of the steps that would follow the last."""
        for step in range(self.recipe.steps, self.recipe.steps + steps):
            for part in range(len(self.parts)):
                yield self.batches(step, part)[0]

    def healthy(self) -> bool:
        """Whether every weight and the loss since the last reading are finite numbers."""
        tensors = [self._totals, *self.network.parameters()]
        return all(bool(torch.isfinite(t).all()) for t in tensors)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next update depends on, beside recipe and data."""
        tensors = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        tensors |= {f"momentum.{name}": t for name, t in self._momenta.items()}
        if self.average is not None:
            tensors |= {f"average.{name}": t for name, t in self.average.tensors.items()}
        tensors["totals"] = self.world.all_reduce_sum(self._totals.clone())
        facts = {
            "step": self.step,
            "started": self.started,
            "errors": self.errors,
            "since_test": self._since_test,
            "bad": self.batches.bad,
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
                    hint="give the run folder that it came from",
                )
        prefix = "network."
        weights = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        try:
            self.network.load_state_dict(weights)
            for name, momentum in self._momenta.items():
                momentum.copy_(tensors[f"momentum.{name}"])
        except (RuntimeError, KeyError) as error:
            raise UserError(
                f"the checkpoint does not fit {self.recipe.network} "
                f"({' '.join(str(error).split())[:200]})"
            ) from error
        if self.average is not None:
            for name, tensor in self.average.tensors.items():
                tensor.copy_(tensors[f"average.{name}"])
        if self.world.is_main:
            self._totals.copy_(tensors["totals"])
        self.step, self.started = facts["step"], facts["started"]
        self.errors = [(step, error) for step, error in facts["errors"]]
        self._since_test = facts["since_test"]
        self.batches.bad.update(facts["bad"])


def shares(recipe: Recipe, world: World) -> list[tuple[int, int]]:
    """The parts of every batch that this process takes, one after the other.

    Raises:
        UserError: if the batch does not divide among the processes, or their share into
            parts of `micro_batch` images.
    """
    share, rest = divmod(recipe.batch, world.size)
    if rest:
        raise UserError(
            f"a batch of {recipe.batch} images does not divide among {world.size} processes",
            hint=f"try --set batch={share * world.size or world.size}",
        )
    micro = recipe.micro_batch or share
    if share % micro:
        raise UserError(
            f"micro_batch = {micro} does not divide a process's {share} images",
            hint=f"try --set micro_batch={math.gcd(share, micro)}",
        )
    first = world.rank * share
    return [(first + i, first + i + micro) for i in range(0, share, micro)]


def start_from(network: ResidualNetwork, init: Model, classes: Sequence[str]) -> None:
    """Give `network` the weights of `init`; its classifier only where the classes are the same.

    Raises:
        UserError: if the networks differ.
    """
    other = init.network
    assert isinstance(other, ResidualNetwork)
    if other.architecture.with_classes(1) != network.architecture.with_classes(1):
        name = init.card["network"]
        raise UserError(
            f"init is a {name}, which is another network",
            hint=f"use --network {name}, or give an --init of yours",
        )
    weights = init.network.state_dict()
    if list(classes) not in (init.classes, init.class_ids):
        weights = {k: v for k, v in weights.items() if not k.startswith("fc.")}
    network.load_state_dict(weights, strict=False)


@contextmanager
def _single_values() -> Iterator[None]:
    """Say what it means when BN has one value for a channel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "BN has a single value for a channel: one image, whose last map is one pixel",
            hint="take a larger micro_batch or larger images",
        ) from error


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
