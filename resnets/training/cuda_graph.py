"""Updates captured as CUDA graphs, so that one call starts all their kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

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
