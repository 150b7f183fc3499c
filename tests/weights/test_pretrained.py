"""Networks by name with the weights of trained models."""

import os

import numpy as np
import pytest
import torch

import resnets
from resnets.support.errors import UserError
from resnets.weights import hub


def test_a_network_with_the_weights_that_come_with_the_package():
    network = resnets.create_model("cifar-resnet20", pretrained=True)
    trained = hub.load("cifar-resnet20").network
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    for name, tensor in trained.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def test_what_is_assumed_of_weights_of_another_program_is_said(tmp_path):
    torch.save(hub.load("cifar-resnet20").network.state_dict(), tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="w.pth: assumed: zeros of option A behind"):
        resnets.create_model("cifar-resnet20", pretrained=tmp_path / "w.pth")


def test_another_number_of_classes_gets_a_new_classifier():
    torch.manual_seed(1)
    network = resnets.create_model("cifar-resnet20", 3, pretrained="cifar-resnet20")
    trained = hub.load("cifar-resnet20").network
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert torch.equal(network.conv1.weight, trained.conv1.weight)
    torch.manual_seed(1)
    new = resnets.create_model("cifar-resnet20", 3)
    assert torch.equal(network.fc.weight, new.fc.weight)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("cifar-resnet56", "cifar-resnet20", "the weights are of a cifar-resnet20"),
        ("cifar-plain20", True, "cifar-plain20 is a network, of which no trained model is known"),
        ("cifar-resnet20", "", "the name of a model is empty"),
        ("cifar-resnet20", "/dev/null", "is a device or a pipe"),
        ("cifar-resnet21", True, "6n\\+2 layers"),
        ("cifar-resnet20", "nowhere.safetensors", "no such model file"),
    ],
)
def test_weights_of_another_network_are_refused(name, pretrained, message):
    with pytest.raises(UserError, match=message):
        resnets.create_model(name, pretrained=pretrained)


def test_lists_of_networks_and_models():
    assert "cifar-resnet110" in resnets.list_models("*110*")
    assert all("110" in name for name in resnets.list_models("*110*"))
    assert {"cifar-resnet20", "resnet50@msra"} <= set(resnets.list_models(pretrained=True))
    assert resnets.list_models("no such*") == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: resnets.load(0), TypeError, "name must be a model's name or path, not 0"),
        (lambda: resnets.load("cifar-resnet20", device=0), TypeError, "such as 'cpu' or 'cuda:0'"),
        (lambda: resnets.load("cifar-resnet20", runtime=None), TypeError, "runtime must be text"),
        (lambda: resnets.create_model(None), TypeError, "name must be a network's name, not None"),
        (lambda: resnets.create_model("resnet18", "a"), TypeError, "classes must be a whole"),
        (lambda: resnets.create_model("resnet18", True), TypeError, "classes must be a whole"),
        (lambda: resnets.create_model("resnet18", 2.0), TypeError, "classes must be a whole"),
        (lambda: resnets.create_model("resnet18", 0), ValueError, "classes must be at least 1"),
        (lambda: resnets.create_model("resnet18", pretrained=3), TypeError, "pretrained must be"),
        (lambda: resnets.list_models(3), TypeError, "pattern must be"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_names_that_are_no_models_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").touch()  # so that this folder looks like an export
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("", "the name of a model is empty"),
        ("/dev/null", "/dev/null: is a device or a pipe"),
        ("pipe", "pipe: is a device or a pipe"),
        (tmp_path.parent, "no model is in this folder"),
        ("a" * 300, "[Nn]ame too long; give a shorter name"),
        ("a\0b", "unknown model"),
    ):
        with pytest.raises(UserError, match=message):
            resnets.load(name)


def test_paths_are_names_too(tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(hub.resolve("cifar-resnet20").read_bytes())
    assert resnets.load(copy, runtime="torch", device=torch.device("cpu")).classes[0] == "airplane"
    network = resnets.create_model("cifar-resnet20", np.int64(10), pretrained=copy)
    assert network.fc.out_features == 10
