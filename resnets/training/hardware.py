"""Devices, and the settings used on each where a recipe says `auto` (docs/log.md)."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from resnets.support.errors import UserError
from resnets.support.files import cache_folder
from resnets.training.recipe import Recipe


@dataclass(frozen=True)
class Settings:
    """How the arithmetic is done; part of what makes a run repeat bit for bit."""

    precision: Literal["bf16", "fp32"]
    channels_last: bool
    compile: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def find_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` takes a GPU where there is one.

    Raises:
        UserError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    if name not in there and not (name == "cuda" and torch.cuda.is_available()):
        raise UserError(f"no device {name!r} here", "--device", f"available: {', '.join(there)}")
    return torch.device(name)


def resolve(recipe: Recipe, device: torch.device) -> Settings:
    """Replace each `auto` of the recipe by what is used on `device`."""
    precision = recipe.precision
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    return Settings(
        precision=precision,
        channels_last=True if recipe.channels_last == "auto" else recipe.channels_last,
        compile=_can_compile(device) if recipe.compile == "auto" else recipe.compile,
    )


def _has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 in hardware; emulation is slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _can_compile(device: torch.device) -> bool:
    """Whether compiling is both worth it and possible: GPUs that Triton knows, with its tools."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (7, 0):
        return False
    has_compiler = any(map(shutil.which, ("cc", "gcc", "clang")))
    return has_compiler and importlib.util.find_spec("triton") is not None


def prepare(recipe: Recipe, device: torch.device) -> None:
    """Process-wide switches: the compiler's cache between runs, repeatable GPU kernels."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder("compiled")))
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not recipe.deterministic
        if recipe.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)


def environment(device: torch.device) -> dict[str, Any]:
    """What a result's provenance says about machine and software."""
    packages = {}
    for package in ("resnets", "torch", "torchvision", "numpy"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed"
    return {
        "hardware": hardware_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": platform.system(),
        "packages": packages,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the source, with `+` where it was changed since; None if not from git."""
    source = Path(__file__).parent
    git = ["git", "-C", str(source)]
    try:
        facts = [
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout
            for command in (
                ["ls-files", "--error-unmatch", Path(__file__).name],  # ours, not a neighbour's
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--", ".."],
            )
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return facts[1].strip() + ("+" if facts[2].strip() else "")


def hardware_name(device: torch.device) -> str:
    """The GPU's or the CPU's name, and what bf16 units the CPU has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    features = ""
    try:
        text = Path("/proc/cpuinfo").read_text()
        name = next(
            (
                ln.split(":", 1)[1].strip()
                for ln in text.splitlines()
                if ln.startswith("model name")
            ),
            name,
        )
        units = [unit for unit in ("avx512_bf16", "amx_bf16") if unit in text]
        features = f" ({', '.join(units)})" if units else ""
    except OSError:
        pass
    return f"{name}{features}, {os.cpu_count()} cores"
