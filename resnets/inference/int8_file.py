"""The int8 file of a model, `NAME.int8` next to `NAME.safetensors`: how OpenVINO runs it in int8.

It holds OpenVINO's int8 graph and the scales of the weights, but not the weights: they are
rounded from the model file when the network is first opened. So a model of 100 MB needs 0.3 MB for
int8, and neither calibration images nor NNCF. `resnets.export.int8` writes such files;
`resnets.inference.engine_choice` says when a model is run with one.

Format `resnets-int8-1`: safetensors with the tensors `graph` (XML) and `rest` (the constants of the
graph with zeros instead of weights), both compressed by zlib, and `scale.LAYER`, the step between
the integers of each output channel. The metadata has the card as JSON: `format`, `made_for` (the
`fingerprint` of the model file), `places` ([layer, offset in the constants]), `size` (of the
constants in bytes), and the results of the calibration.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from resnets.support import tensor_files
from resnets.support.errors import UserError, one_line
from resnets.support.files import remembered_digest

FORMAT = "resnets-int8-1"
SUFFIX = ".int8"
GRAPH, REST, SCALE = "graph", "rest", "scale."
"""Names of the tensors; `scale.` is followed by the name of the layer."""
HINT = "move it away, or calibrate again: resnets quantize --help"
_LARGEST_WEIGHT = 64
"""7 bits, for CPUs that add products in 16 bits."""
_MAX_BYTES = 1 << 28
"""Largest size of the file, and of each of its parts once decompressed."""
_CHUNK = 1 << 24
_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, zlib.error)

Weights = Mapping[str, NDArray[np.float32]]
"""Weights of convolutions and classifier with BN folded, by their names in the network."""


@dataclass(frozen=True)
class Int8File:
    """The content of an int8 file.

    Args:
        path: the file.
        card: which weights it fits, what it was calibrated with, the measured loss.
        tensors: all tensors, by name.
        digest: SHA-256 of the file.
    """

    path: Path
    card: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    digest: str


def path_for(model: Path) -> Path:
    """The path of a model file's int8 file: the same name with the suffix `.int8`."""
    return model.with_name(model.name.removesuffix(".safetensors") + SUFFIX)


def find(model: Path) -> Int8File | None:
    """The int8 file of a model file: next to it, or shipped with this package.

    A file that was made for other weights, such as those of an earlier training, is ignored.

    Raises:
        UserError: if such a file exists but cannot be read.
    """
    own = path_for(model)
    shipped = Path(str(resources.files("resnets"))) / "weights" / "shipped" / own.name
    for path in (own, shipped):
        if path.is_file():
            file = read(path)
            if file.card["made_for"] == fingerprint(model):
                return file
    return None


def read(path: Path) -> Int8File:
    """Read an int8 file; raises `UserError` if it is damaged or of another kind."""
    with _describing_errors(path):
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("too large")
        tensor_files.check(path)
        content = path.read_bytes()
        try:
            tensors = safetensors.numpy.load(content)
        except safetensors.SafetensorError as error:
            raise ValueError("it is cut off or damaged") from error
        card = json.loads(_header(BytesIO(content))[0]["__metadata__"]["card"])
        if card["format"] != FORMAT:
            raise ValueError(f"format {card['format']!r} is not {FORMAT!r}")
        if not isinstance(card["made_for"], str):
            raise ValueError("the card does not say which model the file was made for")
        return Int8File(path, card, tensors, hashlib.sha256(content).hexdigest())


def fingerprint(model: Path) -> str:
    """SHA-256 of a model file's network, preprocessing and all weights; raises `UserError`.

    Other parts of the card, such as test results, may change without invalidating an int8 file.
    """
    with _describing_errors(model):
        return remembered_digest(model, f"{FORMAT} fingerprint", _fingerprint)


def _fingerprint(model: Path) -> str:
    with model.open("rb") as file:
        header, start = _header(file)
        card = json.loads(header.pop("__metadata__")["card"])
        known = hashlib.sha256(json.dumps([card["network"], card["preprocessing"]]).encode())
        for name in sorted(header):
            about = header[name]
            known.update(f"{name} {about['dtype']} {about['shape']}\n".encode())
            begin, end = about["data_offsets"]
            file.seek(start + begin)
            while begin < end and (chunk := file.read(min(end - begin, _CHUNK))):
                known.update(chunk)
                begin += len(chunk)
    return known.hexdigest()


def _header(file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and the position at which its tensors begin."""
    size = int.from_bytes(file.read(8), "little")
    if size > _CHUNK:
        raise ValueError("no safetensors file")
    header: dict[str, Any] = json.loads(file.read(size))
    return header, 8 + size


@contextmanager
def _describing_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into a `UserError`."""
    try:
        yield
    except _ERRORS as error:
        int8 = path.suffix == SUFFIX
        raise UserError(
            f"not {'an int8 file' if int8 else 'a model file'} of this program ({one_line(error)})",
            str(path),
            HINT if int8 else "",
        ) from error


def unpack(file: Int8File, weights: Weights, xml: Path) -> None:
    """Write the int8 network as OpenVINO IR: `xml`, and its constants as .bin next to it.

    Args:
        file: the int8 file.
        weights: those of the model that the file was made for.
        xml: the path to write to.

    Raises:
        UserError: if the file does not fit the weights.
        OSError: if the network cannot be written.
    """
    with _describing_errors(file.path):
        graph, rest = (_decompress(file.tensors[part]) for part in (GRAPH, REST))
        offsets = dict(file.card["places"])
        scales = {name for name in file.tensors if name.startswith(SCALE)}
        if ElementTree.fromstring(graph).tag != "net" or len(rest) != file.card["size"]:
            raise ValueError("not a network of OpenVINO, or incomplete")
        if not scales or scales != {SCALE + name for name in offsets}:
            raise ValueError("scales and offsets do not match")
        constants = bytearray(rest)
        for name, offset in offsets.items():
            integers = round_weights(weights[name], file.tensors[SCALE + name])
            if not 0 <= offset <= len(constants) - integers.size:
                raise ValueError(f"the offset of {name} is out of range")
            constants[offset : offset + integers.size] = integers.tobytes()
    xml.with_suffix(".bin").write_bytes(constants)
    xml.write_bytes(graph)


def compress(content: bytes) -> NDArray[np.uint8]:
    """Bytes as a tensor of an int8 file."""
    return np.frombuffer(zlib.compress(content, 9), np.uint8)


def _decompress(content: NDArray[np.uint8]) -> bytes:
    """The bytes of a compressed tensor; raises `ValueError` if incomplete or too large."""
    expander = zlib.decompressobj()
    expanded = expander.decompress(content.tobytes(), _MAX_BYTES)
    if not expander.eof or expander.unused_data:
        raise ValueError("a compressed part is incomplete")
    return expanded


def round_weights(weights: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Weights as integer multiples of their channels' scales.

    Args:
        weights: of a layer, (out, ...).
        scale: (out or 1, 1, ...), with as many axes.

    Raises:
        ValueError: if the scales do not belong to these weights.
    """
    if scale.ndim != weights.ndim or scale.shape[0] not in (1, weights.shape[0]):
        raise ValueError(f"scales {scale.shape} for weights {weights.shape}")
    with np.errstate(all="ignore"):  # a channel of zeros may have the scale 0
        steps = np.where(weights == 0, 0, np.rint(weights / scale))
    if not bool((np.abs(steps) <= _LARGEST_WEIGHT + 1).all()):
        raise ValueError("the scales do not fit the weights")
    return np.clip(steps, -_LARGEST_WEIGHT, _LARGEST_WEIGHT).astype(np.int8)
