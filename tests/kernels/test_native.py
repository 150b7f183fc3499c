"""C++ that is compiled when it is needed, or done without."""

import os
import stat

import pytest

from resnets.kernels import native

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")


@pytest.fixture
def fresh(cache):
    native.library.cache_clear()
    yield cache
    native.library.cache_clear()


@needs_compiler
def test_compiled_once_and_kept(fresh):
    assert native.library("norm") is not None
    (made,) = (fresh / "kernels").iterdir()
    before = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library("norm") is not None
    assert made.stat().st_mtime_ns == before


def test_no_compiler_no_library(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert native.library("norm") is None
    assert not fresh.exists()


@pytest.mark.parametrize(
    "script",
    ["exit 1", 'case "$1" in --version) echo Free Software Foundation ;; *) exit 1 ;; esac'],
)
def test_a_compiler_that_fails_leaves_nothing(fresh, monkeypatch, tmp_path, script):
    tool = tmp_path / "broken"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(tool))
    assert native.library("norm") is None
    assert not list(fresh.glob("kernels/*"))


@needs_compiler
def test_a_damaged_file_is_made_anew(fresh, monkeypatch, tmp_path):
    assert native.library("norm") is not None
    (made,) = (fresh / "kernels").iterdir()
    damaged = tmp_path / "other" / "kernels" / made.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "other"))
    native.library.cache_clear()
    assert native.library("norm") is not None
    assert damaged.stat().st_size > 1000


@needs_compiler
def test_what_others_may_have_written_is_not_run(fresh):
    assert native.library("norm") is not None
    (made,) = (fresh / "kernels").iterdir()
    before = made.stat().st_ino
    made.chmod(0o777)
    native.library.cache_clear()
    assert native.library("norm") is not None
    assert made.stat().st_ino != before
    assert not made.stat().st_mode & 0o022


def test_another_compiler_than_gcc_is_not_used(fresh, monkeypatch, tmp_path):
    tool = tmp_path / "clang++"
    tool.write_text('#!/bin/sh\n[ "$1" = --version ] && echo clang version 19 && exit\nexit 1\n')
    tool.chmod(0o755)
    monkeypatch.setenv("CXX", str(tool))
    assert native.library("norm") is None
    assert not fresh.exists()


@needs_compiler
def test_a_cache_that_cannot_be_written(fresh, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "file"))
    assert native.library("norm") is None


@needs_compiler
def test_the_file_depends_on_the_compiler(fresh, monkeypatch, tmp_path):
    assert native.library("norm") is not None
    tool = tmp_path / "other"
    tool.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo another, Free Software Foundation && exit\n'
        f'exec {native.compiler()} "$@"\n'
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", os.fspath(tool))
    native.library.cache_clear()
    assert native.library("norm") is not None
    assert len(list((fresh / "kernels").iterdir())) == 2
