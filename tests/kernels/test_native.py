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
    "script", ["exit 1", 'case "$1" in --version) echo 1 ;; *) exit 1 ;; esac']
)
def test_a_compiler_that_fails_leaves_nothing(fresh, monkeypatch, tmp_path, script):
    tool = tmp_path / "broken"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(tool))
    assert native.library("norm") is None
    assert not list(fresh.glob("kernels/*"))


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
        f'#!/bin/sh\n[ "$1" = --version ] && echo another && exit\nexec {native.compiler()} "$@"\n'
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", os.fspath(tool))
    native.library.cache_clear()
    assert native.library("norm") is not None
    assert len(list((fresh / "kernels").iterdir())) == 2
