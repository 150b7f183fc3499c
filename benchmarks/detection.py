"""Training speed of detectors, compared with torchvision's Faster R-CNN on the same network.

The peer is torchvision's `FasterRCNN` in float32, NCHW: all stages but the last are its backbone,
the last is the head of every region (appendix A of the paper). Both take forward and backward
passes of one image of noise with one object, with equal numbers of proposals and regions; the
optimizer's step is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from benchmarks.measure import Report, Table, rows
from resnets.data.boxes.batches import Target
from resnets.detection import model
from resnets.detection.detector import BINS, LOSSES, Detector
from resnets.models.batch_norm import norms
from resnets.models.residual import ResidualNetwork
from resnets.support.devices import has_bf16
from resnets.support.timing import throughput
from resnets.training import recipe_file
from resnets.training.frozen import freeze
from resnets.training.recipe import Detection

FROZEN = "stem, layer1, layer2"
PEER = "torchvision FasterRCNN, fp32"
OBJECT = (0.1, 0.2, 0.6, 0.9)
"""The object's box in shares of the image."""


def measure(
    network: str,
    *,
    size: int,
    rois: int,
    rounds: int,
    seconds: float,
    device: torch.device,
    report: Report,
) -> Table:
    """Measure training images per second.

    Args:
        network: its name.
        size: shorter side of the image in pixels, a multiple of 16; the longer is 4/3 of it.
        rois: regions of the image.
        rounds: of each contender; contenders take turns.
        seconds: length of a round.
        device: for all contenders.
        report: called with lines about the progress.
    """
    options = [f"detection.rois={rois}", f"detection.size={size}", f"detection.max_size={2 * size}"]
    settings = recipe_file.load("detect-finetune", options).detection
    ours = _detector(network, settings).to(device)
    shape = size, 16 * round(size / 12)
    image = torch.randn(1, 3, *shape, device=device)
    box = torch.tensor([OBJECT], device=device) * torch.tensor([*shape[::-1]] * 2, device=device)
    contenders = {PEER: _torchvision(ours, settings, image, box)}
    fast = copy.deepcopy(ours).to(memory_format=torch.channels_last)
    half = {"fp32": False, "bf16": True} if has_bf16(device) else {"fp32": False}
    for name, bf16 in half.items():
        contenders[f"resnets, {name}"] = _step(fast, image, box, bf16)
    for number, (name, run) in enumerate(contenders.items(), 1):
        report(f"first step of contender {number} of {len(contenders)}: {name} ...")
        run()

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    values = throughput(contenders, 1, rounds, seconds, finish)
    return Table(
        f"training a detector on {network}, {shape[0]} x {shape[1]} pixels, {rois} regions",
        "images/s",
        PEER,
        rows(values, PEER),
        {"rounds": rounds, "seconds": seconds, "threads": torch.get_num_threads()},
    )


def _detector(network: str, settings: Detection) -> Detector:
    """A detector in training mode, with fixed BN."""
    torch.manual_seed(0)
    made = model.build(network, 1, settings)
    made.rpn.reset_parameters()
    made.siblings.reset_parameters()
    for norm in norms(made):
        norm.eval().requires_grad_(False)
    freeze(made, FROZEN)
    return made


def _step(detector: Detector, image: Tensor, box: Tensor, half: bool) -> Callable[[], None]:
    image = image.to(memory_format=torch.channels_last)
    labels = torch.zeros(1, dtype=torch.int64, device=image.device)
    height, width = image.shape[2:]
    target = Target(box, labels, labels.bool(), (height, width), 0)

    def step() -> None:
        detector.zero_grad()
        with torch.autocast(image.device.type, torch.bfloat16, enabled=half):
            losses = detector(image, [target])
        torch.stack([losses[name] for name in LOSSES]).sum().backward()  # type: ignore[no-untyped-call]

    return step


class _Backbone(nn.Module):
    def __init__(self, detector: Detector, network: ResidualNetwork, channels: int) -> None:
        super().__init__()
        self.network, self.shared, self.out_channels = network, detector.shared, channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.network.stem(x)
        for name in self.shared:
            x = self.network.get_submodule(name)(x)
        return x


class _Head(nn.Module):
    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.stage(x)
        return features.mean((2, 3))


def _torchvision(
    ours: Detector, settings: Detection, image: Tensor, box: Tensor
) -> Callable[[], None]:
    """A step of torchvision's detector on a network of the same form."""
    row = ours.network.architecture
    network = ResidualNetwork(row)
    for norm in norms(network):
        norm.eval().requires_grad_(False)
    freeze(network, FROZEN)
    channels = [width * row.expansion for width in row.widths]
    head = RPNHead(settings.rpn_width, len(settings.anchors) * len(settings.ratios))
    head.conv = nn.Sequential(nn.Conv2d(channels[-2], settings.rpn_width, 3, padding=1), nn.ReLU())
    detector = FasterRCNN(
        _Backbone(ours, network, channels[-2]),
        min_size=image.shape[2],
        max_size=settings.max_size,
        size_divisible=16,
        rpn_anchor_generator=AnchorGenerator((settings.anchors,), (settings.ratios,)),
        rpn_head=head,
        rpn_pre_nms_top_n_train=settings.candidates,
        rpn_post_nms_top_n_train=settings.proposals,
        box_roi_pool=MultiScaleRoIAlign(["0"], BINS, 2),
        box_head=_Head(network.get_submodule(ours.last)),
        box_predictor=FastRCNNPredictor(channels[-1], 2),
        box_batch_size_per_image=settings.rois,
        box_positive_fraction=settings.foreground,
    ).to(image.device)
    target = {"boxes": box, "labels": torch.ones(1, dtype=torch.int64, device=image.device)}

    def step() -> None:
        detector.zero_grad()
        torch.stack(list(detector([image[0]], [target]).values())).sum().backward()  # type: ignore[no-untyped-call]

    return step
