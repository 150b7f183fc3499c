"""What is tested instead of the last weights; memory traded for time; rates that wait."""

import pytest
import torch

from resnets.models import zoo
from resnets.models.batch_norm import norms
from resnets.models.residual import ResidualNetwork
from resnets.support.distributed import World
from resnets.training.averages import MovingAverage, recompute_statistics
from resnets.training.recipe import Schedule
from resnets.training.schedule import learning_rate, plateaus


def network(name="cifar-resnet8", seed=0):
    torch.manual_seed(seed)
    made = zoo.build(name, 4)
    assert isinstance(made, ResidualNetwork)
    return made


def test_statistics_are_those_of_all_the_images_together():
    net, images = network(), torch.randn(24, 3, 16, 16) * 2 + 1
    first = net.bn1
    seen = []
    first.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    recompute_statistics(net, images.split(6), World())
    pixels = torch.cat(seen).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(first.running_mean.double(), pixels.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.running_var.double(), pixels.var(1), atol=1e-4, rtol=2e-3)
    assert {layer.momentum for layer in norms(net)} == {0.1}


def test_statistics_do_not_depend_on_what_stood_there_before():
    images = torch.randn(12, 3, 16, 16)
    nets = [network(), network()]
    for layer in norms(nets[1]):
        layer.running_mean.fill_(7.0)
    for net in nets:
        recompute_statistics(net, images.split(4), World())
    for name, tensor in nets[0].state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(tensor, nets[1].state_dict()[name]), name


def test_a_moving_average_is_applied_and_taken_back():
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


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-plain14", "resnet50"])
def test_saving_memory_changes_neither_gradients_nor_statistics(name):
    nets = [network(name), network(name)]
    for stage in nets[1].stage_names:
        nets[1].get_submodule(stage).save_memory = True
    images = torch.randn(2, 3, 64, 64)
    for net in nets:
        net.train()(images).square().sum().backward()
    for (key, mine), theirs in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad), key
    for key, tensor in nets[0].state_dict().items():
        assert torch.equal(tensor, nets[1].state_dict()[key]), key


def test_saving_memory_keeps_fewer_activations():
    kept = []
    for save in (False, True):
        net = network("cifar-resnet56")
        for stage in net.stage_names:
            net.get_submodule(stage).save_memory = save
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t
        ):
            net.train()(torch.randn(1, 3, 32, 32))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


def test_a_plateau_is_some_tests_without_a_lower_error():
    falling = [(10 * i, 50.0 - i) for i in range(1, 11)]
    assert plateaus(falling, 2) == []
    flat = [*falling, (110, 40.0), (120, 39.9), (130, 39.9), (140, 39.9)]
    assert plateaus(flat, 2) == [120, 140]
    assert plateaus([*flat, (150, 20.0), (160, 20.0)], 2) == [120, 140]


def test_the_rate_falls_at_a_plateau():
    schedule = Schedule(kind="plateau", lr=0.1, patience=1)
    errors = [(100, 50.0), (200, 50.0)]
    rates = [
        learning_rate(schedule, step, iterations=1000, depth=20, errors=errors)
        for step in (150, 200, 900)
    ]
    assert rates == pytest.approx([0.1, 0.01, 0.01])
