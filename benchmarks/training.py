"""Training speed, compared with the usual published loop or with torchvision and timm.

For CIFAR-10 the peer is the loop that most repositories publish: a Dataset of PIL images,
transforms on each image in DataLoader workers, float32, NCHW, eager, `.item()` of loss and
accuracy at every step; both train on the real data. For photographs all contenders train on one
batch that never changes, so that only the step is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.isolated import IsolatedContender
from benchmarks.measure import Report, Table, peak, rows
from resnets.data import cifar
from resnets.data.preprocessing import imagenet
from resnets.models import complexity, zoo
from resnets.support.devices import has_bf16
from resnets.support.errors import UserError
from resnets.support.timing import Run, throughput
from resnets.training import hardware, recipe_file
from resnets.training.objective import (
    CifarClassification,
    Classification,
    Objective,
    TestMetrics,
)
from resnets.training.recipe import Recipe
from resnets.training.trainer import Trainer

BATCH = {"cifar": 128, "photos": 32}
PUBLISHED = "published loop"


def measure(
    network: str,
    *,
    batch: int | None,
    rounds: int,
    seconds: float,
    device: torch.device,
    compiled: bool,
    workers: int,
    report: Report,
) -> Table:
    """Measure images per second of training steps, including data loading for CIFAR-10.

    Args:
        network: its name; CIFAR networks train on CIFAR-10, the others on one batch of noise.
        batch: by default 128 for CIFAR-10, 32 for photographs.
        rounds: of each contender; contenders take turns.
        seconds: length of a round.
        device: for all contenders.
        compiled: whether compiled contenders take part; each needs a minute to compile.
        workers: DataLoader processes of the published loop.
        report: called with lines about the progress.
    """
    zoo.architecture(network)  # raises for unknown names before anything is downloaded
    kind = "cifar" if network.startswith("cifar-") else "photos"
    batch = batch or BATCH[kind]
    if kind == "cifar":
        data = cifar.load("cifar10", report=report)
        contenders = _cifar_contenders(data, network, batch, device, compiled, workers)
        peer, size = PUBLISHED, 32
    else:
        contenders = _photo_contenders(network, batch, device, compiled)
        peer, size = next(iter(contenders)), 224
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    isolated = [run for run in contenders.values() if isinstance(run, IsolatedContender)]

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
            for other in isolated:
                other.finish()

    try:
        for number, (name, run) in enumerate(contenders.items(), 1):
            report(f"first step of contender {number} of {len(contenders)}: {name} ...")
            run()
        top = peak(dtype, device)
        values = throughput(contenders, batch, rounds, seconds, finish)
    finally:
        for other in isolated:
            other.close()
    with torch.device("meta"):
        cost = complexity.multiply_adds(zoo.build(network), size)
    ours = {name: top for name in contenders if name.startswith("resnets")}
    return Table(
        f"training {network}, batch {batch}, {size} pixels",
        "images/s",
        peer,
        rows(values, peer, 6 * cost, ours),
        {
            "rounds": rounds,
            "seconds": seconds,
            "peak_flops": top,
            "peak_dtype": str(dtype).removeprefix("torch."),
            "operations_per_image": 6 * cost,
            **({"peer_workers": workers} if kind == "cifar" else {}),
        },
    )


def _cifar_contenders(
    data: cifar.Cifar,
    network: str,
    batch: int,
    device: torch.device,
    compiled: bool,
    workers: int,
) -> dict[str, Run]:
    loops = {"resnets": our_steps(data, network, batch, device, "auto")}
    if device.type == "cuda":
        loops["resnets, CUDA graphs"] = our_steps(data, network, batch, device, "auto", True)
    elif compiled:  # GPUs compile by default
        loops["resnets, compiled"] = our_steps(data, network, batch, device, True)
    peer = IsolatedContender(published_run, data.train, network, batch, device, workers)
    return {PUBLISHED: peer, **{name: partial(next, loop) for name, loop in loops.items()}}


def published_run(*arguments: Any) -> Run:
    """A function that does one step of the published loop; arguments as for `published_steps`."""
    return partial(next, published_steps(*arguments))


class PilDataset(Dataset[tuple[Tensor, int]]):
    """CIFAR-10 as torchvision provides it: PIL images and transforms."""

    def __init__(self, data: cifar.ImageArrays) -> None:
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

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def published_steps(
    data: cifar.ImageArrays, network_name: str, batch: int, device: torch.device, workers: int
) -> Iterator[None]:
    """Do one training step of the published loop at each `next`."""
    network = zoo.build(network_name).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(
        PilDataset(data), batch, shuffle=True, num_workers=workers,
        pin_memory=device.type == "cuda", drop_last=True,
    )  # fmt: skip
    loss_sum = correct = 0.0
    while True:
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            logits = network(images)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum += loss.item()
            correct += (logits.argmax(1) == labels).float().mean().item()
            yield


def our_steps(
    data: cifar.Cifar,
    network: str,
    batch: int,
    device: torch.device,
    compiled: bool | str,
    graphs: bool = False,
) -> Iterator[None]:
    """Do one training step of this package, with the paper's recipe, at each `next`."""
    settings = [f"network={network}", f"batch={batch}", "schedule.gentle_start.lr=0.1"]
    switches = {"compile": compiled, "graphs": graphs}
    plan = recipe_file.load("cifar10-paper", settings).model_copy(update=switches)
    return _steps(CifarClassification(plan, data), device)


