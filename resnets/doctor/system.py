"""What a report of a fault needs: versions, processor, kernels, cache, and no private paths."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

from resnets.kernels import native
from resnets.support.devices import cores, cpu_name
from resnets.support.files import cache_folder
from resnets.version import __version__

PACKAGES = (
    "torch", "torchvision", "numpy", "pillow", "openvino", "onnxruntime", "nncf", "fastapi",
    "uvicorn",
)  # fmt: skip
"""Packages whose versions matter to most faults."""


def versions() -> dict[str, str]:
    """The versions of `PACKAGES`; `not installed` for those that are absent."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def facts() -> dict[str, str]:
    """Facts about this machine and installation, by name; importing torch takes seconds."""
    cache = cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return {
        "resnets": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": cpu_name(),
        "usable cores": str(cores()),
        "memory": _memory(),
        "GPU": _gpus(),
        **versions(),
        "kernels": native.status(),
        "cache": f"{cache}, {shutil.disk_usage(existing).free / 1e9:.1f} GB free",
    }


def to_text() -> str:
    """The same as lines, to be pasted into a report."""
    found = facts()
    width = max(map(len, found))
    return "\n".join(f"{name:{width}}  {value}" for name, value in found.items())


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return "unknown"
    return f"{size / 1e9:.1f} GB"


def _gpus() -> str:
    import torch

    if torch.backends.mps.is_available():
        return "Apple (mps)"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) or "none"
