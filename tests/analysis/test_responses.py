"""Figure 7: what a response is, over what its deviation is taken, and which layers have one."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnets.analysis.responses import Moments, layer_responses, main_path
from resnets.support.errors import UserError
from tests.analysis.nets import ROWS, batches, network, same, state


def by_hand(net, images, train):
    """Responses of a basic or bottleneck network, computed step by step."""
    found = {}

    def norm(bn, x):
        running = (None, None) if train else (bn.running_mean, bn.running_var)
        return F.batch_norm(x, *running, bn.weight, bn.bias, train, 0.0, bn.eps)

    x = norm(net.bn1, net.conv1(images))
    if net.conv1.kernel_size == (3, 3):
        found["conv1"] = x
    x = net.maxpool(F.relu(x))
    for name, block in net.blocks():
        out = x
        count = block.length
        for i in range(1, count + 1):
            conv, bn = getattr(block, f"conv{i}"), getattr(block, f"bn{i}")
            out = norm(bn, conv(out))
            if conv.kernel_size == (3, 3):
                found[f"{name}.conv{i}"] = out
            out = F.relu(out) if i < count else out
        shortcut = block.downsample
        if isinstance(shortcut, nn.Sequential):
            x = norm(shortcut[1], shortcut[0](x))
        elif shortcut is not None:
            x = shortcut(x)
        x = F.relu(out + x if shortcut is not None else out)
    return found


@pytest.mark.parametrize("kind", ROWS)
def test_running_statistics_give_the_deviation_over_all_images_and_pixels(kind):
    net, parts = network(kind), batches()
    expected = by_hand(net, torch.cat(parts), train=False)
    found = layer_responses(net, parts)
    assert [r.layer for r in found] == list(expected)
    for response in found:
        direct = expected[response.layer].double().numpy().std()
        assert response.std == pytest.approx(direct, rel=1e-5)


@pytest.mark.parametrize("kind", ["A", "plain", "bottleneck C"])
def test_batch_statistics_are_each_batchs_own_and_leave_the_network_alone(kind):
    net, parts = network(kind).train(), batches((6, 10))
    net.bn1.eval()
    before, modes = state(net), [m.training for m in net.modules()]
    found = layer_responses(net, parts, "batch")
    assert same(before, state(net))
    assert [m.training for m in net.modules()] == modes
    assert all(m.track_running_stats for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    by_batch = [by_hand(net, part, train=True) for part in parts]
    for response in found:
        both = np.concatenate([b[response.layer].double().numpy() for b in by_batch])
        assert response.std == pytest.approx(both.std(), rel=1e-5)


def test_a_cifar_network_has_a_point_for_each_layer_but_the_classifier():
    found = layer_responses(network("cifar-resnet20"), batches((2,)))
    assert len(found) == 19
    assert [r.stage for r in found] == ["stem"] + ["layer1"] * 6 + ["layer2"] * 6 + ["layer3"] * 6


def test_the_main_path_is_in_order_and_has_no_shortcuts():
    path = main_path(network("bottleneck C"))
    assert [layer.name for layer in path][:4] == [
        "conv1",
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer1.0.conv3",
    ]
    assert not any("downsample" in layer.name for layer in path)
    assert len(path) == 1 + 3 * 3
    assert all(layer.norm is not None for layer in path)


def test_the_bn_after_each_convolution_is_found_in_a_deep_network():
    path = main_path(network("cifar-preact110"))
    assert len(path) == 109
    assert [layer.norm is None for layer in path[1:]] == [False, True] * 54
    assert len({id(layer.norm) for layer in path if layer.norm}) == 55


def test_only_the_3x3_layer_of_a_preactivated_bottleneck_has_a_response():
    net, (images,) = network("pre bottleneck"), batches((6,))
    found = {response.layer: response.std for response in layer_responses(net, [images])}
    assert list(found) == ["conv1", "layer1.0.conv2", "layer2.0.conv2", "layer2.1.conv2"]
    block = net.layer1[0]
    x = F.relu(net.bn1(net.conv1(images)))
    x = block.conv2(F.relu(block.bn2(block.conv1(x))))
    assert found["layer1.0.conv2"] == pytest.approx(block.bn3(x).double().numpy().std(), rel=1e-5)


@pytest.mark.parametrize(("kind", "layers"), [("highway", 5), ("highway, 3x3 and 1x1", 3)])
def test_gates_have_no_responses(kind, layers):
    net, (images,) = network(kind), batches((6,))
    found = layer_responses(net, [images])
    assert len(found) == layers
    assert not any("gate" in response.layer for response in found)
    x = F.relu(net.bn1(net.conv1(images)))
    expected = net.layer1[0].bn1(net.layer1[0].conv1(x)).double().numpy().std()
    assert found[1].std == pytest.approx(expected, rel=1e-5)


class NormFirst(nn.Module):
    """BN, ReLU, convolution, then an addition: no BN after the second convolution."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.bn1(self.conv1(x))
        return x + self.conv2(F.relu(x))


def test_layers_without_bn_and_networks_without_3x3_layers_are_refused():
    with pytest.raises(UserError, match=r"conv2 is not followed by BN"):
        layer_responses(NormFirst(), batches((2,)))
    with pytest.raises(UserError, match="no 3x3 layers"):
        layer_responses(nn.Sequential(nn.Conv2d(3, 4, 1)), batches((2,)))
    with pytest.raises(UserError, match="no images"):
        layer_responses(network("A"), [])
    one = network("resnet18")
    with pytest.raises(UserError, match="single value"):
        layer_responses(one, batches((1,)), "batch")
    assert len(layer_responses(one, batches((1,)))) == 16


def test_the_deviation_is_exact_far_from_zero_and_over_uneven_parts():
    random = np.random.default_rng(0)
    values = random.normal(1e4, 1e-2, 9000)
    moments = Moments()
    for part in np.split(values, [1, 10, 4000]):
        moments.add(torch.from_numpy(part))
    assert moments.std == pytest.approx(values.std(), rel=1e-9)
