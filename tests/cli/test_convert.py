"""`resnets convert`: what it prints, and one line for what cannot be done."""

import pytest
import torch

from resnets.cli import convert
from resnets.support.errors import UserError
from resnets.weights import hub, model_file
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
        convert.convert("cifar-resnet20", tmp_path / "other.safetensors", "tiny", None)


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


def test_existing_files_are_replaced_only_with_force(resnets, tmp_path):
    torch.save(model("tiny18").network.state_dict(), tmp_path / "a.pth")
    for out in ("a.safetensors", "b.pth.card.json", "a.h5"):
        (tmp_path / out).write_text("precious")
    formats.write(model("tiny18"), tmp_path / "m.safetensors", "resnets")
    for source, out, blocked in (
        ("a.pth", "a.safetensors", "a.safetensors"),
        ("m.safetensors", "b.pth", "b.pth.card.json"),
        ("m.safetensors", "a.h5", "a.h5"),
    ):
        code, _, err = resnets("convert", source, out)
        assert code == 2
        assert f"{blocked}: exists already; give another name, or --force" in err
        assert (tmp_path / blocked).read_text() == "precious"
        assert resnets("convert", source, out, "--force")[0] == 0
        assert formats.read(tmp_path / out).classes


def test_a_cifar_checkpoint_becomes_a_model_that_answers(resnets, tmp_path):
    """The weights of the shipped model, as a state dict without anything else."""
    shipped = hub.load("cifar-resnet20")
    torch.save(shipped.network.state_dict(), tmp_path / "ship.pth")
    arguments = ("convert", "ship.pth", "ship.safetensors", "--network", "cifar-resnet20")
    code, out, _ = resnets(*arguments)
    assert code == 0
    assert "images: shorter side 32, centre 32" in out
    assumed = out.splitlines()[-1]
    for what in ("images of 32", "CIFAR-10's mean", "no deviation", "CIFAR-10's class", "behind"):
        assert what in assumed
    first = model_file.load(tmp_path / "ship.safetensors").preprocessing
    code, out, _ = resnets(
        *arguments, "--mean", "0.4914", "0.4822", "0.4465", "--std", "1", "1", "1",
        "--zeros", "behind", "--size", "32", "--force",
    )  # fmt: skip
    assert code == 0
    assert out.splitlines()[-1] == "assumed: CIFAR-10's class names (--classes)"
    made = model_file.load(tmp_path / "ship.safetensors")
    torch.testing.assert_close(made.preprocessing.mean, first.mean)
    assert made.classes == shipped.classes
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    own, other = (m.network(m.normalize(torch.device("cpu"))(pixels)) for m in (shipped, made))
    assert (own.softmax(1) - other.softmax(1)).abs().max() < 0.1  # its mean image has no std


def test_class_names_from_a_file(resnets, tmp_path):
    torch.save(model("tiny18", 3).network.state_dict(), tmp_path / "a.pth")
    (tmp_path / "names.txt").write_text("\ufeffant\r\nbee\r\ncow\r\n\r\n", newline="")
    arguments = ("convert", "a.pth", "a.safetensors", "--classes", "names.txt")
    assert resnets(*arguments)[0] == 0
    assert model_file.load(tmp_path / "a.safetensors").classes == ["ant", "bee", "cow"]
    for text, message in (
        ("ant\nbee\n", "2 class names for weights with 3 outputs"),
        ("ant\n\ncow\n", "names.txt, line 2: the line is empty"),
        ("\ufeffant\nbee\nant\n", "names.txt, line 3: the class 'ant' is in line 1 already"),
        ("caf\u00e9\nbee\ncafe\u0301 \n", "names.txt, line 3: the class 'caf\u00e9' is in line 1"),
    ):
        (tmp_path / "names.txt").write_text(text)
        code, _, err = resnets(*arguments, "--force")
        assert code == 2
        assert message in err
    code, _, err = resnets("convert", "a.pth", "b.safetensors", "--classes", tmp_path)
    assert code == 2
    assert "cannot be read (is a folder)" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "123", "116", "103"), "--mean: must be of pixels in 0..1"),
        (("--mean", "0.1", "0.1"), "--mean needs 3 numbers, such as --mean 0.5 0.5 0.5"),
        (("--mean", "0.1", "0.1", "--force"), "--mean needs 3 numbers, such as --mean 0.5"),
        (("--mean", "nan", "0", "0"), "--mean: must be of pixels in 0..1"),
        (("--mean", "-0.1", "0", "0"), "from 0 to 1; give red, green and blue, such as --mean"),
        (("--std", "0", "1", "1"), "--std: must be of pixels in 0..1, from 0.001 to 1; give red"),
        (("--std", "nan", "1", "1"), "such as --std 0.229 0.224 0.225"),
        (("--std", "58", "57", "57"), "--std: must be of pixels in 0..1, from 0.001 to 1; divide"),
        (("--std", "1e-30", "1", "1"), "--std: must be of pixels in 0..1"),
        (("--size", "100000"), "--size must be at most 4096"),
        (("--zeros", "front"), "--zeros: unknown position 'front'; behind or both"),
        (("--zeros", "both"), "tiny18 has no shortcuts of option A"),
    ],
)
def test_impossible_statements_are_refused(resnets, tmp_path, options, message):
    torch.save(model("tiny18", 3).network.state_dict(), tmp_path / "a.pth")
    code, _, err = resnets("convert", "a.pth", "a.safetensors", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "a.safetensors").exists()


