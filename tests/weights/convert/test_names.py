"""State dicts of other programs: their names, their wrappers, and what they lack."""

import json
from dataclasses import replace

import pytest
import torch

import resnets
from resnets.models import zoo
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError
from resnets.weights import hub
from resnets.weights.card import assumptions_of
from resnets.weights.convert import formats
from resnets.weights.convert.identify import Statement
from resnets.weights.pretrained import copy_weights, starting_model
from tests.weights.convert.nets import answers, model, tiny_zoo  # noqa: F401

pytestmark = pytest.mark.usefixtures("tiny_zoo")


def renamed(state, **parts):
    for old, new in parts.items():
        state = {name.replace(f"{old}.", f"{new}."): tensor for name, tensor in state.items()}
    return state


@pytest.mark.parametrize(
    "parts",
    [
        {"fc": "linear"}, {"fc": "fc.1"}, {"fc": "classifier"}, {"fc": "head.fc"},
        {"downsample": "shortcut"}, {"layer1": "module.model.layer1"},
    ],
    ids=str,
)  # fmt: skip
def test_other_names_of_layers_are_known(tmp_path, parts):
    before = model("tiny18")
    torch.save(renamed(before.network.state_dict(), **parts), tmp_path / "a.pth")
    torch.testing.assert_close(answers(formats.read(tmp_path / "a.pth")), answers(before))


@pytest.mark.parametrize("prefix", ["weird.", "weird.2.", "module.weird.module.", "weird.net.3."])
@pytest.mark.parametrize("counter", [False, True])
def test_an_unknown_prefix_of_all_names_is_taken_off_and_that_is_said(tmp_path, prefix, counter):
    before = model("tiny18")
    state = {f"{prefix}{name}": tensor for name, tensor in before.network.state_dict().items()}
    torch.save(state | ({"n_averaged": torch.tensor(7)} if counter else {}), tmp_path / "a.pth")
    found = formats.read(tmp_path / "a.pth")
    torch.testing.assert_close(answers(found), answers(before))
    said = f"names without the prefix {prefix.removeprefix('module.')} that they all have"
    assert said in assumptions_of(found.card)
    assert said in assumptions_of(starting_model(str(tmp_path / "a.pth")).card)
    torch.save({f"module.{n}": t for n, t in before.network.state_dict().items()}, tmp_path / "b")
    assert "prefix" not in assumptions_of(formats.read(tmp_path / "b").card)


