"""A model made into a folder for an engine: converted, compared, explained, or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import resnets
from resnets.deploy import (
    artefact,
    calibration,
    conversion,
    model_card,
    parity,
    pt2,
    quantizing,
    testing,
)
from resnets.deploy.artefact import Artefact
from resnets.deploy.calibration import Data
from resnets.deploy.graph import Deployable, of_channels
from resnets.deploy.opening import Predictor, digest_of, open_engine
from resnets.deploy.runtimes import OnnxRuntime, OpenVinoRuntime, Runtime, openvino, package
from resnets.models import zoo
from resnets.support.devices import environment, has_bf16
from resnets.support.errors import UserError, nearest
from resnets.support.files import make_folder, write_bytes, write_json, writing
from resnets.support.turns import by_turns
from resnets.weights import model_file
from resnets.weights.model_file import Model

PRECISIONS = ("fp32", "bf16", "int8")
MAX_LOSS = 0.5
"""Points of top-1 that int8 may cost."""
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
SPEED_BATCHES = (1, 16)
CPU = torch.device("cpu")
Report = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """What an export shall be.

    Args:
        engine: `openvino`, `onnx` or `torch-export`.
        precision: `fp32`, `bf16` or `int8`.
        dense: take images of any size and answer at every location.
        images: real images to compare outputs on, as files, folders or patterns.
        calibrate: a folder of images, or `cifar10`; int8 needs it.
        test: labelled images, or `cifar10`, to measure what is lost.
        limit: calibration images at most.
        max_loss: points of top-1 that may be lost on the test.
    """

    engine: str
    precision: str = "fp32"
    dense: bool = False
    images: Sequence[str] = ()
    calibrate: str | None = None
    test: str | None = None
    limit: int = quantizing.LIMIT
    max_loss: float = MAX_LOSS


def export(
    name: str, out: Path, wishes: Wishes, report: Report = lambda line: None
) -> dict[str, Any]:
    """Write a model's export; returns its config.

    Args:
        name: a shipped model, a model file, a run folder, a named source, or another export,
            whose source is then exported.
        out: a new folder, an empty one, or an earlier export, which is replaced.

    Raises:
        UserError: if that cannot be, outputs differ from the source's beyond the tolerance, or
            the test loses more than it may. Nothing is then written.
    """
    refuse(out, wishes)
    path = model_file.find(name)
    model = model_file.load(str(path))
    network = str(model.card["network"])
    if wishes.dense and network in zoo.VGG_NAMES:
        raise UserError(f"{network} takes images of one size only", "--dense")
    data = calibration.gather(model, wishes.calibrate, wishes.test, wishes.limit, wishes.dense)
    look = of_channels(model.preprocessing) if wishes.dense else model.preprocessing
    real = calibration.to_compare(wishes.images, data, look, wishes.dense)
    facts = artefact.facts(model, wishes.engine, wishes.precision, wishes.dense, look)
    shipped = path in model_file.shipped().values()
    provenance = model.card.get("provenance") or {}
    made = {
        "card": model.card,
        "licence": provenance.get("licence") or ("MIT, as this package" if shipped else None),
        "source": {"name": name, "sha256": digest_of(path)},
        "calibrated_with": data.calibrated_with or None,
        "made_by": {"resnets": resnets.__version__, **environment(CPU)},
    }
    with _beside(out) as folder:
        report(f"converting {network} for {wishes.engine} in {wishes.precision}")
        plain = _write_network(model, folder, wishes, data, facts)
        write_json(folder / artefact.CONFIG, {**facts, "card": model.card})
        found = artefact.read(folder)
        engine = open_engine(found, keep=False)
        report(f"comparing with the source on {len(real)} images and random pixels")
        expected = parity.source(model, wishes.dense)
        cases = parity.compare(engine, expected, real, wishes.precision, look.size, wishes.dense)
        made["parity"] = [case.as_dict() for case in cases]
        made |= _tested(model, engine, found, data, wishes, report)
        if plain is not None:
            report("measuring the speed")
            made["speed"] = _speed(plain, engine, look.size, wishes)
        config = {**facts, **made}
        write_json(folder / artefact.CONFIG, config)
        write_bytes(folder / artefact.CARD, model_card.write(config).encode())
        with writing(out):
            shutil.copyfile(path, folder / artefact.SOURCE)
    return config


def refuse(out: Path, wishes: Wishes) -> None:
    """Raise `UserError` for what can be known to fail before anything is computed."""
    for word, known, option in (
        (wishes.engine, tuple(artefact.FILES), "--to"),
        (wishes.precision, PRECISIONS, "--precision"),
    ):
        if word not in known:
            raise UserError(f"unknown word {word!r}", option, nearest(word, known))
    if wishes.precision == "int8":
        if wishes.engine == "torch-export":
            raise UserError(
                "torch.export has no int8 here", "--precision int8", "--to openvino or --to onnx"
            )
        if wishes.calibrate is None:
            raise UserError(
                "int8 needs images to calibrate with", "--precision int8", "--calibrate FOLDER"
            )
    elif wishes.calibrate is not None:
        raise UserError("is for --precision int8", "--calibrate", "leave it out")
    if wishes.dense and wishes.test is not None:
        raise UserError("a dense export has no test of its own", "--test", "leave it out")
    openvino()  # for NNCF too, which reports to its makers unless this comes first
    for name in NEEDED.get(wishes.engine, ()):
        package(name, "resnets[export]")
    if wishes.precision == "int8" and find_spec("nncf") is None:
        raise UserError("nncf is not installed", mend="pip install resnets[export]")
    _refuse_place(out)


def _refuse_place(out: Path) -> None:
    if not out.absolute().parent.is_dir():
        raise UserError("no such folder", str(out.absolute().parent), "make it first")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError("is a file", str(out), "give the name of a new folder")
    there = {path.name for path in out.iterdir()}
    if there and not (artefact.is_artefact(str(out)) and there <= artefact.PARTS):
        other = min(there - artefact.PARTS, default=artefact.CONFIG)
        raise UserError(f"the folder holds something else ({other})", str(out), "give a new folder")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place at the end, if all went well."""
    with writing(out):
        place = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    try:
        folder = make_folder(place / "new")
        yield folder
        with writing(out):
            if out.exists():
                out.rename(place / "old")
            folder.rename(out)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write_network(
    model: Model, folder: Path, wishes: Wishes, data: Data, facts: dict[str, Any]
) -> Runtime | None:
    """Write the network's file; returns int8's float32 peer in the same engine."""
    network = Deployable(model.network, model.preprocessing, wishes.dense).eval()
    size, file = model.preprocessing.size, folder / artefact.FILES[wishes.engine]
    with writing(file):
        if wishes.engine == "torch-export":
            if wishes.precision == "bf16":
                network = conversion.round_torch(network)
            pt2.save(conversion.to_torch_export(network, size), file, facts)
            return None
        if wishes.engine == "openvino":
            return _write_openvino(network, size, file, wishes, data.calibration, facts)
        return _write_onnx(network, size, file, wishes, data.calibration, facts)


