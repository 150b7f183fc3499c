"""BN layers of a network: list them, change which statistics they use, fold them away."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnets.models.blocks import Block, Operations, has_hooks
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """The BN layers of a network, `SyncBatchNorm` included."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm)]  # type: ignore[misc]


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Set networks to evaluation mode; afterwards restore the mode of every module."""
    modes = [(m, m.training) for network in networks for m in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Have BN normalise by the statistics of each batch, without changing its running statistics.

    All other modules are in evaluation mode, so that checkpointed stages compute once.

    Raises:
        UserError: if BN has a single value for a channel.
    """
    layers = [(norm, norm.track_running_stats) for norm in norms(network)]
    hint = "use more images, or BN's running statistics"
    with evaluating(network), explain_single_values(hint):
        for norm, _ in layers:
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            for norm, tracked in layers:
                norm.track_running_stats = tracked


@contextmanager
def explain_single_values(hint: str) -> Iterator[None]:
    """Turn BN's error about a single value per channel into a `UserError` with this hint."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "BN has a single value per channel: one image, whose last feature map is one pixel",
            hint=hint,
        ) from error


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of a network for inference, with every BN folded into the convolution before it.

    In order `pre` the BN before a block's first convolution stays, because it follows an addition.
    A network that is not a `ResidualNetwork` is only copied.
    """
    network = copy.deepcopy(network).eval()
    if not isinstance(network, ResidualNetwork):
        return network
    _fold(network, "conv1", "bn1")
    for _, block in network.blocks():
        offset = 0 if block.order == "post" else 1  # conv1 is followed by bn1, or by bn2
        for number in range(1, block.length + 1 - offset):
            _fold(block, f"conv{number}", f"bn{number + offset}")
        if isinstance(block.downsample, nn.Sequential):
            _fold(block.downsample, "0", "1")
    return network


class FoldedNorms(Operations):
    """Blocks whose BN is folded into the convolutions while they are computed, without gradients.

    With gradients, hooks or statistics of the batch they are computed as usual. The weights stay
    as they are, so that the same network can be trained and saved.
    """

    def block(self, block: Block, x: Tensor) -> Tensor:
        learns = x.requires_grad or any(p.requires_grad for p in block.parameters())
        if (learns and torch.is_grad_enabled()) or any(map(_needs_norm, block.modules())):
            return super().block(block, x)
        out = x
        layers = list(zip(block.convolutions(), block.norms(), strict=True))
        for convolution, norm in layers[:-1]:
            out = _convolve_folded(convolution, norm, out).relu_()
        out = _convolve_folded(*layers[-1], out)
        shortcut = block.downsample
        if isinstance(shortcut, nn.Sequential):
            out += _convolve_folded(shortcut[0], shortcut[1], x)
        elif shortcut is not None:
            out += shortcut(x)
        return out.relu_()


FOLDED = FoldedNorms()


def _needs_norm(module: nn.Module) -> bool:
    """Whether a module must be called, because it has hooks or uses the batch's statistics."""
    return has_hooks(module) or (isinstance(module, _BatchNorm) and module.training)


def _convolve_folded(convolution: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = convolution.weight * scale[:, None, None, None]
    bias = norm.bias - norm.running_mean * scale
    return F.conv2d(x, weight, bias, convolution.stride, convolution.padding)


def _fold(parent: nn.Module, convolution: str, norm: str) -> None:
    """Replace a convolution and the BN after it by one convolution with bias."""
    conv, bn = parent.get_submodule(convolution), parent.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    setattr(parent, convolution, fuse_conv_bn_eval(conv, bn))
    setattr(parent, norm, nn.Identity())
