"""Engines that run a deployed network: PyTorch, OpenVINO, ONNX Runtime, all with one face.

Only PyTorch's engine and the face for tensors import torch: predictions by the others start
seconds sooner without it.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from resnets.support.devices import cores, cpu_has_bf16, has_bf16
from resnets.support.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from resnets.inference.deployable import Deployable, Outputs

Precision = Literal["fp32", "bf16", "int8"]
INPUT = "images"
OUTPUTS = ("logits", "features")
"""Names of the input and the outputs of every exported network."""


class Arrays(NamedTuple):
    """`graph.Outputs` as arrays: logits (N, classes) and features (N, channels), float32."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


class Runtime(Protocol):
    """A network made ready. It may be called from several threads, one call at a time."""

    @property
    def name(self) -> str:
        """Engine and precision, such as `openvino bf16`."""

    def arrays(self, images: NDArray[np.uint8]) -> Arrays:
        """uint8 images (N, 3, H, W), RGB, to outputs."""

    def __call__(self, images: Tensor) -> Outputs:
        """The same for tensors on the CPU."""


class _ArrayRuntime:
    """What engines that take arrays have in common."""

    def arrays(self, images: NDArray[np.uint8]) -> Arrays:
        raise NotImplementedError

    def __call__(self, images: Tensor) -> Outputs:
        import torch

        from resnets.inference.deployable import Outputs

        logits, features = self.arrays(images.contiguous().numpy())
        return Outputs(torch.from_numpy(logits), torch.from_numpy(features))


class _TensorRuntime:
    """What engines that take tensors have in common."""

    def __call__(self, images: Tensor) -> Outputs:
        raise NotImplementedError

    def arrays(self, images: NDArray[np.uint8]) -> Arrays:
        import torch

        logits, features = self(torch.from_numpy(images))
        return Arrays(logits.numpy(), features.numpy())


class TorchRuntime(_TensorRuntime):
    """PyTorch, eager.

    Args:
        network: as `Deployable` takes pixels; it is changed.
        precision: bf16 rounds weights and maps; pixels are scaled, and outputs given, in float32.
    """

    def __init__(self, network: Deployable, device: torch.device, precision: Precision) -> None:
        import torch

        self.name = f"torch {precision}"
        self._device = device
        if precision == "bf16":
            network.network.to(torch.bfloat16)
        self._network: nn.Module = network.to(device).to(memory_format=torch.channels_last).eval()

    def __call__(self, images: Tensor) -> Outputs:
        import torch

        from resnets.inference.deployable import Outputs

        with torch.inference_mode():
            images = images.to(self._device).contiguous(memory_format=torch.channels_last)
            logits, features = self._network(images)
            return Outputs(logits.cpu(), features.cpu())


class OpenVinoRuntime(_ArrayRuntime):
    """OpenVINO on the CPU.

    Args:
        model: an IR file (.xml), or a model of OpenVINO.
        precision: what floating-point layers are computed in; int8 ones stay int8.
        compiled: folder that keeps what was compiled, for the next start.
    """

    def __init__(self, model: Path | Any, precision: Precision, compiled: Path | None = None):
        self.name = f"openvino {precision}"
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads(),
        }
        if compiled is not None:
            settings["CACHE_DIR"] = str(compiled)
        try:
            self._compiled = core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise UserError(
                f"OpenVINO cannot run this network ({_first_line(error)})",
                str(model) if isinstance(model, Path) else "",
            ) from error

    def arrays(self, images: NDArray[np.uint8]) -> Arrays:
        found = self._compiled(images, share_inputs=True)
        return Arrays(np.array(found[0], np.float32), np.array(found[1], np.float32))


class OnnxRuntime(_ArrayRuntime):
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

    def arrays(self, images: NDArray[np.uint8]) -> Arrays:
        found = self._session.run(list(OUTPUTS), {INPUT: images})
        return Arrays(np.asarray(found[0], np.float32), np.asarray(found[1], np.float32))


class TorchExportRuntime(_TensorRuntime):
    """A program of `torch.export`, on the CPU.

    Args:
        model: its file.
        precision: that it was exported in.
    """

    def __init__(self, model: Path, precision: Precision) -> None:
        from resnets.inference import pt2

        self.name = f"torch-export {precision}"
        self._network = pt2.load(model)

    def __call__(self, images: Tensor) -> Outputs:
        import torch

        from resnets.inference.deployable import Outputs

        with torch.inference_mode():
            logits, features = self._network(images)
            return Outputs(logits, features)


def threads() -> int:
    """Threads for one network: as many as torch uses, so that OMP_NUM_THREADS counts for all."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(int(asked), cores()) if asked.isdecimal() and int(asked) else cores()


def default_precision(device: torch.device | None) -> Precision:
    """bf16 where the device (None: the CPU) multiplies it in hardware, else float32."""
    return "bf16" if (cpu_has_bf16() if device is None else has_bf16(device)) else "fp32"


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def openvino() -> Any:
    """The package; raises `UserError` if it is missing."""
    _without_telemetry()
    return package("openvino", "openvino", ", or take --runtime torch")


@cache
def core() -> Any:
    """OpenVINO's core, one for the whole process.

    The plugin for CPUs gives the thread that loads it a stack for signals, and frees it when
    the last core goes, from whatever thread: the next signal would then kill the process.
    """
    return openvino().Core()


def nncf() -> Any:
    """The package that quantizes networks, with less chatter; raises `UserError` if missing."""
    _without_telemetry()
    found = package("nncf", "resnets[export]")
    found.set_log_level(logging.ERROR)
    return found


def _without_telemetry() -> None:
    """Keep packages from reporting to their makers over the network, from forked processes."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def package(name: str, extra: str, otherwise: str = "") -> Any:
    """An optional package; raises `UserError` with how to install it if it is missing."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} is not installed", hint=f"pip install {extra}{otherwise}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
