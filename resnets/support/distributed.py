"""Processes that work on one task, as `torchrun` starts them, and their collective calls.

A single process is a world of size 1, in which all calls return at once.
"""

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

from resnets.support.errors import UserError, system_error

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others, which may be decoding or testing meanwhile."""


@dataclass(frozen=True)
class World:
    """This process and its number among those that work on the same task.

    Every process must make the same calls in the same order. They raise `UserError` if another
    process has ended.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number among the processes of this machine, which is the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes for all."""
        return self.rank == 0

    def gather_objects(self, obj: T) -> list[T] | None:
        """Every process's object by rank, on rank 0; None on the others."""
        if self.size == 1:
            return [obj]
        gathered: list[T | None] | None = [None] * self.size if self.is_main else None
        with _collective():
            dist.gather_object(obj, gathered)
        return gathered  # type: ignore[return-value]

    def each(self, action: Callable[[], T]) -> list[T] | None:
        """Call `action` on every process; the results as from `gather_objects`.

        Raises:
            UserError: on every process, if `action` raises one on any of them.
        """
        result: T | UserError
        try:
            result = action()
        except (UserError, OSError) as error:
            if self.size == 1:
                raise
            result = _for_all(error)
        gathered = self.gather_objects(result)

        def check() -> None:
            for one in gathered or ():
                if isinstance(one, UserError):
                    raise one

        self.first(check)
        return gathered  # type: ignore[return-value]

    def broadcast_object(self, obj: T) -> T:
        """Rank 0's object, on every process; the argument of the others is ignored."""
        if self.size == 1:
            return obj
        holder = [obj]
        with _collective():
            dist.broadcast_object_list(holder)
        return holder[0]

    def first(self, action: Callable[[], T]) -> T:
        """Call `action` on rank 0 only; its result on every process.

        Raises:
            UserError: on every process, if `action` raises one.
        """
        result: T | UserError | None = None
        if self.is_main:
            try:
                result = action()
            except (UserError, OSError) as error:
                if self.size == 1:
                    raise
                result = _for_all(error)
        result = self.broadcast_object(result)
        if isinstance(result, UserError):
            raise result
        return result  # type: ignore[return-value]

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors of all processes, in place."""
        if self.size > 1:
            with _collective():
                dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum of the tensors of all processes, in place."""
        if self.size > 1:
            with _collective():
                dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor


def _for_all(error: UserError | OSError) -> UserError:
    """The error that every process raises; raises one that is no user's mistake."""
    return error if isinstance(error, UserError) else system_error(error)


@contextmanager
def world() -> Iterator[World]:
    """Join the processes that `torchrun` started, by RANK and WORLD_SIZE; else this one alone.

    Gloo transfers objects and tensors on the CPU, NCCL tensors on GPUs. On machines with GPUs
    this process's GPU becomes the current device of this thread, which `torch.device("cuda")`
    means. An initialised process group is used and left as it is.

    Raises:
        UserError: if the environment is incomplete, or not all processes start in time.
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
        raise UserError(f"the {size} processes could not connect ({line})", hint=_START) from error
    try:
        yield World(rank, size, local_rank)
    except BaseException:
        # Gloo's threads may else end Python with SIGABRT instead of its exit code. The other
        # processes learn of it from their closed connections. NCCL would wait for them.
        if backend == "gloo":
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _meet(store: Any, rank: int, size: int) -> str:
    """A token that only the processes of this start share, as a prefix of their keys in `store`.

    When torchrun restarts processes, it may give them the old store, which still holds the
    addresses of the processes that died. So rank 0 publishes a new token. The others answer it
    with tokens of their own, until rank 0 has confirmed theirs.
    """
    token = uuid.uuid4().hex
    if rank == 0:
        store.set("resnets/word", token)
        for other in range(1, size):
            answer = store.get(f"resnets/{token}/{other}").decode()  # waits for it
            store.set(f"resnets/{answer}", token)
        return token
    end = time.monotonic() + TIMEOUT.total_seconds()
    while time.monotonic() < end:
        published = store.get("resnets/word").decode()  # perhaps of an earlier start
        store.set(f"resnets/{published}/{rank}", token)
        if store.check([f"resnets/{token}"]):
            confirmed: str = store.get(f"resnets/{token}").decode()
            return confirmed
        time.sleep(0.02)
    raise RuntimeError("no answer from process 0")


@contextmanager
def _collective() -> Iterator[None]:
    """Turn the errors of gloo and NCCL into a `UserError`."""
    try:
        yield
    except RuntimeError as error:
        hint = "see its message"  # which has the cause
        raise UserError("another process ended or does not answer", hint=hint) from error


_START = "start them with torchrun, for example: torchrun --nproc-per-node 2 -m resnets ..."


def _number(name: str, default: int | None = None) -> int:
    """An environment variable as a number; raises `UserError` if it is not a number."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise UserError(f"{name} is {text!r}, not a number", "the environment", _START)
    return int(text)
