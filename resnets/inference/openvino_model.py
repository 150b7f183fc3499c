"""Models in OpenVINO: conversion of networks, and the converted models in the cache.

torch is imported only for a conversion, so that a model in the cache opens without it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnets.inference import int8_file
from resnets.inference.engines import (
    INPUT,
    OUTPUTS,
    OpenVinoRuntime,
    Precision,
    openvino,
    without_warnings,
)
from resnets.inference.int8_file import Int8File
from resnets.support import unfinished
from resnets.support.errors import UserError
from resnets.support.files import (
    cache_folder,
    locked,
    make_folder,
    sync,
    temporary_cache,
    temporary_folder,
    writing,
)

if TYPE_CHECKING:
    from resnets.inference.deployable import Deployable

GRAPH_VERSION = 1
"""To be increased with every change of `Deployable`: caches of older graphs are then not used."""


def to_openvino(network: Deployable, size: int) -> Any:
    """An `openvino.Model`: uint8 `images` to float32 `logits` and `features`.

    Args:
        network: in evaluation mode.
        size: height and width of the images in pixels; a dense network takes any.

    Raises:
        UserError: if OpenVINO is not installed.
    """
    import torch

    ov = openvino()
    side = -1 if network.dense else size
    with torch.no_grad(), without_warnings():
        model = ov.convert_model(
            network,
            example_input=network.example_images(size),
            input=[ov.PartialShape([-1, 3, side, side])],
        )
    model.inputs[0].set_names({INPUT})
    for output, name in zip(model.outputs, OUTPUTS, strict=True):
        output.set_names({name})
    return model


def save_openvino(model: Any, file: Path) -> None:
    """Write an OpenVINO model as IR: `file` (.xml) and its weights (.bin); raises `OSError`."""
    try:
        openvino().save_model(model, file, compress_to_fp16=False)
    except RuntimeError as error:  # OpenVINO does not say why
        raise OSError(f"OpenVINO: {str(error).strip().splitlines()[-1]}") from error


def open_in_openvino(
    path: Path, digest: str, precision: Precision, int8: Int8File | None
) -> OpenVinoRuntime:
    """Open a model file in OpenVINO; the converted network comes from the cache if it runs.

    Args:
        path: the model file.
        digest: of the model file and the int8 file, the key in the cache.
        precision: of the floating-point layers.
        int8: the int8 file to run it with, if any.

    Raises:
        UserError: if OpenVINO is not installed or cannot run the network, or a file is damaged.
    """
    compiled, converted = compiled_folder(), _converted_file(digest)
    if converted.exists():
        with suppress(UserError):
            return OpenVinoRuntime(converted, precision, compiled)
    try:
        converted = _convert_somewhere(path, converted, int8)
        return OpenVinoRuntime(converted, precision, compiled)
    except UserError as error:
        if int8 is None or error.location != str(converted):
            raise
        raise UserError(error.message, str(int8.path), int8_file.HINT) from error


def compiled_folder() -> Path:
    """The folder in the cache in which OpenVINO keeps compiled networks."""
    return cache_folder("openvino", "compiled")


def _converted_file(digest: str) -> Path:
    """The IR file in the cache for weights with this digest; it need not exist."""
    version = openvino().get_version().split("-")[0]
    return cache_folder("openvino", f"{digest[:24]}-{GRAPH_VERSION}-{version}") / "model.xml"


def _convert_somewhere(path: Path, converted: Path, int8: Int8File | None) -> Path:
    """Convert a model file to `converted`, or to a temporary folder if the cache has no room."""
    try:
        return _convert(path, converted, int8)
    except UserError as error:
        if not Path(error.location).is_relative_to(converted.parent):
            raise
        made = temporary_folder() / "openvino" / converted.parent.name / converted.name
        _convert(path, made, int8)
        temporary_cache(f"{error.location}: {error.message}")  # announces it
        return made


def _convert(path: Path, converted: Path, int8: Int8File | None) -> Path:
    """Convert a model file to the IR file `converted`, and return it.

    Raises:
        UserError: if the disk is full or the folder read-only.
    """
    folder = make_folder(converted.parent)
    before = _file_state(converted)
    with writing(folder), locked(folder / ".lock"):
        if _file_state(converted) == before:  # else another process has just written it
            with unfinished.folder(converted) as temporary:
                _write_ir(path, temporary / converted.name, int8)
                for suffix in (".bin", ".xml"):  # the .xml last: it marks a complete pair
                    file = converted.with_suffix(suffix)
                    sync(temporary / file.name)
                    (temporary / file.name).replace(file)
    return converted


def _write_ir(path: Path, xml: Path, int8: Int8File | None) -> None:
    """Write a model file's network as an IR file (.xml, and .bin with the weights)."""
    from resnets.inference.deployable import Deployable
    from resnets.weights import model_file

    model = model_file.load(str(path))
    network = Deployable(model.network, model.preprocessing)
    if int8 is None:
        save_openvino(to_openvino(network, model.preprocessing.size), xml)
    else:
        int8_file.unpack(int8, network.weights(), xml)


def _file_state(file: Path) -> tuple[int, int] | None:
    """Inode and time of change of a file, which its replacement does not share; None if absent."""
    with suppress(FileNotFoundError):
        status = file.stat()
        return status.st_ino, status.st_mtime_ns
    return None
