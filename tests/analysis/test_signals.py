"""Signals and gradients: against a direct computation, and in the course of a training."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn import functional as F

from resnets.analysis.deepen import deepened
from resnets.analysis.signals import measure
from resnets.models import zoo
from tests.analysis.nets import ALL, batches, network, same, state


@pytest.mark.parametrize(
    "kind", ["A", "plain", "bottleneck C", "small", "highway", "pre", "pre bottleneck"]
)
def test_signals_equal_a_direct_computation(kind):
    net = network(kind)
    images, labels = batches((8,))[0], torch.arange(8) % 5
    before = state(net)
    found = measure(net, images, labels)
    assert same(before, state(net))
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())
    assert not net.training

    net.train().requires_grad_(True)
    seen = {}
    net.layer2[0].conv1.register_forward_hook(lambda m, i, o: seen.update(input=i[0]))
    after = net.layer2[0].bn2 if kind.startswith("pre") else net.layer2[0].bn1
    after.register_forward_hook(lambda m, i, o: seen.update(out=o))
    loss = F.cross_entropy(net(images), labels, reduction="sum")
    seen["out"].retain_grad()
    loss.backward()
    signal = next(s for s in found if s.layer == "layer2.0.conv1")
    weight = net.layer2[0].conv1.weight
    assert signal.stage == "layer2"
    assert signal.input == pytest.approx(float(seen["input"].detach().std(correction=0)), rel=1e-4)
    assert signal.forward == pytest.approx(float(seen["out"].detach().std(correction=0)), rel=1e-4)
    rms = float(seen["out"].grad.square().mean().sqrt())
    assert signal.gradient == pytest.approx(rms, rel=1e-4)
    relative = float(weight.grad.norm() / weight.detach().norm()) / len(images)
    assert signal.weight_gradient == pytest.approx(relative, rel=1e-4)


def test_signals_of_branches_that_give_zero_can_be_written_as_json():
    deep = deepened(network("pre"), replace(ALL["pre"], depths=(2, 3)))
    found = measure(deep, batches((8,))[0], torch.arange(8) % 5)
    added = next(s for s in found if s.layer == "layer1.1.conv2")
    assert added.forward == 0
    assert added.gradient > 0
    assert added.weight_gradient is None
    json.dumps([asdict(signal) for signal in found], allow_nan=False)


def test_bn_keeps_the_signals_of_a_fresh_plain_network_alive():
    torch.manual_seed(0)
    net = zoo.build("cifar-plain56")
    found = measure(net, batches((8,))[0], torch.arange(8))
    assert len(found) == 55
    for signal in found:
        assert signal.forward == pytest.approx(1, abs=0.02)  # BN's gamma is 1, beta 0
        assert math.isfinite(signal.gradient)
        assert signal.gradient > 0