def _write_openvino(
    network: Deployable,
    size: int,
    file: Path,
    wishes: Wishes,
    images: Sequence[Tensor],
    facts: dict[str, Any],
) -> Runtime | None:
    ov, peer = openvino(), None
    made = conversion.to_openvino(network, size)
    if wishes.precision == "bf16":
        made = conversion.round_openvino(made)
    if wishes.precision == "int8":
        peer = OpenVinoRuntime(made, "fp32")
        made = quantizing.quantize(made, wishes.engine, images)
    made.set_rt_info(json.dumps(facts), ["resnets", "config"])
    ov.save_model(made, file, compress_to_fp16=False)
    return peer


def _write_onnx(
    network: Deployable,
    size: int,
    file: Path,
    wishes: Wishes,
    images: Sequence[Tensor],
    facts: dict[str, Any],
) -> Runtime | None:
    onnx, peer = package("onnx", "resnets[export]"), None
    made = conversion.to_onnx(network, size)
    if wishes.precision == "bf16":
        made = conversion.round_onnx(made)
    if wishes.precision == "int8":
        onnx.save(made, file)
        peer = OnnxRuntime(file, "fp32")
        made = quantizing.quantize(made, wishes.engine, images)
    onnx.helper.set_model_props(made, {"resnets": json.dumps(facts)})
    onnx.save(made, file)
    onnx.checker.check_model(file)
    return peer


def _tested(
    model: Model, engine: Runtime, found: Artefact, data: Data, wishes: Wishes, report: Report
) -> dict[str, Any]:
    """Top-1 of source and export on the test, if there is one; raises `UserError` if it lost."""
    if data.test is None or wishes.dense:
        told = "a dense export has no test" if wishes.dense else data.tested_on
        return {"accuracy": None, "not_tested": told}
    report(f"testing source and export on {data.tested_on}")
    model.network.to(memory_format=torch.channels_last)
    before = testing.run(model, data.test)
    predictor = Predictor(str(found.folder), found.card, found.preprocessing, engine, "")
    after = testing.run(testing.as_model(predictor), data.test)
    loss = testing.loss(before, after)
    if loss.points > wishes.max_loss + 1e-9:
        low, high = loss.interval
        raise UserError(
            f"{wishes.precision} loses {loss.points:.2f} points of top-1 on {data.tested_on} "
            f"({loss.lost} images lost, {loss.gained} gained; 95 % interval {low:.2f} to "
            f"{high:.2f}), more than {wishes.max_loss:g}",
            mend="nothing was written; calibrate with more images like those of the test, take "
            "--precision bf16, or allow it with --max-loss",
        )
    facts = {**loss.as_dict(), "tested_on": data.tested_on, "protocol": after.protocol}
    return {"accuracy": {**facts, "allowed": wishes.max_loss}}


def _speed(peer: Runtime, engine: Runtime, size: int, wishes: Wishes) -> dict[str, Any]:
    """Images per second of int8 and float32 in the same engine, and what that means."""
    shape = (max(SPEED_BATCHES), 3, size, size)
    pixels = torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    rates: dict[str, dict[str, float]] = {peer.name: {}, engine.name: {}}
    for batch in SPEED_BATCHES:
        runs = {one.name: partial(one, pixels[:batch]) for one in (peer, engine)}
        for name, values in by_turns(runs, batch, rounds=3, seconds=0.5).items():
            rates[name][str(batch)] = float(f"{sorted(values)[1]:.4g}")
    factors = [rates[engine.name][batch] / rates[peer.name][batch] for batch in rates[peer.name]]
    told = " and ".join(
        f"{factor:.2f} x at batch {batch}"
        for factor, batch in zip(factors, rates[peer.name], strict=True)
    )
    if min(factors) >= 1:
        verdict = f"int8 is faster than float32 on this machine: {told}"
    elif max(factors) < 1:
        verdict = f"int8 is SLOWER than float32 on this machine: {told}"
    else:
        verdict = f"int8 is not always faster than float32 on this machine: {told}"
    if has_bf16(CPU) and wishes.engine == "openvino":
        verdict += "; this CPU multiplies bf16 too, which loses less: compare with that"
    hardware = environment(CPU)["hardware"]
    return {"images_per_second": rates, "verdict": verdict, "hardware": hardware}
