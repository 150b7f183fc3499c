"""Photographs to training batches: ours against torchvision's usual Pillow pipeline.

    python benchmarks/input.py --data imagenet/val --rounds 5 --out results/bench/x.json

Both show the same crops of the same files, the paper's: shorter side uniform in [256, 480],
224 pixels, flip, PCA colours, mean and deviation; and, without colours, crops by area. The peer
decodes and scales the whole image, then crops, as torchvision's transforms do. Both run on one
thread; rounds alternate, and each figure is the median of the rounds' images per second of
processor time. The pixels of both are compared as well. With `--dali`, NVIDIA DALI on the CPU
is a third.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.functional as T
from PIL import Image
from torch import Tensor

from resnets.data import crops, folders
from resnets.data.crops import Augmentation, colour_shift
from resnets.data.dali import DaliBatches
from resnets.data.photos import PhotoBatches
from resnets.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, imagenet
from resnets.data.samples import Samples, limited
from resnets.support import devices
from resnets.support.files import make_folder, write_json

BATCH = 32
LOOK = Augmentation("scale", 224)
Pipeline = Callable[[Samples, Augmentation], Iterator[Tensor]]
KINDS = {
    "paper": LOOK,
    "area": Augmentation("area", 224, colour=0.0),
}


def draws(number: int) -> np.random.Generator:
    """The chance of one image in the first epoch, as `PhotoBatches` draws it for seed 0."""
    return np.random.default_rng([0, 4, 0, number])


def torchvision_image(content: bytes, look: Augmentation, random: np.random.Generator) -> Tensor:
    """What torchvision's transforms do to one image, with our draws."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    if look.kind == "scale":
        shorter = int(random.integers(look.sides[0], look.sides[1] + 1))
        image = T.resize(image, shorter)
        left, top = random.integers(0, [image.width - 224 + 1, image.height - 224 + 1])
        image = T.crop(image, int(top), int(left), 224, 224)
    else:
        left, top, right, bottom = crops.area_box(*image.size, look.areas, random)
        image = T.resized_crop(image, top, left, bottom - top, right - left, [224, 224])
    if random.random() < 0.5:
        image = T.hflip(image)
    tensor = T.to_tensor(image)
    if look.colour:
        tensor = tensor + torch.from_numpy(colour_shift(random, look.colour))[:, None, None]
    return T.normalize(tensor, IMAGENET_MEAN, IMAGENET_STD)


def peer_batches(samples: Samples, look: Augmentation) -> Iterator[Tensor]:
    order = samples.order(0, 0)
    for start in range(0, len(order) - BATCH + 1, BATCH):
        images = [
            torchvision_image(samples.read(int(n)), look, draws(int(n)))
            for n in order[start : start + BATCH]
        ]
        yield torch.stack(images)


class InTurn:
    """A pool of no threads: work is done at once, by the caller."""

    def submit(self, work, *arguments):  # type: ignore[no-untyped-def]
        work(*arguments)
        return self

    def result(self) -> None:
        """Done already."""


def our_batches(
    samples: Samples, look: Augmentation, kind: type[PhotoBatches] = PhotoBatches
) -> Iterator[Tensor]:
    cpu = torch.device("cpu")
    normalize = imagenet().normalize(cpu)
    made = kind(samples, BATCH, 0, cpu, lambda step: look, normalize, threads=1)
    made.close()
    made._pool = InTurn()  # type: ignore[assignment]
    if isinstance(made, DaliBatches):
        made._worker = InTurn()  # type: ignore[assignment]
    for step in range(len(samples) // BATCH):
        made._coming = {step: made._begin(step)}  # nothing ahead: what is timed is what is used
        part = made._coming.pop(step)
        yield made._finished(part)[0]


def grey_levels_apart(one: Iterable[Tensor], other: Iterable[Tensor]) -> float:
    """Mean absolute difference of two batches' pixels, in grey levels of 0..255."""
    std = torch.tensor(IMAGENET_STD)[:, None, None] * 255
    return statistics.mean(
        float(((a - b) * std).abs().mean()) for a, b in zip(one, other, strict=True)
    )


def measure(samples: Samples, look: Augmentation, rounds: int, dali: bool) -> dict[str, object]:
    pipelines: dict[str, Pipeline] = {"torchvision": peer_batches, "resnets": our_batches}
    if dali:
        pipelines["resnets, dali"] = partial(our_batches, kind=DaliBatches)
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    images = len(samples) // BATCH * BATCH
    for _ in range(rounds):
        for name, pipeline in pipelines.items():
            start = time.process_time()
            for _batch in pipeline(samples, look):
                pass  # as in a training, which keeps none
            rates[name].append(images / (time.process_time() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "images_per_second": {
            name: {
                "median": round(medians[name], 1),
                "min": round(min(values), 1),
                "max": round(max(values), 1),
            }
            for name, values in rates.items()
        },
        "ratio": {
            name: round(medians[name] / medians["torchvision"], 2) for name in list(pipelines)[1:]
        },
        "grey_levels_apart": {
            name: round(
                grey_levels_apart(peer_batches(samples, look), pipelines[name](samples, look)), 2
            )
            for name in list(pipelines)[1:]
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--images", type=int, default=192, help="how many of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dali", action="store_true", help="also NVIDIA DALI, on the CPU")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = limited(folders.load_test(options.data), options.images)
    list(our_batches(samples, LOOK))  # files into the system's cache
    facts: dict[str, object] = {}
    for name, look in KINDS.items():
        facts[name] = row = measure(samples, look, options.rounds, options.dali)
        print(f"{name} crops: {row}")
    if options.out:
        make_folder(options.out.parent)
        write_json(
            options.out,
            {
                "command": " ".join(["python", *sys.argv]),
                "date": datetime.now(UTC).date().isoformat(),
                "unit": "images per second on one thread",
                "images": len(samples),
                "rounds": options.rounds,
                "crops": facts,
                **devices.environment(torch.device("cpu")),
            },
        )


if __name__ == "__main__":
    main()
