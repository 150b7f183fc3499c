"""The trainer: a network, its optimizers, and the step of section 3.4.

Also what tests see instead of the last weights (moving averages, recomputed BN statistics), and
CUDA graphs, which replay a whole update with one call.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resnets.kernels.fuse import use_cpu_kernels
from resnets.models import zoo
from resnets.models.batch_norm import norms
from resnets.models.blocks import Stage
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.training.hardware import Settings, compile_network
from resnets.training.objective import Objective
from resnets.training.optimizers import make_optimizers, momenta, parameter_groups
from resnets.training.recipe import Recipe
from resnets.training.schedule import in_gentle_start, learning_rate


@dataclass(frozen=True)
class Reading:
    """Training loss and error (percent) over the updates since the last reading."""

    loss: float
    error: float

    @property
    def healthy(self) -> bool:
        """Whether the loss is a number that training can continue with."""
        return math.isfinite(self.loss) and self.loss < 1e3


class Trainer:
    """Takes the steps of a recipe for an objective; its state is a function of recipe and step.

    Args:
        objective: what to train for; it holds the recipe and the data.
        device: where to train.
        settings: precision and the like, resolved for the device.
        world: the processes that share every batch; each makes the same calls.

    Raises:
        UserError: if the batch does not divide among the processes, or the device does not
            support the recipe's `batch_norm` or `graphs`.
    """

    def __init__(
        self,
        objective: Objective,
        device: torch.device,
        settings: Settings,
        world: World = World(),  # noqa: B008
    ) -> None:
        self.objective, self.recipe = objective, objective.recipe
        self.device, self.settings, self.world = device, settings, world
        self.depth = zoo.architecture(self.recipe.network).layers
        self.network = self._prepare_network(objective.build_network())
        self.parts = shares(self.recipe, world)
        self.batches = objective.batches(self.parts, device, _local_processes(world))
        self.optimizers = make_optimizers(
            self.network,
            self.recipe,
            fused=settings.graphs or settings.kernels != "none",
            rates_on=device if settings.graphs else None,
        )
        self._momenta = momenta(self.network, self.optimizers)
        self.average = MovingAverage(self.network, self.recipe.ema) if self.recipe.ema else None
        self.step = 0
        self.last_rate = 0.0
        self.gentle_end: int | None = None
        """The step that ended the gentle start of a deep network."""
        self.errors: list[tuple[int, float]] = []
        """(step, training error) at each test, for a rate that falls on plateaus."""
        self._totals = torch.zeros(3, device=device)
        """Sums since the last reading: of the images' losses and errors, and of the images."""
        self._since_test = [0.0, 0.0]
        """Sums since the last test: of the images' errors, and of the images."""
        if settings.compile:
            compile_network(self.network, device)
        if settings.kernels != "none":
            use_cpu_kernels(self.network)
        self._shared = self._share_gradients()
        self._captured: CapturedUpdate | None = None
        if settings.graphs:
            if not world.size == len(self.parts) == 1:
                raise UserError(
                    "graphs = true needs one process and no micro_batch",
                    hint="use --set graphs=false",
                )
            self._captured = CapturedUpdate(self._update_at_once, self._updated_tensors, device)

    def _prepare_network(self, network: nn.Module) -> nn.Module:
        """The network on the device, with the recipe's kind of BN and use of memory."""
        if self.recipe.batch_norm == "frozen":
            for layer in norms(network):
                layer.requires_grad_(False)
        for module in network.modules():
            if isinstance(module, Stage):
                module.save_memory = self.recipe.save_memory
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
            # The option's name differs between supported versions of PyTorch.
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            return DistributedDataParallel(
                self.network, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    @property
    def rate(self) -> float:
        """Learning rate of the next update."""
        return learning_rate(
            self.recipe.schedule,
            self.step,
            iterations=self.recipe.steps,
            depth=self.depth,
            gentle_end=self.gentle_end,
            errors=self.errors,
        )

    def batch(self, part: int = 0) -> tuple[Tensor, Any]:
        """A part of the next update's images and targets."""
        images, targets = self.batches(self.step, part)
        if not self.settings.channels_last:
            images = images.contiguous()
        return images, targets

    def update(self) -> float:
        """One step of the optimizers. Nothing is read from the device.

        Returns:
            Seconds spent waiting for data.
        """
        self._set_rate()
        if self._captured is None:
            self._zero_gradients()
        waited = 0.0
        for part in range(len(self.parts)):
            start = time.perf_counter()
            images, targets = self.batch(part)
            waited += time.perf_counter() - start
            if self._captured is None:
                self._add_gradients(images, targets, last=part == len(self.parts) - 1)
            elif len(images) == self.recipe.batch:
                self._captured(images, targets)
            else:  # some images could not be read
                self._update_at_once(images, targets)
        if self._captured is None:
            self._step_optimizers()
        self.step += 1
        if self.average is not None:
            self.average.update(self.network, self.step)
        return waited

    def _set_rate(self) -> None:
        self.last_rate = self.rate
        for group in parameter_groups(self.optimizers):
            rate = self.last_rate * group["head"]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _update_at_once(self, images: Tensor, targets: Any) -> None:
        """An update by a batch that is not split into parts."""
        self._zero_gradients()
        self._add_gradients(images, targets, last=True)
        self._step_optimizers()

    def _zero_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _step_optimizers(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def _updated_tensors(self) -> Iterator[Tensor]:
        """All tensors that an update changes."""
        yield from self.network.state_dict().values()
        yield from self._momenta.values()
        yield self._totals

    def _add_gradients(self, images: Tensor, targets: Any, *, last: bool) -> None:
        """Forward and backward pass of a part of the batch."""
        if self.recipe.batch_norm == "frozen":
            for layer in norms(self.network):
                layer.eval()
        wait = not last and isinstance(self._shared, DistributedDataParallel)
        with self._shared.no_sync() if wait else nullcontext():  # type: ignore[operator]
            found = self.objective.loss(self._forward, images, targets)
            # The mean over this process's share of the batch; an image that could not be
            # read counts as one without gradient.
            share = sum(end - start for start, end in self.parts)
            (found.loss / share).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self._totals += torch.stack(found)

    def _forward(self, *inputs: Any) -> Any:
        with self._autocast(), _explain_single_values():
            return self._shared(*inputs)

    def _autocast(self) -> torch.autocast:
        half = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    def read(self) -> Reading | None:
        """Loss and error since the last reading; None if there was no update since.

        Also ends the gentle start of a deep network once the error is small enough (section
        4.2).
        """
        loss, error, images = self.world.all_reduce_sum(self._totals.clone()).tolist()
        if not images:
            return None
        self._totals.zero_()
        self._since_test = [self._since_test[0] + error, self._since_test[1] + images]
        reading = Reading(loss / images, 100 * error / images)
        gentle = self.recipe.schedule.gentle_start
        if (
            gentle is not None
            and in_gentle_start(self.recipe.schedule, self.depth, self.gentle_end)
            and reading.error < 100 * gentle.until_error
        ):
            self.gentle_end = self.step
        return reading

    def record_test(self) -> None:
        """After a test: record the training error since the last one, for plateaus."""
        error, images = self._since_test
        if images and self.recipe.schedule.kind == "plateau":
            self.errors.append((self.step, 100 * error / images))
        self._since_test = [0.0, 0.0]

    @contextmanager
    def averaged_network(self) -> Iterator[nn.Module]:
        """The network as it is tested and saved: weights averaged, BN statistics recomputed."""
        with self.average.applied(self.network) if self.average else nullcontext():
            if self.recipe.recompute_bn:
                images = min(self.recipe.recompute_bn, self.objective.train_images)
                steps = math.ceil(images / self.recipe.batch)
                with self._autocast():
                    recompute_statistics(self.network, self._further_images(steps), self.world)
            copy_buffers_from_main(self.network, self.world)
            yield self.network

    def _further_images(self, steps: int) -> Iterator[Tensor]:
        """Training images of the steps that would follow the last."""
        for step in range(self.recipe.steps, self.recipe.steps + steps):
            for part in range(len(self.parts)):
                yield self.batches(step, part)[0]

    def healthy(self) -> bool:
        """Whether every weight and the loss since the last reading are finite numbers."""
        tensors = [self._totals, *self.network.parameters()]
        return all(bool(torch.isfinite(t).all()) for t in tensors)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next update depends on, apart from recipe and data."""
        tensors = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        tensors |= {f"momentum.{name}": t for name, t in self._momenta.items()}
        if self.average is not None:
            tensors |= {f"average.{name}": t for name, t in self.average.tensors.items()}
        tensors["totals"] = self.world.all_reduce_sum(self._totals.clone())
        facts = {
            "step": self.step,
            "started": self.gentle_end,
            "errors": self.errors,
            "since_test": self._since_test,
            "bad": self.batches.bad,
            "network": self.recipe.network,
            "recipe": self.recipe.content_hash(),
        }
        return tensors, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Set the state that `state` returned.

        Raises:
            UserError: if the checkpoint is of another network or recipe.
        """
        self._refuse_other(facts)
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
        self.step, self.gentle_end = facts["step"], facts["started"]
        self.errors = [(step, error) for step, error in facts["errors"]]
        self._since_test = facts["since_test"]
        self.batches.bad.update(facts["bad"])

    def _refuse_other(self, facts: dict[str, Any]) -> None:
        """Raise `UserError` if a checkpoint is of another network or recipe."""
        network, recipe = facts.get("network"), str(facts.get("recipe"))
        for kind, found, own, same in (
            ("network", network, self.recipe.network, network == self.recipe.network),
            ("recipe", recipe, self.recipe.content_hash(), self.recipe.matches(recipe)),
        ):
            if not same:
                raise UserError(
                    f"the checkpoint is of another {kind} ({found}, not {own})",
                    hint="give the run folder that it came from",
                )


def _local_processes(world: World) -> int:
    """Processes of this training on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world.size)) if world.size > 1 else 1


def shares(recipe: Recipe, world: World) -> list[tuple[int, int]]:
    """The parts of each batch that this process takes, one forward pass each: (first, last + 1).

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


@contextmanager
def _explain_single_values() -> Iterator[None]:
    """Turn BN's error about a single value per channel into a `UserError`."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "BN has a single value per channel: one image, whose last feature map is one pixel",
            hint="use a larger micro_batch or larger images",
        ) from error


class MovingAverage:
    """An exponential moving average of a network's weights and BN statistics.

    Args:
        network: the average's first value.
        decay: share of the average that a step keeps; smaller in the first steps, so that the
            random start soon stops counting.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: t.detach().clone() for name, t in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Add the weights after step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = network.state_dict()
        floats = [name for name, t in self.tensors.items() if t.is_floating_point()]
        averages: list[Tensor] = [self.tensors[name] for name in floats]
        torch._foreach_lerp_(averages, [now[name] for name in floats], 1 - decay)
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point():
                tensor.copy_(now[name])

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Load the average into `network`, and its own weights again afterwards."""
        own = {name: t.detach().clone() for name, t in network.state_dict().items()}
        network.load_state_dict(self.tensors)
        try:
            yield
        finally:
            network.load_state_dict(own)


@torch.no_grad()
def recompute_statistics(network: nn.Module, batches: Iterable[Tensor], world: World) -> None:
    """Replace BN's moving averages by the mean and variance over many training images.

    The authors did so after training, with all weights fixed. The variance is that of all images
    together: the mean of the batches' variances plus the variance of their means.

    Args:
        network: its mode is restored.
        batches: inputs, the same number on every process.
        world: the processes whose images are combined.
    """
    layers = norms(network)
    was_training, momenta = network.training, [layer.momentum for layer in layers]
    totals = [torch.zeros(2, layer.num_features, dtype=torch.float64) for layer in layers]
    count = 0
    network.train()
    try:
        for layer in layers:
            layer.momentum = 1.0  # running statistics are then those of the last batch
        for images in batches:
            network(images)
            count += 1
            for total, layer in zip(totals, layers, strict=True):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                mean, variance = layer.running_mean.double(), layer.running_var.double()
                total += torch.stack([mean, variance + mean**2]).cpu()
    finally:
        network.train(was_training)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    counts = world.all_reduce_sum(torch.tensor(float(count)))
    for total, layer in zip(totals, layers, strict=True):
        mean, square = world.all_reduce_sum(total) / counts
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(square - mean**2)


@torch.no_grad()
def copy_buffers_from_main(network: nn.Module, world: World) -> None:
    """Copy the BN statistics of rank 0 to every process."""
    if world.size == 1:
        return
    for buffer in network.buffers():
        if not world.is_main:
            buffer.zero_()
        world.all_reduce_sum(buffer)


_WARM_UP = 3
"""Updates before a capture, during which libraries choose kernels and compilers compile."""


class CapturedUpdate:
    """An update captured as a CUDA graph at the first batch of each shape, then replayed.

    An update of a small network is hundreds of kernels of a few microseconds each; started one
    by one from Python, they leave a GPU idle. A graph starts them all with one call. The tensors
    that `update` reads and changes must stay at their addresses. On CPUs the update is called
    instead, on the same tensors and in the same order as on a GPU.

    Args:
        update: takes images and labels, which it must not change.
        changed: returns all tensors that it changes; they are restored after the calls that
            precede a capture.
        device: where the update runs.
    """

    def __init__(
        self,
        update: Callable[[Tensor, Tensor], None],
        changed: Callable[[], Iterable[Tensor]],
        device: torch.device,
    ) -> None:
        self._update, self._changed, self._device = update, changed, device
        self._ready: dict[torch.Size, tuple[Tensor, Tensor, Callable[[], None]]] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Update by a batch: images (N, 3, H, W), labels (N,)."""
        if images.shape not in self._ready:
            self._ready[images.shape] = self._capture(images.clone(), labels.clone())
        own_images, own_labels, replay = self._ready[images.shape]
        own_images.copy_(images)
        own_labels.copy_(labels)
        replay()

    def _capture(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Callable[[], None]]:
        def update() -> None:
            self._update(images, labels)

        def warm_up() -> None:
            for _ in range(_WARM_UP):
                update()

        before = [tensor.detach().clone() for tensor in self._changed()]
        replay = update
        if self._device.type == "cuda":
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                warm_up()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads, such as a decoder's, may use the GPU meanwhile.
            mode = "thread_local"
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode=mode):
                update()
            replay = graph.replay
        else:
            warm_up()
        with torch.no_grad():
            for tensor, value in zip(self._changed(), before, strict=True):
                tensor.copy_(value)
        return images, labels, replay
