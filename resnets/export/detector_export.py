"""A detector as an export: what is written, and what it must pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from resnets.data.boxes.annotations import AnnotatedImage, BoxSet
from resnets.data.boxes.datasets import open_boxes
from resnets.data.boxes.rescaling import load_scaled, scale_boxes
from resnets.data.datasets import open_box_splits
from resnets.data.images import read_image
from resnets.data.samples import random_indices
from resnets.detection import model as detector_model
from resnets.detection.detector import Detector
from resnets.detection.evaluation import masks_count
from resnets.detection.metrics import coco
from resnets.detection.metrics.detections import Detections
from resnets.export import calibration, detector_card, detector_file, detector_parity, opsets
from resnets.export.detector_parity import DetectorComparison
from resnets.export.options import ExportOptions
from resnets.inference import export_folder, image_inputs
from resnets.inference.deployable_detector import DeployableDetector
from resnets.inference.detector_engines import DetectorEngine, ExportedDetector
from resnets.inference.export_folder import Export
from resnets.support.devices import hardware_name
from resnets.support.errors import UserError

COMPARED = 8
"""Number of real images in which detections are compared."""
MAX_LOSS = 1.0
"""Points of AP that int8 may lose by default."""
TIMED = 3
"""Calls of each engine that are timed."""
CERTAIN = 0.5
"""Score of objects that must be found although pixels are scaled with other roundings."""
_CPU = torch.device("cpu")
Pixels = NDArray[np.uint8]


class DetectorExport:
    """The export of a detector.

    Args:
        path: its model file.
        options: of the export; `calibrate` and `test` are folders with boxes.

    Raises:
        UserError: if the options do not fit a detector, or images cannot be read.
    """

    def __init__(self, path: Path, options: ExportOptions) -> None:
        _check(options)
        self.options, self.model = options, detector_model.load(str(path))
        assert isinstance(self.model.network, Detector)
        self._detector = self.model.network
        self._deployable = DeployableDetector(self._detector, self.model.preprocessing)
        self._scale = detector_model.rescaling(self._detector.settings)
        train, self._test = self._open_data()
        self._calibration = [self._read(one) for one in train]
        self.calibrated_with = (
            f"{len(train)} training images of {Path(str(options.calibrate)).name}" if train else ""
        )
        self._whole = self._real_images()
        self.opset = options.opset or opsets.DEFAULT
        self.description = export_folder.describe_detector(
            self.model, options.engine, options.precision
        )

    def write(self, file: Path) -> None:
        """Write the detector; raises `OSError`."""
        detector_file.write(
            self._deployable,
            file,
            precision=self.options.precision,
            images=[_tensor(one) for one in self._calibration],
            description=self.description,
            opset=self.opset,
        )

    def check(self, export: Export, report: Callable[[str], None]) -> dict[str, Any]:
        """Compare the written export with its source.

        Returns:
            `parity`, `accuracy` and `speed`, as JSON.

        Raises:
            UserError: if detections differ by more than the tolerance, or too much AP is lost.
        """
        engine = ExportedDetector(export, keep=False)
        report(f"comparing detections with the source in {len(self._whole)} images")
        compared = self._compare(engine)
        if self.options.precision != "int8":  # which moves all boxes a little
            hint = "nothing was written; try another --to"
            detector_parity.check(compared, engine.name, hint)
        results: dict[str, Any] = {"parity": [one.as_dict() for one in compared]}
        results |= self._accuracy(engine, report)
        report("measuring the speed")
        results["speed"] = self._speed(engine)
        return results

    def model_card(self, config: dict[str, Any]) -> str:
        """The text of its card."""
        return detector_card.write(config)

    def _open_data(self) -> tuple[list[AnnotatedImage], BoxSet | None]:
        """Calibration images and the test set; raises `UserError`."""
        options, train, test = self.options, [], None
        if options.calibrate is not None:
            splits = open_box_splits(options.calibrate)
            chosen = random_indices(len(splits.train), options.limit or calibration.LIMIT)
            train, test = [splits.train.images[int(i)] for i in chosen], splits.test
            if len(train) < calibration.FEWEST:
                raise UserError(
                    f"only {len(train)} training images to calibrate with",
                    f"--calibrate {options.calibrate}",
                    f"give at least {calibration.FEWEST}, better a few hundred",
                )
        if options.test is not None:
            test = open_boxes(Path(options.test), "test")
        return train, None if test is None else self._with_own_categories(test)

    def _with_own_categories(self, boxes: BoxSet) -> BoxSet:
        """A test set whose categories are the model's; raises `UserError` if one is unknown."""
        own = {name: index for index, name in enumerate(self.model.classes)}
        for name in boxes.categories:
            if name not in own:
                known = ", ".join(list(own)[:5])
                raise UserError(
                    f"the detector does not know the category {name!r}", "", f"it knows {known}"
                )
        numbers = [own[name] for name in boxes.categories]
        images = [
            replace(image, objects=tuple(
                replace(one, category=numbers[one.category]) for one in image.objects
            ))
            for image in boxes.images
        ]  # fmt: skip
        return replace(boxes, images=tuple(images), categories=tuple(own), category_ids=None)

    def _read(self, image: AnnotatedImage) -> Pixels:
        return load_scaled(image, self._scale)

    def _real_images(self) -> list[Image.Image]:
        """Images to compare detections in: those given, else of the test, else the samples."""
        given = self.options.images
        if given or self._test is None:
            files = image_inputs.find_images(list(given) or [str(image_inputs.SAMPLES)])
        else:
            files = [str(image.path) for image in self._test.images]
        chosen = random_indices(len(files), COMPARED)
        return [read_image(Path(files[int(i)])) for i in chosen]

    def _compare(self, engine: DetectorEngine) -> list[DetectorComparison]:
        """Detections in real images, in parts of them of odd sizes, and in a black one.

        The export scales whole images itself, and rounds some pixels otherwise than Pillow. There
        the source sees the export's pixels, since RoI pooling and NMS may turn a grey level into
        another box.

        Where all pixels are equal, so are scores of proposals: which of them stay is chance. In
        the black image only certain objects are compared.
        """
        settings = self._detector.settings
        scaled = [self._scale.apply(one) for one in self._whole]
        odd = [one.crop((0, 0, max(1, one.width - 37 * i), max(1, one.height // (1 + i))))
               for i, one in enumerate(scaled[:3], 1)]  # fmt: skip
        odd = [self._scale.apply(one) for one in odd]
        black = self._scale.apply(Image.new("RGB", (161, 97)))
        wanted = [self._source(one) for one in scaled]
        by_itself = [
            replace(found, boxes=scale_boxes(found.boxes, whole.size, small.size))
            for whole, small in zip(self._whole, scaled, strict=True)
            for found in (engine.detect_pixels(np.asarray(whole)),)
        ]
        certain = settings.model_copy(update={"score": CERTAIN})
        return [
            detector_parity.compare(
                "real images", wanted, [engine.detect_pixels(np.asarray(one)) for one in scaled],
                settings,
            ),
            detector_parity.compare(
                "parts of odd sizes",
                [self._source(one) for one in odd],
                [engine.detect_pixels(np.asarray(one)) for one in odd],
                settings,
            ),
            detector_parity.compare(
                "certain objects in a black image",
                [_above(self._source(black), CERTAIN)],
                [_above(engine.detect_pixels(np.asarray(black)), CERTAIN)],
                certain,
            ),
            detector_parity.compare(
                "certain objects in images that it scales itself",
                [_above(self._source_in_own_scale(one), CERTAIN) for one in self._whole],
                [_above(one, CERTAIN) for one in by_itself],
                certain,
                detector_parity.OWN_SCALE,
            ),
        ]  # fmt: skip

    def _source(self, image: Image.Image) -> Detections:
        """The source's detections, in float32."""
        normalize = self.model.normalize(_CPU)
        return next(detector_model.detect(self._detector, [image], normalize, _CPU, "fp32"))

    def _source_in_own_scale(self, whole: Image.Image) -> Detections:
        """The source's detections in an image as the export scales it, in its scaled pixels."""
        images = _tensor(np.asarray(whole))[None]
        height, width = self._deployable.scaled(*images.shape[2:])
        pixels = self._deployable.resampled(images, (height, width))[0][:, :height, :width]
        array = pixels.permute(1, 2, 0).to(torch.uint8).numpy()
        found = self._source_pixels(array)
        return replace(found, boxes=scale_boxes(
            found.boxes, (width, height), self._scale.scaled(*whole.size)
        ))  # fmt: skip

    def _accuracy(self, engine: DetectorEngine, report: Callable[[str], None]) -> dict[str, Any]:
        """AP of the source and of the export; raises `UserError` if too much is lost."""
        if self._test is None:
            return {"accuracy": None, "not_tested": "no images with boxes were given"}
        about = Path(str(self.options.test or self.options.calibrate)).name
        report(f"testing source and export on {len(self._test)} images of {about}")
        before, after = (
            _precision(self._test, list(self._found(run)))
            for run in (self._source_pixels, engine.detect_pixels)
        )
        allowed = MAX_LOSS if self.options.max_loss is None else self.options.max_loss
        percent = {
            f"{name}_{when}": None if value is None else round(100 * value, 3)
            for when, numbers in (("before", before), ("after", after))
            for name, value in numbers.items()
        }  # fmt: skip
        kinds = [name for name in before if name.endswith("AP")]  # of boxes and masks
        losses = {name: 100 * ((before[name] or 0.0) - (after[name] or 0.0)) for name in kinds}
        lost = max(losses.values())
        if lost > allowed + 1e-9:
            name = max(losses, key=lambda one: losses[one])
            raise UserError(
                f"{self.options.precision} loses {lost:.2f} points of {name.replace('_', ' ')} on "
                f"{about} ({percent[f'{name}_before']:.2f} before, "
                f"{percent[f'{name}_after']:.2f} after), more than {allowed:g}",
                hint="nothing was written; calibrate with more images like those of the test, or "
                "allow it with --max-loss",
            )
        facts = {"images": len(self._test), **percent, "points_lost": round(lost, 3),
                 "tested_on": about, "allowed": allowed}  # fmt: skip
        return {"accuracy": facts}

    def _found(self, run: Callable[[Pixels], Detections]) -> Iterator[Detections]:
        """Detections in each test image, in pixels of the whole image."""
        assert self._test is not None
        for image in self._test.images:
            pixels = self._read(image)
            found = run(pixels)
            old, new = (pixels.shape[1], pixels.shape[0]), (image.width, image.height)
            yield replace(found, boxes=scale_boxes(found.boxes, old, new))

    def _source_pixels(self, pixels: Pixels) -> Detections:
        return detector_model.detect_scaled(
            self._detector, pixels, (pixels.shape[1], pixels.shape[0]),
            self.model.normalize(_CPU), _CPU, "fp32",
        )  # fmt: skip

    def _speed(self, engine: DetectorEngine) -> dict[str, Any]:
        """Milliseconds of an image, in PyTorch in float32 and in the export."""
        pixels = np.asarray(self._scale.apply(self._whole[0]))
        runs = {"torch fp32": partial(self._source_pixels, pixels),
                engine.name: partial(engine.detect_pixels, pixels)}  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(1 + TIMED):  # the first round warms up
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                times[name].append(1000 * (time.perf_counter() - start))
        return {
            "milliseconds": {name: round(median(values[1:]), 2)
                             for name, values in times.items()},
            "image": [pixels.shape[1], pixels.shape[0]],
            "hardware": hardware_name(_CPU),
        }  # fmt: skip


def _precision(boxes: BoxSet, found: list[Detections]) -> dict[str, float | None]:
    """AP and AP50, of masks too if they can be measured."""
    numbers = coco.evaluate(boxes, found).numbers
    result = {key: numbers[key] for key in ("AP", "AP50")}
    if masks_count(boxes, found):
        masks = coco.evaluate(boxes, found, "segm").numbers
        result |= {f"{coco.MASK}{key}": masks[key] for key in ("AP", "AP50")}
    return result


def _above(found: Detections, score: float) -> Detections:
    return found.best(int((found.scores >= score).sum()))


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _check(options: ExportOptions) -> None:
    """Raise `UserError` for options that a detector's export does not have."""
    if options.engine == "torch-export":
        raise UserError("detectors are exported to openvino and onnx only", "--to torch-export",
                        "--to openvino or --to onnx")  # fmt: skip
    if options.dense:
        raise UserError("a detector takes images of any size", "--dense", "leave it out")
    if options.precision == "bf16":
        raise UserError("boxes are too coarse in bf16", "--precision bf16", "fp32 or int8")
    if options.precision == "int8" and options.engine != "openvino":
        raise UserError("int8 detectors run in OpenVINO only", "--precision int8", "--to openvino")
