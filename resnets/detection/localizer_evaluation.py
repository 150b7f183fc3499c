"""Tests of localizers: both networks see every image by a protocol of Table 13."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data.boxes.annotations import AnnotatedImage, BoxSet
from resnets.data.boxes.one_class import labelled
from resnets.data.images import read_image
from resnets.data.preprocessing import Normalize, Preprocessing
from resnets.detection.localizer import Localizer, paired_iou
from resnets.detection.metrics.localization_error import (
    ANSWERS,
    CORRECT_IOU,
    LocalizationResult,
    Located,
    measure_localization,
)
from resnets.evaluation import protocols
from resnets.evaluation.evaluator import Progress, labels_for
from resnets.evaluation.protocols import Center, Dense, average_views, network_scorer
from resnets.support.devices import cores
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.support.parallel import in_threads

VIEWS = ("center", "dense")
"""The tests of Table 13: 1-crop, and fully convolutional at several scales."""
BATCH = 64
"""Crops that a test computes at a time, or as many pixels of whole images."""


def refuse_unknown_views(name: str) -> None:
    """Raise `UserError` if localizers are not tested by a protocol of this name."""
    protocols.refuse_unknown(name)
    if name not in VIEWS:
        message = f"localization is tested with {' or '.join(VIEWS)}, not with {name}"
        raise UserError(message, "--views")


def evaluate(
    localizer: Localizer,
    boxes: BoxSet,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    *,
    views: str,
    device: torch.device,
    world: World,
    progress: Progress,
) -> LocalizationResult | None:
    """Test a localizer on images whose objects are of one class each, in float32.

    Args:
        localizer: on `device`.
        boxes: the images; each has an object.
        classes: those of the localizer.
        preprocessing: from an image to its input.
        views: `center`, one crop; or `dense`, the whole image at the scales of dense testing with
            flips, whose boxes are `merged`.
        device: where to compute.
        world: the processes that share the images.
        progress: called with the number of images that this process has tested.

    Returns:
        The result; None in processes other than the first.

    Raises:
        UserError: if an image cannot be read, or its class is not the localizer's.
    """
    refuse_unknown_views(views)
    labels = labels_for(labelled(boxes), classes)
    shown = protocols.make(views, localizer.classifier, preprocessing)
    tester = _Tester(localizer, shown, preprocessing.normalize(device), device)
    own = range(world.rank, len(boxes), world.size)
    parts = world.each(lambda: tester.all(boxes.images, labels, own, progress))
    if parts is None:
        return None
    located = _joined(parts, len(boxes))
    objects = [[one.box for one in image.objects] for image in boxes.images]
    return measure_localization(located, labels, objects, shown.protocol)


def _joined(parts: Sequence[Sequence[Located]], images: int) -> Located:
    """The answers of all processes, in the order of the images."""
    ranks = range(len(parts))
    order = np.argsort([i for rank in ranks for i in range(rank, images, len(parts))])
    groups = [group for part in parts for group in part]
    names = [field.name for field in fields(Located)]
    return Located(*(np.concatenate([getattr(g, n) for g in groups])[order] for n in names))


@dataclass(frozen=True)
class _Shown:
    """An image's views at every scale, and for each its corner and the size of its pixels, in
    pixels of the image: x, y, width, height."""

    index: int
    views: list[Tensor]
    frames: list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class _Tester:
    """Locates objects in test images, group by group."""

    localizer: Localizer
    views: protocols.Views
    normalize: Normalize
    device: torch.device

    def all(
        self,
        images: Sequence[AnnotatedImage],
        labels: NDArray[np.int64],
        own: Sequence[int],
        progress: Callable[[int], None],
    ) -> list[Located]:
        """The answers about the images `own`, group by group; other threads read ahead."""
        parts: list[Located] = []
        done = 0
        read = in_threads(lambda index: self._show(index, images[index]), own, min(cores(), 8))
        for group in _groups(read):
            parts.append(self._locate(group, torch.from_numpy(labels[[g.index for g in group]])))
            done += len(group)
            progress(done)
        return parts

    def _show(self, index: int, image: AnnotatedImage) -> _Shown:
        picture = read_image(image.path)
        try:
            views = self.views.apply(picture)
        except UserError as error:
            raise UserError(error.message, str(image.path), error.hint) from error
        width, height = picture.size
        if isinstance(self.views, Dense):
            sizes = [view.shape[-2:] for view in views]
            return _Shown(index, views, [(0.0, 0.0, width / w, height / h) for h, w in sizes])
        assert isinstance(self.views, Center)
        preprocessing = self.views.preprocessing
        left, top, right, bottom = preprocessing.box(width, height)
        side = preprocessing.size
        return _Shown(index, views, [(left, top, (right - left) / side, (bottom - top) / side)])

    def _locate(self, group: Sequence[_Shown], labels: Tensor) -> Located:
        """The answers about images of equal shapes."""
        scales = [torch.stack(views) for views in zip(*(one.views for one in group), strict=True)]
        localizer, budget = self.localizer, BATCH * self.views.preprocessing.size**2
        score = network_scorer(localizer.classifier, self.normalize, self.device, self.views.window)
        probabilities = average_views(
            score, scales, flips=self.views.flips, budget=budget, device=self.device
        )
        count = min(ANSWERS, localizer.classes)
        answers = probabilities.argsort(dim=1, descending=True, stable=True)[:, :count]
        classes = torch.cat((answers, labels.to(self.device)[:, None]), 1)
        scores, boxes = (torch.cat(parts, 2) for parts in zip(
            *(self._at_scale(views[:, 0], classes, [one.frames[number] for one in group])
              for number, views in enumerate(scales)),
            strict=True,
        ))  # fmt: skip
        boxes = merged(scores.sigmoid(), boxes)
        return Located(
            probabilities.cpu().numpy(),
            answers.cpu().numpy(),
            boxes[:, :-1].cpu().numpy(),
            boxes[:, -1].cpu().numpy(),
        )

    def _at_scale(
        self, pixels: Tensor, classes: Tensor, frames: Sequence[tuple[float, float, float, float]]
    ) -> tuple[Tensor, Tensor]:
        """Scores (n, m, v) and boxes (n, m, v, 4) of views (n, 3, H, W), with mirror images if
        these count; boxes in pixels of the images."""
        side = pixels.shape[-1]
        step = max(1, BATCH * self.views.preprocessing.size**2 // (side * pixels.shape[-2]))
        found = []
        for start in range(0, len(pixels), step):
            part = pixels[start : start + step].to(self.device)
            own = classes[start : start + step]
            scores, boxes = self._locate_views(part, own)
            seen, placed = [scores], [boxes]
            if self.views.flips:
                scores, boxes = self._locate_views(part.flip(3), own)
                x1, y1, x2, y2 = boxes.unbind(-1)
                seen.append(scores)
                placed.append(torch.stack((side - x2, y1, side - x1, y2), -1))
            found.append((torch.stack(seen, 2), torch.stack(placed, 2)))
        scores, boxes = (torch.cat(parts) for parts in zip(*found, strict=True))
        placing = torch.tensor(frames, device=self.device)[:, None, None]
        corner, scale = placing[..., :2], placing[..., 2:]
        return scores, boxes * scale.repeat(1, 1, 1, 2) + corner.repeat(1, 1, 1, 2)

    def _locate_views(self, pixels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self.normalize(pixels).contiguous(memory_format=torch.channels_last)
        return self.localizer.locate(inputs, classes)


def merged(scores: Tensor, boxes: Tensor) -> Tensor:
    """One box of those in several views: the mean of the boxes around the one with most support.

    A box is supported by all that overlap it by an IoU of 0.5 or more, with their scores, by which
    the mean is weighted, too. The paper does not say how views are merged.

    Args:
        scores: from 0 to 1, (..., v).
        boxes: (..., v, 4).

    Returns:
        (..., 4).
    """
    around = paired_iou(boxes[..., :, None, :], boxes[..., None, :, :]) >= CORRECT_IOU
    around |= torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    weights = around * scores.clamp(min=1e-12)[..., None, :]
    best = weights.sum(-1).argmax(-1)
    chosen = weights.gather(-2, best[..., None, None].expand(*best.shape, 1, weights.shape[-1]))
    mean: Tensor = (chosen @ boxes)[..., 0, :] / chosen.sum(-1)
    return mean


def _groups(shown: Iterator[_Shown]) -> Iterator[list[_Shown]]:
    """Neighbouring images whose views have equal shapes, at most `BATCH`."""
    group: list[_Shown] = []
    for one in shown:
        shapes = [view.shape for view in one.views]
        if group and (len(group) == BATCH or shapes != [v.shape for v in group[0].views]):
            yield group
            group = []
        group.append(one)
    if group:
        yield group
