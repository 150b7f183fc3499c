"""A classifier as an export: what is written, and what it must pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnets.export import acceptance, calibration, model_card, network_file, opsets
from resnets.export.options import ExportOptions
from resnets.inference import export_folder
from resnets.inference.deployable import Deployable, of_channels
from resnets.inference.engines import Runtime
from resnets.inference.export_folder import Export
from resnets.inference.predictor import open_engine
from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.weights import model_file

_LOSS_HINT = (
    "nothing was written; calibrate with more images like those of the test, take "
    "--precision bf16, or allow it with --max-loss"
)


class ClassifierExport:
    """The export of a classifier.

    Args:
        path: its model file.
        options: of the export.

    Raises:
        UserError: if the options do not fit the model, or images cannot be read.
    """

    def __init__(self, path: Path, options: ExportOptions) -> None:
        self.options, self.model = options, model_file.load(str(path))
        network = str(self.model.card["network"])
        if options.dense and network in zoo.VGG_NAMES:
            raise UserError(f"{network} takes images of one size only", "--dense")
        images = calibration.find_images(self.model, options, dense=options.dense)
        if options.max_loss is not None and images.test is None:
            raise UserError(
                f"there is no test ({images.tested_on})",
                "--max-loss",
                "give --test, or leave it out",
            )
        own = self.model.preprocessing
        preprocessing = of_channels(own) if options.dense else own
        self._real = calibration.comparison_images(
            options.images, images, preprocessing, options.dense
        )
        self._images, self._size = images, preprocessing.size
        self._baseline: Runtime | None = None
        self.calibrated_with = images.calibrated_with
        self.opset = options.opset or opsets.DEFAULT
        self.description = export_folder.describe(
            self.model, options.engine, options.precision, options.dense, preprocessing
        )

    def write(self, file: Path) -> None:
        """Write the network; raises `OSError`."""
        self._baseline = network_file.write(
            Deployable(self.model.network, self.model.preprocessing, self.options.dense).eval(),
            file,
            size=self._size,
            precision=self.options.precision,
            images=self._images.calibration,
            description=self.description,
            opset=self.opset,
        )

    def check(self, export: Export, report: Callable[[str], None]) -> dict[str, Any]:
        """Compare the written export with its source; raises `UserError`."""
        return acceptance.check(
            self.model,
            open_engine(export, keep=False),
            self._images,
            real=self._real,
            precision=self.options.precision,
            dense=self.options.dense,
            max_loss=self.options.max_loss,
            baseline=self._baseline,
            loss_hint=_LOSS_HINT,
            report=report,
        )

    def model_card(self, config: dict[str, Any]) -> str:
        """The text of its card."""
        return model_card.write(config)
