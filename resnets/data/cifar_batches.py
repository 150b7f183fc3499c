"""Training batches of CIFAR as a pure function of (seed, step), with section 4.2's augmentation.

Images stay on the training device. A few tensor operations crop and flip a whole batch, without
worker processes. The section [augment] of a recipe describes crops and flips; those of
photographs are in `augmentation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnets.data import random_streams
from resnets.data.cifar import ImageArrays
from resnets.data.preprocessing import Normalize

FlipKind = Literal["none", "random", "alternating"]


class CifarBatches:
    """Endless training batches: each epoch has every image once, in a new random order.

    Epochs follow each other without a gap: if the batch size does not divide the number of
    images, a batch takes the last images of one epoch and the first of the next.

    Args:
        data: the training images.
        batch: images in a batch.
        seed: with the step, decides everything about a batch.
        device: where the images are stored and processed.
        pad: pixels of zeros around the normalised image, from which the crop is taken.
        flip: `random` in each epoch; `alternating`: random in the first epoch, then each time
            the other way round; or `none`.
        parts: ranges of every batch that this process uses; the whole batch by default.
        side: side in pixels to which the images of a step are scaled; their own by default.
    """

    def __init__(
        self,
        data: ImageArrays,
        *,
        batch: int,
        seed: int,
        device: torch.device,
        pad: int,
        flip: FlipKind,
        parts: Sequence[tuple[int, int]] | None = None,
        side: Callable[[int], int] | None = None,
    ) -> None:
        self.length, self.batch, self.seed, self.device = len(data), batch, seed, device
        self.pad, self.flip = pad, flip
        self.parts = list(parts or [(0, batch)])
        self.side = side or (lambda step: data.images.shape[-1])
        self.bad: dict[str, str] = {}
        mean = torch.from_numpy(data.pixel_mean())
        self.normalize = Normalize(mean.to(device))
        # Pixels last: a crop then gathers rows of channels, and the batch is channels_last.
        self._images = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 2, 3, 1)))
        self._images = self._images.to(device)
        self._mean = mean.permute(1, 2, 0).contiguous().to(device)
        self._labels = torch.from_numpy(data.labels.astype(np.int64)).to(device)
        self._plans: dict[int, Tensor] = {}

    def epoch_of(self, step: int) -> float:
        """Epochs completed after `step` steps."""
        return step * self.batch / self.length

    def __call__(self, step: int, part: int = 0) -> tuple[Tensor, Tensor]:
        """Part number `part` of batch number `step`, both from 0.

        Returns:
            Images float32 (n, 3, H, W) in channels_last memory, labels int64 (n,).
        """
        start, end = self.parts[part]
        order, top, left, flip = self._plan(step)[:, start:end]
        images = self._images.index_select(0, order).float().mul_(1 / 255).sub_(self._mean)
        images = resized(self._cropped(images, top, left, flip.bool()), self.side(step))
        return images, self._labels.index_select(0, order)

    def close(self) -> None:
        """Do nothing: no batch is prepared ahead."""

    def _cropped(self, images: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
        """Random crops and flips of normalised images (N, H, W, 3)."""
        count, height, width, channels = images.shape
        padded = F.pad(images, (0, 0, self.pad, self.pad, self.pad, self.pad))
        y = torch.arange(height, device=self.device)
        x = torch.arange(width, device=self.device)
        rows = top[:, None] + y
        columns = left[:, None] + torch.where(flip[:, None], width - 1 - x, x)
        full_width = width + 2 * self.pad
        first = torch.arange(count, device=self.device)[:, None] * (height + 2 * self.pad) + rows
        index = first[:, :, None] * full_width + columns[:, None, :]
        pixels = padded.view(-1, channels).index_select(0, index.view(-1))
        return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)

    def _plan(self, step: int) -> Tensor:
        """The columns of the epochs' plans that make one batch: int64 (4, batch)."""
        epoch, offset = divmod(step * self.batch, self.length)
        plan = self._epoch(epoch)[:, offset : offset + self.batch]
        while (count := plan.shape[1]) < self.batch:
            epoch += 1
            plan = torch.cat([plan, self._epoch(epoch)[:, : self.batch - count]], 1)
        return plan

    def _epoch(self, epoch: int) -> Tensor:
        """What `_draw` returns, kept for two epochs."""
        if epoch not in self._plans:
            self._plans = {e: p for e, p in self._plans.items() if e == epoch - 1}
            self._plans[epoch] = self._draw(epoch)
        return self._plans[epoch]

    def _draw(self, epoch: int) -> Tensor:
        """Each image's number, top and left of its crop, and flip (0, 1): int64 (4, images)."""
        random = np.random.default_rng([self.seed, random_streams.EPOCH, epoch])
        order = random.permutation(self.length)
        top, left = random.integers(0, 2 * self.pad + 1, (2, self.length))
        if self.flip == "random":
            flip = random.random(self.length) < 0.5
        elif self.flip == "alternating":
            once = np.random.default_rng([self.seed, random_streams.FIRST_FLIPS])
            first = once.random(self.length) < 0.5
            flip = (first ^ bool(epoch % 2))[order]
        else:
            flip = np.zeros(self.length, bool)
        return torch.from_numpy(np.stack([order, top, left, flip])).to(self.device)


def resized(images: Tensor, size: int) -> Tensor:
    """Scale images (N, C, H, W) down to `size` pixels a side, in channels_last memory.

    Bilinear with antialiasing, as two matrix products: 0.25 ms a batch on two CPU cores,
    where `torch.nn.functional.interpolate` takes 0.88.
    """
    count, channels, height, width = images.shape
    if (height, width) == (size, size):
        return images
    device = str(images.device)
    rows = _resize_matrix(height, size, 1, device)
    columns = _resize_matrix(width, size, channels, device)
    pixels = images.permute(0, 2, 3, 1).reshape(count, height, width * channels)
    pixels = (rows @ pixels).view(count * size, width * channels) @ columns.T
    return pixels.view(count, size, size, channels).permute(0, 3, 1, 2)


@cache
def _resize_matrix(size: int, to: int, channels: int, device: str) -> Tensor:
    """Weights (to * channels, size * channels) that scale a row of pixels, channels last."""
    row = F.interpolate(torch.eye(size)[None, None], (to, size), mode="bilinear", antialias=True)
    return torch.kron(row[0, 0], torch.eye(channels)).to(device)
