"""Calibrate a model for int8, test it, and write its int8 file (`resnets quantize`).

`resnets.inference.engine_choice` says when predictions use that file.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from resnets.export import acceptance, calibration, exporter
from resnets.export.calibration import CalibrationOptions
from resnets.inference import export_folder, int8_file
from resnets.inference.deployable import Deployable
from resnets.inference.engines import OpenVinoRuntime, default_precision, openvino
from resnets.inference.int8_file import SCALE, Weights
from resnets.inference.openvino_model import save_openvino, to_openvino
from resnets.support import tensor_files
from resnets.support.errors import UserError
from resnets.support.files import writing
from resnets.weights import hub, model_file
from resnets.weights.card import DETECTION, provenance_of, read_card

_HINT = "nothing was written; calibrate with more images like those of the test"


def quantize(
    name: str, options: CalibrationOptions, report: Callable[[str], None]
) -> dict[str, Any]:
    """Write the int8 file of a model; returns its card, and the file's path as `file`.

    Args:
        name: a model file, a run folder, or a named source.
        options: calibration and test images, limits.
        report: called with a line of text at the start of each step.

    Raises:
        UserError: if the model cannot be calibrated, outputs differ too much from the source's,
            or too much top-1 is lost. Nothing is then written.
    """
    if options.calibrate is None:
        raise UserError("int8 needs images to calibrate with", "", "--calibrate FOLDER")
    path = _find_model(name)
    file = int8_file.path_for(path)
    calibration.refuse_same_images(options)
    _check_writable(file)
    fingerprint = int8_file.fingerprint(path)
    model = model_file.load(str(path))
    images = calibration.find_images(model, options)
    if images.test is None:
        raise UserError(
            f"there is no test of what int8 loses ({images.tested_on})",
            "--calibrate",
            "give labelled images to --test, or export: resnets export --help",
        )
    report(f"calibrating {model.card['network']} with {images.calibrated_with}")
    network = Deployable(model.network, model.preprocessing).eval()
    plain = to_openvino(network, model.preprocessing.size)
    quantized = calibration.quantize(plain.clone(), "openvino", images.calibration)
    # What is tested is what `predict` will run: the file, unpacked. Windows keeps some files open.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trial = Path(folder) / f"trial{int8_file.SUFFIX}"
        trial.write_bytes(pack(quantized, network.weights(), fingerprint))
        packed = int8_file.read(trial)
        int8_file.unpack(packed, network.weights(), xml := Path(folder) / "model.xml")
        results = acceptance.check(
            model,
            OpenVinoRuntime(xml, "int8"),
            images,
            real=calibration.comparison_images((), images, model.preprocessing, False),
            precision="int8",
            max_loss=options.max_loss,
            baseline=OpenVinoRuntime(plain, default_precision(None)),
            hint=_HINT,
            loss_hint=f"{_HINT}, or allow it with --max-loss",
            report=report,
        )
    if int8_file.fingerprint(path) != fingerprint:
        raise UserError("the model file changed during calibration", str(path), "run it again")
    card = {
        "network": model.card["network"],
        "licence": provenance_of(model.card).get("licence"),
        "calibrated_with": images.calibrated_with,
        **exporter.made_by(),
        **results,
        **packed.card,
    }
    content = safetensors.numpy.save(packed.tensors)
    tensor_files.write(file, content, {"card": json.dumps(card)})
    return {**card, "file": str(file)}


def _find_model(name: str) -> Path:
    """The model file; raises `UserError` if the model or this machine cannot be calibrated."""
    if export_folder.is_export(name):
        raise UserError(
            "an export has its own precision", name, "name the model that it was made from"
        )
    if name in hub.shipped() and not Path(name).exists():
        raise UserError(
            "this model is shipped with its calibration",
            name,
            "to calibrate it again, copy its file and name the copy",
        )
    openvino()
    calibration.require_nncf()
    path = hub.resolve(name)
    if DETECTION in read_card(path)[0]:
        hint = f"resnets export {name} --to openvino --precision int8 --calibrate DATA"
        raise UserError("a detector runs in int8 as an export", name, hint)
    return path


def _check_writable(file: Path) -> None:
    """Raise `UserError` if nothing can be written to the folder of `file`."""
    with writing(file), tempfile.TemporaryFile(dir=file.parent):
        pass


def pack(quantized: Any, weights: Weights, made_for: str) -> bytes:
    """The content of an int8 file, with a card that has no results yet.

    Args:
        quantized: OpenVINO's model, as `calibration.quantize` returns it; it is changed.
        weights: the weights to leave out; the file keeps all other constants.
        made_for: `int8_file.fingerprint` of the model file.
    """
    scales = _mark_weights(quantized, weights)
    graph, constants = _ir(quantized)
    offsets = []
    for layer in ElementTree.fromstring(graph).iter("layer"):
        name = str(layer.get("name")).removeprefix(SCALE)
        if name in scales and layer.get("type") == "Const":
            data = layer.find("data")
            assert data is not None
            offset, length = int(data.attrib["offset"]), int(data.attrib["size"])
            constants[offset : offset + length] = bytes(length)
            offsets.append([name, offset])
    size = len(constants)
    card = {"format": int8_file.FORMAT, "made_for": made_for, "places": offsets, "size": size}
    tensors: dict[str, NDArray[Any]] = {
        int8_file.GRAPH: int8_file.compress(graph),
        int8_file.REST: int8_file.compress(bytes(constants)),
        **{SCALE + name: scale for name, scale in scales.items()},
    }
    return safetensors.numpy.save(tensors, {"card": json.dumps(card)})


def _mark_weights(quantized: Any, weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Name int8 constants after their layers, which saving keeps; the scales by layer."""
    scales = {}
    for node in quantized.get_ops():
        if node.get_type_name() != "Multiply":
            continue
        constant = _input(_input(node, 0), 0)
        if constant is None or constant.get_element_type().get_type_name() != "i8":
            continue
        scale = np.array(_input(node, 1).data, np.float32)
        for layer, values in weights.items():
            if layer not in scales and _is_rounded(constant.data, values, scale):
                constant.set_friendly_name(SCALE + layer)
                scales[layer] = scale
                break
    return scales


def _input(node: Any, index: int) -> Any:
    """The node that computes an input of another; None if it has no such input."""
    if node is None or index >= node.get_input_size():
        return None
    return node.input_value(index).get_node()


def _is_rounded(
    integers: NDArray[np.int8], weights: NDArray[np.float32], scale: NDArray[np.float32]
) -> bool:
    """Whether NNCF rounded these weights: as `round_weights` does, or one step off."""
    if integers.shape != weights.shape:
        return False
    try:
        rounded = int8_file.round_weights(weights, scale).astype(int)
    except ValueError:
        return False
    return bool((np.abs(rounded - integers) <= 1).all())


def _ir(model: Any) -> tuple[bytes, bytearray]:
    """The XML and the constants of an OpenVINO model."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        save_openvino(model, file)
        return file.read_bytes(), bytearray(file.with_suffix(".bin").read_bytes())
