"""Updates captured once and replayed: a GPU is given a whole update at a time, not its kernels.

A step of a small network is hundreds of kernels of some microseconds each; started one by one
from Python they leave the GPU waiting. A CUDA graph starts them all with one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Work = Callable[[Tensor, Tensor], None]
WARM_UP = 3
"""Calls before a capture, in which libraries choose kernels and compilers compile."""


class Replayed:
    """Work on batches of one size, captured at the first batch of each shape, then replayed.

    What `work` reads and changes must keep its place in memory. On CPUs there is nothing to
    capture: the work is called, on the same tensors and in the same order as on a GPU.

    Args:
        work: takes images and labels, which it must not change.
        changed: everything that it changes; put back after the calls that precede a capture.
        device: where it does it.
    """

    def __init__(
        self, work: Work, changed: Callable[[], Iterable[Tensor]], device: torch.device
    ) -> None:
        self._work, self._changed, self._device = work, changed, device
        self._ready: dict[torch.Size, tuple[Tensor, Tensor, Callable[[], None]]] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Do the work on a batch: images (N, 3, H, W), labels (N,)."""
        if images.shape not in self._ready:
            self._ready[images.shape] = self._capture(images.clone(), labels.clone())
        own_images, own_labels, replay = self._ready[images.shape]
        own_images.copy_(images)
        own_labels.copy_(labels)
        replay()

    def _capture(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Callable[[], None]]:
        def work() -> None:
            self._work(images, labels)

        before = [tensor.detach().clone() for tensor in self._changed()]
        replay = work
        if self._device.type == "cuda":
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                _repeat(work)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads, such as a decoder's, may go on meanwhile.
            mode = "thread_local"
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode=mode):
                work()
            replay = graph.replay
        else:
            _repeat(work)
        with torch.no_grad():
            for tensor, value in zip(self._changed(), before, strict=True):
                tensor.copy_(value)
        return images, labels, replay


def _repeat(work: Callable[[], None]) -> None:
    for _ in range(WARM_UP):
        work()
