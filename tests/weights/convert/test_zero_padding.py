"""Option A with its zeros on both sides is the same network with its channels in another order."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnets.models import zoo
from resnets.models.residual import Architecture, ResidualNetwork
from resnets.weights.convert.zero_padding import move_zeros
from tests.weights.convert.nets import scramble


class Padded(nn.Module):
    """Half of the zeros before the channels, half behind; every second pixel."""

    def __init__(self, extra, stride):
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x):
        before = self.extra // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, before, self.extra - before))


class BothSides(nn.Module):
    """A CIFAR network of 20 layers, written as others do."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        channels = 16
        for stage, width in enumerate((16, 32, 64), 1):
            blocks = []
            for index in range(3):
                stride = 2 if stage > 1 and index == 0 else 1
                block = nn.Module()
                block.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
                block.bn1 = nn.BatchNorm2d(width)
                block.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
                block.bn2 = nn.BatchNorm2d(width)
                block.shortcut = Padded(width - channels, stride)
                blocks.append(block)
                channels = width
            self.add_module(f"layer{stage}", nn.ModuleList(blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                y = F.relu(block.bn1(block.conv1(x)))
                x = F.relu(block.bn2(block.conv2(y)) + block.shortcut(x))
        return self.linear(x.mean((2, 3)))


def test_a_network_with_zeros_on_both_sides_is_converted_exactly_and_back():
    torch.manual_seed(0)
    theirs, row = scramble(BothSides()), zoo.architecture("cifar-resnet20")
    given = {name.replace("linear", "fc"): t for name, t in theirs.state_dict().items()}
    ours = ResidualNetwork(row).eval()
    ours.load_state_dict(move_zeros(given, row, "behind"))
    x = torch.randn(4, 3, 32, 32)
    expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)
    ours.load_state_dict(given)
    assert not torch.allclose(ours(x), expected, atol=1e-2)  # the order matters
    back = move_zeros(move_zeros(given, row, "behind"), row, "both")
    assert all(torch.equal(back[name], given[name]) for name in given)


ROW = Architecture("basic", "A", (2, 2, 1), (4, 8, 12), "cifar", classes=3)


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        replace(ROW, order="pre"),
        replace(ROW, block="bottleneck"),
        replace(ROW, block="bottleneck", order="pre"),
        replace(ROW, block="single"),
    ],
    ids=str,
)
def test_every_kind_of_block_keeps_its_answers(row):
    torch.manual_seed(0)
    ours = scramble(ResidualNetwork(row))
    theirs = scramble(ResidualNetwork(row))
    theirs.load_state_dict(move_zeros(ours.state_dict(), row, "both"))
    for _, block in theirs.blocks():
        extra = getattr(block.downsample, "extra_channels", 0)
        if extra:
            block.downsample = Padded(extra, block.downsample.stride)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-5, atol=1e-5)
