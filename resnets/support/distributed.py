"""Several processes at one task, as `torchrun` starts them; one process is a world of its own."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

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

    def each(self, action: Callable[[], T]) -> list[T] | None:
        """What every process gets, like `gather_objects`; a `UserError` of any reaches all."""
        mine: T | UserError
        try:
            mine = action()
        except UserError as error:
            if self.size == 1:
                raise
            mine = error
        gathered = self.gather_objects(mine)

        def check() -> None:
            for found in gathered or ():
                if isinstance(found, UserError):
                    raise found

        self.first(check)
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
        store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
        store = dist.PrefixStore(_meet(store, rank, size), store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"the {size} processes did not meet ({line})", hint=_MEND) from error
    yield World(rank, size, local_rank)
    # Not after a failure: the others may wait in another call, and closing would wait for them.
    dist.destroy_process_group()


def _meet(store: Any, rank: int, size: int) -> str:
    """A word that only the processes of this start know, to keep their keys in `store` apart.

    When torchrun restarts processes it may give them the same store, in which the addresses
    of the ones that died still stand. So rank 0 makes up a word and asks who is there; the
    others answer with words of their own until rank 0 says theirs again.
    """
    word = uuid.uuid4().hex
    if rank == 0:
        store.set("resnets/word", word)
        for other in range(1, size):
            theirs = store.get(f"resnets/{word}/{other}").decode()  # waits for it
            store.set(f"resnets/{theirs}", word)
        return word
    end = time.monotonic() + TIMEOUT.total_seconds()
    while time.monotonic() < end:
        asked = store.get("resnets/word").decode()  # perhaps of an earlier start
        store.set(f"resnets/{asked}/{rank}", word)
        if store.check([f"resnets/{word}"]):
            agreed: str = store.get(f"resnets/{word}").decode()
            return agreed
        time.sleep(0.02)
    raise RuntimeError("no answer from process 0")


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo and NCCL alike; the cause stands with the other one
        raise UserError("another process ended or does not answer", hint=_SEE) from error


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