def _steps(objective: Objective, device: torch.device) -> Iterator[None]:
    recipe = objective.recipe
    hardware.prepare(recipe, device)
    trainer = Trainer(objective, device, hardware.resolve(recipe, device))
    while True:
        trainer.update()
        if trainer.step % recipe.log_every == 0:
            trainer.take_reading()
        yield


class OneBatch:
    """The same images for every step."""

    bad: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, batch: int, device: torch.device) -> None:
        images = torch.from_numpy(
            np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32)
        )
        self.images = images.to(device).contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(batch, device=device) % 1000

    def epoch_of(self, step: int) -> float:
        """Completed epochs: always 0."""
        return 0.0

    def __call__(self, step: int, part: int = 0) -> tuple[Tensor, Tensor]:
        """Images, float32 (N, 3, 224, 224), and labels, int64 (N,)."""
        return self.images, self.labels

    def close(self) -> None:
        """Do nothing: there is no prefetch."""


class OneBatchClassification(Classification):
    """ImageNet's 1000 classes, with the same images for every step and no test."""

    preprocessing = imagenet()
    fingerprint = "one batch"

    def __init__(self, plan: Recipe, batch: OneBatch) -> None:
        labels = np.zeros(1_281_167, np.uint8)  # how many images an epoch has
        super().__init__(plan, tuple(map(str, range(1000))), labels, 0)
        self._batch = batch

    def batches(self, *arguments: Any) -> OneBatch:
        """The same batch for all arguments."""
        return self._batch

    def test(self, *arguments: Any) -> TestMetrics:
        """There is nothing to test on."""
        raise NotImplementedError


def _photo_contenders(
    network: str, batch: int, device: torch.device, compiled: bool
) -> dict[str, Run]:
    """The usual step with torchvision, the fastest with torchvision and timm, and ours."""
    from torchvision.models import get_model, list_models

    base = network.removesuffix("-v1.5")
    made: dict[str, Run] = {}
    best = f"{'bf16' if has_bf16(device) else 'float32'}, channels_last"
    if base in list_models():
        made["torchvision, float32, NCHW"] = IsolatedContender(
            _peer_run, get_model, base, batch, device, False
        )
        made[f"torchvision, {best}"] = IsolatedContender(
            _peer_run, get_model, base, batch, device, True
        )
    try:
        import timm

        if base in timm.list_models():
            made[f"timm, {best}"] = IsolatedContender(
                _peer_run, timm.create_model, base, batch, device, True
            )
    except ImportError:
        pass
    if not made:
        raise UserError(f"no peer has {network!r}", "--network", "try resnet50-v1.5")
    data = OneBatch(batch, device)
    for name, compile_it in (("resnets", "auto"), ("resnets, compiled", True)):
        if compile_it == "auto" or (compiled and device.type == "cpu"):
            plan = recipe_file.load("imagenet-90", [f"network={network}", f"batch={batch}"])
            plan = plan.model_copy(update={"compile": compile_it})
            made[name] = partial(next, _steps(OneBatchClassification(plan, data), device))
    return made


def _peer_run(
    create: Callable[[str], nn.Module], name: str, batch: int, device: torch.device, best: bool
) -> Run:
    """A function that trains another library's network for one step on its own batch."""
    return _peer_step(create(name), OneBatch(batch, device), device, best)


def _peer_step(network: nn.Module, data: OneBatch, device: torch.device, best: bool) -> Run:
    """A function that trains another library's network for one step.

    Args:
        network: to be trained.
        data: the batch.
        device: of the training.
        best: whether to use channels_last, bf16 where the device supports it, and no `.item()` of
            the loss; else the step is written as usual.
    """
    half = best and has_bf16(device)
    network = network.to(device).train()
    images = data.images
    if best:
        network = network.to(memory_format=torch.channels_last)
    else:
        images = images.contiguous()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(network(images), data.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if not best:
            loss.item()

    return step
