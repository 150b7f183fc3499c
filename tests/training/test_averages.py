"""What is tested instead of the last weights: moving averages, recomputed BN statistics."""

import torch

from resnets.models import zoo
from resnets.models.batch_norm import norms
from resnets.models.residual import ResidualNetwork
from resnets.support.distributed import World
from resnets.training.averages import MovingAverage, recompute_statistics


def network(name="cifar-resnet8", seed=0):
    torch.manual_seed(seed)
    made = zoo.build(name, 4)
    assert isinstance(made, ResidualNetwork)
    return made


def test_recomputed_statistics_are_those_of_all_images_together():
    net, images = network(), torch.randn(24, 3, 16, 16) * 2 + 1
    first = net.bn1
    seen = []
    first.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    recompute_statistics(net, images.split(6), World())
    pixels = torch.cat(seen).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(first.running_mean.double(), pixels.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.running_var.double(), pixels.var(1), atol=1e-4, rtol=2e-3)
    assert {layer.momentum for layer in norms(net)} == {0.1}


def test_recomputed_statistics_do_not_depend_on_the_old_ones():
    images = torch.randn(12, 3, 16, 16)
    nets = [network(), network()]
    for layer in norms(nets[1]):
        layer.running_mean.fill_(7.0)
    for net in nets:
        recompute_statistics(net, images.split(4), World())
    for name, tensor in nets[0].state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(tensor, nets[1].state_dict()[name]), name


def test_a_moving_average_is_applied_for_a_while():
    net = network()
    average = MovingAverage(net, 0.5)
    start = {k: t.clone() for k, t in net.state_dict().items()}
    with torch.no_grad():
        net.fc.bias += 8
    average.update(net, step=1000)
    own = {k: t.clone() for k, t in net.state_dict().items()}
    with average.applied(net):
        torch.testing.assert_close(net.fc.bias.detach(), start["fc.bias"] + 4)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, own[name])


def test_the_start_of_an_average_is_soon_forgotten():
    net = network()
    average = MovingAverage(net, 0.9999)
    with torch.no_grad():
        net.fc.bias += 1
    for step in range(1, 200):
        average.update(net, step)
    torch.testing.assert_close(average.tensors["fc.bias"], net.fc.bias.detach(), atol=1e-3, rtol=0)
