"""Engines that run a detector: PyTorch, and those of exports, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.detection.improvements import Improvements
from resnets.detection.metrics.detections import Detections, Thresholds
from resnets.inference import export_folder
from resnets.inference.engines import INPUT, compile_openvino, onnx_session
from resnets.inference.openvino_model import compiled_folder
from resnets.support.errors import UserError
from resnets.weights.card import DETECTION, finds_masks

if TYPE_CHECKING:
    import torch

OUTPUTS = ("boxes", "scores", "categories")
"""Names of the outputs of every exported detector."""
MASK_OUTPUT = "masks"
"""Name of one more output of those that find masks: (k, 14, 14)."""


NONE = Improvements()


class DetectorEngine(ABC):
    """A detector in an engine. Several threads may call it, one at a time.

    Args:
        name: engine and precision, such as `openvino fp32`.

    Attributes:
        finds_parts: whether it finds objects that are a small part of an image, as in tiles.
    """

    finds_parts: ClassVar[bool] = True

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def detect_pixels(
        self,
        pixels: NDArray[np.uint8],
        thresholds: Thresholds | None = None,
        improvements: Improvements = NONE,
    ) -> Detections:
        """The detections in an image.

        Args:
            pixels: uint8 RGB (H, W, 3).
            thresholds: which detections stay; those that the detector was trained with by default.
            improvements: of the search.

        Returns:
            Boxes in pixels of the image, best first.
        """

    @abstractmethod
    def check(self, thresholds: Thresholds, improvements: Improvements = NONE) -> None:
        """Raise `UserError` if the engine cannot apply these thresholds or improvements."""

    @property
    def members(self) -> int:
        """Detectors that it consists of."""
        return 1


class TorchDetector(DetectorEngine):
    """A detector's model file in PyTorch, or those of an ensemble.

    Args:
        path: the model file.
        device: CPU or GPU.
        precision: `fp32` or `bf16`.
        others: model files of the other members.

    Raises:
        UserError: if one is not a detector, or damaged, or has other categories.
    """

    def __init__(
        self, path: Path, device: torch.device, precision: str, others: Sequence[Path] = ()
    ) -> None:
        from resnets.detection import model
        from resnets.detection.detector import Detector
        from resnets.detection.ensemble import Member, category_order

        super().__init__(f"torch {precision}")
        self._device, self._precision = device, precision
        self._members: list[Member] = []
        categories: list[str] = []
        for file in (path, *others):
            loaded = model.load(str(file))
            categories = categories or list(loaded.classes)
            order = category_order(categories, loaded.classes, str(file))
            detector = loaded.network.to(device)
            assert isinstance(detector, Detector)
            self._members.append(Member(detector, loaded.normalize(device), order))

    @property
    def members(self) -> int:
        return len(self._members)

    def detect_pixels(
        self,
        pixels: NDArray[np.uint8],
        thresholds: Thresholds | None = None,
        improvements: Improvements = NONE,
    ) -> Detections:
        from resnets.detection import model

        first = self._members[0]
        if thresholds is not None:
            first = first._replace(detector=model.with_thresholds(first.detector, thresholds))
        image, where = Image.fromarray(pixels), (self._device, self._precision)
        if improvements != NONE or self.members > 1:
            members = [first, *self._members[1:]]
            return model.detect_improved(members, image, improvements, *where)
        scaled = model.rescaling(first.detector.settings).apply(image)
        return model.detect_scaled(
            first.detector, np.asarray(scaled), image.size, first.normalize, *where
        )

    def check(self, thresholds: Thresholds, improvements: Improvements = NONE) -> None:
        pass  # it can apply all


class TorchLocalizer(DetectorEngine):
    """A localizer's model file in PyTorch: an image's five most probable classes, each with a box.

    Args:
        path: the model file.
        device: CPU or GPU.
        precision: `fp32` or `bf16`.

    Raises:
        UserError: if it is not a localizer, or damaged.
    """

    finds_parts = False  # it names the one object of an image, also of a tile without any
    MOST_ASPECT = 20
    """The longer side of an image is at most this multiple of the shorter one."""

    def __init__(self, path: Path, device: torch.device, precision: str) -> None:
        from resnets.detection import localizer_model

        super().__init__(f"torch {precision}")
        loaded = localizer_model.load(str(path))
        self._localizer = loaded.network.to(device)
        self._normalize, self._device = loaded.normalize(device), device
        self._precision = precision

    def as_detector(self, shorter: int) -> dict[str, Any]:
        """The settings of a detector that an `ObjectDetector` needs.

        Args:
            shorter: pixels to which it scales the shorter side of images.
        """
        return {
            "size": shorter, "max_size": self.MOST_ASPECT * shorter, "score": 0.0, "nms": 1.0,
            "detections": 5,
        }  # fmt: skip

    def detect_pixels(
        self,
        pixels: NDArray[np.uint8],
        thresholds: Thresholds | None = None,
        improvements: Improvements = NONE,
    ) -> Detections:
        import torch

        from resnets.detection import localizer_model
        from resnets.detection.localizer import Localizer

        assert isinstance(self._localizer, Localizer)
        half = self._precision == "bf16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            return localizer_model.detect(
                self._localizer, pixels, self._normalize, self._device,
                thresholds or Thresholds(0.0, 1.0, 5),
            )  # fmt: skip

    def check(self, thresholds: Thresholds, improvements: Improvements = NONE) -> None:
        # A class has one box, so that there is nothing to suppress.
        if improvements != NONE:
            message = f"a localizer cannot search with{improvements.words.removeprefix(',')}"
            raise UserError(message, hint="leave out --refine and --scales")


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
        self._own = Thresholds.of(export.card[DETECTION])
        self._outputs = (*OUTPUTS, MASK_OUTPUT) if finds_masks(export.card) else OUTPUTS
        if export.engine == "openvino":
            cache = compiled_folder() if keep else None
            self._openvino: Any = compile_openvino(export.file, "fp32", cache)
            self._onnx: Any = None
        else:
            self._openvino, self._onnx = None, onnx_session(export.file)

    def check(self, thresholds: Thresholds, improvements: Improvements = NONE) -> None:
        if improvements != NONE:
            message = f"an export cannot search with{improvements.words.removeprefix(',')}"
            raise UserError(message, hint="take the model that was exported")
        own = self._own
        for name, given, possible, needed in (
            ("score", thresholds.score, thresholds.score >= own.score, f"{own.score} or more"),
            ("nms", thresholds.nms, thresholds.nms == own.nms, f"{own.nms}"),
            ("limit", thresholds.limit, thresholds.limit <= own.limit, f"{own.limit} or less"),
        ):
            if not possible:
                message = f"this export's {name} is {needed}, not {given}"
                raise UserError(message, hint="take the model that was exported")

    def detect_pixels(
        self,
        pixels: NDArray[np.uint8],
        thresholds: Thresholds | None = None,
        improvements: Improvements = NONE,
    ) -> Detections:
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]
        if self._onnx is not None:
            outputs = self._onnx.run(list(self._outputs), {INPUT: image})
        else:
            result = self._openvino(image, share_inputs=True)
            outputs = [result[name] for name in self._outputs]
        boxes, scores, categories, *masks = outputs
        found = Detections(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(scores, np.float32),
            np.array(categories, np.int64),
            np.array(masks[0], np.float32) if masks else None,
        )
        if thresholds is None:
            return found
        return found.where(found.scores > thresholds.score).best(thresholds.limit)
