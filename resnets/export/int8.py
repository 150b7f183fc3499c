"""A model made ready for int8: calibrated, tested, and what was found kept beside its weights."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from resnets.export import accuracy, calibration, exporter, parity, quantization, speed
from resnets.export.accuracy import Report
from resnets.export.calibration import Data
from resnets.inference import conversion, export_folder, int8_file
from resnets.inference.deployable import Deployable
from resnets.inference.engines import OpenVinoRuntime, Runtime, default_precision, openvino
from resnets.inference.predictor import Predictor
from resnets.support.errors import UserError
from resnets.support.files import write_bytes, writing
from resnets.weights import hub, model_file
from resnets.weights.card import provenance_of
from resnets.weights.model_file import Model


@dataclass(frozen=True)
class Wishes:
    """What int8 shall be made from, and may cost.

    Args:
        calibrate: a folder of images, or `cifar10`.
        test: labelled images, or `cifar10`, to measure what is lost.
        limit: calibration images at most; 300 by default.
        max_loss: points of top-1 that may be lost on the test; 0.5 by default.
    """

    calibrate: str
    test: str | None = None
    limit: int | None = None
    max_loss: float | None = None


def quantize(name: str, wishes: Wishes, report: Report) -> dict[str, Any]:
    """Write the int8 file of a model; gives its card, and under `file` where it is.

    Args:
        name: a model file, a run folder, or a named source.

    Raises:
        UserError: if that cannot be, or the test loses more than it may. Nothing is then written.
    """
    path = _path(name)
    file = int8_file.beside(path)
    exporter.refuse_same_images(wishes.calibrate, wishes.test)
    _refuse_place(file)
    known = int8_file.fingerprint(path)
    model = model_file.load(str(path))
    look = model.preprocessing
    limit = wishes.limit or quantization.LIMIT
    data = calibration.gather(model, wishes.calibrate, wishes.test, limit)
    if data.test is None:
        raise UserError(
            f"there is no test of what int8 loses ({data.tested_on})",
            "--calibrate",
            "give labelled images to --test, or export: resnets export --help",
        )
    report(f"calibrating {model.card['network']} with {data.calibrated_with}")
    network = Deployable(model.network, look).eval()
    plain = conversion.to_openvino(network, look.size)
    made = quantization.quantize(plain.clone(), "openvino", data.calibration)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps some
        trial = Path(folder) / f"trial{int8_file.ENDING}"
        trial.write_bytes(int8_file.pack(made, network.weights(), known))
        found = int8_file.read(trial)
        int8_file.unpack(found, network.weights(), xml := Path(folder) / "model.xml")
        engine = OpenVinoRuntime(xml, "int8")
        facts = {
            "network": model.card["network"],
            "licence": provenance_of(model.card).get("licence"),
            "calibrated_with": data.calibrated_with,
            **exporter.made_by(),
            **_measured(model, engine, OpenVinoRuntime(plain, default_precision(None)), data,
                        wishes, report),
        }  # fmt: skip
    if int8_file.fingerprint(path) != known:
        raise UserError("the model has changed meanwhile", str(path), "run it again")
    write_bytes(file, int8_file.with_facts(found, facts))
    return {**int8_file.read(file).card, "file": str(file)}


def _measured(
    model: Model, engine: Runtime, plain: Runtime, data: Data, wishes: Wishes, report: Report
) -> dict[str, Any]:
    """How int8 compares with the source; raises `UserError` if it is too far off."""
    look = model.preprocessing
    real = calibration.to_compare((), data, look, False)
    report(f"comparing with the source on {len(real)} images and random pixels")
    expected = parity.source(model, False)
    hint = "nothing was written; calibrate with more images like those of the test"
    cases = parity.compare(engine, expected, real, "int8", look.size, False, hint)
    predictor = Predictor("int8", model.card, look, engine, "")
    allowed = accuracy.MAX_LOSS if wishes.max_loss is None else wishes.max_loss
    allow = f"{hint}, or allow it with --max-loss"
    tested = accuracy.compare(model, predictor, data, allowed, allow, report)
    report("measuring the speed")
    compared = speed.compare(plain, engine, look.size)
    return {"parity": [case.as_dict() for case in cases], **tested, "speed": compared}


def _path(name: str) -> Path:
    """The model file; raises `UserError` for what can be known to fail."""
    if export_folder.is_artefact(name):
        raise UserError(
            "an export has its own precision", name, "name the model that it was made from"
        )
    if name in hub.shipped() and not Path(name).exists():
        raise UserError("comes ready for int8", name, "to calibrate it anew, copy its file")
    openvino()
    if find_spec("nncf") is None:
        raise UserError("nncf is not installed", hint="pip install resnets[export]")
    return hub.resolve(name)


def _refuse_place(file: Path) -> None:
    """Raise `UserError` if nothing can be written there."""
    with writing(file), tempfile.TemporaryFile(dir=file.parent):
        pass
