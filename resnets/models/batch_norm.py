"""BN folded into the convolutions in front of it: the same network, fewer operations."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnets.models.residual import ResidualNetwork


def fold(network: nn.Module) -> nn.Module:
    """A copy of a trained network for inference, with every BN folded that follows a convolution.

    In order `pre` the BN in front of a block's first convolution stays: it follows an addition.
    Networks that are not residual ones are copied as they are.
    """
    network = copy.deepcopy(network).eval()
    if not isinstance(network, ResidualNetwork):
        return network
    _fuse(network, "conv1", "bn1")
    for _, block in network.blocks():
        ahead = 0 if block.order == "post" else 1  # the BN behind a convolution is the next one's
        for number in range(1, block.length + 1 - ahead):
            _fuse(block, f"conv{number}", f"bn{number + ahead}")
        if isinstance(block.downsample, nn.Sequential):
            _fuse(block.downsample, "0", "1")
    return network


def _fuse(parent: nn.Module, convolution: str, norm: str) -> None:
    """Replace a convolution and the BN behind it by one convolution with bias."""
    conv, bn = parent.get_submodule(convolution), parent.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    setattr(parent, convolution, fuse_conv_bn_eval(conv, bn))
    setattr(parent, norm, nn.Identity())
