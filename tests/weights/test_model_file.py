"""Model files hold everything needed to use a network; loading one runs no code."""

import json
import pickle
import re

import pytest
import torch

from resnets.data.preprocessing import Preprocessing
from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.weights import hub, model_file
from resnets.weights.card import open_model_file, read_card


def save(path, name="cifar-resnet8", classes=("ant", "bee", "cow")):
    network = zoo.build(name, len(classes)).eval()
    card = model_file.make_card(name, list(classes), {"who": "test"}, [])
    mean = torch.rand(3, 32, 32)
    model_file.save(path, network.state_dict(), Preprocessing(32, 32, mean=mean), card)
    return network, mean


@pytest.mark.parametrize("network", ["cifar-resnet8", "cifar-highway19", "cifar-preact110"])
def test_a_saved_model_is_loaded_unchanged(tmp_path, network):
    network, mean = save(tmp_path / "model.safetensors", network)
    for name in (tmp_path / "model.safetensors", tmp_path):
        model = hub.load(str(name))
        assert model.classes == ["ant", "bee", "cow"]
        assert model.preprocessing.size == 32
        x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        expected = network(x.float() / 255 - mean)
        found = model.network(model.normalize(torch.device("cpu"))(x))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_default_model_is_shipped_and_as_good_as_the_paper():
    model = hub.load("cifar-resnet20")
    (measured,) = model.card["measured"]
    assert model.card["network"] == "cifar-resnet20"
    assert measured["images"] == 10_000
    assert measured["error"] <= 8.75
    assert model.card["provenance"]["recipe"]["split"] == "50k/10k"


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b'{"not": "safetensors"}', pickle.dumps({})])
def test_what_is_not_a_model_file_is_refused(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable model file"):
        model_file.load(str(path))


def test_truncated_files_and_files_without_a_card_are_refused(tmp_path):
    save(tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[:-50])
    with pytest.raises(UserError, match="not a readable model file"):
        model_file.load(str(tmp_path / "short.safetensors"))
    without_card = model_file.safetensors.torch.save({"a": torch.zeros(2)})
    (tmp_path / "other.safetensors").write_bytes(without_card)
    with pytest.raises(UserError, match="not a model file of resnets: it has no card"):
        model_file.load(str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"\x40\0\0\0\0\0\0\0{" + b" " * 20, "cut off or damaged"),
        (pickle.dumps({}), "not in the safetensors format"),
    ],
)
def test_the_message_says_what_a_file_is_instead(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        model_file.load(path)
    assert not re.search("Error|header|Errno", str(caught.value))


def test_a_folder_and_a_missing_file_are_named_in_plain_words(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        model_file.load(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        model_file.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("part", ["header", "tensors"])
def test_a_flipped_bit_is_found(tmp_path, part):
    path = tmp_path / "model.safetensors"
    save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"cow") if part == "header" else -5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"damaged: its {part} do.* checksum"):
        model_file.load(path)
    if part == "header":
        with pytest.raises(UserError, match="header does not match"):
            read_card(path)
    else:
        assert read_card(path)[0]["classes"] == ["ant", "bee", "cow"]


def test_a_card_that_is_no_json_says_where(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_file.safetensors.torch.save({"a": torch.zeros(2)}, {"card": "{x"}))
    with pytest.raises(UserError, match="not JSON at line 1, column 2"):
        model_file.load(path)


def test_class_names_are_kept_as_they_are(tmp_path):
    """They are compared with the names of folders; what prints them keeps to one line."""
    path = tmp_path / "model.safetensors"
    save(path, classes=("ant", "bee\nof honey"))
    assert model_file.load(path).classes == ["ant", "bee\nof honey"]
    assert read_card(path)[0]["classes"] == ["ant", "bee\nof honey"]


@pytest.mark.parametrize("name", ["theirs.pth", "theirs.safetensors"])
def test_a_file_of_another_program_says_how_to_convert_it(tmp_path, name):
    path = tmp_path / name
    state = {"fc.bias": torch.zeros(2)}
    save_theirs = model_file.safetensors.torch.save_file if name.endswith("s") else torch.save
    save_theirs(state, path)
    with pytest.raises(UserError, match=f"resnets convert {path} mine.safetensors"):
        model_file.load(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar-resnet2", r"did you mean cifar-resnet20\?"),
        ("resnt50", r"did you mean resnet50@msra\?"),
        ("resnet50@mrsa", r"did you mean resnet50@msra\?"),
        ("mobilenet", "unknown model 'mobilenet'; known: cifar-resnet20, resnet50@msra, .*v2$"),
        ("cifar-resnet56", "a network, of which no trained model is known; .*known: cifar-res"),
        ("", "the name of a model is empty; known: cifar-resnet20, resnet50@msra"),
        ("/dev/null", "/dev/null: is a device or a pipe"),
        ("no/such/file.safetensors", "no such model file"),
    ],
)
def test_unknown_models(name, message):
    with pytest.raises(UserError, match=message):
        hub.load(name)


