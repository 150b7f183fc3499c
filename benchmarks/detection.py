"""Speed of detectors, compared with torchvision's Faster R-CNN on the same network.

The peer is torchvision's `FasterRCNN` in float32, NCHW: all stages but the last are its backbone,
the last is the head of every region (appendix A of the paper). All see one image of noise and
have equal numbers of proposals and regions.

- Training: forward and backward pass of an image with one object, without the optimizer's step.
- Inference: from pixels in memory, scaled already, to boxes after NMS; int8 is calibrated on noise.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from benchmarks.measure import Report, Table, rows
from resnets.data.boxes.batches import Target
from resnets.data.preprocessing import imagenet
from resnets.detection import model
from resnets.detection.detector import BINS, LOSSES, Detector
from resnets.export import detector_file
from resnets.inference.deployable_detector import DeployableDetector
from resnets.inference.engines import compile_openvino, has_openvino
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
CATEGORIES = 20
CALIBRATION = 8
"""Images of noise that int8 is calibrated with."""


def training(
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
    settings = _settings(size, [f"detection.rois={rois}"])
    ours = _detector(network, settings).to(device)
    shape = _shape(size)
    image = torch.randn(1, 3, *shape, device=device)
    box = torch.tensor([OBJECT], device=device) * torch.tensor([*shape[::-1]] * 2, device=device)
    peer = _torchvision(ours, settings, size)
    fast = copy.deepcopy(ours).to(memory_format=torch.channels_last)
    contenders = {PEER: _torchvision_step(peer, image, box)}
    half = {"fp32": False, "bf16": True} if has_bf16(device) else {"fp32": False}
    for name, bf16 in half.items():
        contenders[f"resnets, {name}"] = _step(fast, image, box, bf16)
    with _counted(rois, peer.roi_heads.box_head, fast.network.get_submodule(fast.last)):
        _start(contenders, report)
    values = throughput(contenders, 1, rounds, seconds, _finish(device))
    title = f"training a detector on {network}, {shape[0]} x {shape[1]} pixels, {rois} regions"
    return _table(title, values, rounds, seconds)


def inference(
    network: str,
    *,
    size: int,
    regions: int,
    rounds: int,
    seconds: float,
    device: torch.device,
    report: Report,
) -> Table:
    """Measure images per second of detection, batch 1.

    Args:
        regions: of the image.
        network, size, rounds, seconds, device, report: as for `training`.
    """
    settings = _settings(size, [f"detection.test_proposals={regions}"])
    ours = _detector(network, settings).to(device).eval()
    shape = _shape(size)
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    peer = _torchvision(ours, settings, size).eval()
    image = torch.from_numpy(pixels).permute(2, 0, 1).to(device) / 255

    @torch.inference_mode()
    def peer_finds() -> None:
        peer([image])

    contenders: dict[str, Callable[[], None]] = {PEER: peer_finds}
    fast = copy.deepcopy(ours).to(memory_format=torch.channels_last)
    for precision in ("fp32", "bf16") if has_bf16(device) else ("fp32",):
        contenders[f"resnets, PyTorch {precision}"] = _search(fast, pixels, device, precision)
    if device.type == "cpu" and has_openvino():
        for precision in ("fp32", "int8") if find_spec("nncf") else ("fp32",):
            report(f"exporting to OpenVINO {precision} ...")
            contenders[f"resnets, OpenVINO {precision}"] = _exported(ours, pixels, precision)
    with _counted(regions, peer.roi_heads.box_head, fast.network.get_submodule(fast.last)):
        _start(contenders, report)
    values = throughput(contenders, 1, rounds, seconds, _finish(device))
    title = f"detection by {network}, {shape[0]} x {shape[1]} pixels, {regions} regions"
    return _table(title, values, rounds, seconds)


def _settings(size: int, options: list[str]) -> Detection:
    limits = [f"detection.size={size}", f"detection.max_size={2 * size}"]
    return recipe_file.load("detect-finetune", [*options, *limits]).detection


def _shape(size: int) -> tuple[int, int]:
    return size, 16 * round(size / 12)


def _start(contenders: dict[str, Callable[[], None]], report: Report) -> None:
    for number, (name, run) in enumerate(contenders.items(), 1):
        report(f"first step of contender {number} of {len(contenders)}: {name} ...")
        run()


def _finish(device: torch.device) -> Callable[[], None]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def _table(title: str, values: dict[str, list[float]], rounds: int, seconds: float) -> Table:
    facts = {"rounds": rounds, "seconds": seconds, "threads": torch.get_num_threads()}
    return Table(title, "images/s", PEER, rows(values, PEER), facts)


@contextmanager
def _counted(regions: int, *heads: nn.Module) -> Iterator[None]:
    """Raise `RuntimeError` if a head does not see this number of regions at every call."""

    def check(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) != regions:
            raise RuntimeError(f"{len(inputs[0])} regions, not {regions}")

    hooks = [head.register_forward_pre_hook(check) for head in heads]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _detector(network: str, settings: Detection) -> Detector:
    """A detector in training mode, with fixed BN."""
    torch.manual_seed(0)
    made = model.build(network, CATEGORIES, settings)
    made.rpn.reset_parameters()
    made.siblings.reset_parameters()
    _spread(made.rpn.objectness, made.rpn.codes)
    for norm in norms(made):
        norm.eval().requires_grad_(False)
    freeze(made, FROZEN)
    return made


def _spread(objectness: nn.Conv2d, codes: nn.Conv2d) -> None:
    """Make proposals of all places and sizes, as trained ones are: anchors with random scores.

    Those of a new network are alike, and NMS leaves a handful of them.
    """
    nn.init.normal_(objectness.weight)
    nn.init.zeros_(codes.weight)


def _search(
    detector: Detector, pixels: np.ndarray, device: torch.device, precision: str
) -> Callable[[], None]:
    size = pixels.shape[1], pixels.shape[0]
    normalize = imagenet().normalize(device)

    @torch.inference_mode()
    def search() -> None:
        model.detect_scaled(detector, pixels, size, normalize, device, precision)

    return search


def _exported(detector: Detector, pixels: np.ndarray, precision: str) -> Callable[[], None]:
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    generator = torch.Generator().manual_seed(0)
    noise = [
        torch.randint(0, 256, image.shape, generator=generator, dtype=torch.uint8)
        for _ in range(CALIBRATION)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detector.xml"
        deployable = DeployableDetector(detector, imagenet())
        detector_file.write(
            deployable, file, precision=precision, images=noise, description={}, opset=0
        )
        compiled = compile_openvino(file, "fp32", None)
    batch = image[None].numpy()
    return lambda: compiled(batch, share_inputs=True)


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


def _torchvision(ours: Detector, settings: Detection, size: int) -> FasterRCNN:
    """torchvision's detector in training mode, on a network of the same form."""
    row = ours.network.architecture
    network = ResidualNetwork(row)
    for norm in norms(network):
        norm.eval().requires_grad_(False)
    freeze(network, FROZEN)
    channels = [width * row.expansion for width in row.widths]
    head = RPNHead(channels[-2], len(settings.anchors) * len(settings.ratios))
    head.conv = nn.Sequential(nn.Conv2d(channels[-2], settings.rpn_width, 3, padding=1), nn.ReLU())
    head.cls_logits, head.bbox_pred = (
        nn.Conv2d(settings.rpn_width, layer.out_channels, 1)
        for layer in (head.cls_logits, head.bbox_pred)
    )
    _spread(head.cls_logits, head.bbox_pred)
    detector = FasterRCNN(
        _Backbone(ours, network, channels[-2]),
        min_size=size,
        max_size=settings.max_size,
        size_divisible=16,
        rpn_anchor_generator=AnchorGenerator((settings.anchors,), (settings.ratios,)),
        rpn_head=head,
        rpn_pre_nms_top_n_train=settings.candidates,
        rpn_post_nms_top_n_train=settings.proposals,
        rpn_pre_nms_top_n_test=settings.test_candidates,
        rpn_post_nms_top_n_test=settings.test_proposals,
        box_roi_pool=MultiScaleRoIAlign(["0"], BINS, 2),
        box_head=_Head(network.get_submodule(ours.last)),
        box_predictor=FastRCNNPredictor(channels[-1], 1 + CATEGORIES),
        box_batch_size_per_image=settings.rois,
        box_positive_fraction=settings.foreground,
    )
    return detector.to(next(ours.parameters()).device)


def _torchvision_step(detector: FasterRCNN, image: Tensor, box: Tensor) -> Callable[[], None]:
    target = {"boxes": box, "labels": torch.ones(1, dtype=torch.int64, device=image.device)}

    def step() -> None:
        detector.zero_grad()
        torch.stack(list(detector([image[0]], [target]).values())).sum().backward()  # type: ignore[no-untyped-call]

    return step
