"""Programs of `torch.export` load without running code that the file may contain."""

import zipfile

import pytest

from resnets.data.preprocessing import imagenet
from resnets.export import network_file
from resnets.inference import pt2
from resnets.inference.deployable import Deployable
from resnets.inference.engines import TorchExportRuntime
from resnets.support.errors import UserError
from tests.inference.test_runtimes import used


@pytest.fixture
def program(tmp_path):
    """A file as `resnets export` writes it."""
    network = Deployable(used("cifar-resnet8", 3), imagenet()).eval()
    file = tmp_path / "whole.pt2"
    network_file.write(
        network,
        file,
        size=32,
        precision="fp32",
        images=(),
        description={"classes": ["a"]},
        opset=18,
    )
    assert pt2.load(file) is not None
    return file


def test_files_that_could_run_code_are_refused(program, tmp_path):
    file = tmp_path / "model.pt2"
    with zipfile.ZipFile(program) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}

    def refused(change, message):
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, change(name, content))
            if change is same:
                archive.writestr("model/data/weights/model.pt", b"a pickle")
        with pytest.raises(UserError, match=message):
            pt2.load(file)

    def same(name, content):
        return content

    def replaced(part, old, new):
        return lambda name, content: content.replace(old, new) if part in name else content

    refused(same, "unknown entry")
    refused(replaced("weights_config", b'"use_pickle": false', b'"use_pickle": true'), "a pickle")
    refused(replaced("models/", b"torch.ops.aten.relu.default", b"torch.hub.load"), "an operator")
    refused(replaced("models/", b"Symbol(", b"__import__("), "an expression")
    broken = replaced("models/", b"{", b"[")
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, broken(name, content))
    with pytest.raises(UserError, match="cannot read this network: it is damaged"):
        TorchExportRuntime(file, "fp32")
