"""`resnets convert`: what it prints, and one line for what cannot be done."""

import pytest
import torch

from resnets.cli import convert
from resnets.support.errors import UserError
from resnets.weights import model_file
from resnets.weights.convert import formats
from tests.weights.convert.nets import answers, model, tiny_zoo  # noqa: F401

pytestmark = pytest.mark.usefixtures("tiny_zoo")


def test_from_torchvision_to_ours_to_keras_and_back(tmp_path, capsys):
    theirs, ours, keras = (str(tmp_path / f"a.{kind}") for kind in ("pth", "safetensors", "h5"))
    before = model("tiny-v1.5", 1000)
    torch.save(before.network.state_dict(), theirs)
    convert.convert(theirs, tmp_path / "a.safetensors", None, None)
    out = capsys.readouterr().out
    assert "tiny-v1.5 with 1,000 classes, as resnets" in out
    assert "mean 0.4850 0.4560 0.4060, deviation 0.2290" in out
    assert model_file.load(ours).classes[0] == "tench"
    convert.convert(ours, tmp_path / "a.h5", None, None)
    assert "a.h5.card.json" in capsys.readouterr().out
    torch.testing.assert_close(
        answers(formats.read(tmp_path / "a.h5")), answers(model_file.load(ours)),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    assert keras in [str(path) for path in tmp_path.iterdir()]


def test_a_shipped_model_and_one_of_another_network(tmp_path):
    convert.convert("cifar-resnet20", tmp_path / "copy.safetensors", None, None)
    assert model_file.load(str(tmp_path / "copy.safetensors")).classes[0] == "airplane"
    with pytest.raises(UserError, match="is a cifar-resnet20, not a tiny"):
        convert.convert("cifar-resnet20", tmp_path / "copy.safetensors", "tiny", None)


def test_a_source_is_never_overwritten(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(model("tiny18").network.state_dict(), path)
    content = path.read_bytes()
    with pytest.raises(UserError, match="would overwrite its source"):
        convert.convert(str(path), path, None, "resnets")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("kind", "source", "out", "to"),
    [
        ("caffe", "a.caffemodel", "a.caffemodel", "caffe"),
        ("caffe", "a.prototxt", "a.h5", "caffe"),
        ("caffe", "a.caffemodel", "a.prototxt", "keras-h5"),
        ("caffe", "a.caffemodel", "a_mean.binaryproto", "resnets"),
        ("timm", "a", "a", "timm"),
        ("timm", "a", "a/config.json", "resnets"),
        ("timm", "a", "a/model.safetensors", "resnets"),
        ("tfjs", "a", "a/other.json", "tfjs"),
        ("tfjs", "a", "a", "tfjs"),
        ("resnets", "a.safetensors", "link.safetensors", "torchvision"),
        ("torchvision", "a.pth", "a.pth.card.json", "resnets"),
    ],
)
def test_no_file_of_a_source_is_overwritten(tmp_path, kind, source, out, to):
    formats.write(model("tiny-v1.5"), tmp_path / source, kind)
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "a.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="would overwrite its source"):
        convert.convert(str(tmp_path / source), tmp_path / out, None, to)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