def test_a_model_file_says_itself_what_it_is(resnets, tmp_path):
    code, _, err = resnets("convert", "cifar-resnet20", "a.safetensors", "--size", "64")
    assert code == 2
    assert "--size: a model file already contains this" in err
    code, _, err = resnets("convert", "cifar-resnet20", "a.safetensors", "--state", "model")
    assert code == 2
    assert "--state: a model file already contains this" in err
    code, _, err = resnets("convert", "cifar-resnet20", "a.safetensors", "--zeros", "both")
    assert code == 2
    assert "--zeros: applies to files of other programs" in err


def test_zeros_are_moved_both_ways(resnets, tmp_path):
    before = hub.load("cifar-resnet20")
    code, out, _ = resnets("convert", "cifar-resnet20", "there.pth", "--zeros", "both")
    assert code == 0
    assert "assumed" not in out
    assert "assumed: zeros of option A behind" in resnets("convert", "cifar-resnet20", "b.pth")[1]
    assert resnets("convert", "there.pth", "by-card.safetensors")[0] == 0
    name = ("--network", "cifar-resnet20")
    (tmp_path / "there.pth.card.json").unlink()
    resnets("convert", "there.pth", "by-option.safetensors", *name, "--zeros", "both")
    resnets("convert", "there.pth", "wrong.safetensors", *name)
    x = torch.randn(2, 3, 32, 32)
    for file in ("by-card", "by-option"):
        torch.testing.assert_close(
            model_file.load(tmp_path / f"{file}.safetensors").network(x), before.network(x)
        )
    wrong = model_file.load(tmp_path / "wrong.safetensors").network(x)
    assert not torch.allclose(wrong, before.network(x), atol=0.1)


def test_of_several_weights_convert_says_which_it_took(resnets, tmp_path):
    first, second = model("tiny18", 3).network.state_dict(), model("tiny18", 3).network.state_dict()
    second = {name: tensor + 1 for name, tensor in second.items()}
    torch.save({"state_dict": first, "state_dict_ema": second, "epoch": 3}, tmp_path / "a.pth")
    code, out, _ = resnets("convert", "a.pth", "a.safetensors")
    line = "assumed: the averaged weights state_dict_ema, not state_dict (--state)"
    assert code == 0
    assert line in out
    origin = model_file.load(tmp_path / "a.safetensors").card["provenance"]["converted_from"]
    assert origin["state"] == "state_dict_ema"
    assert "averaged" in origin["assumed"][0]
    code, out, _ = resnets("convert", "a.pth", "b.safetensors", "--state", "state_dict")
    assert (code, "averaged" in out) == (0, False)
    made = model_file.load(tmp_path / "b.safetensors")
    assert made.card["provenance"]["converted_from"]["state"] == "state_dict"
    assert torch.equal(made.network.conv1.weight, first["conv1.weight"])
    torch.save({"model": first, "net": second}, tmp_path / "c.pth")
    code, _, err = resnets("convert", "c.pth", "c.safetensors")
    assert code == 2
    assert "c.pth: holds several weights: model, net; choose one: resnets convert c.pth" in err
    assert resnets("convert", "c.pth", "c.safetensors", "--state", "net")[0] == 0
    for file, wanted, message in (
        ("c.pth", "ema", "--state: c.pth has no weights called 'ema'; it has model, net"),
        ("k.h5", "net", "--state net: applies to checkpoints of PyTorch"),
    ):
        (tmp_path / "k.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
        code, _, err = resnets("convert", file, "d.safetensors", "--state", wanted)
        assert code == 2
        assert message in err
