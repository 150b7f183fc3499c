"""Tiny networks of every kind, with BN statistics that matter."""

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
    """The table of networks with these rows instead of its own."""
    monkeypatch.setattr(zoo, "NAMED", ROWS)


def scramble(network: nn.Module) -> nn.Module:
    """BN with statistics and scales unlike those of a new network; in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.requires_grad_(False).eval()


def look(kind: str = "torchvision") -> Preprocessing:
    """torchvision's preprocessing for small images; or with a mean image, undivided."""
    mean = imagenet().mean if kind == "torchvision" else torch.rand(3, 65, 65)
    std = imagenet().std if kind == "torchvision" else None
    return Preprocessing(65, 70, "bicubic", mean=mean, std=std)


def model(name: str, classes: int = 7, preprocessing: Preprocessing | None = None):
    torch.manual_seed(1)
    network = scramble(ResidualNetwork(zoo.architecture(name).with_classes(classes)))
    names = [f"thing {i}" for i in range(classes)]
    ids = [f"id{i}" for i in range(classes)]
    card = model_file.make_card(name, names, {"recipe": "none"}, [{"error": 5.0}], ids)
    return model_file.Model(network, card, preprocessing or look())


def answers(of) -> torch.Tensor:
    """Logits for fixed images, through a model's own preprocessing; an odd size, to see pools."""
    pixels = torch.randint(
        0, 256, (2, 3, 65, 65), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    return of.network(of.normalize(CPU)(pixels))
