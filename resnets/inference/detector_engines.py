"""Engines that run a detector: PyTorch, and those of exports, behind one interface."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.boxes.rescaling import Rescaling, scale_boxes
from resnets.detection.metrics.detections import Detections
from resnets.inference import export_folder
from resnets.inference.engine_choice import check_engine, device_for
from resnets.inference.engines import INPUT, compile_openvino, default_precision, onnx_session
from resnets.inference.openvino_model import compiled_folder
from resnets.support.errors import UserError
from resnets.support.files import file_sha256
from resnets.weights import hub
from resnets.weights.card import DETECTION, read_card

if TYPE_CHECKING:
    import torch

OUTPUTS = ("boxes", "scores", "categories")
"""Names of the outputs of every exported detector."""


class DetectorEngine:
    """A detector in an engine. Several threads may call it, one at a time.

    Args:
        name: engine and precision, such as `openvino fp32`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def detect_pixels(self, pixels: NDArray[np.uint8]) -> Detections:
        """The detections in an image, uint8 RGB (H, W, 3): in its pixels, best first."""
        raise NotImplementedError


class TorchDetector(DetectorEngine):
    """A detector's model file in PyTorch.

    Args:
        path: the model file.
        device: CPU or GPU.
        precision: `fp32` or `bf16`.

    Raises:
        UserError: if it is not a detector, or damaged.
    """

    def __init__(self, path: Path, device: torch.device, precision: str) -> None:
        from resnets.detection import model

        super().__init__(f"torch {precision}")
        loaded = model.load(str(path))
        self._detector = loaded.network.to(device)
        self._normalize, self._device = loaded.normalize(device), device
        self._precision = precision

    def detect_pixels(self, pixels: NDArray[np.uint8]) -> Detections:
        from resnets.detection import model
        from resnets.detection.detector import Detector

        assert isinstance(self._detector, Detector)
        scaled = model.rescaling(self._detector.settings).apply(Image.fromarray(pixels))
        height, width = pixels.shape[:2]
        return model.detect_scaled(
            self._detector, np.asarray(scaled), (width, height),
            self._normalize, self._device, self._precision,
        )  # fmt: skip


class ExportedDetector(DetectorEngine):
    """An exported detector in its engine, on the CPU.

    Args:
        export: of a detector.
        keep: whether OpenVINO keeps the compiled network in the cache for the next start.

    Raises:
        UserError: if a file is damaged, or the engine cannot run it.
    """

    def __init__(self, export: export_folder.Export, keep: bool = True) -> None:
        super().__init__(f"{export.engine} {export.precision}")
        export.check()
        if export.engine == "openvino":
            cache = compiled_folder() if keep else None
            self._openvino: Any = compile_openvino(export.file, "fp32", cache)
            self._onnx: Any = None
        else:
            self._openvino, self._onnx = None, onnx_session(export.file)

    def detect_pixels(self, pixels: NDArray[np.uint8]) -> Detections:
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]
        if self._onnx is not None:
            outputs = self._onnx.run(list(OUTPUTS), {INPUT: image})
        else:
            result = self._openvino(image, share_inputs=True)
            outputs = [result[name] for name in OUTPUTS]
        boxes, scores, categories = outputs
        return Detections(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(scores, np.float32),
            np.array(categories, np.int64),
        )


@dataclass(frozen=True)
class OpenedDetector:
    """A detector ready for use.

    Args:
        name: by which it was opened.
        card: network, categories, settings, provenance, measured precision.
        engine: the network in its engine.
        digest: SHA-256 of the weights' file, or of the exported network.
    """

    name: str
    card: dict[str, Any]
    engine: DetectorEngine
    digest: str

    @property
    def classes(self) -> list[str]:
        """Names of the categories."""
        return list(self.card["classes"])

    @cached_property
    def rescaling(self) -> Rescaling:
        """The size in which it sees images."""
        return Rescaling(self.card[DETECTION]["size"], self.card[DETECTION]["max_size"])

    def detect(self, images: Iterable[Image.Image]) -> Iterator[Detections]:
        """Detections in images, one after the other.

        Args:
            images: upright RGB, of any size.

        Yields:
            Boxes in pixels of the image, best first.
        """
        for image in images:
            yield self.detect_scaled(np.asarray(self.rescaling.apply(image)), image.size)

    def detect_scaled(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Detections:
        """Detections in an image that may have been scaled already.

        Args:
            pixels: uint8 (H, W, 3).
            size: width and height of the whole image, in whose pixels the boxes are.
        """
        found = self.engine.detect_pixels(pixels)
        scaled = pixels.shape[1], pixels.shape[0]
        return Detections(scale_boxes(found.boxes, scaled, size), found.scores, found.categories)


def is_detector(name: str) -> bool:
    """Whether a model, as `open_detector` takes it, is a detector; raises `UserError`."""
    if export_folder.is_export(name):
        return DETECTION in export_folder.read(Path(name)).card
    return DETECTION in read_card(hub.resolve(name))[0]


def open_detector(
    name: str,
    runtime: str = "auto",
    precision: str = "auto",
    device: str | torch.device | None = None,
) -> OpenedDetector:
    """Open a detector by its name.

    Args:
        name: a model file, a run folder, or an export, which has its own engine and precision.
        runtime: `torch` or `auto`; of an export also its own.
        precision: `fp32`, `bf16` or `auto`: bf16 where the device multiplies it; of an export also
            its own.
        device: `auto`, `cpu`, `cuda`, ... or a torch device; None is the CPU.

    Raises:
        UserError: if there is no such detector, or it cannot be run in this way.
    """
    if not is_detector(name):
        raise UserError("is a classifier, not a detector", name)
    if isinstance(device, str):
        device = device_for(name, "torch", device)
    if device is not None and device.type == "cpu":
        device = None
    if export_folder.is_export(name):
        export = export_folder.read(Path(name))
        export.check_options(runtime, precision, device)
        return OpenedDetector(name, export.card, ExportedDetector(export), export.digest)
    check_engine(name, runtime, precision)
    for value, other, option in (
        (runtime, "openvino", "--runtime"), (precision, "int8", "--precision")
    ):  # fmt: skip
        if value == other:
            hint = f"export it: resnets export {name} --to openvino"
            hint += " --precision int8 --calibrate DATA" if other == "int8" else ""
            raise UserError(f"a detector runs in {other} as an export", f"{option} {other}", hint)
    import torch

    path, where = hub.resolve(name), device or torch.device("cpu")
    chosen = default_precision(device) if precision == "auto" else precision
    card = read_card(path)[0]
    return OpenedDetector(name, card, TorchDetector(path, where, chosen), file_sha256(path))
