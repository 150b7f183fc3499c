"""CIFAR-100 on the command line: 100 classes or 20 superclasses, from the official files."""

import json

import pytest

from resnets.data.cifar_classes import CLASSES
from resnets.weights import hub
from tests.data.test_cifar import hundred, write_tar  # noqa: F401 - a fixture

SMALL = ("--network", "cifar-resnet8", "--device", "cpu", "--set", "iterations=2",
         "--set", "batch=16", "--set", "test_every=1", "--set", "precision=fp32",
         "--set", "schedule.warmup=1", "--set", "progressive.until=1")  # fmt: skip


@pytest.fixture
def archive(tmp_path, hundred):  # noqa: F811
    return str(write_tar(tmp_path / "cifar-100-python.tar.gz", hundred["python"], "x"))


@pytest.mark.parametrize("name", ["cifar100", "cifar100-coarse"])
def test_a_network_is_trained_and_tested_on_cifar_100(resnets, archive, tmp_path, name):
    labels = () if name == "cifar100" else ("--set", f"dataset={name}")
    code, out, err = resnets("train", "cifar100", *SMALL, *labels, "--data", archive, "--out", "r")
    assert code == 0, err
    assert "the paper" not in out  # it has no error on CIFAR-100
    model = hub.load(str(tmp_path / "r"))
    assert model.classes == list(CLASSES[name])
    code, out, err = resnets("eval", "r", name, "--data", archive, "--json")
    assert code == 0, err
    tested = json.loads(out)
    assert (tested["dataset"], tested["images"]) == (name, 20)
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["measured"]["error"] == tested["error"]
    assert summary["measured"]["dataset"] == name
    code, out, _ = resnets("train", "cifar100", *SMALL, *labels, "--out", "r", "--resume")
    assert (code, f"eval r {name}" in out) == (0, True)
    code, _, err = resnets("eval", "r", "--data", archive)
    assert (code, f"than those of cifar10; say {name}" in err) == (2, True)
    other = "cifar100" if labels else "cifar100-coarse"
    code, _, err = resnets("eval", "r", other, "--data", archive)
    assert (code, f"than those of {other}" in err, f"say {name}" in err) == (2, True, True)
