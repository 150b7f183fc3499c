"""Muon: directions made orthogonal, weights that keep their norm, runs that resume."""

import pytest
import torch

from resnets.support.errors import UserError
from resnets.training.hardware import Settings
from resnets.training.objective import make_objective
from resnets.training.optimizers import Muon, orthogonal
from resnets.training.trainer import Trainer
from tests.training.test_resume import make_recipe

CPU = torch.device("cpu")
PLAIN = Settings(precision="fp32", channels_last=False, compile=False)


def make(tiny, settings=PLAIN, **changes):
    recipe = make_recipe(optimizer={"muon": {"lr": 0.03, "momentum": 0.8}}, **changes)
    return Trainer(make_objective(recipe, tiny), CPU, settings)


@pytest.mark.parametrize("shape", [(2, 16, 144), (1, 32, 32), (3, 64, 16)])
def test_singular_values_become_about_one(shape):
    torch.manual_seed(0)
    made = orthogonal(torch.randn(shape) * 0.01)
    long = max(1.0, shape[1] / shape[2]) ** 0.5
    values = torch.linalg.svdvals(made) / long
    assert values.shape == (shape[0], min(shape[1:]))
    assert values.median() > 0.5
    assert values.max() < 1.3
    if shape[1] != shape[2]:  # a square random matrix has values of almost nothing
        assert values.min() > 0.3


def test_the_directions_are_those_of_the_singular_vectors():
    torch.manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(8, 8))
    v, _ = torch.linalg.qr(torch.randn(20, 8))
    matrix = u @ torch.diag(torch.linspace(0.5, 1, 8)) @ v.T
    made = orthogonal(matrix[None])[0]
    inside = u.T @ made @ v
    off = inside - torch.diag(inside.diag())
    assert off.abs().max() < 1e-4
    assert inside.diag().min() > 0.6


def test_weights_keep_their_norm_and_move_by_the_rate():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(16, 16, 3, 3))
    optimizer = Muon([weight], lr=0.05, momentum=0.8)
    weight.grad = torch.randn_like(weight)
    before = weight.detach() * 4 / weight.detach().norm()
    optimizer.step()
    assert 0.5 * 0.05 < (weight.detach() - before).norm() / 4 < 1.3 * 0.05
    optimizer.step()
    assert float(weight.detach().norm()) == pytest.approx(4, rel=0.1)


def test_a_weight_of_zeros_takes_the_step():
    weight = torch.nn.Parameter(torch.zeros(16, 16, 3, 3))
    optimizer = Muon([weight], lr=0.05, momentum=0.8)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    assert 0.5 * 0.2 < weight.detach().norm() < 1.3 * 0.2


@pytest.mark.parametrize("network", ["cifar-preact110", "cifar-highway19"])
def test_networks_in_which_the_scale_of_weights_matters_are_refused(tiny, network):
    with pytest.raises(UserError, match=r"optimizer\.muon needs BN"):
        make(tiny, network=network)


def test_it_trains_all_convolutions_except_the_first(tiny):
    training = make(tiny)
    sgd, muon = (
        {id(p) for group in o.param_groups for p in group["params"]} for o in training.optimizers
    )
    for name, parameter in training.network.named_parameters():
        mine = parameter.ndim == 4 and name != "conv1.weight"
        assert (id(parameter) in muon) == mine
        assert (id(parameter) in sgd) != mine
    training.update()
    highest = training.recipe.schedule.lr
    rates = [o.param_groups[0]["lr"] for o in training.optimizers]
    assert rates[1] == pytest.approx(0.03 * rates[0] / highest)


def test_it_learns_and_resumes_bit_for_bit(tiny):
    training = make(tiny, iterations=30)
    first = None
    for _ in range(30):
        training.update()
        if training.step == 5:
            first = training.take_reading().loss
        if training.step == 20:
            tensors, facts = training.state()
            tensors = {name: t.clone() for name, t in tensors.items()}
    assert training.take_reading().loss < first
    again = make(tiny, iterations=30)
    again.restore(tensors, facts)
    for _ in range(10):
        again.update()
    for name, tensor in training.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor), name


def test_graphs_see_the_rate_of_every_step(tiny):
    trainings = [make(tiny, Settings("fp32", True, False, graphs)) for graphs in (False, True)]
    for _ in range(4):
        for training in trainings:
            training.update()
    plain, replayed = (t.network.state_dict() for t in trainings)
    for name, tensor in plain.items():
        torch.testing.assert_close(replayed[name], tensor, rtol=1e-4, atol=1e-5)
