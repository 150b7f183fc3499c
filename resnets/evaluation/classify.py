"""Classification error under a stated protocol, every image counted once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnets.data.cifar10 import Images
from resnets.data.images import centre, decode, to_tensor
from resnets.data.preprocessing import Preprocessing
from resnets.data.samples import Samples
from resnets.support.distributed import World

SINGLE_VIEW = "single view of the original 32x32 image"  # section 4.2


@dataclass(frozen=True)
class Result:
    """What a test found.

    Args:
        confusion: int64 (classes, classes): rows are the true classes, columns the answers.
        protocol: how each image was shown to the network.
    """

    confusion: NDArray[np.int64]
    protocol: str

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

    def class_errors(self) -> list[float]:
        """Error in percent of the images of each class; not a number for an absent class."""
        shown = self.confusion.sum(1)
        right = np.diagonal(self.confusion)
        with np.errstate(invalid="ignore"):
            return [float(e) for e in 100 * (shown - right) / shown]

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """As JSON, with the class names."""
        return {
            "protocol": self.protocol,
            "images": self.images,
            "wrong": self.wrong,
            "error": round(self.error, 4),
            "class_errors": dict(zip(classes, self.class_errors(), strict=True)),
            "confusion": self.confusion.tolist(),
        }


@torch.no_grad()
def evaluate(
    network: nn.Module,
    data: Images,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device,
    classes: int,
    batch: int = 500,
    progress: Callable[[int], None] = lambda images: None,
    world: World = World(),  # noqa: B008
) -> Result:
    """Test in float32 on the original images (section 4.2's single view).

    Args:
        network: images (N, 3, H, W) to logits (N, classes); its mode is restored.
        data: the images to test on.
        normalize: uint8 images to the network's input.
        device: where network and `normalize` live.
        classes: number of classes.
        batch: images at a time.
        progress: told the number of images done.
        world: the processes that share the work.
    """
    was_training = network.training
    network.eval()
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    try:
        for start in range(world.rank * batch, len(data), world.size * batch):
            images = torch.from_numpy(np.array(data.images[start : start + batch])).to(device)
            labels = torch.from_numpy(data.labels[start : start + batch].astype(np.int64))
            inputs = normalize(images).contiguous(memory_format=torch.channels_last)
            answers = network(inputs).argmax(1)
            counts += torch.bincount(
                labels.to(device) * classes + answers, minlength=classes * classes
            )
            progress(min(start + batch, len(data)))
    finally:
        network.train(was_training)
    world.all_reduce_sum(counts)
    return Result(counts.view(classes, classes).cpu().numpy(), SINGLE_VIEW)


def evaluate_photos(
    network: nn.Module,
    samples: Samples,
    preprocessing: Preprocessing,
    device: torch.device,
    progress: Callable[[int], None],
    world: World,
) -> Result:
    """PROVISIONAL."""
    classes = len(samples.classes or ())
    counts = torch.zeros(classes * classes, dtype=torch.int64)
    was = network.training
    network.eval()
    with torch.no_grad():
        for start in range(world.rank * 50, len(samples), world.size * 50):
            rows = range(start, min(start + 50, len(samples)))
            images = [
                centre(
                    decode(samples.read(i), samples.name(i)),
                    preprocessing.resize,
                    preprocessing.size,
                    preprocessing.interpolation,
                )
                for i in rows
            ]
            x = preprocessing.normalize(device)(torch.stack([to_tensor(i) for i in images]))
            answers = network(x.contiguous(memory_format=torch.channels_last)).argmax(1)
            labels = torch.from_numpy(samples.labels[start : start + 50])
            counts += torch.bincount(labels * classes + answers, minlength=classes * classes)
    network.train(was)
    world.all_reduce_sum(counts)
    return Result(counts.view(classes, classes).numpy(), "centre crop")
