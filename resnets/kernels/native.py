"""C++ beside this file, compiled for this CPU when it is first used and kept in the cache.

A library is known by everything that decides its machine code, so that a new source, compiler or
CPU gets one of its own. Where there is no compiler nothing is lost but speed. Its file ends with
the SHA-256 of what stands before: one that was cut off would end the process that loads it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from threading import Lock

from resnets.support.files import cache_folder, sync

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
PATIENCE = 300
"""Seconds that a compiler may take."""
SUM = hashlib.sha256().digest_size


def compiler() -> str | None:
    """The C++ compiler of this machine: `CXX` or g++.

    It must be GCC, whose OpenMP is PyTorch's; another's would have threads of its own.
    """
    return shutil.which(os.environ.get("CXX") or "g++")


def library(name: str, **macros: int) -> ctypes.CDLL | None:
    """The compiled `NAME.cpp` of this folder; None where it cannot be had.

    On Linux only: its threads are those of PyTorch's OpenMP, which must be imported before.

    Args:
        macros: numbers that the source is compiled with.
    """
    found = _find(name, **macros)
    return None if isinstance(found, str) else found


def why_not(name: str, **macros: int) -> str:
    """Why there is no such library, in a few words; empty where there is one."""
    found = _find(name, **macros)
    return found if isinstance(found, str) else ""


@cache
def _find(name: str, **macros: int) -> ctypes.CDLL | str:
    """The library, or why it cannot be had."""
    tool = compiler()
    if sys.platform != "linux":
        return "this is not Linux"
    if tool is None:
        return f"no C++ compiler ({os.environ.get('CXX') or 'g++'})"
    source = Path(__file__).with_name(f"{name}.cpp")
    flags = [*FLAGS, *(f"-D{macro}={value}" for macro, value in macros.items())]
    label = "-".join([name, *map(str, macros.values())])
    try:
        made = subprocess.run(
            [tool, "--version"], capture_output=True, check=True, timeout=PATIENCE
        )
        if b"Free Software Foundation" not in made.stdout:
            return f"{tool} is not GCC"
        sources = [path.read_bytes() for path in sorted(source.parent.glob("*.[ch]*"))]
        facts = [*sources, made.stdout, " ".join(flags).encode(), _cpu()]
        mark = hashlib.sha256(b"\0".join(facts)).hexdigest()[:16]
        return _load([tool, *flags, str(source)], cache_folder("kernels", f"{label}-{mark}.so"))
    except subprocess.TimeoutExpired:
        return f"{tool} took more than {PATIENCE} seconds"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines() or [f"code {error.returncode}"]
        return f"{tool} failed: {next((ln for ln in lines if 'error' in ln), lines[0]).strip()}"
    except OSError as error:
        return f"kernels cannot be compiled: {error}"


def _load(command: list[str], path: Path) -> ctypes.CDLL:
    """The library at `path`, compiled if it is not there or cannot be used."""
    if path.exists() and _trusted(path) and _whole(path):
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            pass  # of another C library
    _say_that_it_takes_time()
    _compile(command, path)
    return ctypes.CDLL(str(path))


_said = Lock()
"""Held for ever once that was said."""


def _say_that_it_takes_time() -> None:
    """Once, and of several processes in one only."""
    if os.environ.get("RANK", "0") == "0" and _said.acquire(blocking=False):
        print(
            "resnets: compiling kernels for this CPU (once, up to half a minute) ...",
            file=sys.stderr,
        )


def _whole(path: Path) -> bool:
    """Whether the file ends with the sum of what stands before."""
    content = path.read_bytes()
    return hashlib.sha256(content[:-SUM]).digest() == content[-SUM:]


def _trusted(path: Path) -> bool:
    """Whether nobody but this user and root can have written what is about to be run."""
    facts = path.stat()
    return facts.st_uid in (0, os.getuid()) and not facts.st_mode & 0o022


def _compile(command: list[str], path: Path) -> None:
    """Whole or not at all, whoever else compiles it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, path.name)
        subprocess.run(
            [*command, "-o", str(made)], check=True, capture_output=True, timeout=PATIENCE
        )
        with made.open("ab") as file:  # what follows the last section is not looked at
            file.write(hashlib.sha256(made.read_bytes()).digest())
        made.chmod(0o755)
        sync(made)
        made.replace(path)


def _cpu() -> bytes:
    """What `-march=native` looks at."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    kept = {line for line in lines if line.startswith(("model", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), *sorted(kept)]).encode()
