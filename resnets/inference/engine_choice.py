"""Which engine and precision run a model: the defaults, and when int8 is used."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resnets.inference import export_folder, int8_file
from resnets.inference.engines import Precision, default_precision, has_openvino
from resnets.inference.int8_file import Int8File
from resnets.support.devices import find_device, is_surely_cpu
from resnets.support.errors import UserError, nearest

if TYPE_CHECKING:
    import torch

RUNTIMES = ("auto", "torch", "openvino")
PRECISIONS = ("auto", "fp32", "bf16", "int8")


class EngineChoice(NamedTuple):
    """How a model file is run.

    Args:
        runtime: `torch` or `openvino`.
        precision: of the network.
        int8: the int8 file to run it with; only for the precision `int8`.
    """

    runtime: str
    precision: Precision
    int8: Int8File | None


def choose_engine(
    name: str,
    path: Path,
    runtime: str,
    precision: str,
    device: torch.device | None,
    *,
    allow_int8: bool,
) -> EngineChoice:
    """Choose engine and precision for a model file; the arguments are those of `open_predictor`.

    Args:
        name: of the model, for messages.
        path: the model file.
        device: None is the CPU.

    Raises:
        UserError: if the model cannot be run in this way.
    """
    if runtime == "auto":
        openvino_suits = device is None and (has_openvino() or precision == "int8")
        runtime = "openvino" if openvino_suits else "torch"
    int8 = _find_int8(name, path, runtime, precision, device, allow_int8)
    if runtime == "openvino" and device is not None:
        raise UserError(f"OpenVINO runs on CPUs, not on {device}", "--runtime openvino")
    if int8 is not None:
        return EngineChoice(runtime, "int8", int8)
    chosen: Precision = default_precision(device) if precision == "auto" else precision  # type: ignore[assignment]
    return EngineChoice(runtime, chosen, None)


def _find_int8(
    name: str,
    path: Path,
    runtime: str,
    precision: str,
    device: torch.device | None,
    allow_int8: bool,
) -> Int8File | None:
    """The int8 file that a model is run with; None if it runs in another precision.

    This is the rule for int8. The precision `int8` always runs in int8, or raises `UserError`.
    `auto` does so if all of these hold: the caller allows it (servers and features do not),
    OpenVINO runs the model, it has been calibrated, and int8 is faster on this kind of CPU.
    """
    requested = precision == "int8"
    if requested and device is not None:
        raise UserError("int8 runs on CPUs only", "--precision int8", "add --device cpu")
    if requested and runtime == "torch":
        raise UserError("int8 runs in OpenVINO only", "--precision int8", "leave --runtime out")
    suits = precision == "auto" and runtime == "openvino" and allow_int8 and int8_is_faster()
    file = int8_file.find(path) if requested or suits else None
    if requested and file is None:
        raise UserError(
            f"{name} has not been calibrated",
            "--precision int8",
            f"resnets quantize {name} --calibrate FOLDER",
        )
    return file


def int8_is_faster() -> bool:
    """Whether int8 was measured to be faster on CPUs of this machine's kind (docs/speed.md)."""
    return platform.machine().lower() in ("x86_64", "amd64")


def check_engine(name: str, runtime: str, precision: str) -> None:
    """Raise `UserError` if there is no such engine or precision for the model `name`."""
    for kind, value, known in (
        ("runtime", runtime, RUNTIMES),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            exported = value in export_folder.FILES
            hint = f"export the model: resnets export {name} --help" if exported else ""
            raise UserError(f"unknown {kind} {value!r}", f"--{kind}", hint or nearest(value, known))


def device_for(name: str, runtime: str, device: str) -> torch.device | None:
    """The device that a model runs on; None is the CPU, chosen without torch where possible.

    Args:
        name: of the model.
        runtime: as for `open_predictor`.
        device: as for `find_device`; with `auto`, exports and OpenVINO stay on the CPU.

    Raises:
        UserError: if there is no such device.
    """
    on_cpu = device == "auto" and (runtime == "openvino" or export_folder.is_export(name))
    return None if on_cpu or is_surely_cpu(device) else find_device(device)
