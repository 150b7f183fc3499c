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
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from resnets.support.errors import UserError
from resnets.weights import cards

FORMAT = "resnets-int8-1"
ENDING = ".int8"
GRAPH, REST, SCALE = "graph", "rest", "scale."
"""Names of its tensors: the network's XML, its constants that are no weights (both packed by
zlib), and the step between the numbers of each output channel of a layer."""
LARGEST = 64
"""The largest weight: of 7 bits, for CPUs that add products in 16 bits."""
MOST = 1 << 28
"""Bytes that the parts may have; more is no network of ours."""

Weights = Mapping[str, NDArray[np.float32]]
"""Of layers with BN folded, by their names in the network."""


@dataclass(frozen=True)
class Int8File:
    """A file of this kind.

    Args:
        path: where it is.
        card: whose weights it is for, what it was calibrated with, what was lost.
        digest: SHA-256 of the file.
    """

    path: Path
    card: dict[str, Any]
    digest: str


def beside(model: Path) -> Path:
    """Where the file of a model file belongs."""
    return model.with_suffix(ENDING)


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
            if found.card["weights_of"] == fingerprint(model):
                return found
    return None


def read(path: Path) -> Int8File:
    """The card of a file; raises `UserError` if it is none."""
    with _opened(path):
        content = path.read_bytes()
        card = json.loads(_header(path)[0]["__metadata__"]["card"])
        if card["format"] != FORMAT or not isinstance(card["weights_of"], str):
            raise ValueError(f"format {card['format']!r} is not {FORMAT!r}")
        return Int8File(path, card, hashlib.sha256(content).hexdigest())


def fingerprint(model: Path) -> str:
    """By which weights are known: a digest of names, shapes, and the numbers of vectors and mean.

    Training changes the vectors, of BN and the classifier, and they are read in a moment.
    """
    with _opened(model):
        header, start = _header(model)
        known = hashlib.sha256()
        with model.open("rb") as file:
            for name in sorted(header.keys() - {"__metadata__"}):
                about = header[name]
                known.update(f"{name} {about['dtype']} {about['shape']}\n".encode())
                if len(about["shape"]) == 1 or name == cards.MEAN:
                    known.update(_part(file, start, about["data_offsets"]))
    return known.hexdigest()


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of its tensors, and where their bytes begin."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(MOST, path.stat().st_size):
            raise ValueError("no safetensors file")
        header: dict[str, Any] = json.loads(file.read(size))
        return header, 8 + size


def _part(file: BinaryIO, start: int, offsets: list[int]) -> bytes:
    begin, end = offsets
    file.seek(start + begin)
    return file.read(min(end - begin, MOST))


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file into a `UserError`."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, zlib.error) as error:
        int8 = path.suffix == ENDING
        raise UserError(
            f"not {'an int8 file' if int8 else 'a model file'} of this program ({error})",
            str(path),
            "move it away, or make it anew: resnets quantize --help" if int8 else "",
        ) from error


def pack(quantized: Any, weights: Weights, model: Path, facts: Mapping[str, Any]) -> bytes:
    """The content of a file.

    Args:
        quantized: OpenVINO's model, as `quantizing.quantize` makes it.
        weights: those that need not be kept; other constants of it are.
        model: the model file.
        facts: what else the card tells.
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
    card = {
        **facts,
        "format": FORMAT,
        "weights_of": fingerprint(model),
        "places": places,
        "size": len(constants),
    }
    tensors: dict[str, NDArray[Any]] = {GRAPH: _packed(graph), REST: _packed(bytes(constants))}
    tensors |= {SCALE + name: scale for name, scale in scales.items()}
    return safetensors.numpy.save(tensors, {"card": json.dumps(card)})


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
    if numbers.shape != weights.shape or scale.ndim != weights.ndim:
        return False
    return bool((np.abs(_rounded(weights, scale).astype(int) - numbers) <= 1).all())


def _saved(model: Any) -> tuple[bytes, bytearray]:
    """The XML and the constants of an OpenVINO model."""
    from resnets.deploy import conversion

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        conversion.save_openvino(model, file)
        return file.read_bytes(), bytearray(file.with_suffix(".bin").read_bytes())


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return safetensors.numpy.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error


def _packed(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(content, 9), np.uint8)


def _unpacked(content: NDArray[np.uint8]) -> bytes:
    """Raises `ValueError` if it is larger than any network."""
    expander = zlib.decompressobj()
    found = expander.decompress(content.tobytes(), MOST)
    if expander.unconsumed_tail:
        raise ValueError("too large")
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
        tensors = _tensors(found.path)
        graph, constants = (_unpacked(tensors[part]) for part in (GRAPH, REST))
        filled = bytearray(constants)
        for name, offset in found.card["places"]:
            numbers = _rounded(weights[name], tensors[SCALE + name])
            if not 0 <= offset <= len(filled) - numbers.size:
                raise ValueError(f"no place for the weights of {name}")
            filled[offset : offset + numbers.size] = numbers.tobytes()
    xml.with_suffix(".bin").write_bytes(filled)
    xml.write_bytes(graph)


def _rounded(weights: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    if scale.ndim != weights.ndim or scale.shape[0] not in (1, weights.shape[0]):
        raise ValueError(f"scales {scale.shape} for weights {weights.shape}")
    with np.errstate(divide="ignore", invalid="ignore"):  # a channel of zeros
        steps = np.nan_to_num(np.rint(weights / scale))
    found: NDArray[np.int8] = np.clip(steps, -LARGEST, LARGEST).astype(np.int8)
    return found
