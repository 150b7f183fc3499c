"""What tests see and runs save instead of the last weights: moving averages, new BN statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from resnets.models.batch_norm import norms
from resnets.support.distributed import World


class MovingAverage:
    """An exponential moving average of a network's weights and BN statistics.

    Args:
        network: the average's first value.
        decay: share of the average that a step keeps; smaller in the first steps, so that the
            random start soon stops counting.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: t.detach().clone() for name, t in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Add the weights after step number `step`, counted from 1."""
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
        """Load the average into `network`, and its own weights again afterwards."""
        own = {name: t.detach().clone() for name, t in network.state_dict().items()}
        network.load_state_dict(self.tensors)
        try:
            yield
        finally:
            network.load_state_dict(own)


@torch.no_grad()
def recompute_statistics(
    network: nn.Module,
    batches: Iterable[Tensor],
    world: World,
    fixed: Sequence[nn.Module] = (),
) -> None:
    """Replace BN's moving averages by the mean and variance over many training images.

    The authors did so after training, with all weights fixed. The variance is that of all images
    together: the mean of the batches' variances plus the variance of their means.

    Args:
        network: its mode is restored.
        batches: inputs, the same number on every process.
        world: the processes whose images are combined.
        fixed: modules that keep their statistics.
    """
    kept = {layer for module in fixed for layer in norms(module)}
    layers = [layer for layer in norms(network) if layer not in kept]
    was_training, momenta = network.training, [layer.momentum for layer in layers]
    totals = [torch.zeros(2, layer.num_features, dtype=torch.float64) for layer in layers]
    count = 0
    network.train()
    for module in fixed:
        module.eval()
    try:
        for layer in layers:
            layer.momentum = 1.0  # running statistics are then those of the last batch
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
def copy_buffers_from_main(network: nn.Module, world: World) -> None:
    """Copy the BN statistics of rank 0 to every process."""
    if world.size == 1:
        return
    for buffer in network.buffers():
        if not world.is_main:
            buffer.zero_()
        world.all_reduce_sum(buffer)
