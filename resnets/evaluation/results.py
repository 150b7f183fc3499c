"""Classification error under a stated protocol, every image counted once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnets.data.cifar10 import Images

SINGLE_VIEW = "single view of the original 32x32 image"  # section 4.2
MOST_CONFUSION = 100
"""Classes up to which a result is told with its whole confusion matrix."""


@dataclass(frozen=True)
class Pair:
    """Images of one class that were taken for another: labels, and how many of how many."""

    true: int
    answer: int
    images: int
    of: int


@dataclass(frozen=True)
class Result:
    """What a test found.

    Args:
        confusion: int64 (classes, classes): rows are the true classes, columns the answers.
        protocol: how each image was shown to the network.
        wrong5: images whose true class was not among the first five answers; None where five
            or fewer classes make that meaningless.
    """

    confusion: NDArray[np.int64]
    protocol: str
    wrong5: int | None = None

    @property
    def images(self) -> int:
        """Images tested."""
        return int(self.confusion.sum())

    @property
    def wrong(self) -> int:
        """Images whose first answer was wrong."""
        return self.images - int(np.trace(self.confusion))

    @property
    def error(self) -> float:
        """Top-1 error in percent."""
        return 100 * self.wrong / self.images

    @property
    def error5(self) -> float | None:
        """Top-5 error in percent."""
        return None if self.wrong5 is None else 100 * self.wrong5 / self.images

    def class_errors(self) -> list[float]:
        """Error in percent of the images of each class; not a number for an absent class."""
        shown = self.confusion.sum(1)
        right = np.diagonal(self.confusion)
        with np.errstate(invalid="ignore"):
            return [float(e) for e in 100 * (shown - right) / shown]

    def worst_pairs(self, count: int = 10) -> list[Pair]:
        """The classes most often taken for another, the most images first."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
        shown = self.confusion.sum(1)
        rows, columns = np.unravel_index(order, mistakes.shape)
        return [
            Pair(int(true), int(answer), int(mistakes[true, answer]), int(shown[true]))
            for true, answer in zip(rows, columns, strict=True)
            if mistakes[true, answer]
        ]

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """As JSON, with the class names; classes that were not shown are left out."""
        names = distinct(classes)
        errors = zip(names, self.class_errors(), strict=True)
        facts: dict[str, Any] = {
            "protocol": self.protocol,
            "images": self.images,
            "wrong": self.wrong,
            "error": round(self.error, 4),
            "error_interval": _rounded(wilson(self.wrong, self.images)),
        }
        if self.wrong5 is not None and self.error5 is not None:
            facts["top5_wrong"] = self.wrong5
            facts["top5_error"] = round(self.error5, 4)
            facts["top5_interval"] = _rounded(wilson(self.wrong5, self.images))
        facts["class_errors"] = {n: round(e, 4) for n, e in errors if not math.isnan(e)}
        facts["worst_pairs"] = [
            {"true": names[p.true], "answer": names[p.answer], "images": p.images, "of": p.of}
            for p in self.worst_pairs()
        ]
        if len(classes) <= MOST_CONFUSION:
            facts["confusion"] = self.confusion.tolist()
        return facts


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in interval]


def distinct(classes: Sequence[str]) -> list[str]:
    """Class names; those that occur more than once (ImageNet has two cranes) with their number."""
    times = Counter(classes)
    return [n if times[n] == 1 else f"{n} ({number})" for number, n in enumerate(classes)]


def wilson(wrong: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an error rate, in percent."""
    z = 1.959963984540054  # 97.5 % of a normal distribution lie below
    rate = wrong / images
    scale = 1 + z * z / images
    middle = rate + z * z / (2 * images)
    margin = z * math.sqrt(rate * (1 - rate) / images + z * z / (4 * images * images))
    # At the ends rounding would leave something like 1e-15 instead of 0 and 100.
    low = 0.0 if wrong == 0 else 100 * (middle - margin) / scale
    high = 100.0 if wrong == images else 100 * (middle + margin) / scale
    return low, high


def measure(scores: NDArray[np.float32], labels: NDArray[Any], protocol: str) -> Result:
    """The errors of scores (N, classes) for images of these labels (N,).

    Among equal scores the class with the lower number comes first.
    """
    images, classes = scores.shape
    labels = labels.astype(np.int64)
    answers = scores.argmax(1)
    counts = np.bincount(labels * classes + answers, minlength=classes * classes)
    wrong5 = None
    if classes > 5:
        own = scores[np.arange(images), labels][:, None]
        earlier = np.arange(classes) < labels[:, None]
        before = ((scores > own) | ((scores == own) & earlier)).sum(1)
        wrong5 = int(((before >= 5) | ~np.isfinite(own[:, 0])).sum())
    return Result(counts.reshape(classes, classes), protocol, wrong5)


@torch.no_grad()
def probabilities(
    network: nn.Module,
    data: Images,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device,
    classes: int,
    batch: int = 500,
    progress: Callable[[int], None] = lambda images: None,
) -> NDArray[np.float32]:
    """Softmax scores (N, classes) in float32 on the original images (section 4.2's single view).

    Args:
        network: images (N, 3, H, W) to logits (N, classes); its mode is restored.
        data: the images to test on.
        normalize: uint8 images to the network's input.
        device: where network and `normalize` live.
        classes: number of classes.
        batch: images at a time.
        progress: told the number of images done.
    """
    was_training = network.training
    network.eval()
    scores = torch.empty(len(data), classes, device=device)
    try:
        for start in range(0, len(data), batch):
            images = torch.from_numpy(np.array(data.images[start : start + batch])).to(device)
            inputs = normalize(images).contiguous(memory_format=torch.channels_last)
            scores[start : start + batch] = network(inputs).float().softmax(1)
            progress(min(start + batch, len(data)))
    finally:
        network.train(was_training)
    found: NDArray[np.float32] = scores.cpu().numpy()
    return found


def evaluate(
    network: nn.Module,
    data: Images,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device,
    classes: int,
    batch: int = 500,
    progress: Callable[[int], None] = lambda images: None,
) -> Result:
    """Test on the original images; the arguments are those of `probabilities`."""
    scores = probabilities(network, data, normalize, device, classes, batch, progress)
    return measure(scores, data.labels, SINGLE_VIEW)
