"""Devices of this machine, and the description of hardware and software for results."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnets.support.errors import UserError

if TYPE_CHECKING:
    import torch  # imported inside functions otherwise, because importing it takes seconds

BF16_UNITS = ("avx512_bf16", "amx_bf16")
"""Names, in Linux's description of a CPU, of units that multiply bf16."""


def is_surely_cpu(name: str) -> bool:
    """Whether `find_device(name)` is known, without importing torch, to be the CPU."""
    return name == "cpu" or (name == "auto" and not _may_have_gpu())


def _may_have_gpu() -> bool:
    """Whether a driver of NVIDIA or AMD is installed; True if that is unknown."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def find_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` is a GPU if there is one, else the CPU.

    Raises:
        UserError: if there is no such device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    available += ["mps"] if torch.backends.mps.is_available() else []
    if name not in available and not (name == "cuda" and torch.cuda.is_available()):
        hint = f"available: {', '.join(available)}"
        raise UserError(f"no device {name!r} here", "--device", hint)
    device = torch.device(name)
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # for calls without a device argument: streams, graphs
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 in hardware; emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware."""
    return any(unit in _cpu_info() for unit in BF16_UNITS)


def _cpu_info() -> str:
    """Linux's description of the CPU; empty on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware, threads, versions and commit, for the provenance of a result."""
    import torch

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
    """The source's git commit, with `+` if files have changed since; None outside of git."""
    source = Path(__file__)

    def git(*command: str) -> str:
        line = ["git", "-C", str(source.parent), *command]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)  # fails in somebody else's repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", "..") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def hardware_name(device: torch.device) -> str:
    """The GPU's name; or the CPU's, with its bf16 units and its number of cores."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return cpu_name()


def cpu_name() -> str:
    """The CPU's name, with its bf16 units and its number of cores."""
    text = _cpu_info()
    found = re.search(r"^model name\s*:(.*)", text, re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine()
    units = [unit for unit in BF16_UNITS if unit in text]
    features = f" ({', '.join(units)})" if units else ""
    return f"{name}{features}, {os.cpu_count()} cores"
