"""Commands start fast: packages that take seconds to import are imported only where needed."""

import subprocess
import sys

import pytest

from resnets.support import devices
from tests.conftest import draw_photos

RUN = """
import sys
from resnets.cli.main import app
app(sys.argv[1:], standalone_mode=False)
slow = {"torch", "torch._dynamo", "torchvision", "matplotlib", "rich"}
print("imported:", *sorted(slow & sys.modules.keys()))
"""


def imported(*arguments):
    """Which slow packages a command imported, and what else it printed."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True
    )
    *lines, last = done.stdout.splitlines()
    return last.removeprefix("imported:").split(), lines


def test_predictions_by_openvino_import_no_torch(tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    draw_photos(tmp_path / "photos", {"a": 2})
    command = ["predict", "cifar-resnet20", str(tmp_path / "photos"), "--device", "cpu", "--json"]
    imported(*command)  # converts the network where no run before did
    slow, lines = imported(*command)
    assert slow == []
    assert len(lines) == 2


def test_help_imports_nothing_slow():
    for words in ([], ["predict"]):
        assert imported(*words, "--help")[0] == []


def test_facts_of_a_network_need_no_more_than_torch():
    assert imported("info", "cifar-resnet20")[0] == ["rich", "torch"]
    assert imported("info")[0] == ["rich"]


@pytest.mark.parametrize(("name", "driver", "sure"), [
    ("cpu", True, True), ("cpu", False, True), ("auto", False, True),
    ("auto", True, False), ("cuda", False, False), ("gpu", False, False),
])  # fmt: skip
def test_the_cpu_is_chosen_without_torch_where_there_can_be_no_gpu(monkeypatch, name, driver, sure):
    monkeypatch.setattr(devices, "_may_have_gpu", lambda: driver)
    assert devices.is_surely_cpu(name) == sure
