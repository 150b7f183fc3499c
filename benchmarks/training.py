"""Training speed: ours against the usual published loop and against torchvision and timm.

For CIFAR-10 the peer is the loop that most repositories publish: a Dataset of PIL images,
transforms on each image in DataLoader workers, float32, NCHW, eager, `.item()` of loss and
accuracy at every step; both train on the real data. For photographs every contender is given
the same batch again and again, so that only the step counts.
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

from benchmarks.isolated import Apart
from benchmarks.measure import Report, Table, peak, rows
from resnets.data import cifar10
from resnets.data.preprocessing import imagenet
from resnets.models import complexity, zoo
from resnets.support.devices import has_bf16
from resnets.support.errors import UserError
from resnets.support.timing import Run, throughput
from resnets.training import hardware, recipe_file
from resnets.training.objective import Task, cifar_task
from resnets.training.trainer import Training

BATCH = {"cifar": 128, "photos": 32}
PUBLISHED = "published loop"


def measure(
    network: str,
    batch: int | None,
    rounds: int,
    seconds: float,
    device: torch.device,
    compiled: bool,
    workers: int,
    report: Report,
) -> Table:
    """Images per second of a training step, data included for CIFAR-10.

    Args:
        network: a row of the zoo's table; CIFAR networks train on CIFAR-10.
        batch: 128 for CIFAR-10, 32 for photographs by default.
        seconds: length of a round of one contender.
        compiled: let compiled contenders take part; each costs a minute before its first step.
        workers: DataLoader processes of the published loop.
    """
    zoo.architecture(network)  # an unknown name is told before anything is fetched
    kind = "cifar" if network.startswith("cifar-") else "photos"
    batch = batch or BATCH[kind]
    if kind == "cifar":
        data = cifar10.load(report=report)
        contenders = _cifar_contenders(data, network, batch, device, compiled, workers)
        peer, size = PUBLISHED, 32
    else:
        contenders = _photo_contenders(network, batch, device, compiled)
        peer, size = next(iter(contenders)), 224
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    apart = [run for run in contenders.values() if isinstance(run, Apart)]

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
            for other in apart:
                other.finish()

    try:
        for number, (name, run) in enumerate(contenders.items(), 1):
            report(f"first step of contender {number} of {len(contenders)}: {name} ...")
            run()
        top = peak(dtype, device)
        values = throughput(contenders, batch, rounds, seconds, finish)
    finally:
        for other in apart:
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
    data: cifar10.Cifar10,
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
    peer = Apart(published_run, data.train, network, batch, device, workers)
    return {PUBLISHED: peer, **{name: partial(next, loop) for name, loop in loops.items()}}


def published_run(*arguments: Any) -> Run:
    """A step of the published loop for each call; arguments of `published_steps`."""
    return partial(next, published_steps(*arguments))


class PilDataset(Dataset[tuple[Tensor, int]]):
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

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def published_steps(
    data: cifar10.Images, network_name: str, batch: int, device: torch.device, workers: int
) -> Iterator[None]:
    """One training step of the published loop for each `next`."""
    network = zoo.build(network_name).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(
        PilDataset(data), batch, shuffle=True, num_workers=workers,
        pin_memory=device.type == "cuda", drop_last=True,
    )  # fmt: skip
    loss_sum = right = 0.0
    while True:
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            logits = network(images)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum += loss.item()
            right += (logits.argmax(1) == labels).float().mean().item()
            yield


def our_steps(
    data: cifar10.Cifar10,
    network: str,
    batch: int,
    device: torch.device,
    compiled: bool | str,
    graphs: bool = False,
) -> Iterator[None]:
    """One training step of this project, the paper's recipe, for each `next`."""
    settings = [f"network={network}", f"batch={batch}", "schedule.gentle_start.lr=0.1"]
    switches = {"compile": compiled, "graphs": graphs}
    plan = recipe_file.load("cifar10-paper", settings).model_copy(update=switches)
    return _steps(plan, cifar_task(plan, data, device), device)


def _steps(plan: Any, task: Task, device: torch.device) -> Iterator[None]:
    hardware.prepare(plan, device)
    training = Training(plan, task, device, hardware.resolve(plan, device))
    while True:
        training.update()
        if training.step % plan.log_every == 0:
            training.read()
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
        """Epochs completed: none ever is."""
        return 0.0

    def __call__(self, step: int, part: int = 0) -> tuple[Tensor, Tensor]:
        """Images float32 (n, 3, 224, 224) and labels int64 (n,)."""
        return self.images, self.labels

    def close(self) -> None:
        """Nothing reads ahead."""


def _photo_contenders(
    network: str, batch: int, device: torch.device, compiled: bool
) -> dict[str, Run]:
    """torchvision's step as it is usually written, the best of both libraries, and ours."""
    from torchvision.models import get_model, list_models

    base = network.removesuffix("-v1.5")
    made: dict[str, Run] = {}
    best = f"{'bf16' if has_bf16(device) else 'float32'}, channels_last"
    if base in list_models():
        made["torchvision, float32, NCHW"] = Apart(_peer_run, get_model, base, batch, device, False)
        made[f"torchvision, {best}"] = Apart(_peer_run, get_model, base, batch, device, True)
    try:
        import timm

        if base in timm.list_models():
            made[f"timm, {best}"] = Apart(_peer_run, timm.create_model, base, batch, device, True)
    except ImportError:
        pass
    if not made:
        raise UserError(f"no peer has {network!r}", "--network", "try resnet50-v1.5")
    given = OneBatch(batch, device)
    for name, compile_it in (("resnets", "auto"), ("resnets, compiled", True)):
        if compile_it == "auto" or (compiled and device.type == "cpu"):
            plan = recipe_file.load("imagenet-90", [f"network={network}", f"batch={batch}"])
            plan = plan.model_copy(update={"compile": compile_it}).in_iterations(1_281_167)
            task = Task(
                classes=tuple(map(str, range(1000))),
                preprocessing=imagenet(),
                images=1_281_167,
                test_images=0,
                batches=lambda parts: given,
                test=lambda *arguments: (_ for _ in ()).throw(NotImplementedError),
            )
            made[name] = partial(next, _steps(plan, task, device))
    return made


def _peer_run(
    create: Callable[[str], nn.Module], name: str, batch: int, device: torch.device, best: bool
) -> Run:
    """A step of another library's network, with images of its own."""
    return _peer_step(create(name), OneBatch(batch, device), device, best)


def _peer_step(network: nn.Module, given: OneBatch, device: torch.device, best: bool) -> Run:
    """A step of another library's network.

    Args:
        best: channels_last, bf16 where the device has it, no waiting for the loss; otherwise
            the usual reference.
    """
    half = best and has_bf16(device)
    network = network.to(device).train()
    images = given.images
    if best:
        network = network.to(memory_format=torch.channels_last)
    else:
        images = images.contiguous()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(network(images), given.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if not best:
            loss.item()

    return step
