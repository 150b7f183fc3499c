"""A model made into a folder for an engine: converted, compared, explained, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from resnets.export import (
    accuracy,
    calibration,
    model_card,
    network_file,
    parity,
    quantization,
    speed,
)
from resnets.export.accuracy import Report
from resnets.inference import export_folder
from resnets.inference.deployable import Deployable, of_channels
from resnets.inference.engines import openvino, package
from resnets.inference.predictor import Predictor, open_engine
from resnets.models import zoo
from resnets.support.devices import environment
from resnets.support.errors import UserError, nearest
from resnets.support.files import file_sha256, make_folder, write_bytes, write_json, writing
from resnets.version import __version__
from resnets.weights import hub, model_file
from resnets.weights.card import provenance_of

PRECISIONS = ("fp32", "bf16", "int8")
ALLOW = (
    "nothing was written; calibrate with more images like those of the test, take "
    "--precision bf16, or allow it with --max-loss"
)
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
CPU = torch.device("cpu")


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
        limit: calibration images at most; 300 by default.
        max_loss: points of top-1 that may be lost on the test; 0.5 by default.
    """

    engine: str
    precision: str = "fp32"
    dense: bool = False
    images: Sequence[str] = ()
    calibrate: str | None = None
    test: str | None = None
    limit: int | None = None
    max_loss: float | None = None


def export(
    name: str, out: Path, wishes: Wishes, report: Report = lambda line: None
) -> dict[str, Any]:
    """Write a model's export; returns its config.

    Args:
        name: a shipped model, a model file, a run folder, a named source, or another export,
            whose source is then exported.
        out: a new folder, an empty one, or an earlier export for the engine, which is replaced.

    Raises:
        UserError: if that cannot be, outputs differ from the source's beyond the tolerance, or
            the test loses more than it may. Nothing is then written.
    """
    refuse(out, wishes)
    path = export_folder.source_of(name)
    model = model_file.load(str(path))
    network = str(model.card["network"])
    if wishes.dense and network in zoo.VGG_NAMES:
        raise UserError(f"{network} takes images of one size only", "--dense")
    limit = wishes.limit or quantization.LIMIT
    allowed = accuracy.MAX_LOSS if wishes.max_loss is None else wishes.max_loss
    data = calibration.gather(model, wishes.calibrate, wishes.test, limit, wishes.dense)
    if wishes.max_loss is not None and data.test is None:
        raise UserError(
            f"there is no test ({data.tested_on})", "--max-loss", "give --test, or leave it out"
        )
    look = of_channels(model.preprocessing) if wishes.dense else model.preprocessing
    real = calibration.to_compare(wishes.images, data, look, wishes.dense)
    facts = export_folder.facts(model, wishes.engine, wishes.precision, wishes.dense, look)
    shipped = path in hub.shipped().values()
    licence = provenance_of(model.card).get("licence")
    made: dict[str, Any] = {
        "card": model.card,
        "licence": str(licence) if licence else "MIT, as this package" if shipped else None,
        "source": {"name": Path(name).name, "sha256": file_sha256(path)},
        "calibrated_with": data.calibrated_with or None,
        **made_by(),
    }
    with _beside(out) as folder:
        report(f"converting {network} for {wishes.engine} in {wishes.precision}")
        with writing(out):
            plain = network_file.write(
                Deployable(model.network, model.preprocessing, wishes.dense).eval(),
                folder / export_folder.FILES[wishes.engine],
                look.size,
                wishes.precision,
                data.calibration,
                facts,
            )
        write_json(folder / export_folder.CONFIG, {**facts, "card": model.card})
        found = export_folder.read(folder)
        engine = open_engine(found, keep=False)
        report(f"comparing with the source on {len(real)} images and random pixels")
        expected = parity.source(model, wishes.dense)
        cases = parity.compare(engine, expected, real, wishes.precision, look.size, wishes.dense)
        made["parity"] = [case.as_dict() for case in cases]
        if wishes.dense:
            made |= {"accuracy": None, "not_tested": "a dense export has no test"}
        else:
            predictor = Predictor(str(out), found.card, found.preprocessing, engine, "")
            made |= accuracy.compare(model, predictor, data, allowed, ALLOW, report)
        if plain is not None:
            report("measuring the speed")
            made["speed"] = speed.compare(plain, engine, look.size)
        config = {**facts, **made}
        write_json(folder / export_folder.CONFIG, config)
        write_bytes(folder / export_folder.CARD, model_card.write(config).encode())
        with writing(out):
            shutil.copyfile(path, folder / export_folder.SOURCE)
    return config


