"""Networks by name with the weights of trained models."""

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
        ("cifar-plain20", True, "no trained weights of cifar-plain20"),
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
