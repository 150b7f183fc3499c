"""What a calibration found of a model, in a small file beside its weights: NAME.int8.

It is OpenVINO's int8 network without the weights, which are rounded anew from the model file
where the network is to run. So a network of 100 MB needs 0.3 MB for int8, and neither the images
nor the program that calibrated it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
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

from resnets.support.errors import UserError
from resnets.support.files import remembered_digest

FORMAT = "resnets-int8-1"
ENDING = ".int8"
GRAPH, REST, SCALE = "graph", "rest", "scale."
"""Names of its tensors: the network's XML, its constants that are no weights (both packed by
zlib), and the step between the numbers of each output channel of a layer."""
LARGEST = 64
"""The largest weight: of 7 bits, for CPUs that add products in 16 bits."""
MOST = 1 << 28
"""Bytes that the parts may have; more is no network of ours."""
PIECE = 1 << 24
HINT = "move it away, or make it anew: resnets quantize --help"
WRONG = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, zlib.error)

Weights = Mapping[str, NDArray[np.float32]]
"""Of layers with BN folded, by their names in the network."""


@dataclass(frozen=True)
class Int8File:
    """A file of this kind.

    Args:
        path: where it is.
        card: whose weights it is for, what it was calibrated with, what was lost.
        tensors: as it holds them.
        digest: SHA-256 of the file.
    """

    path: Path
    card: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    digest: str


def beside(model: Path) -> Path:
    """Where the file of a model file belongs."""
    return model.with_name(model.name.removesuffix(".safetensors") + ENDING)


def find(model: Path) -> Int8File | None:
    """The file for the weights of a model file: beside it, or in this package.

    One that was made for other weights, such as those before a training went on, is none.

    Raises:
        UserError: if one is there that cannot be read.
    """
    own = beside(model)
    package = Path(str(resources.files("resnets"))) / "weights" / "shipped" / own.name
    for path in (own, package):
        if path.is_file():
            found = read(path)
            if found.card["made_for"] == fingerprint(model):
                return found
    return None


def read(path: Path) -> Int8File:
    """A file's content; raises `UserError` if it is none."""
    with _opened(path):
        if path.stat().st_size > MOST:
            raise ValueError("too large")
        content = path.read_bytes()
        try:
            tensors = safetensors.numpy.load(content)
        except safetensors.SafetensorError as error:
            raise ValueError(str(error)) from error
        card = json.loads(_header(BytesIO(content))[0]["__metadata__"]["card"])
        if card["format"] != FORMAT:
            raise ValueError(f"format {card['format']!r} is not {FORMAT!r}")
        if not isinstance(card["made_for"], str):
            raise ValueError("it does not tell what it was made for")
        return Int8File(path, card, tensors, hashlib.sha256(content).hexdigest())


def fingerprint(model: Path) -> str:
    """By what a model is known: a digest of its network, preprocessing and all weights."""
    with _opened(model):
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
            while begin < end and (some := file.read(min(end - begin, PIECE))):
                known.update(some)
                begin += len(some)
    return known.hexdigest()


