"""A model made ready to answer: found by name, in the engine that suits the machine."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from resnets.data.preprocessing import CentralCrop, to_array
from resnets.inference import export_folder, int8_file
from resnets.inference.engines import (
    OnnxRuntime,
    OpenVinoRuntime,
    Precision,
    Runtime,
    TorchExportRuntime,
    TorchRuntime,
    default_precision,
    has_openvino,
    openvino,
)
from resnets.inference.int8_file import Int8File
from resnets.support.devices import find_device, is_surely_cpu
from resnets.support.errors import UserError, nearest
from resnets.support.files import cache_folder, file_sha256, make_folder, sync, writing
from resnets.weights import hub
from resnets.weights.card import read_card

if TYPE_CHECKING:
    import torch
    from torch import Tensor


RUNTIMES = ("auto", "torch", "openvino")
PRECISIONS = ("auto", "fp32", "bf16", "int8")
SPARE = 2
"""Large JPEGs are decoded at a smaller scale, but still so many times what is shown to networks."""
GRAPH = 1
"""Counts changes of `Deployable`, so that none takes another's graph from the cache."""


@dataclass(frozen=True)
class Predictor:
    """A model ready to answer.

    Args:
        name: as the user called it.
        card: network, classes, provenance, measured error.
        preprocessing: the image's part; scaling is the runtime's work.
        runtime: the network.
        digest: SHA-256 of the file of weights, or of the exported network.
    """

    name: str
    card: dict[str, Any]
    preprocessing: CentralCrop
    runtime: Runtime
    digest: str

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the logits."""
        return list(self.card["classes"])

    @property
    def shorter(self) -> int:
        """Pixels that the shorter side of an image must keep as it is decoded."""
        return SPARE * self.preprocessing.resize

    def array(self, image: Any) -> NDArray[np.uint8]:
        """What the network looks at of an upright RGB image: uint8 (3, size, size)."""
        return to_array(self.preprocessing.crop(image))

    def pixels(self, image: Any) -> Tensor:
        """The same as a tensor."""
        import torch

        return torch.from_numpy(self.array(image))


def check_words(name: str, runtime: str, precision: str) -> None:
    """Raise `UserError` if no engine or precision for the model `name` is called so."""
    for word, known, option in (
        (runtime, RUNTIMES, "--runtime"),
        (precision, PRECISIONS, "--precision"),
    ):
        if word not in known:
            exported = word in export_folder.FILES
            hint = f"export the model: resnets export {name} --help" if exported else ""
            raise UserError(f"unknown word {word!r}", option, hint or nearest(word, known))


def device_for(name: str, runtime: str, device: str) -> torch.device | None:
    """The device that a user means; None is the CPU, told without torch where that can be.

    Args:
        name: of the model; with `auto`, exports and OpenVINO stay on the CPU.
        runtime: as for `open_predictor`.
        device: as for `find_device`.

    Raises:
        UserError: if there is no such device.
    """
    on_cpu = device == "auto" and (runtime == "openvino" or export_folder.is_export(name))
    return None if on_cpu or is_surely_cpu(device) else find_device(device)


def open_predictor(
    name: str,
    runtime: str = "auto",
    precision: str = "auto",
    device: torch.device | None = None,
    exact: bool = False,
) -> Predictor:
    """Make a model ready.

    Args:
        name: a shipped model, a model file, a run folder, a named source, or the folder of an
            export, which brings its own engine and precision.
        runtime: `torch`, `openvino`, or `auto`: OpenVINO on CPUs where it is installed.
        precision: `fp32`, `bf16`, `int8`, or `auto`: in OpenVINO int8 for models that have been
            calibrated, else bf16 where the machine multiplies it in hardware.
        device: the CPU by default; no torch is imported for it where the engine needs none.
        exact: never let `auto` mean int8.

    Raises:
        UserError: if there is no such model, or it cannot be run so.
    """
    if device is not None and device.type == "cpu":
        device = None
    if export_folder.is_export(name):
        return _open_export(name, runtime, precision, device)
    check_words(name, runtime, precision)
    path = hub.resolve(name)
    digest = file_sha256(path)
    if runtime == "auto":
        wanted = has_openvino() or precision == "int8"
        runtime = "openvino" if device is None and wanted else "torch"
    int8 = _int8(name, path, runtime, precision, device, exact)
    chosen: Precision = default_precision(device) if precision == "auto" else precision  # type: ignore[assignment]
    if runtime == "openvino":
        if device is not None:
            raise UserError(f"OpenVINO runs on CPUs, not on {device}", "--runtime openvino")
        if int8 is not None:
            chosen, digest = "int8", hashlib.sha256((digest + int8.digest).encode()).hexdigest()
        card, look = read_card(path)
        return Predictor(name, card, look, _in_openvino(path, digest, chosen, int8), digest)
    return _open_in_torch(name, path, digest, device, chosen)


def _int8(
    name: str, path: Path, runtime: str, precision: str, device: torch.device | None, exact: bool
) -> Int8File | None:
    """What the model is to be run in int8 with, if it is; raises `UserError` if it cannot be."""
    asked = precision == "int8"
    if asked and device is not None:
        raise UserError("int8 runs on CPUs only", "--precision int8", "add --device cpu")
    if asked and runtime == "torch":
        raise UserError("int8 runs in OpenVINO only", "--precision int8", "leave --runtime out")
    wanted = asked or (precision == "auto" and runtime == "openvino" and not exact)
    found = int8_file.find(path) if wanted and (asked or gains_by_int8()) else None
    if asked and found is None:
        raise UserError(
            f"{name} has not been calibrated",
            "--precision int8",
            f"resnets quantize {name} --calibrate FOLDER",
        )
    return found


def gains_by_int8() -> bool:
    """Whether CPUs are of the kind on which int8 was measured to be faster (docs/speed.md)."""
    return platform.machine().lower() in ("x86_64", "amd64")


def _in_openvino(
    path: Path, digest: str, precision: Precision, int8: Int8File | None
) -> OpenVinoRuntime:
    """A model file in OpenVINO; what the cache holds of it is made anew if it cannot be run."""
    compiled = _compiled_folder()
    found = _cached(digest)
    if found.exists():
        with suppress(UserError):
            return OpenVinoRuntime(found, precision, compiled)
    try:
        return OpenVinoRuntime(_convert(path, found, int8), precision, compiled)
    except UserError as error:
        if int8 is None or error.location != str(found):
            raise
        raise UserError(error.message, str(int8.path), int8_file.HINT) from error


def _open_in_torch(
    name: str, path: Path, digest: str, device: torch.device | None, precision: Precision
) -> Predictor:
    import torch

    from resnets.inference.deployable import Deployable
    from resnets.weights import model_file

    model = model_file.load(str(path))
    network = Deployable(model.network, model.preprocessing)
    engine = TorchRuntime(network, device or torch.device("cpu"), precision)
    return Predictor(name, model.card, model.preprocessing, engine, digest)


def _open_export(name: str, runtime: str, precision: str, device: torch.device | None) -> Predictor:
    """An exported model in its own engine."""
    found = export_folder.read(Path(name))
    for word, own, option in (
        (runtime, found.engine, "--runtime"),
        (precision, found.precision, "--precision"),
    ):
        if word not in ("auto", own):
            hint = "leave the option out, or name the model it was made from"
            raise UserError(f"this export is for {own}, not {word}", f"{option} {word}", hint)
    if device is not None:
        raise UserError(f"exported models run on CPUs, not on {device}", name)
    if found.dense:
        raise UserError(
            "a dense export answers for every place of an image, not for images",
            name,
            "export without --dense",
        )
    engine = open_engine(found)
    return Predictor(name, found.card, found.preprocessing, engine, _digest_of_export(found))


def open_engine(found: export_folder.Export, keep: bool = True) -> Runtime:
    """The network of an exported model, ready to run on the CPU.

    Args:
        keep: what OpenVINO compiles, for the next start.
    """
    precision: Precision = found.precision  # type: ignore[assignment]
    if found.engine == "openvino":
        return OpenVinoRuntime(found.file, precision, _compiled_folder() if keep else None)
    if found.engine == "onnx":
        return OnnxRuntime(found.file, precision)
    return TorchExportRuntime(found.file, precision)


def _digest_of_export(found: export_folder.Export) -> str:
    """SHA-256 of the network's file, of its weights where they lie beside it, and the config."""
    files = (found.file, found.file.with_suffix(".bin"), found.folder / export_folder.CONFIG)
    digests = "".join(file_sha256(file) for file in files if file.exists())
    return hashlib.sha256(digests.encode()).hexdigest()