def test_a_run_without_a_model_says_how_to_finish(tmp_path):
    with pytest.raises(UserError, match="no model is in this folder"):
        hub.load(str(tmp_path))
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(
        UserError, match="this run has no model yet; finish it with: resnets resume"
    ):
        hub.load(str(tmp_path))


def spoilt(path, change):
    """A model file whose card or tensors were changed."""
    save(path)
    with model_file.safetensors.safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["card"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    mean = change(card, weights, weights.pop(model_file.MEAN))
    weights[model_file.MEAN] = mean
    path.write_bytes(model_file.safetensors.torch.save(weights, {"card": json.dumps(card)}))


def set_nan(card, weights, mean):
    weights["fc.bias"] = torch.full_like(weights["fc.bias"], float("nan"))
    return mean


def set_in(*keys, value):
    def change(card, weights, mean):
        table = card
        for key in keys[:-1]:
            table = table[key]
        table[keys[-1]] = value
        return mean

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_nan,
        set_in("format", value="resnets-model-99"),
        set_in("preprocessing", value={}),
        set_in("preprocessing", "size", value="abc"),
        set_in("preprocessing", "size", value=64),
        set_in("preprocessing", "std", value=1.0),
        set_in("preprocessing", "std", value=[0.2, 0.2, 0]),
        set_in("preprocessing", "std", value=[0.2, 0.2, float("nan")]),
        set_in("network", value="resnet3"),
        set_in("network", value=5),
        set_in("classes", value=[]),
        set_in("classes", value="abc"),
        set_in("classes", value=["ant", "bee", 3]),
        set_in("class_ids", value=["one", "two"]),
        set_in("classes", value=["one"]),
        lambda card, weights, mean: torch.zeros(2, 2),
    ],
)
def test_an_unusable_card_or_tensor_is_one_line_that_names_the_file(tmp_path, change):
    path = tmp_path / "model.safetensors"
    spoilt(path, change)
    with pytest.raises(UserError, match="not a valid model file of resnets") as caught:
        model_file.load(str(path))
    assert str(path) in str(caught.value)


def test_weights_in_half_precision_are_used_in_float32(tmp_path):
    path = tmp_path / "model.safetensors"

    def halve(card, weights, mean):
        weights.update({k: w.half() for k, w in weights.items() if w.is_floating_point()})
        return mean.half()

    spoilt(path, halve)
    model = model_file.load(str(path))
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    assert model.network(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_an_error_without_text_is_one_line_too(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path)
    with (
        pytest.raises(UserError, match=r"not a valid model file of resnets \(it is malformed\)"),
        open_model_file(path, "pt"),
    ):
        raise ValueError


@pytest.mark.parametrize("names", [2, 4])
def test_a_card_with_more_or_fewer_classes_than_outputs_is_one_line(tmp_path, names):
    network = zoo.build("cifar-resnet8", 3)
    card = model_file.make_card("cifar-resnet8", list("abcd")[:names], {}, [])
    path = tmp_path / "model.safetensors"
    preprocessing = Preprocessing(32, 32, mean=torch.zeros(3, 1, 1))
    model_file.save(path, network.state_dict(), preprocessing, card)
    message = f"its card names {names} classes, but its network has 3 outputs"
    for read in (model_file.load, read_card):
        with pytest.raises(UserError, match=message):
            read(path)
