"""A model made ready for int8: calibrated, tested, and what was found kept beside its weights."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from resnets.deploy import (
    artefact,
    calibration,
    conversion,
    exporting,
    int8_file,
    parity,
    quantizing,
    speed,
    testing,
)
from resnets.deploy.graph import Deployable
from resnets.deploy.opening import Predictor
from resnets.deploy.runtimes import OpenVinoRuntime, default_precision, openvino
from resnets.deploy.testing import Report
from resnets.support.errors import UserError
from resnets.support.files import write_bytes
from resnets.weights import cards, model_file


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
        name: a shipped model, a model file, a run folder, or a named source.

    Raises:
        UserError: if that cannot be, or the test loses more than it may. Nothing is then written.
    """
    path = _path(name)
    exporting.refuse_same_images(wishes.calibrate, wishes.test)
    model = model_file.load(str(path))
    look = model.preprocessing
    limit = wishes.limit or quantizing.LIMIT
    data = calibration.gather(model, wishes.calibrate, wishes.test, limit)
    if wishes.max_loss is not None and data.test is None:
        raise UserError(
            f"there is no test ({data.tested_on})", "--max-loss", "give --test, or leave it out"
        )
    real = calibration.to_compare((), data, look, False)
    network = Deployable(model.network, look).eval()
    report(f"calibrating {model.card['network']} with {data.calibrated_with}")
    plain = conversion.to_openvino(network, look.size)
    made = quantizing.quantize(plain.clone(), "openvino", data.calibration)
    facts: dict[str, Any] = {
        "network": model.card["network"],
        "calibrated_with": data.calibrated_with,
        **exporting.made_by(),
    }
    weights = network.weights()
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / f"trial{int8_file.ENDING}"
        trial.write_bytes(int8_file.pack(made, weights, path, facts))
        xml = Path(folder) / "model.xml"
        int8_file.unpack(int8_file.read(trial), weights, xml)
        engine = OpenVinoRuntime(xml, "int8")
        report(f"comparing with the source on {len(real)} images and random pixels")
        expected = parity.source(model, False)
        cases = parity.compare(engine, expected, real, "int8", look.size, False)
        facts["parity"] = [case.as_dict() for case in cases]
        predictor = Predictor(name, model.card, look, engine, "")
        allowed = testing.MAX_LOSS if wishes.max_loss is None else wishes.max_loss
        facts |= testing.compare(model, predictor, data, allowed, report)
        report("measuring the speed")
        peer = OpenVinoRuntime(plain, default_precision(None))
        facts["speed"] = speed.compare(peer, engine, look.size)
    file = int8_file.beside(path)
    write_bytes(file, int8_file.pack(made, weights, path, facts))
    return {**int8_file.read(file).card, "file": str(file)}


def _path(name: str) -> Path:
    """The model file; raises `UserError` for what can be known to fail."""
    if artefact.is_artefact(name):
        raise UserError(
            "an export has its own precision", name, "name the model that it was made from"
        )
    openvino()
    if find_spec("nncf") is None:
        raise UserError("nncf is not installed", mend="pip install resnets[export]")
    return cards.find(name)