def _compiled_folder() -> Path:
    return cache_folder("openvino", "compiled")


def _cached(digest: str) -> Path:
    """Where the cache has the IR file of a model file, if it has it."""
    version = openvino().get_version().split("-")[0]
    return cache_folder("openvino", f"{digest[:24]}-{GRAPH}-{version}") / "model.xml"


def _convert(path: Path, whole: Path, int8: Int8File | None) -> Path:
    """Make the IR file `whole` of a model file; gives it back.

    Raises:
        UserError: if the disk is full or its folder read-only.
    """
    folder = make_folder(whole.parent)
    before = _state(whole)
    with writing(folder), FileLock(folder / ".lock"):
        if _state(whole) == before:  # else another process has just made it
            with tempfile.TemporaryDirectory(dir=folder) as place:
                _write(path, Path(place) / whole.name, int8)
                for ending in (".bin", ".xml"):  # the last one tells that it is whole
                    file = whole.with_suffix(ending)
                    sync(Path(place) / file.name)
                    (Path(place) / file.name).replace(file)
    return whole


def _write(path: Path, xml: Path, int8: Int8File | None) -> None:
    """Write a model file's network as an IR file."""
    from resnets.inference import conversion
    from resnets.inference.deployable import Deployable
    from resnets.weights import model_file

    model = model_file.load(str(path))
    network = Deployable(model.network, model.preprocessing)
    if int8 is None:
        made = conversion.to_openvino(network, model.preprocessing.size)
        conversion.save_openvino(made, xml)
    else:
        int8_file.unpack(int8, network.weights(), xml)


def _state(file: Path) -> tuple[int, int] | None:
    """By which a file is known from its successor; None if there is none."""
    with suppress(FileNotFoundError):
        about = file.stat()
        return about.st_ino, about.st_mtime_ns
    return None
