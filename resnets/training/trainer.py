"""The trainer: a network, its optimizers, and the step of section 3.4."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resnets.kernels.fuse import use_cpu_kernels
from resnets.models.batch_norm import explain_single_values, norms
from resnets.models.blocks import Stage
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.training.averages import (
    MovingAverage,
    copy_buffers_from_main,
    recompute_statistics,
)
from resnets.training.capacity import refuse_large_maps
from resnets.training.cuda_graph import CapturedUpdate
from resnets.training.frozen import freeze
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
    parts: tuple[float, ...] = ()
    """Summands of the loss, as `Objective.part_names` names them."""

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
        UserError: if the batch does not divide among the processes or exceeds the memory, or the
            device does not support the recipe's `batch_norm` or `graphs`.
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
        self.network, self._fixed = self._prepare_network(objective.build_network())
        self.micro_batches = micro_batches(self.recipe, world)
        at_once = max(end - start for start, end in self.micro_batches)
        refuse_large_maps(self.recipe, self.network, at_once, device, settings.precision)
        self.batches = objective.batches(self.micro_batches, device, _local_processes(world))
        self._trainable = [p for p in self.network.parameters() if p.requires_grad]
        self._refuse_idle_stages()
        self._choose_parameters(0)
        self.average = MovingAverage(self.network, self.recipe.ema) if self.recipe.ema else None
        self.step = 0
        self.last_rate = 0.0
        self.gentle_end: int | None = None
        """The step that ended the gentle start of a deep network."""
        self.errors: list[tuple[int, float]] = []
        """(step, training error) at each test, for a rate that falls on plateaus."""
        self._totals = torch.zeros(3 + len(objective.part_names), device=device)
        """Sums since the last reading: of the images' losses and errors, of the images, and of
        the parts of the losses."""
        self._since_test = [0.0, 0.0]
        """Sums since the last test: of the images' errors, and of the images."""
        if settings.compile:
            compile_network(self.network, device)
        if settings.kernels != "none":
            use_cpu_kernels(self.network)
        self._shared = self._share_gradients()  # again in every stage
        self._captured: CapturedUpdate | None = None
        if settings.graphs:
            self._captured = self._capture_updates()

    def _prepare_network(self, network: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
        """The network on the device, with the recipe's kind of BN and use of memory.

        Returns:
            The network, and its modules that stay in evaluation mode.
        """
        fixed: list[nn.Module] = []
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
        if self.recipe.freeze is not None:
            fixed += freeze(network, self.recipe.freeze)
        if self.recipe.batch_norm == "frozen":
            fixed += [layer.requires_grad_(False) for layer in norms(network)]
        network = network.to(self.device)
        if self.settings.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return network, fixed

    def _refuse_idle_stages(self) -> None:
        """Raise `UserError` if a stage would train nothing."""
        own, stages = {*map(id, self._trainable)}, self.recipe.stages
        for stage in range(stages if stages > 1 else 0):
            if own.isdisjoint(map(id, self.objective.stage_parameters(self.network, stage))):
                message = f"nothing is left to train in step {stage + 1} of {stages}"
                raise UserError(message, f"freeze = {self.recipe.freeze!r}", "leave out a part")

    def _choose_parameters(self, stage: int) -> None:
        """Have optimizers, with zero momentum, for the parameters that a stage trains."""
        self.stage = stage
        """The stage of the recipe, from 0."""
        self.objective.enter_stage(self.network, stage)
        trained = {*map(id, self.objective.stage_parameters(self.network, stage))}
        for parameter in self._trainable:
            parameter.requires_grad_(id(parameter) in trained)
        self.optimizers = make_optimizers(
            self.network,
            self.recipe,
            fused=self.settings.graphs or self.settings.kernels != "none",
            rates_on=self.device if self.settings.graphs else None,
            heads=self.objective.heads,
        )
        self._momenta = momenta(self.network, self.optimizers)

    def _enter_stage(self, stage: int) -> None:
        self._zero_gradients()
        self._choose_parameters(stage)
        self._shared = self._share_gradients()

    @property
    def at_stage_end(self) -> bool:
        """Whether the last update was the last one of its stage."""
        return self.step == (self.stage + 1) * self._stage_length

    @property
    def _stage_length(self) -> int:
        return self.recipe.steps // self.recipe.stages

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

    def _capture_updates(self) -> CapturedUpdate:
        """Updates as CUDA graphs; raises `UserError` if they cannot be captured."""
        hint = "use --set graphs=false"
        if not self.objective.capturable:
            raise UserError("graphs = true is only for classification", hint=hint)
        if not self.world.size == len(self.micro_batches) == 1:
            raise UserError("graphs = true needs one process and no micro_batch", hint=hint)
        return CapturedUpdate(self._update_at_once, self._updated_tensors, self.device)

    @property
    def rate(self) -> float:
        """Learning rate of the next update."""
        return learning_rate(
            self.recipe.schedule,
            self.step - self.stage * self._stage_length,
            iterations=self._stage_length,
            depth=self.objective.depth,
            gentle_end=self.gentle_end,
            errors=self.errors,
        )

    def batch(self, part: int = 0) -> tuple[Tensor, Any]:
        """Images and targets of a micro-batch of the next update."""
        images, targets = self.batches(self.step, part)
        if not self.settings.channels_last:
            images = images.contiguous()
        return images, targets

    def update(self) -> float:
        """One step of the optimizers. Nothing is read from the device.

        Returns:
            Seconds spent waiting for data.
        """
        if self.at_stage_end:
            self.objective.begin_stage(self.network, self.stage + 1)
            self._enter_stage(self.stage + 1)
        self._set_rate()
        if self._captured is None:
            self._zero_gradients()
        waited = 0.0
        for part in range(len(self.micro_batches)):
            start = time.perf_counter()
            images, targets = self.batch(part)
            waited += time.perf_counter() - start
            if self._captured is None:
                self._add_gradients(images, targets, last=part == len(self.micro_batches) - 1)
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
            rate = self.last_rate * group["lr_scale"]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _update_at_once(self, images: Tensor, targets: Any) -> None:
        """An update by a batch that is a single micro-batch."""
        self._zero_gradients()
        self._add_gradients(images, targets, last=True)
        self._step_optimizers()

    def _zero_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _step_optimizers(self) -> None:
        longest = self.recipe.optimizer.clip
        if longest is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), longest)
        for optimizer in self.optimizers:
            optimizer.step()

    def _updated_tensors(self) -> Iterator[Tensor]:
        """All tensors that an update changes."""
        yield from self.network.state_dict().values()
        yield from self._momenta.values()
        yield self._totals

    def _add_gradients(self, images: Tensor, targets: Any, *, last: bool) -> None:
        """Forward and backward pass of a micro-batch."""
        for module in self._fixed:
            module.eval()
        wait = not last and isinstance(self._shared, DistributedDataParallel)
        with self._shared.no_sync() if wait else nullcontext():  # type: ignore[operator]
            found = self.objective.loss(self._forward, images, targets)
            # The mean over this process's share of the batch; an image that could not be
            # read counts as one without gradient.
            share = sum(end - start for start, end in self.micro_batches)
            (found.loss / share).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self._totals[:3] += torch.stack(found[:3])
            if found.parts is not None:
                self._totals[3:] += found.parts

    def _forward(self, *inputs: Any) -> Any:
        with self._autocast(), explain_single_values("use a larger micro_batch or larger images"):
            return self._shared(*inputs)

    def _autocast(self) -> torch.autocast:
        half = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    def take_reading(self) -> Reading | None:
        """Loss and error since the last reading; None if there was no update since.

        The sums start again at zero. If the error is small enough, the reading ends the gentle
        start of a deep network (section 4.2), so `log_every` has an effect on the training.
        """
        loss, error, images, *parts = self.world.all_reduce_sum(self._totals.clone()).tolist()
        if not images:
            return None
        self._totals.zero_()
        self._since_test = [self._since_test[0] + error, self._since_test[1] + images]
        means = tuple(part / images for part in parts)
        reading = Reading(loss / images, 100 * error / images, means)
        gentle = self.recipe.schedule.gentle_start
        if (
            gentle is not None
            and in_gentle_start(self.recipe.schedule, self.objective.depth, self.gentle_end)
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
                    recompute_statistics(
                        self.network, self._further_images(steps), self.world, self._fixed
                    )
            copy_buffers_from_main(self.network, self.world)
            yield self.network

    def _further_images(self, steps: int) -> Iterator[Tensor]:
        """Training images of the steps that would follow the last."""
        for step in range(self.recipe.steps, self.recipe.steps + steps):
            for part in range(len(self.micro_batches)):
                images = self.batches(step, part)[0]
                if len(images):
                    yield images

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
            "started": self.gentle_end,  # the key of the first version
            "errors": self.errors,
            "since_test": self._since_test,
            "bad": self.batches.bad,
            "network": self.recipe.network,
            "recipe": self.recipe.content_hash(),
            **({"stage": self.stage} if self.recipe.stages > 1 else {}),
        }
        return tensors, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Set the state that `state` returned.

        Raises:
            UserError: if the checkpoint is of another network or recipe.
        """
        self._refuse_other(facts)
        if self.recipe.stages > 1:
            self._enter_stage(facts["stage"])
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
                    hint="give the run folder that it came from, or restore its recipe.json",
                )


def _local_processes(world: World) -> int:
    """Processes of this training on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world.size)) if world.size > 1 else 1


def micro_batches(recipe: Recipe, world: World) -> list[tuple[int, int]]:
    """This process's images of each batch, (first, last + 1) for each forward pass.

    Raises:
        UserError: if the batch does not divide among the processes, or their share into
            `micro_batch` images.
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