def _swap(folder: Path, out: Path, old: Path) -> None:
    """Give `folder` the name `out`; what was there goes to `old`, or comes back."""
    if not out.exists():
        folder.rename(out)
        return
    try:
        out.rename(old)
        folder.rename(out)
    except BaseException:  # Ctrl-C too
        if not out.exists():
            old.rename(out)
        raise


def made_by() -> dict[str, Any]:
    """Machine, versions and date."""
    facts = environment(CPU)
    for name in ("openvino", "nncf", "onnx", "onnxscript", "onnxruntime"):
        with suppress(PackageNotFoundError):
            facts["packages"][name] = version(name)
    date = datetime.now(UTC).date().isoformat()
    return {"made_by": {"resnets": __version__, **facts}, "date": date}


def refuse(out: Path, wishes: Wishes) -> None:
    """Raise `UserError` for what can be known to fail before anything is computed."""
    for word, known, option in (
        (wishes.engine, tuple(export_folder.FILES), "--to"),
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
    _refuse_needless(wishes)
    if wishes.engine == "openvino":
        openvino()
    for name in NEEDED.get(wishes.engine, ()):
        package(name, "resnets[export]")
    if wishes.precision == "int8" and find_spec("nncf") is None:
        raise UserError("nncf is not installed", hint="pip install resnets[export]")
    _refuse_place(out, wishes.engine)


def _refuse_needless(wishes: Wishes) -> None:
    """Options that would do nothing, or test with the images that calibrate."""
    if wishes.dense and wishes.test is not None:
        raise UserError("a dense export has no test of its own", "--test", "leave it out")
    if wishes.dense and wishes.max_loss is not None:
        raise UserError("a dense export has no test", "--max-loss", "leave it out")
    if wishes.limit is not None and wishes.calibrate is None:
        raise UserError("is for --calibrate", "--limit", "leave it out")
    if wishes.max_loss is not None and wishes.calibrate is None and wishes.test is None:
        raise UserError("is for a test", "--max-loss", "give --test, or leave it out")
    if wishes.calibrate is not None:
        refuse_same_images(wishes.calibrate, wishes.test)


def refuse_same_images(calibrate: str, test: str | None) -> None:
    """Raise `UserError` if the images of the test are among those that calibrate."""
    if test is None or test == calibration.CIFAR10:
        return
    place = Path(test).resolve()
    if Path(calibrate).resolve() in (place, *place.parents):
        raise UserError(
            "the images of the test would calibrate too",
            f"--test {test}",
            "leave it out: some of --calibrate are kept for the test; or give other images",
        )


def _refuse_place(out: Path, engine: str) -> None:
    if not out.absolute().parent.is_dir():
        raise UserError("no such folder", str(out.absolute().parent), "make it first")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError("is a file", str(out), "give the name of a new folder")
    place = out.resolve()
    if place.is_mount() or place == Path.cwd():  # which cannot be renamed, or should not
        kind = "a mount point" if place.is_mount() else "the folder that you are in"
        raise UserError(f"is {kind}", str(out), "give the name of a new folder")
    there = {path.name for path in out.iterdir()}
    if there and not (export_folder.is_artefact(str(out)) and there <= export_folder.PARTS):
        other = min(there - export_folder.PARTS, default=export_folder.CONFIG)
        raise UserError(f"the folder holds something else ({other})", str(out), "give a new folder")
    if there and (held := export_folder.read(out).engine) != engine:
        raise UserError(f"the folder holds an export for {held}", str(out), "give a new folder")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place at the end, if all went well."""
    with writing(out):
        place = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    try:
        folder = make_folder(place / "new")
        yield folder
        with writing(out):
            _swap(folder, out, place / "old")
    finally:
        shutil.rmtree(place, ignore_errors=True)