def test_a_prefix_of_some_names_is_kept(tmp_path):
    state = model("tiny18").network.state_dict()
    torch.save({n if "fc" in n else f"weird.{n}": t for n, t in state.items()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"such as weird.conv1.weight for conv1.weight; rename"):
        formats.read(tmp_path / "a.pth")
    torch.save({n: t for n, t in state.items() if n.startswith("layer1")}, tmp_path / "b.pth")
    with pytest.raises(
        UserError, match=r"nearest tiny\w+: \d+ tensors are missing \(first conv1.w"
    ):
        formats.read(tmp_path / "b.pth")


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-resnet14-b", "tiny", "tiny18"])
@pytest.mark.parametrize("classes", [7, 12])
def test_the_nearest_network_has_the_same_shapes_whatever_the_names(tmp_path, name, classes):
    state = ResidualNetwork(zoo.architecture(name).with_classes(classes)).state_dict()
    state = {n.replace("layer", "block").replace("fc", "out"): t for n, t in state.items()}
    torch.save(state, tmp_path / "a.pth")
    first = "block1.0.conv1.weight for layer1.0.conv1.weight"
    message = f"the shapes are those of {name}, but names differ, such as {first}; rename the"
    with pytest.raises(UserError, match=message):
        formats.read(tmp_path / "a.pth")


def test_a_wider_network_is_nearest_by_its_names(tmp_path):
    row = replace(zoo.architecture("cifar-resnet20"), widths=(24, 48, 96))
    torch.save(ResidualNetwork(row).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"nearest cifar-resnet20: \d+ shapes differ \(first conv1"):
        formats.read(tmp_path / "a.pth")


def two_states():
    """The state dict of a model, and another of the same network."""
    state = model("tiny18").network.state_dict()
    return state, {name: torch.ones_like(tensor) for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("entry", "other"),
    [("state_dict_ema", "state_dict"), ("model_ema", "model"), ("ema", "weights")],
)
def test_averaged_weights_come_first_and_that_is_said(tmp_path, entry, other):
    state, ones = two_states()
    averaged = {f"module.{name}": tensor for name, tensor in state.items()}
    averaged["n_averaged"] = torch.tensor(7)  # as AveragedModel has
    torch.save({other: ones, entry: averaged, "optimizer": {"state": {}}}, tmp_path / "a.pth")
    found = formats.read(tmp_path / "a.pth")
    torch.testing.assert_close(answers(found), answers(model("tiny18")))
    origin = found.card["provenance"]["converted_from"]
    assert origin["assumed"][0] == f"the averaged weights {entry}, not {other} (--state)"
    stated = formats.read(tmp_path / "a.pth", stated=Statement(state=other))
    assert torch.equal(stated.network.conv1.weight, ones["conv1.weight"])
    assert "averaged" not in assumptions_of(stated.card)


def test_a_training_and_a_network_say_which_weights_they_took(tmp_path):
    state, ones = two_states()
    torch.save({"state_dict": ones, "state_dict_ema": state}, tmp_path / "a.pth")
    assert "averaged weights" in assumptions_of(starting_model(str(tmp_path / "a.pth")).card)
    with pytest.warns(UserWarning, match="the averaged weights state_dict_ema, not state_dict"):
        resnets.create_model("tiny18", pretrained=tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("one", "other"), [("model", "net"), ("state_dict", "best"), ("model_ema", "net_ema")]
)
def test_weights_that_no_rule_prefers_are_refused_by_name(tmp_path, one, other):
    state, ones = two_states()
    torch.save({one: state, other: ones}, tmp_path / "b.pth")
    message = f"several weights: {one}, {other}; choose one: .*convert .*b.pth OUT --state {one}"
    with pytest.raises(UserError, match=message):
        starting_model(str(tmp_path / "b.pth"))
    torch.save({one: state, other: {**state}}, tmp_path / "same.pth")
    assert "averaged" not in assumptions_of(formats.read(tmp_path / "same.pth").card)


def test_an_entry_that_a_file_lacks_is_named(tmp_path):
    torch.save(model("tiny18").network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match="called 'ema'; it holds one network: leave it out"):
        formats.read(tmp_path / "a.pth", stated=Statement(state="ema"))
    torch.save({"net": {"state_dict": two_states()[0]}}, tmp_path / "b.pth")
    for entry in ("net", "state_dict"):
        assert formats.read(tmp_path / "b.pth", stated=Statement(state=entry)).classes


def test_the_card_of_a_file_names_its_network(tmp_path):
    """Option A and plain networks have the same tensors: only the card tells them apart."""
    for name in ("cifar-resnet8", "cifar-plain8", "tiny-v1.5"):
        path, card = formats.write(model(name), tmp_path / f"{name}.pth", "torchvision")
        found = formats.read(path)
        assert found.card["network"] == name
        assert "assumed" not in found.card["provenance"]["converted_from"]
        assert starting_model(str(path)).card["network"] == name
    with pytest.raises(UserError, match="its card says cifar-plain8, not cifar-resnet8"):
        formats.read(tmp_path / "cifar-plain8.pth", "cifar-resnet8")
    card.write_text(card.read_text().replace("tiny-v1.5", "resnet999"))
    with pytest.raises(UserError, match=r"card.json: not a readable card \(unknown network"):
        formats.read(path)


def test_two_networks_in_one_file_are_refused(tmp_path):
    state = model("tiny18").network.state_dict()
    both = {
        f"{part}.{name}": tensor for part in ("net", "encoder") for name, tensor in state.items()
    }
    torch.save(both, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"two networks .*: net.conv1.weight and encoder.conv1"):
        formats.read(tmp_path / "a.pth")


def test_a_classifier_of_two_layers_is_not_taken_for_one(tmp_path):
    state = renamed(model("tiny18").network.state_dict(), fc="fc.2")
    torch.save({**state, "fc.0.weight": torch.zeros(8, 8)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="unknown"):
        formats.read(tmp_path / "a.pth")


def without_classifier(tmp_path):
    state = model("tiny18").network.state_dict()
    path = tmp_path / "backbone.pth"
    torch.save({n: t for n, t in state.items() if not n.startswith("fc.")}, path)
    return path


def test_weights_without_a_classifier_are_for_trainings_only(tmp_path):
    path = without_classifier(tmp_path)
    with pytest.raises(UserError, match=f"no classifier.*resnets train RECIPE --init {path}"):
        formats.read(path)
    start = starting_model(str(path))
    assert (start.card["network"], start.classes) == ("tiny18", [])
    network = zoo.build("tiny18", 5)
    fresh = network.fc.weight.clone()
    copy_weights(network, start, classifier=False)
    assert torch.equal(network.conv1.weight, model("tiny18").network.conv1.weight)
    assert torch.equal(network.fc.weight, fresh)
    with pytest.warns(UserWarning, match="assumed") as said:
        made = resnets.create_model("tiny18", 5, pretrained=str(path))
    assert not any("no classifier" in str(warning.message) for warning in said)
    assert torch.equal(made.conv1.weight, network.conv1.weight)
    assert made.fc.out_features == 5
    with pytest.warns(UserWarning, match="assumed|no classifier") as said:
        made = resnets.create_model("tiny18", pretrained=str(path))
    assert "no classifier: that of 1,000 classes is new" in str(said[1].message)
    assert made.fc.out_features == 1000


def test_a_keras_file_without_its_top_is_for_trainings_only(tmp_path):
    h5py = pytest.importorskip("h5py")
    path, card = formats.write(model("tiny"), tmp_path / "notop.h5", "keras-h5")
    card.unlink()
    with h5py.File(path, "a") as file:
        group = file["model_weights"]
        group.attrs["layer_names"] = [n for n in group.attrs["layer_names"] if "fc7" not in str(n)]
    with pytest.raises(UserError, match="no classifier"):
        formats.read(path)
    start = starting_model(str(path))
    assert (start.card["network"], start.classes) == ("tiny", [])


def test_a_training_starts_from_a_checkpoint_of_another_program(tmp_path):
    torch.save(model("tiny18").network.state_dict(), tmp_path / "a.pth")
    assert len(starting_model(str(tmp_path / "a.pth")).classes) == 7
    formats.write(model("tiny18"), tmp_path / "hub", "transformers")
    assert starting_model(str(tmp_path / "hub")).classes[0] == "thing 0"
    formats.write(model("tiny18"), tmp_path / "run" / "model.safetensors", "resnets")
    assert starting_model(str(tmp_path / "run")).classes[0] == "thing 0"
    with pytest.raises(UserError, match="not weights of tiny:"):
        starting_model(str(tmp_path / "a.pth"), "tiny")


def test_one_output_is_refused(tmp_path):
    torch.save(model("tiny18", 1).network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match="one output, whose probability is always"):
        formats.read(tmp_path / "a.pth")
    assert starting_model(str(tmp_path / "a.pth")).classes == []


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102\n"


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    formats.write(model("tiny-v1.5"), tmp_path / "hub", "timm")
    (tmp_path / "hub" / "model.safetensors").write_bytes(POINTER)
    (tmp_path / "a.pth").write_bytes(POINTER)
    for path in (tmp_path / "hub", tmp_path / "a.pth"):
        with pytest.raises(UserError, match=r"pointer of Git LFS.*git lfs pull"):
            formats.read(path)


def test_a_folder_says_what_it_is(tmp_path):
    config = tmp_path / "config.json"
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="name the file of the weights"):
        formats.read(tmp_path)
    for document, message in (
        ({"model_type": "vit"}, "another kind: vit; only resnet"),
        ({}, "not a config of timm or transformers"),
        ([], "not a config|wrong kind"),
        ({"format": "resnets-export-1"}, "an export without its source"),
    ):
        config.write_text(json.dumps(document))
        with pytest.raises(UserError, match=message):
            formats.read(tmp_path)
    config.write_text("{")
    with pytest.raises(UserError, match="not JSON at line 1, column 2"):
        formats.read(tmp_path)


def test_an_export_is_converted_from_its_source(tmp_path):
    before = model("tiny18")
    formats.write(before, tmp_path / "model.safetensors", "resnets")
    (tmp_path / "config.json").write_text('{"format": "resnets-export-1"}')
    torch.testing.assert_close(answers(formats.read(tmp_path)), answers(before))


def test_a_folder_of_another_program_is_to_be_converted_as_a_whole(tmp_path):
    formats.write(model("tiny18"), tmp_path / "hub", "transformers")
    with pytest.raises(UserError, match=rf"resnets convert {tmp_path / 'hub'} mine.safetensors"):
        hub.load(str(tmp_path / "hub"))
    (tmp_path / "hub" / "model.safetensors").rename(tmp_path / "hub" / "pytorch_model.bin")
    with pytest.raises(UserError, match=rf"resnets convert {tmp_path / 'hub'} mine.safetensors"):
        hub.load(str(tmp_path / "hub"))
