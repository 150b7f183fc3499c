"""What a training uses of its device: precision, kernels, compiler (docs/log.md)."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from resnets.kernels import block, native, norm
from resnets.models.blocks import Block
from resnets.support.devices import has_bf16
from resnets.support.errors import UserError
from resnets.support.files import cache_folder, temporary_cache
from resnets.training.recipe import Recipe

Kernels = Literal["none", "norms", "blocks"]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class Settings:
    """How a training computes; runs with equal settings repeat bit for bit."""

    precision: Literal["bf16", "fp32"]
    channels_last: bool
    compile: bool
    graphs: bool = False
    kernels: Kernels = "none"
    """This project's kernels on CPUs: for BN and what follows it, or also for whole blocks."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def resolve(recipe: Recipe, device: torch.device) -> Settings:
    """Replace each `auto` of a recipe by the choice for `device`.

    Raises:
        UserError: if `kernels` or `compile` is true and that is not possible.
    """
    if recipe.compile is True and (obstacle := _compile_obstacle(device)):
        raise UserError(
            f"compile = true is not possible: {obstacle}", hint="use --set compile=auto"
        )
    precision = recipe.precision
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    compiled = recipe.compile
    if compiled == "auto":  # the sizes of images with boxes differ, and each compiles anew
        compiled = recipe.dataset not in ("boxes", "localization") and _can_compile(device)
    return Settings(
        precision=precision,
        channels_last=True if recipe.channels_last == "auto" else recipe.channels_last,
        compile=compiled,
        graphs=recipe.graphs and device.type == "cuda",
        kernels=_choose_kernels(recipe, device, precision),
    )


def _choose_kernels(recipe: Recipe, device: torch.device, precision: str) -> Kernels:
    """This project's kernels, on CPUs of machines with a C++ compiler."""
    if recipe.kernels is False:
        return "none"
    wanted = recipe.compile is not True and recipe.channels_last is not False
    if device.type == "cpu" and wanted and norm.available():
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return "blocks" if block.available(dtype) else "norms"
    if recipe.kernels is True:
        raise UserError(
            f"kernels = true is not possible: {', '.join(_kernel_obstacles(recipe, device))}",
            hint="use --set kernels=auto",
        )
    return "none"


def _kernel_obstacles(recipe: Recipe, device: torch.device) -> list[str]:
    """Why a training cannot use this project's kernels."""
    facts = {
        f"the device is {device.type}, not cpu": device.type != "cpu",
        "compile = true": recipe.compile is True,
        "channels_last = false": recipe.channels_last is False,
    }
    return [text for text, holds in facts.items() if holds] or [native.unavailable_reason("norm")]


def missing_kernels(recipe: Recipe, device: torch.device, settings: Settings) -> str:
    """Why a training on a CPU lacks kernels that its recipe allows; empty if it lacks none."""
    wanted = recipe.kernels == "auto" and recipe.compile is not True and recipe.channels_last
    if device.type != "cpu" or not wanted or settings.kernels == "blocks":
        return ""
    if settings.kernels == "norms":
        return block.unavailable_reason(
            torch.bfloat16 if settings.precision == "bf16" else torch.float32
        )
    return native.unavailable_reason("norm")


def _can_compile(device: torch.device) -> bool:
    """Whether compiling pays and is possible: on GPUs that Triton supports, with its tools."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (7, 0):
        return False
    return not _compile_obstacle(device)


def _compile_obstacle(device: torch.device) -> str:
    """What PyTorch lacks to compile a network for `device`; empty if nothing."""
    if device.type == "cpu":
        return "" if native.compiler() else f"no C++ compiler ({os.environ.get('CXX') or 'g++'})"
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        return "" if any(map(shutil.which, ("cc", "gcc", "clang"))) else "no C compiler"
    return ""


def _keep_memory() -> None:
    """Let the C library (glibc) keep freed memory instead of returning it to the system.

    Every step allocates the same feature maps again. The system would hand out new pages filled
    with zeros, which took a sixth of a step of 20 layers (docs/log.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return  # another C library
    # glibc before 2.35 refuses more than 32 MB.
    if any(mallopt(M_MMAP_THRESHOLD, size) for size in (1 << 30, 1 << 25)):
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def prepare(recipe: Recipe, device: torch.device) -> None:
    """Set process-wide switches: memory, the compiler's cache, deterministic GPU kernels."""
    if device.type == "cpu":
        _keep_memory()
    if recipe.compile is True or device.type == "cuda":
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_compiler_cache()))
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not recipe.deterministic
        if recipe.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)


def _compiler_cache() -> Path:
    """The folder of compiled networks; PyTorch's commands break at a blank in its path."""
    folder = cache_folder("compiled")
    if any(map(str.isspace, str(folder))):
        folder = temporary_cache(f"{folder}: PyTorch cannot compile in a path with a blank")
    if any(map(str.isspace, str(folder))):
        hint = "set RESNETS_CACHE to a path without blanks"
        raise UserError("PyTorch cannot compile in a path with a blank", str(folder), hint)
    return folder


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Compile `network` at its next call, in the way that is fastest on `device`.

    On GPUs each block on its own, so that equal blocks share compiled code. On CPUs the network
    as a whole: block by block, the backward passes of its convolutions miss oneDNN's fast path
    and a step takes twice the time (docs/log.md).
    """
    # One entry per shape of block and input, in training and in evaluation mode.
    torch._dynamo.config.recompile_limit = 64
    if device.type == "cuda":
        for module in network.modules():
            if isinstance(module, Block):
                module.compile(dynamic=False)
    else:
        network.compile(dynamic=False)
