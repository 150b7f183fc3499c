"""Tiny networks of every kind, with BN statistics unlike those of new networks."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from resnets.data.preprocessing import Preprocessing, imagenet
from resnets.models import zoo
from resnets.models.residual import Architecture, ResidualNetwork
from resnets.weights import model_file

V1 = Architecture("bottleneck", "B", (1, 2, 1, 1), (4, 8, 8, 8), "imagenet")
ROWS = {
    "tiny": V1,
    "tiny-c": replace(V1, shortcut="C"),
    "tiny-v1.5": replace(V1, stride_in="3x3"),
    "tiny18": replace(V1, block="basic"),
    "tinyplain": replace(V1, block="basic", depths=(1, 1, 2, 1), shortcut="none"),
}
CPU = torch.device("cpu")


@pytest.fixture
def tiny_zoo(monkeypatch):
    """The zoo table with these rows only."""
    monkeypatch.setattr(zoo, "NAMED", ROWS)


def scramble(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with random BN statistics and scales."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.requires_grad_(False).eval()


def tiny_preprocessing(kind: str = "torchvision") -> Preprocessing:
    """torchvision's preprocessing for 65 pixels; for another `kind` a mean image and no std."""
    mean = imagenet().mean if kind == "torchvision" else torch.rand(3, 65, 65)
    std = imagenet().std if kind == "torchvision" else None
    return Preprocessing(65, 70, "bicubic", mean=mean, std=std)


def model(name: str, classes: int = 7, preprocessing: Preprocessing | None = None):
    torch.manual_seed(1)
    network = scramble(ResidualNetwork(zoo.architecture(name).with_classes(classes)))
    names = [f"thing {i}" for i in range(classes)]
    ids = [f"id{i}" for i in range(classes)]
    card = model_file.make_card(name, names, {"recipe": "none"}, [{"error": 5.0}], ids)
    return model_file.Model(network, card, preprocessing or tiny_preprocessing())


def answers(of) -> torch.Tensor:
    """Logits for fixed images, preprocessed as the card says; an odd size, so that pools matter."""
    pixels = torch.randint(
        0, 256, (2, 3, 65, 65), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    return of.network(of.normalize(CPU)(pixels))
