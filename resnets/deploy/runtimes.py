"""Engines that run a deployed network: PyTorch, OpenVINO, ONNX Runtime, all with one face."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from resnets.deploy import pt2
from resnets.deploy.graph import Deployable, Outputs
from resnets.support.devices import cores, has_bf16
from resnets.support.errors import UserError

Precision = Literal["fp32", "bf16", "int8"]
INPUT = "images"
OUTPUTS = ("logits", "features")
"""Names of the input and the outputs of every exported network."""


class Runtime(Protocol):
    """A network made ready. It may be called from several threads, one call at a time."""

    @property
    def name(self) -> str:
        """Engine and precision, such as `openvino bf16`."""

    def __call__(self, images: Tensor) -> Outputs:
        """uint8 images (N, 3, H, W), RGB, on the CPU, to outputs on the CPU."""


class TorchRuntime:
    """PyTorch, eager.

    Args:
        network: as `Deployable` takes pixels; it is changed.
        precision: bf16 rounds weights and maps; pixels are scaled, and outputs given, in float32.
    """

    def __init__(self, network: Deployable, device: torch.device, precision: Precision) -> None:
        self.name = f"torch {precision}"
        self._device = device
        if precision == "bf16":
            network.network.to(torch.bfloat16)
        self._network: nn.Module = network.to(device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Outputs:
        images = images.to(self._device).contiguous(memory_format=torch.channels_last)
        logits, features = self._network(images)
        return Outputs(logits.cpu(), features.cpu())


class OpenVinoRuntime:
    """OpenVINO on the CPU.

    Args:
        model: an IR file (.xml), or a model of OpenVINO.
        precision: what floating-point layers are computed in; int8 ones stay int8.
        compiled: folder that keeps what was compiled, for the next start.
    """

    def __init__(self, model: Path | Any, precision: Precision, compiled: Path | None = None):
        ov = openvino()
        self.name = f"openvino {precision}"
        core = ov.Core()
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads(),
        }
        if compiled is not None:
            settings["CACHE_DIR"] = str(compiled)
        try:
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise UserError(
                f"OpenVINO cannot run this network ({_first_line(error)})",
                str(model) if isinstance(model, Path) else "",
            ) from error

    def __call__(self, images: Tensor) -> Outputs:
        found = self._compiled(images.contiguous().numpy(), share_inputs=True)
        logits, features = (torch.from_numpy(np.array(found[i], np.float32)) for i in (0, 1))
        return Outputs(logits, features)


class OnnxRuntime:
    """ONNX Runtime on the CPU.

    Args:
        model: an ONNX file.
        precision: of the file; ONNX Runtime has no bf16 convolutions on CPUs: weights in bf16
            are computed with in float32.
    """

    def __init__(self, model: Path, precision: Precision) -> None:
        ort = package("onnxruntime", "onnxruntime")
        self.name = f"onnx {precision}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads()
        try:
            self._session = ort.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no base but this
            raise UserError(
                f"ONNX Runtime cannot run this network ({_first_line(error)})", str(model)
            ) from error

    def __call__(self, images: Tensor) -> Outputs:
        found = self._session.run(list(OUTPUTS), {INPUT: images.contiguous().numpy()})
        logits, features = (torch.from_numpy(np.asarray(part, np.float32)) for part in found)
        return Outputs(logits, features)


class TorchExportRuntime:
    """A program of `torch.export`, on the CPU.

    Args:
        model: its file.
        precision: that it was exported in.
    """

    def __init__(self, model: Path, precision: Precision) -> None:
        self.name = f"torch-export {precision}"
        self._network = pt2.load(model)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Outputs:
        logits, features = self._network(images)
        return Outputs(logits, features)


def threads() -> int:
    """Threads for one network: as many as torch uses, so that OMP_NUM_THREADS counts for all."""
    return min(torch.get_num_threads(), cores()) if "OMP_NUM_THREADS" in os.environ else cores()


def default_precision(device: torch.device) -> Precision:
    """bf16 where the device multiplies it in hardware, else float32."""
    return "bf16" if has_bf16(device) else "fp32"


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def openvino() -> Any:
    """The package; raises `UserError` if it is missing."""
    # Without this, importing OpenVINO reports to its makers over the network.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return package("openvino", "openvino", ", or take --runtime torch")


def package(name: str, extra: str, otherwise: str = "") -> Any:
    """An optional package; raises `UserError` with how to install it if it is missing."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} is not installed", mend=f"pip install {extra}{otherwise}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
