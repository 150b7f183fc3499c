"""Compiles the C++ files of this folder for this CPU on first use, and keeps the libraries.

A library's file name has a hash of all that determines its machine code, so that a new source,
compiler or CPU gets another file. Its last bytes are the SHA-256 of all before them: loading a
truncated library would end the process. Without a compiler everything works, only slower.
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
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock

from filelock import Timeout

from resnets.support.errors import UserError
from resnets.support.files import cache_folder, locked, sync

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
COMPILE_SECONDS = 300
"""Seconds after which a compiler is stopped."""
DIGEST_SIZE = hashlib.sha256().digest_size


def compiler() -> str | None:
    """Path of the C++ compiler: `CXX`, or g++; None if there is none.

    It must be GCC, because the threads of other compilers' OpenMP are not PyTorch's.
    """
    return shutil.which(os.environ.get("CXX") or "g++")


def status() -> str:
    """Whether the kernels are compiled or can be, in a few words; compiles nothing."""
    if sys.platform != "linux":
        return "not used: this is not Linux"
    if compiler() is None:
        return f"not used: no C++ compiler ({os.environ.get('CXX') or 'g++'})"
    count = len(list(cache_folder("kernels").glob("*.so")))
    return f"{count} compiled" if count else "not compiled yet"


def library(name: str, **macros: int) -> ctypes.CDLL | None:
    """The compiled `NAME.cpp` of this folder; None if it cannot be compiled or loaded.

    Linux only. Its threads are those of PyTorch's OpenMP, so torch must be imported before.

    Args:
        name: of the source, without `.cpp`.
        macros: numbers that the source is compiled with.
    """
    found = _find(name, **macros)
    return None if isinstance(found, str) else found


def unavailable_reason(name: str, **macros: int) -> str:
    """Why `library` returns None, in a few words; empty if it returns a library."""
    found = _find(name, **macros)
    return found if isinstance(found, str) else ""


@cache
def _find(name: str, **macros: int) -> ctypes.CDLL | str:
    """The library, or the reason why there is none."""
    tool = compiler()
    if sys.platform != "linux":
        return "this is not Linux"
    if tool is None:
        return f"no C++ compiler ({os.environ.get('CXX') or 'g++'})"
    source = Path(__file__).with_name(f"{name}.cpp")
    flags = [*FLAGS, *(f"-D{macro}={value}" for macro, value in macros.items())]
    label = "-".join([name, *map(str, macros.values())])
    try:
        version = subprocess.run(
            [tool, "--version"], capture_output=True, check=True, timeout=COMPILE_SECONDS
        ).stdout
        if b"Free Software Foundation" not in version:
            return f"{tool} is not GCC"
        sources = [path.read_bytes() for path in sorted(source.parent.glob("*.[ch]*"))]
        facts = [*sources, version, " ".join(flags).encode(), _cpu()]
        key = hashlib.sha256(b"\0".join(facts)).hexdigest()[:16]
        return _load([tool, *flags, str(source)], cache_folder("kernels", f"{label}-{key}.so"))
    except subprocess.TimeoutExpired:
        return f"{tool} took more than {COMPILE_SECONDS} seconds"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines() or [f"code {error.returncode}"]
        return f"{tool} failed: {next((ln for ln in lines if 'error' in ln), lines[0]).strip()}"
    except Timeout as error:
        return f"another process compiles the kernels for too long ({error.lock_file} is locked)"
    except (OSError, UserError) as error:
        return f"kernels cannot be compiled: {error}"


def _load(command: list[str], path: Path) -> ctypes.CDLL:
    """The library at `path`; compiled if it is missing or cannot be used.

    Of several processes one compiles; the others wait for it and load its file.

    Raises:
        Timeout: if another process holds the lock for longer than a compiler may take.
    """
    if found := _load_existing(path):
        return found
    _announce_compiling()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f"{path.name}.lock"), timeout=2 * COMPILE_SECONDS):
        found = _load_existing(path)  # another process may have compiled it meanwhile
        if found is None:
            _remove_leftovers(path)
            _compile(command, path)
            found = ctypes.CDLL(str(path))
    return found


def _load_existing(path: Path) -> ctypes.CDLL | None:
    """The library at `path`; None if it is missing, damaged, or compiled for another C library."""
    if path.exists() and _is_trusted(path) and _is_whole(path):
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            pass
    return None


_announced = Lock()
"""Acquired by the first announcement and never released."""


def _announce_compiling() -> None:
    """Print once, in one of the processes that torchrun starts, that compiling takes time."""
    if os.environ.get("RANK", "0") == "0" and _announced.acquire(blocking=False):
        print(
            "resnets: compiling kernels for this CPU (once, up to half a minute) ...",
            file=sys.stderr,
        )


def _is_whole(path: Path) -> bool:
    """Whether the file ends with the SHA-256 of all before it."""
    content = path.read_bytes()
    return hashlib.sha256(content[:-DIGEST_SIZE]).digest() == content[-DIGEST_SIZE:]


def _is_trusted(path: Path) -> bool:
    """Whether only this user and root can have written the file."""
    facts = path.stat()
    return facts.st_uid in (0, os.getuid()) and not facts.st_mode & 0o022


def _compile(command: list[str], path: Path) -> None:
    """Write the library to `path`, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as folder:
        made = Path(folder, path.name)
        subprocess.run(
            [*command, "-o", str(made)], check=True, capture_output=True, timeout=COMPILE_SECONDS
        )
        with made.open("ab") as file:  # the loader ignores what follows the last section
            file.write(hashlib.sha256(made.read_bytes()).digest())
        with suppress(OSError):  # some file systems have no permissions
            made.chmod(0o755)
        sync(made)
        made.replace(path)


def _remove_leftovers(path: Path) -> None:
    """Delete the folders of compilers that were killed.

    The lock of `path` is held, so every folder for it is a leftover; so is every folder that is
    older than a compiler may take.
    """
    oldest = time.time() - 2 * COMPILE_SECONDS
    for folder in filter(Path.is_dir, path.parent.iterdir()):
        with suppress(FileNotFoundError):  # its own compiler has finished meanwhile
            if folder.name.startswith(f"{path.name}.") or folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _cpu() -> bytes:
    """What `-march=native` depends on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    kept = {line for line in lines if line.startswith(("model", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), *sorted(kept)]).encode()
