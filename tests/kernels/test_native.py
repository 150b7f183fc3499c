"""C++ is compiled on first use, by one process; without a compiler there are no kernels."""

import os
import signal
import stat
import subprocess
import sys
import time
from threading import Lock

import pytest
import torch

from resnets.kernels import block, native

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A cache without kernels."""
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache"
    forget()


def forget():
    """As in a new process."""
    native._find.cache_clear()
    block.available.cache_clear()
    native._announced = Lock()


GCC = 'case "$1" in --version) echo Free Software Foundation ;; *) {} ;; esac'


def stand_in(monkeypatch, path, script):
    """Use a shell script as the compiler."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", os.fspath(path))


@pytest.fixture
def quick(fresh, monkeypatch, tmp_path):
    """A compiler that makes a small library of every source."""
    small = (
        f'echo "int numbers[99999] = {{1}};" | {native.compiler()} -shared -fPIC -x c++ -o "$o" -'
    )
    stand_in(monkeypatch, tmp_path / "quick", GCC.format(f"for o; do :; done; {small}"))
    return fresh


@needs_compiler
def test_compiled_once_and_kept(fresh, capsys):
    assert native.library("norm") is not None
    assert native.unavailable_reason("norm") == ""
    said = "resnets: compiling kernels for this CPU (once, up to half a minute) ...\n"
    assert capsys.readouterr() == ("", said)
    (made,) = (fresh / "kernels").glob("*.so")
    before = made.stat().st_mtime_ns
    forget()
    assert native.library("norm") is not None
    assert made.stat().st_mtime_ns == before
    assert capsys.readouterr() == ("", "")


def test_no_compiler_no_library(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert native.library("norm") is None
    assert native.unavailable_reason("norm") == "no C++ compiler (g++)"
    assert not fresh.exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 1", "code 1"),
        (GCC.format("exit 1"), "code 1"),
        (GCC.format("echo in a.h >&2; echo a.h: fatal error >&2; exit 1"), "a.h: fatal error"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing(fresh, monkeypatch, tmp_path, script, reason):
    stand_in(monkeypatch, tmp_path / "broken", script)
    assert native.library("norm") is None
    assert native.unavailable_reason("norm") == f"{tmp_path}/broken failed: {reason}"
    assert {path.suffix for path in fresh.glob("kernels/*")} <= {".lock"}


def test_only_one_process_announces_that_it_compiles(fresh, monkeypatch, tmp_path, capsys):
    stand_in(monkeypatch, tmp_path / "broken", GCC.format("exit 1"))
    monkeypatch.setenv("RANK", "1")
    native.library("norm")
    assert capsys.readouterr().err == ""
    forget()
    monkeypatch.setenv("RANK", "0")
    native.library("norm")
    assert not block.available(torch.float32)  # asks for several at once
    assert block.unavailable_reason(torch.float32) == f"{tmp_path}/broken failed: code 1"
    assert capsys.readouterr().err.count("compiling") == 1


@needs_compiler
@pytest.mark.parametrize("kept", [0, 4, 8192, -4096, -1])
def test_a_damaged_library_is_compiled_again(quick, kept):
    """Loading a truncated library would end the process, so another process tries it."""
    code = "from resnets.kernels import block, native; print(native.library('norm'))"
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = (quick / "kernels").glob("*.so")
    whole = made.read_bytes()
    made.write_bytes(whole[:kept])
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert made.name in done.stdout
    assert made.read_bytes() == whole


@needs_compiler
def test_a_library_that_others_could_write_is_not_loaded(quick):
    assert native.library("norm") is not None
    (made,) = (quick / "kernels").glob("*.so")
    before = made.stat().st_ino
    made.chmod(0o777)
    forget()
    assert native.library("norm") is not None
    assert made.stat().st_ino != before
    assert not made.stat().st_mode & 0o022


def test_another_compiler_than_gcc_is_not_used(fresh, monkeypatch, tmp_path):
    script = '[ "$1" = --version ] && echo clang version 19 && exit\nexit 1'
    stand_in(monkeypatch, tmp_path / "clang++", script)
    assert native.library("norm") is None
    assert native.unavailable_reason("norm") == f"{tmp_path}/clang++ is not GCC"
    assert not fresh.exists()


@needs_compiler
def test_a_cache_that_cannot_be_written(quick, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "file"))
    assert native.library("norm") is not None
    assert "a temporary one is used" in capsys.readouterr().err


@needs_compiler
def test_the_file_depends_on_the_compiler(quick, tmp_path):
    assert native.library("norm") is not None
    tool = tmp_path / "quick"
    tool.write_text(tool.read_text().replace("echo Free", "echo another, Free"))
    forget()
    assert native.library("norm") is not None
    assert len(list((quick / "kernels").glob("*.so"))) == 2


LOGGING = GCC.format("echo compiled >> {log}; sleep {seconds}; for o; do :; done; {small}")


def slow(monkeypatch, folder, seconds):
    """A compiler that takes its time and writes a line into the file that is returned."""
    log = folder / "log"
    monkeypatch.delenv("CXX", raising=False)
    small = f'echo "int number = 1;" | {native.compiler()} -shared -fPIC -x c++ -o "$o" -'
    script = LOGGING.replace("{log}", str(log)).replace("{seconds}", str(seconds))
    stand_in(monkeypatch, folder / "slow", script.replace("{small}", small))
    return log


LOAD = "from resnets.kernels import native; print(native.library('norm'))"


def start():
    return subprocess.Popen(
        [sys.executable, "-c", LOAD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@needs_compiler
def test_of_several_processes_one_compiles_and_the_others_wait_for_it(fresh, monkeypatch, tmp_path):
    log = slow(monkeypatch, tmp_path, seconds=3)
    processes = [start() for _ in range(3)]
    answers = [process.communicate(timeout=120)[0] for process in processes]
    assert log.read_text() == "compiled\n"
    (made,) = (fresh / "kernels").glob("*.so")
    assert all(made.name in answer for answer in answers)


@needs_compiler
def test_leftovers_of_a_killed_compile_are_removed(fresh, monkeypatch, tmp_path):
    log = slow(monkeypatch, tmp_path, seconds=600)
    process = start()
    while not log.exists():
        time.sleep(0.02)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (left,) = filter(os.path.isdir, (fresh / "kernels").iterdir())
    other = fresh / "kernels" / "tmp_of_another_library"
    running = fresh / "kernels" / "block.so.running"
    for folder in (other, running):
        folder.mkdir()
    os.utime(other, (0, 0))
    slow(monkeypatch, tmp_path, seconds=0)
    forget()
    assert native.unavailable_reason("norm") == ""
    assert not left.exists()
    assert not other.exists()
    assert running.exists()
    assert len(list((fresh / "kernels").glob("norm-*.so"))) == 1
