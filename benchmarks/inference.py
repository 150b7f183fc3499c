"""Inference speed: the engine of `predict` compared with others, on the same architecture.

Measured from uint8 crops in memory to logits. Our networks normalize pixels themselves; peers do it
with torch in front of the network, as their users do. Weights are random, because speed does not
depend on them; int8 is calibrated on noise.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Report, Table, peak, rows
from resnets.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, imagenet
from resnets.export.calibration import quantize
from resnets.inference.deployable import Deployable
from resnets.inference.engines import (
    OpenVinoRuntime,
    Runtime,
    TorchRuntime,
    core,
    default_precision,
    has_openvino,
    nncf,
    openvino,
    threads,
)
from resnets.inference.openvino_model import to_openvino
from resnets.models import complexity, zoo
from resnets.support.devices import has_bf16
from resnets.support.timing import Run, throughput

BATCHES = (1, 16)
Network = Callable[[Tensor], object]


def measure(
    network: str,
    *,
    rounds: int,
    seconds: float,
    device: torch.device,
    compiled: bool,
    report: Report,
) -> list[Table]:
    """Measure images per second at batch 1 and 16.

    Args:
        network: its name; peers build the same architecture.
        rounds: of each contender; contenders take turns.
        seconds: length of a round.
        device: for all contenders.
        compiled: whether compiled contenders take part; each needs a minute or two to compile.
        report: called with lines about the progress.
    """
    zoo.architecture(network)
    size = complexity.image_size(network)
    with tempfile.TemporaryDirectory() as folder:
        contenders = _contenders(
            network, size, device, compiled, Path(folder),
            lambda name: report(f"preparing {name} ..."),
        )  # fmt: skip
        dtype = torch.bfloat16 if has_bf16(device) else torch.float32
        top = peak(dtype, device)
        with torch.device("meta"):
            cost = complexity.multiply_adds(zoo.build(network), size)
        return [
            _table(network, size, batch, contenders, rounds, seconds, device, top, 2 * cost)
            for batch in BATCHES
        ]


def _table(
    network: str,
    size: int,
    batch: int,
    contenders: dict[str, Network],
    rounds: int,
    seconds: float,
    device: torch.device,
    top: float,
    operations: int,
) -> Table:
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), np.uint8)
    )
    runs: dict[str, Run] = {name: partial(answer, pixels) for name, answer in contenders.items()}
    finish: Run = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    peer = next(iter(runs))
    values = throughput(runs, batch, rounds, seconds, finish)
    words = ("bf16",) if has_bf16(device) else ("float32", "fp32")  # whose peak was measured
    peaks = {name: top for name in runs if any(word in name for word in words)}
    return Table(
        f"inference {network}, batch {batch}, {size} pixels",
        "images/s",
        peer,
        rows(values, peer, operations, peaks),
        {
            "rounds": rounds,
            "seconds": seconds,
            "peak_flops": top,
            "operations_per_image": operations,
        },
    )


def _contenders(
    name: str, size: int, device: torch.device, compiled: bool, folder: Path, report: Report
) -> dict[str, Network]:
    made: dict[str, Network] = {}
    plain, source = _plain(name)
    best = f"{'bf16' if has_bf16(device) else 'float32'}, channels_last"

    def torch_peer(label: str, module: nn.Module, tuned: bool, compile_it: bool = False) -> None:
        report(label)
        module = module.eval().to(device)
        module = module.to(memory_format=torch.channels_last) if tuned else module
        made[label] = _torch(module, tuned, compile_it, device)

    torch_peer(f"{source}, eager, float32", plain(), tuned=False)
    torch_peer(f"{source}, eager, {best}", plain(), tuned=True)
    if compiled:
        torch_peer(f"{source}, compiled, float32", plain(), False, True)
        torch_peer(f"{source}, compiled, {best}", plain(), True, True)
    if find_spec("timm") and source == "torchvision":
        import timm

        torch_peer(f"timm, eager, {best}", timm.create_model(name.removesuffix("-v1.5")), True)
    if device.type == "cpu":
        with warnings.catch_warnings():  # expected ones: of tracing, and of few images for int8
            warnings.simplefilter("ignore")
            made |= _engines(plain().eval(), size, folder, report)
    report("resnets")
    ours = Deployable(zoo.build(name).eval(), imagenet())
    runtime: Runtime
    precision = default_precision(device)
    if device.type == "cpu" and has_openvino():
        model = to_openvino(ours, size)
        runtime = OpenVinoRuntime(model, precision)
        made[f"resnets, {runtime.name} (the default)"] = runtime
        if find_spec("nncf"):
            noise = torch.randint(0, 256, (8, 3, size, size), dtype=torch.uint8)
            runtime = OpenVinoRuntime(quantize(model.clone(), "openvino", list(noise)), "int8")
            made[f"resnets, {runtime.name} (the default where calibrated)"] = runtime
    runtime = TorchRuntime(ours, device, precision)
    made[f"resnets, {runtime.name}"] = runtime
    return made


def _plain(name: str) -> tuple[Callable[[], nn.Module], str]:
    """A function that builds the network in plain PyTorch, and the library it comes from."""
    from torchvision.models import get_model, list_models

    base = name.removesuffix("-v1.5")
    if base in list_models():
        return lambda: get_model(base), "torchvision"
    return lambda: zoo.build(name), "torch"


def _normalized(images: Tensor) -> Tensor:
    """Convert a batch from uint8 to float32, as torchvision's `to_tensor` and `normalize` do."""
    mean, std = (
        torch.tensor(v, device=images.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return images.float().div_(255).sub_(mean).div_(std)


def _torch(network: nn.Module, tuned: bool, compiled: bool, device: torch.device) -> Network:
    run = torch.compile(network) if compiled else network

    @torch.inference_mode()
    def answer(images: Tensor) -> object:
        images = _normalized(images.to(device))
        if tuned:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=tuned and has_bf16(device)):
            return run(images)

    return answer


def _engines(network: nn.Module, size: int, folder: Path, report: Report) -> dict[str, Network]:
    """OpenVINO and ONNX Runtime, used as in their own documentation."""
    made: dict[str, Network] = {}
    example = torch.zeros(2, 3, size, size)
    noise = [np.random.default_rng(i).random((1, 3, size, size), np.float32) for i in range(8)]
    if find_spec("onnxruntime") and find_spec("onnxscript"):
        file = folder / "peer.onnx"
        report("ONNX Runtime, float32")
        torch.onnx.export(
            network, (example,), file, dynamo=True, verbose=False,
            input_names=["x"], dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
        made["ONNX Runtime, float32"] = _onnx(file)
        if find_spec("nncf"):
            report("ONNX Runtime, int8")
            made["ONNX Runtime, int8"] = _onnx(_quantized_onnx(file, noise))
    if has_openvino():
        ov = openvino()
        report("OpenVINO")
        model = ov.convert_model(
            network, example_input=example, input=[ov.PartialShape([-1, 3, size, size])]
        )
        made["OpenVINO, float32"] = _openvino(model, "f32")
        half = "bf16" if has_bf16(torch.device("cpu")) else "f32"
        if half == "bf16":
            made["OpenVINO, bf16"] = _openvino(model, half)
        if find_spec("nncf"):
            report("OpenVINO, int8")
            made["OpenVINO, int8"] = _openvino(_quantized(model, noise), half)
    return made


def _quantized(model: Any, noise: list[Any]) -> Any:
    package = nncf()
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return package.quantize(model, package.Dataset(noise))


def _quantized_onnx(file: Path, noise: list[Any]) -> Path:
    import onnx

    model = _quantized(onnx.load(file), [{"x": part} for part in noise])
    path = file.with_name("int8.onnx")
    onnx.save(model, path)
    return path


def _onnx(file: Path) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"x": _normalized(images).numpy()})


def _openvino(model: Any, precision: str) -> Network:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads(),
    }
    compiled = core().compile_model(model, "CPU", settings)
    return lambda images: compiled(_normalized(images).numpy(), share_inputs=True)
