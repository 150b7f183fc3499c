"""Photographs to training batches, compared with torchvision's usual Pillow pipeline.

Both make the same crops of the same files: those of the paper (shorter side uniform in [256, 480],
224 pixels, flip, PCA colours, mean and standard deviation), and crops by area, without colours. The
peer decodes and scales the whole image, then crops, as torchvision's transforms do. Both run on one
thread, and take turns. Their pixels are compared as well.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.functional as T
from PIL import Image
from torch import Tensor

from benchmarks.measure import Report, Table, rows
from resnets.data import augmentation, folders, random_streams
from resnets.data.augmentation import Augmentation, draw_colour_shift
from resnets.data.dali_batches import DaliBatches
from resnets.data.photo_batches import PhotoBatches
from resnets.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, imagenet
from resnets.data.samples import Samples, random_subset
from resnets.support.errors import UserError

BATCH = 32
PEER = "torchvision"
PAPER = Augmentation("scale", 224)
Pipeline = Callable[[Samples, Augmentation], Iterator[Tensor]]
KINDS = {
    "paper": PAPER,
    "area": Augmentation("area", 224, colour=0.0),
}


def draws(number: int) -> np.random.Generator:
    """The random generator of an image in epoch 0, as `PhotoBatches` makes it for seed 0."""
    return np.random.default_rng([0, random_streams.CROP, 0, number])


def torchvision_image(content: bytes, style: Augmentation, random: np.random.Generator) -> Tensor:
    """Apply torchvision's transforms to one image, with our random numbers."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    if style.kind == "scale":
        shorter = int(random.integers(style.sides[0], style.sides[1] + 1))
        image = T.resize(image, shorter)
        left, top = random.integers(0, [image.width - 224 + 1, image.height - 224 + 1])
        image = T.crop(image, int(top), int(left), 224, 224)
    else:
        left, top, right, bottom = augmentation.draw_area_box(*image.size, style.areas, random)
        image = T.resized_crop(image, top, left, bottom - top, right - left, [224, 224])
    if random.random() < 0.5:
        image = T.hflip(image)
    tensor = T.to_tensor(image)
    if style.colour:
        tensor = tensor + torch.from_numpy(draw_colour_shift(random, style.colour))[:, None, None]
    normal: Tensor = T.normalize(tensor, IMAGENET_MEAN, IMAGENET_STD)
    return normal


def peer_batches(samples: Samples, style: Augmentation) -> Iterator[Tensor]:
    """Batches of one epoch by torchvision's transforms."""
    order = samples.order(0, 0)
    for start in range(0, len(order) - BATCH + 1, BATCH):
        images = [
            torchvision_image(samples.read(int(n)), style, draws(int(n)))
            for n in order[start : start + BATCH]
        ]
        yield torch.stack(images)


class _NoThreads:
    """Has the interface of a thread pool, but runs work at once, in the caller's thread."""

    def submit(self, work, *arguments):  # type: ignore[no-untyped-def]
        work(*arguments)
        return self

    def result(self) -> None:
        """Return: the work is done."""


def our_batches(
    samples: Samples, style: Augmentation, kind: type[PhotoBatches] = PhotoBatches
) -> Iterator[Tensor]:
    cpu = torch.device("cpu")
    normalize = imagenet().normalize(cpu)
    made = kind(
        samples=samples,
        batch=BATCH,
        seed=0,
        device=cpu,
        augmentation=lambda step: style,
        normalize=normalize,
        threads=1,
    )
    made.close()
    made._pool = _NoThreads()  # type: ignore[assignment]
    if isinstance(made, DaliBatches):
        made._worker = _NoThreads()  # type: ignore[assignment]
    for step in range(len(samples) // BATCH):
        yield made._finish(made._begin(step))[0]  # nothing ahead: what is timed is what is used


def grey_level_difference(one: Iterable[Tensor], other: Iterable[Tensor]) -> float:
    """Mean absolute difference of two batches' pixels, in grey levels of 0..255."""
    std = torch.tensor(IMAGENET_STD)[:, None, None] * 255
    return statistics.mean(
        float(((a - b) * std).abs().mean()) for a, b in zip(one, other, strict=True)
    )


def measure(data: Path, *, images: int, rounds: int, dali: bool, report: Report) -> list[Table]:
    """Measure crops per second of processor time on one thread, and how much pixels differ.

    Args:
        data: a folder of photographs.
        images: how many of them.
        rounds: of each contender.
        dali: whether NVIDIA DALI, on the CPU, takes part.
        report: called with lines about the progress.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        samples = random_subset(folders.load_test(data), images)
        if len(samples) < BATCH:
            raise UserError(f"{len(samples)} images are too few", str(data), f"{BATCH} are needed")
        list(our_batches(samples, PAPER))  # so that files are in the system's cache
        tables = []
        for name, style in KINDS.items():
            report(f"{name} crops")
            tables.append(_measure(name, samples, style, rounds, dali))
        return tables
    finally:
        torch.set_num_threads(threads)


def _measure(name: str, samples: Samples, style: Augmentation, rounds: int, dali: bool) -> Table:
    pipelines: dict[str, Pipeline] = {PEER: peer_batches, "resnets": our_batches}
    if dali:
        pipelines["resnets, dali"] = partial(our_batches, kind=DaliBatches)
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    images = len(samples) // BATCH * BATCH
    for _ in range(rounds):
        for contender, pipeline in pipelines.items():
            start = time.process_time()
            for _batch in pipeline(samples, style):
                pass  # like a training, keep none
            rates[contender].append(images / (time.process_time() - start))
    differences = {
        contender: round(
            grey_level_difference(peer_batches(samples, style), pipeline(samples, style)), 2
        )
        for contender, pipeline in list(pipelines.items())[1:]
    }
    return Table(
        f"{name} crops of photographs, 224 pixels, one thread",
        "images/s of processor time",
        PEER,
        rows(rates, PEER),
        {"images": len(samples), "rounds": rounds, "grey_levels_apart": differences},
    )
