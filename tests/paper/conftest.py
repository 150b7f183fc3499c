"""Jobs on small networks and synthetic images, run in this process."""

import contextlib
import sys

import pytest

from resnets.cli import main as cli
from resnets.data import cifar
from resnets.paper.jobs import DataSet, Training, Workspace
from resnets.paper.store import Store

DATA = DataSet("cifar10", None, "50k/10k", 600)
SETTINGS = ("batch=50", "iterations=6", "test_every=3", "log_every=2", "schedule.warmup=2")


def small(network="cifar-resnet8", seed=0, variant="", settings=SETTINGS):
    return Training(network, "cifar10-short", DATA, "smoke", seed, settings, variant=variant)


class InProcess:
    """A pool that runs `python -m resnets ...` in this process as soon as it is started."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.commands = []
        self.codes = {}
        self.lose = set()
        self.stopped = False

    def start(self, key, command, environment, output, log):
        assert command[:3] == [sys.executable, "-m", "resnets"]
        self.commands.append(command[3:])
        if key in self.lose:
            self.lose.remove(key)
            self.codes[key] = None
            return
        self.monkeypatch.setattr(sys, "argv", ["resnets", *command[3:]])
        with (
            output.open("w") as out,
            log.open("a") as err,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                cli.main()
                self.codes[key] = 0
            except SystemExit as stopped:
                self.codes[key] = stopped.code or 0

    def finished(self, timeout):
        ended, self.codes = list(self.codes.items()), {}
        return ended

    def stop(self):
        self.stopped = True


class Silent:
    """Remembers what it is called with."""

    def __init__(self):
        self.notes, self.begun, self.results = [], [], []

    def note(self, text):
        self.notes.append(text)

    def started(self, job):
        self.begun.append(job.key)

    def collected(self, outcome):
        self.results.append(outcome.key)

    def update(self, running):
        pass


@pytest.fixture
def workspace(tmp_path):
    return Workspace(Store(tmp_path / "results"), tmp_path / "runs")


@pytest.fixture
def pool(monkeypatch, tiny):
    monkeypatch.setattr(cifar, "load", lambda name, data=None, report=None: tiny)
    return InProcess(monkeypatch)
