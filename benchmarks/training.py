"""Training speed against the usual published CIFAR-10 loop, both in one run.

    python benchmarks/training.py --network cifar-resnet20 --rounds 5 --out results/bench/x.json

The peer is the loop that most repositories publish: a Dataset of PIL images, transforms on
each image in DataLoader workers, float32, NCHW, eager, `.item()` of loss and accuracy at
every step. Ours is `resnets.training` with the paper's recipe. Both train the same network
with the same batch size and optimizer on the real data; rounds alternate between them, and
each figure is the median of the rounds' images per second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
import torchvision.transforms as T
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from resnets.data import cifar10
from resnets.models import zoo
from resnets.support import devices
from resnets.support.files import make_folder, write_json
from resnets.training import hardware, recipe_file
from resnets.training.task import cifar_task
from resnets.training.training import Training

BATCH = 128


class PilDataset(Dataset):
    """CIFAR-10 as torchvision serves it: a PIL image, then its transforms."""

    def __init__(self, data: cifar10.Images) -> None:
        self.pixels = data.images.transpose(0, 2, 3, 1).copy()
        self.labels = data.labels.tolist()
        self.transform = T.Compose(
            [
                T.RandomHorizontalFlip(),
                T.RandomCrop(32, 4),
                T.ToTensor(),
                T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def published_steps(
    data: cifar10.Images, network_name: str, device: torch.device, workers: int
) -> Iterator[None]:
    """One training step of the published loop for each `next`."""
    network = zoo.build(network_name).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(
        PilDataset(data), BATCH, shuffle=True, num_workers=workers,
        pin_memory=device.type == "cuda", drop_last=True,
    )  # fmt: skip
    loss_sum = right = 0.0
    while True:
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            logits = network(images)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
            right += (logits.argmax(1) == labels).float().mean().item()
            yield


def our_steps(
    data: cifar10.Cifar10, network_name: str, device: torch.device, compiled: bool | str
) -> Iterator[None]:
    """One training step of this project, the paper's recipe, for each `next`."""
    plan = recipe_file.load(
        "cifar10-paper", [f"network={network_name}", "schedule.gentle_start.lr=0.1"]
    )
    plan = plan.model_copy(update={"compile": compiled})
    hardware.prepare(plan, device)
    training = Training(
        plan, cifar_task(plan, data, device), device, hardware.resolve(plan, device)
    )
    while True:
        training.update()
        if training.step % plan.log_every == 0:
            training.read()
        yield


def rate(steps: Iterator[None], count: int, finish: Callable[[], None]) -> float:
    """Images per second over `count` steps.

    Some steps go before the clock starts: meanwhile the peer's workers, if it is not their
    round, finish what they prefetch, and if it is, they use up what they had prefetched.
    """
    for _ in range(10):
        next(steps)
    finish()
    start = time.perf_counter()
    for _ in range(count):
        next(steps)
    finish()
    return count * BATCH / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="cifar-resnet20")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="steps in a round")
    parser.add_argument("--workers", type=int, default=2, help="the peer's DataLoader workers")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compiled", action="store_true", help="measure ours compiled as well")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    device = devices.find_device(options.device)
    data = cifar10.load(report=print)
    finish = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    loops = {
        "published loop": published_steps(data.train, options.network, device, options.workers),
        "resnets": our_steps(data, options.network, device, "auto"),
    }
    if options.compiled:
        loops["resnets, compiled"] = our_steps(data, options.network, device, True)
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for steps in loops.values():
        next(steps)  # starts workers, compiles
    for _ in range(options.rounds):
        for name, steps in loops.items():
            rates[name].append(rate(steps, options.steps, finish))
    peer = statistics.median(rates["published loop"])
    rows = {
        name: {
            "median": round(statistics.median(values), 1),
            "min": round(min(values), 1),
            "max": round(max(values), 1),
            "ratio": round(statistics.median(values) / peer, 2),
        }
        for name, values in rates.items()
    }
    print(f"{options.network}, batch {BATCH}, images per second, median of {options.rounds} rounds")
    for name, row in rows.items():
        print(
            f"  {name:18} {row['median']:9,.0f}  ({row['min']:,.0f} to {row['max']:,.0f})"
            f"   {row['ratio']:.2f} x"
        )
    if options.out:
        make_folder(options.out.parent)
        facts = {
            "command": " ".join(["python", *sys.argv]),
            "date": datetime.now(UTC).date().isoformat(),
            "network": options.network,
            "batch": BATCH,
            "unit": "images per second",
            "peer_workers": options.workers,
            "rounds": options.rounds,
            "steps": options.steps,
            "rates": rows,
            **devices.environment(device),
        }
        write_json(options.out, facts)


if __name__ == "__main__":
    main()
