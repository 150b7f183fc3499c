"""The settings used on each device where a recipe says `auto` (docs/log.md)."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from resnets.kernels import block, native, norm
from resnets.support.devices import has_bf16
from resnets.support.errors import UserError
from resnets.support.files import cache_folder
from resnets.training.recipe import Recipe

Kernels = Literal["none", "norms", "blocks"]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class Settings:
    """How the arithmetic is done; part of what makes a run repeat bit for bit."""

    precision: Literal["bf16", "fp32"]
    channels_last: bool
    compile: bool
    graphs: bool = False
    kernels: Kernels = "none"
    """This project's on CPUs: for BN and what follows (`norms`), also for whole `blocks`."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def resolve(recipe: Recipe, device: torch.device) -> Settings:
    """Replace each `auto` of the recipe by what is used on `device`."""
    precision = recipe.precision
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    return Settings(
        precision=precision,
        channels_last=True if recipe.channels_last == "auto" else recipe.channels_last,
        compile=_can_compile(device) if recipe.compile == "auto" else recipe.compile,
        graphs=recipe.graphs and device.type == "cuda",
        kernels=_choose_kernels(recipe, device, precision),
    )


def _choose_kernels(recipe: Recipe, device: torch.device, precision: str) -> Kernels:
    """This project's kernels: on CPUs, where a C++ compiler is.

    Raises:
        UserError: if they are asked for and cannot be had.
    """
    if recipe.kernels is False:
        return "none"
    wanted = recipe.compile is not True and recipe.channels_last is not False
    if device.type == "cpu" and wanted and norm.available():
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return "blocks" if block.available(dtype) else "norms"
    if recipe.kernels is True:
        raise UserError(
            f"kernels = true cannot be had: {', '.join(_against_kernels(recipe, device))}",
            hint="use --set kernels=auto",
        )
    return "none"


def _against_kernels(recipe: Recipe, device: torch.device) -> list[str]:
    """What keeps this project's kernels out of a training."""
    facts = {
        f"the device is {device.type}, not cpu": device.type != "cpu",
        "compile = true": recipe.compile is True,
        "channels_last = false": recipe.channels_last is False,
    }
    return [text for text, holds in facts.items() if holds] or [native.unavailable_reason("norm")]


def missing_kernels(recipe: Recipe, device: torch.device, settings: Settings) -> str:
    """Why a training on a CPU goes without kernels that its recipe would have; else empty."""
    wanted = recipe.kernels == "auto" and recipe.compile is not True and recipe.channels_last
    if device.type != "cpu" or not wanted or settings.kernels == "blocks":
        return ""
    if settings.kernels == "norms":
        return block.unavailable_reason(
            torch.bfloat16 if settings.precision == "bf16" else torch.float32
        )
    return native.unavailable_reason("norm")


def _can_compile(device: torch.device) -> bool:
    """Whether compiling is both worth it and possible: GPUs that Triton knows, with its tools."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (7, 0):
        return False
    has_compiler = any(map(shutil.which, ("cc", "gcc", "clang")))
    return has_compiler and importlib.util.find_spec("triton") is not None


def _keep_memory() -> None:
    """Have the C library (glibc) keep what is freed instead of giving it back to the system.

    Every step asks for the same maps again, and new memory comes page by page, filled with zeros:
    that took a sixth of a step of 20 layers (docs/log.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return  # another C library
    # glibc before 2.35 refuses more than 32 MB.
    if any(mallopt(M_MMAP_THRESHOLD, size) for size in (1 << 30, 1 << 25)):
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def prepare(recipe: Recipe, device: torch.device) -> None:
    """Process-wide switches: memory, the compiler's cache between runs, repeatable GPU kernels."""
    if device.type == "cpu":
        _keep_memory()
    compiled = cache_folder("compiled")
    there = next(place for place in (compiled, *compiled.parents) if place.exists())
    if os.access(there, os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled))
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not recipe.deterministic
        if recipe.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
