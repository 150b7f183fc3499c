"""Several processes at one task, as `torchrun` starts them; one process is a world of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from resnets.support.errors import UserError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others: one may be decoding or testing for a while."""


@dataclass(frozen=True)
class World:
    """This process among those at the same task.

    Every process must make the same calls in the same order; with one process they are free.
    They raise `UserError` if another process ended meanwhile.

    Args:
        rank: the number of this process, from 0.
        size: how many there are.
        local_rank: its number among those on this machine, which is the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes for all."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            with _together():
                dist.barrier()

    def gather_objects(self, obj: T) -> list[T] | None:
        """Every process's object, in the order of the ranks, to rank 0; None to the others."""
        if self.size == 1:
            return [obj]
        gathered: list[T | None] | None = [None] * self.size if self.is_main else None
        with _together():
            dist.gather_object(obj, gathered)
        return gathered  # type: ignore[return-value]

    def broadcast_object(self, obj: T) -> T:
        """Rank 0's object; what the others give is ignored."""
        if self.size == 1:
            return obj
        holder = [obj]
        with _together():
            dist.broadcast_object_list(holder)
        return holder[0]

    def first(self, action: Callable[[], T]) -> T:
        """What rank 0 gets by doing something for all; a `UserError` of its reaches all, too."""
        result: T | UserError | None = None
        if self.is_main:
            try:
                result = action()
            except UserError as error:
                if self.size == 1:
                    raise
                result = error
        result = self.broadcast_object(result)
        if isinstance(result, UserError):
            raise result
        return result  # type: ignore[return-value]

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor, in place of each."""
        if self.size > 1:
            with _together():
                dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        """The largest of every process's tensors, element by element, in place of each."""
        if self.size > 1:
            with _together():
                dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor


@contextmanager
def world() -> Iterator[World]:
    """The processes that `torchrun` started together, from RANK and WORLD_SIZE; else this one.

    Tensors on the CPU and objects travel by gloo, tensors on GPUs by NCCL. On machines with
    GPUs the process's own becomes the current one, which `torch.device("cuda")` means, in this
    thread only. A process group that is there already is used and left.

    Raises:
        UserError: if the environment is incomplete, or not all processes come.
    """
    if not dist.is_available():
        yield World()
        return
    if dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), _number("LOCAL_RANK", dist.get_rank()))
        return
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield World()
        return
    rank = _number("RANK")
    local_rank = _number("LOCAL_RANK", rank)
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        if local_rank < torch.cuda.device_count():
            torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"the {size} processes did not meet ({line})", mend=_MEND) from error
    yield World(rank, size, local_rank)
    # Not after a failure: the others may wait in another call, and closing would wait for them.
    dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo and NCCL alike; the cause stands with the other one
        raise UserError("another process ended or does not answer", mend=_SEE) from error


_SEE = "see its message"
_MEND = "start them with torchrun, for example: torchrun --nproc-per-node 2 -m resnets ..."


def _number(name: str, default: int | None = None) -> int:
    """An environment variable as a number; raises `UserError` if it is none."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise UserError(f"{name} is {text!r}, not a number", "the environment", _MEND)
    return int(text)