def _header(file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of its tensors, and where their bytes begin."""
    size = int.from_bytes(file.read(8), "little")
    if size > PIECE:
        raise ValueError("no safetensors file")
    header: dict[str, Any] = json.loads(file.read(size))
    return header, 8 + size


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file into a `UserError`."""
    try:
        yield
    except WRONG as error:
        int8 = path.suffix == ENDING
        raise UserError(
            f"not {'an int8 file' if int8 else 'a model file'} of this program ({error})",
            str(path),
            HINT if int8 else "",
        ) from error


def pack(quantized: Any, weights: Weights, made_for: str) -> bytes:
    """The content of a file, with the least that a card tells.

    Args:
        quantized: OpenVINO's model, as `quantizing.quantize` makes it.
        weights: those that need not be kept; other constants of it are.
        made_for: `fingerprint` of the model file.
    """
    scales = _name_weights(quantized, weights)
    graph, constants = _saved(quantized)
    places = []
    for layer in ElementTree.fromstring(graph).iter("layer"):
        name = str(layer.get("name")).removeprefix(SCALE)
        if name in scales and layer.get("type") == "Const":
            data = layer.find("data")
            assert data is not None
            offset, size = int(data.attrib["offset"]), int(data.attrib["size"])
            constants[offset : offset + size] = bytes(size)
            places.append([name, offset])
    card = {"format": FORMAT, "made_for": made_for, "places": places, "size": len(constants)}
    tensors: dict[str, NDArray[Any]] = {GRAPH: _packed(graph), REST: _packed(bytes(constants))}
    tensors |= {SCALE + name: scale for name, scale in scales.items()}
    return safetensors.numpy.save(tensors, {"card": json.dumps(card)})


def with_facts(found: Int8File, facts: Mapping[str, Any]) -> bytes:
    """The content of the same file, with a card that tells more."""
    card = {"card": json.dumps({**facts, **found.card})}
    return safetensors.numpy.save(found.tensors, card)


def _name_weights(quantized: Any, weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Give int8 weights names that the saved graph keeps; the scales by the layers' names."""
    scales = {}
    for node in quantized.get_ops():
        if node.get_type_name() != "Multiply":
            continue
        number = _source(_source(node, 0), 0)
        if number is None or number.get_element_type().get_type_name() != "i8":
            continue
        scale = np.array(_source(node, 1).data, np.float32)
        for layer, values in weights.items():
            if layer not in scales and _is_rounded(number.data, values, scale):
                number.set_friendly_name(SCALE + layer)
                scales[layer] = scale
                break
    return scales


def _source(node: Any, number: int) -> Any:
    """What gives an input of a node; None if it has no such input."""
    if node is None or number >= node.get_input_size():
        return None
    return node.input_value(number).get_node()


def _is_rounded(
    numbers: NDArray[np.int8], weights: NDArray[np.float32], scale: NDArray[np.float32]
) -> bool:
    """Whether numbers are the weights: NNCF rounds as `_rounded` does, or one step off."""
    if numbers.shape != weights.shape:
        return False
    try:
        rounded = _rounded(weights, scale).astype(int)
    except ValueError:
        return False
    return bool((np.abs(rounded - numbers) <= 1).all())


def _saved(model: Any) -> tuple[bytes, bytearray]:
    """The XML and the constants of an OpenVINO model."""
    from resnets.inference import conversion

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        conversion.save_openvino(model, file)
        return file.read_bytes(), bytearray(file.with_suffix(".bin").read_bytes())


def _packed(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(content, 9), np.uint8)


def _unpacked(content: NDArray[np.uint8]) -> bytes:
    """Raises `ValueError` if it is larger than any network, or not whole."""
    expander = zlib.decompressobj()
    found = expander.decompress(content.tobytes(), MOST)
    if not expander.eof or expander.unused_data:
        raise ValueError("a part is not whole")
    return found


def unpack(found: Int8File, weights: Weights, xml: Path) -> None:
    """Write the network as an IR file (.xml, .bin beside it).

    Args:
        weights: of the model that it is for.

    Raises:
        UserError: if the file does not fit them.
        OSError: if it cannot be written.
    """
    with _opened(found.path):
        graph, constants = (_unpacked(found.tensors[part]) for part in (GRAPH, REST))
        places = dict(found.card["places"])
        scales = {name for name in found.tensors if name.startswith(SCALE)}
        if ElementTree.fromstring(graph).tag != "net" or len(constants) != found.card["size"]:
            raise ValueError("no network of OpenVINO, or not all of it")
        if not scales or scales != {SCALE + name for name in places}:
            raise ValueError("weights without places")
        filled = bytearray(constants)
        for name, offset in places.items():
            numbers = _rounded(weights[name], found.tensors[SCALE + name])
            if not 0 <= offset <= len(filled) - numbers.size:
                raise ValueError(f"no place for the weights of {name}")
            filled[offset : offset + numbers.size] = numbers.tobytes()
    xml.with_suffix(".bin").write_bytes(filled)
    xml.write_bytes(graph)


def _rounded(weights: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Weights as multiples of their channels' scales.

    Raises:
        ValueError: if the scales are not those of such weights.
    """
    if scale.ndim != weights.ndim or scale.shape[0] not in (1, weights.shape[0]):
        raise ValueError(f"scales {scale.shape} for weights {weights.shape}")
    with np.errstate(all="ignore"):  # a channel of zeros
        steps = np.where(weights == 0, 0, np.rint(weights / scale))
    if not bool((np.abs(steps) <= LARGEST + 1).all()):
        raise ValueError("scales that are not of these weights")
    found: NDArray[np.int8] = np.clip(steps, -LARGEST, LARGEST).astype(np.int8)
    return found
