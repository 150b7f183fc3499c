"""Export a model to a folder for OpenVINO, ONNX Runtime or `torch.export`, with its model card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from resnets.export import calibration, opsets
from resnets.export.classifier_export import ClassifierExport
from resnets.export.detector_export import DetectorExport
from resnets.export.options import ExportOptions
from resnets.inference import export_folder
from resnets.inference.engines import openvino, package
from resnets.support import unfinished
from resnets.support.devices import environment
from resnets.support.errors import UserError, nearest
from resnets.support.files import (
    existing_folder,
    file_sha256,
    make_folder,
    write_bytes,
    write_json,
    writing,
)
from resnets.version import __version__
from resnets.weights import hub
from resnets.weights.card import DETECTION, provenance_of, read_card
from resnets.weights.model_file import Model

PRECISIONS = ("fp32", "bf16", "int8")
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Packages needed, by engine; OpenVINO is checked on its own."""


def export(
    name: str, out: Path, options: ExportOptions, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Write the export of a model; returns its config.

    Args:
        name: a shipped model, a model file, a run folder, a named source, or another export,
            whose source is then exported.
        out: a new or empty folder, or an earlier export for the same engine, which is replaced.
        options: engine, precision, images.
        report: called with a line of text at the start of each step.

    Raises:
        UserError: if the options do not fit the model or the machine, outputs differ from the
            source's by more than the tolerance, or too much top-1 is lost. Nothing is then written.
    """
    check_export(out, options)
    path = export_folder.source_of(name)
    detects = DETECTION in read_card(path)[0]
    subject: ClassifierExport | DetectorExport = (
        DetectorExport(path, options) if detects else ClassifierExport(path, options)
    )
    config = {
        **subject.description,
        "card": subject.model.card,
        "licence": _licence(subject.model, path),
        "source": {"name": Path(name).name, "sha256": file_sha256(path)},
        "calibrated_with": subject.calibrated_with or None,
        **({"opset": subject.opset} if options.engine == "onnx" else {}),
        **made_by(),
    }
    with _replacing(out) as folder:
        network = subject.model.card["network"]
        report(f"converting {network} for {options.engine} in {options.precision}")
        with writing(out):
            subject.write(folder / export_folder.FILES[options.engine])
        write_json(folder / export_folder.CONFIG, config)
        config |= subject.check(export_folder.read(folder), report)
        write_bytes(folder / export_folder.CARD, subject.model_card(config).encode())
        with writing(out):
            shutil.copyfile(path, folder / export_folder.SOURCE)
        config = export_folder.seal(config, folder)
        write_json(folder / export_folder.CONFIG, config)
    return config


def _licence(model: Model, path: Path) -> str | None:
    """The licence of the weights, if the card states it or they come with this package."""
    licence = provenance_of(model.card).get("licence")
    if licence:
        return str(licence)
    return "MIT, as this package" if path in hub.shipped().values() else None


def made_by() -> dict[str, Any]:
    """Provenance of an export: this machine, the versions of packages, the date."""
    machine = environment(torch.device("cpu"))
    for name in ("openvino", "nncf", "onnx", "onnxscript", "onnxruntime"):
        with suppress(PackageNotFoundError):
            machine["packages"][name] = version(name)
    date = datetime.now(UTC).date().isoformat()
    return {"made_by": {"resnets": __version__, **machine}, "date": date}


def check_export(out: Path, options: ExportOptions) -> None:
    """Raise `UserError` for mistakes that can be found before anything is computed."""
    for kind, value, known, flag in (
        ("engine", options.engine, tuple(export_folder.FILES), "--to"),
        ("precision", options.precision, PRECISIONS, "--precision"),
    ):
        if value not in known:
            raise UserError(f"unknown {kind} {value!r}", flag, nearest(value, known))
    opsets.check(options.opset, options.engine)
    if options.precision == "int8":
        if options.engine == "torch-export":
            raise UserError(
                "int8 is not available for torch-export",
                "--precision int8",
                "--to openvino or --to onnx",
            )
        if options.calibrate is None:
            raise UserError(
                "int8 needs images to calibrate with", "--precision int8", "--calibrate FOLDER"
            )
    elif options.calibrate is not None:
        raise UserError("applies to --precision int8 only", "--calibrate", "leave it out")
    _check_test_options(options)
    if options.engine == "openvino":
        openvino()
    for name in _PACKAGES.get(options.engine, ()):
        package(name, "resnets[export]")
    if options.precision == "int8":
        calibration.require_nncf()
    _check_folder(out, options.engine)


def _check_test_options(options: ExportOptions) -> None:
    """Raise `UserError` for options without effect, and for a test on calibration images."""
    for flag, value in (("--test", options.test), ("--max-loss", options.max_loss)):
        if options.dense and value is not None:
            raise UserError("a dense export has no test", flag, "leave it out")
    if options.limit is not None and options.calibrate is None:
        raise UserError("applies to --calibrate only", "--limit", "leave it out")
    if options.max_loss is not None and options.calibrate is None and options.test is None:
        raise UserError("applies to a test only", "--max-loss", "give --test, or leave it out")
    calibration.refuse_same_images(options)


def _check_folder(out: Path, engine: str) -> None:
    """Raise `UserError` if an export for this engine may not be written to `out`."""
    existing_folder(out.absolute().parent, "make it first")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError("is a file", str(out), "choose a new folder")
    resolved = out.resolve()
    if resolved.is_mount() or resolved == Path.cwd():  # it cannot, or should not, be renamed
        kind = "a mount point" if resolved.is_mount() else "the folder that you are in"
        raise UserError(f"is {kind}", str(out), "choose a new folder")
    files = {path.name for path in out.iterdir()}
    if files and not (export_folder.is_export(str(out)) and files <= export_folder.PARTS):
        other = min(files - export_folder.PARTS, default=export_folder.CONFIG)
        raise UserError(f"the folder holds other files ({other})", str(out), "choose a new folder")
    if files and (earlier := export_folder.read(out).engine) != engine:
        raise UserError(
            f"the folder holds an export for {earlier}", str(out), "choose a new folder"
        )


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A temporary folder next to `out` that replaces `out` at the end, unless there is an error."""
    with ExitStack() as stack:
        with writing(out):
            temporary = stack.enter_context(unfinished.folder(out))
        folder = make_folder(temporary / "new")
        yield folder
        with writing(out):
            _rename(folder, out, temporary / "old")


def _rename(folder: Path, out: Path, old: Path) -> None:
    """Rename `folder` to `out`, and an earlier `out` to `old`; on an error `out` is as before."""
    if not out.exists():
        folder.rename(out)
        return
    try:
        out.rename(old)
        folder.rename(out)
    except BaseException:  # also Ctrl-C
        if not out.exists():
            old.rename(out)
        raise
