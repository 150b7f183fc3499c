"""The command line called in this process, in an empty folder."""

import sys

import pytest

from resnets.cli import main as cli
from resnets.data import cifar


@pytest.fixture
def resnets(monkeypatch, capsys, tmp_path):
    """Runs `resnets ...` in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["resnets", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def real_shape(monkeypatch, tiny):
    """The small synthetic data in the place of CIFAR-10."""
    monkeypatch.setattr(cifar, "load", lambda name, data=None, report=None: tiny)
    return tiny
