"""What is tested instead of the last step's weights: moving averages, and fresh BN statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from resnets.models.batch_norm import norms
from resnets.support.distributed import World


class MovingAverage:
    """An exponential moving average of a network's weights and BN statistics.

    Args:
        network: starts the average.
        decay: part of the average that a step keeps; less in the first steps, so that the
            start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: t.detach().clone() for name, t in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after step number `step`, from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = network.state_dict()
        floats = [name for name, t in self.tensors.items() if t.is_floating_point()]
        averages: list[Tensor] = [self.tensors[name] for name in floats]
        torch._foreach_lerp_(averages, [now[name] for name in floats], 1 - decay)
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point():
                tensor.copy_(now[name])

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Have `network` hold the average; afterwards its own weights again."""
        own = {name: t.detach().clone() for name, t in network.state_dict().items()}
        network.load_state_dict(self.tensors)
        try:
            yield
        finally:
            network.load_state_dict(own)


@torch.no_grad()
def recompute_statistics(network: nn.Module, batches: Iterable[Tensor], world: World) -> None:
    """Replace BN's moving averages by the mean and variance over many training images.

    As the authors did after training: each layer's statistics with all weights fixed. The
    variance is that of all the images together: the mean of the batches' variances, and the
    variance of their means.

    Args:
        network: in any mode, which is kept.
        batches: inputs, the same number on every process.
        world: whose processes' images count together.
    """
    layers = norms(network)
    was_training, momenta = network.training, [layer.momentum for layer in layers]
    totals = [torch.zeros(2, layer.num_features, dtype=torch.float64) for layer in layers]
    count = 0
    network.train()
    try:
        for layer in layers:
            layer.momentum = 1.0  # the running statistics are then those of the last batch
        for images in batches:
            network(images)
            count += 1
            for total, layer in zip(totals, layers, strict=True):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                mean, variance = layer.running_mean.double(), layer.running_var.double()
                total += torch.stack([mean, variance + mean**2]).cpu()
    finally:
        network.train(was_training)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    counts = world.all_reduce_sum(torch.tensor(float(count)))
    for total, layer in zip(totals, layers, strict=True):
        mean, square = world.all_reduce_sum(total) / counts
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(square - mean**2)


@torch.no_grad()
def take_from_main(network: nn.Module, world: World) -> None:
    """Give every process the BN statistics of rank 0, whose training does not need them."""
    if world.size == 1:
        return
    for buffer in network.buffers():
        if not world.is_main:
            buffer.zero_()
        world.all_reduce_sum(buffer)
