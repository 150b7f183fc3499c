"""Engines that run a network: PyTorch, OpenVINO, ONNX Runtime and torch.export, one interface.

torch is imported only by PyTorch's engines and by calls with tensors: importing it takes seconds,
and predictions by the other engines do without it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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


class OutputArrays(NamedTuple):
    """`Outputs` as arrays: logits (N, classes) and features (N, channels), float32."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


class Runtime:
    """A network in an engine. Several threads may call it, one at a time.

    An engine computes with arrays or with tensors: it overrides `arrays` or `__call__`, and the
    other of the two converts.
    """

    name: str
    """Engine and precision, such as `openvino bf16`."""

    def arrays(self, images: NDArray[np.uint8]) -> OutputArrays:
        """Run the network on uint8 RGB images (N, 3, H, W)."""
        import torch

        logits, features = self(torch.from_numpy(images))
        return OutputArrays(logits.numpy(), features.numpy())

    def __call__(self, images: Tensor) -> Outputs:
        """Run the network on uint8 RGB images (N, 3, H, W), a tensor on the CPU."""
        import torch

        from resnets.inference.deployable import Outputs

        logits, features = self.arrays(images.contiguous().numpy())
        return Outputs(torch.from_numpy(logits), torch.from_numpy(features))


class TorchRuntime(Runtime):
    """PyTorch in eager mode.

    Args:
        network: it is changed in place: moved to the device, and cast for bf16.
        device: CPU or GPU.
        precision: bf16 applies to weights and feature maps; preprocessing and outputs stay float32.
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


class OpenVinoRuntime(Runtime):
    """OpenVINO on the CPU.

    Args:
        model, precision, cache: as for `compile_openvino`.

    Raises:
        UserError: if OpenVINO is not installed or cannot compile the network.
    """

    def __init__(self, model: Path | Any, precision: Precision, cache: Path | None = None):
        self.name = f"openvino {precision}"
        self._compiled = compile_openvino(model, precision, cache)

    def arrays(self, images: NDArray[np.uint8]) -> OutputArrays:
        outputs = self._compiled(images, share_inputs=True)
        return OutputArrays(np.array(outputs[0], np.float32), np.array(outputs[1], np.float32))


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU.

    Args:
        model: an ONNX file.
        precision: of the weights in the file. ONNX Runtime has no bf16 convolutions on CPUs: it
            computes in float32 with weights stored in bf16.

    Raises:
        UserError: if ONNX Runtime is not installed or cannot run the network.
    """

    def __init__(self, model: Path, precision: Precision) -> None:
        self.name = f"onnx {precision}"
        self._session = onnx_session(model)

    def arrays(self, images: NDArray[np.uint8]) -> OutputArrays:
        logits, features = self._session.run(list(OUTPUTS), {INPUT: images})
        return OutputArrays(np.asarray(logits, np.float32), np.asarray(features, np.float32))


def compile_openvino(model: Path | Any, precision: Precision, cache: Path | None = None) -> Any:
    """A network compiled by OpenVINO for the CPU, to be called with its input.

    Args:
        model: an IR file (.xml), or an OpenVINO model.
        precision: of the floating-point layers; int8 layers stay int8.
        cache: folder in which OpenVINO keeps the compiled network for the next start.

    Raises:
        UserError: if OpenVINO is not installed or cannot compile the network.
    """
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads(),
    }
    if cache is not None:
        settings["CACHE_DIR"] = str(cache)
    try:
        return core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        if isinstance(model, Path):
            raise unreadable(model, "OpenVINO") from error
        raise UserError(f"OpenVINO cannot run this network ({_first_line(error)})") from error


def onnx_session(model: Path) -> Any:
    """ONNX Runtime's session of a file, on the CPU.

    Raises:
        UserError: if ONNX Runtime is not installed or cannot run the network.
    """
    ort = package("onnxruntime", "onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    try:
        content = model.read_bytes()  # names that are not UTF-8 are none for ONNX Runtime
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base but this
        raise unreadable(model, "ONNX Runtime") from error


class TorchExportRuntime(Runtime):
    """A network exported by `torch.export`, on the CPU.

    Args:
        model: a .pt2 file.
        precision: in which it was exported.

    Raises:
        UserError: if the file is damaged or could run code.
    """

    def __init__(self, model: Path, precision: Precision) -> None:
        from resnets.inference import pt2

        self.name = f"torch-export {precision}"
        try:
            self._network = pt2.load(model)
        except pt2.Unreadable as error:
            raise unreadable(model, "torch.export") from error

    def __call__(self, images: Tensor) -> Outputs:
        import torch

        from resnets.inference.deployable import Outputs

        with torch.inference_mode():
            logits, features = self._network(images)
            return Outputs(logits, features)


def unreadable(model: Path, engine: str) -> UserError:
    """The error for a file that an engine cannot read; the engine's own text is its cause."""
    return UserError(
        f"{engine} cannot read this network: it is damaged, or of another version",
        str(model),
        "export it again, to a new folder",
    )


def threads() -> int:
    """Threads for one network: `OMP_NUM_THREADS`, as PyTorch does, but at most one per core."""
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(int(value), cores()) if value.isdecimal() and int(value) else cores()


def default_precision(device: torch.device | None) -> Precision:
    """bf16 where the device has hardware for it, else float32; None is the CPU."""
    return "bf16" if (cpu_has_bf16() if device is None else has_bf16(device)) else "fp32"


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def openvino() -> Any:
    """The package `openvino`; raises `UserError` if it is not installed."""
    _disable_telemetry()
    return package("openvino", "openvino", ", or use --runtime torch")


@cache
def core() -> Any:
    """OpenVINO's `Core`, one for the whole process, never freed.

    The CPU plugin gives the thread that loads it a stack for signal handlers, and frees that
    stack with the last `Core`, from any thread: the next signal would then kill the process.
    """
    return openvino().Core()


def nncf() -> Any:
    """The package `nncf`, logging errors only; raises `UserError` if it is not installed."""
    _disable_telemetry()
    module = package("nncf", "resnets[export]")
    module.set_log_level(logging.ERROR)
    return module


def _disable_telemetry() -> None:
    """Keep OpenVINO and NNCF from reporting usage over the network, in forked processes."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def package(name: str, extra: str, alternative: str = "") -> Any:
    """Import an optional package.

    Args:
        name: of the module.
        extra: what pip has to install.
        alternative: end of the hint: what else to do.

    Raises:
        UserError: if it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = f"pip install {extra}{alternative}"
        raise UserError(f"{name} is not installed", hint=hint) from error


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress the warnings of converters, which concern the code of this package only."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
