"""The constructed solution: deeper networks with the same outputs, which can still learn."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnets.analysis.deepen import TOLERANCE, Agreement, check, deepen, deepened, target
from resnets.data.preprocessing import Preprocessing
from resnets.models import zoo
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError
from resnets.weights import model_file
from tests.analysis.nets import ALL, PRE, ROWS, batches, network, same, state

KINDS = [*ROWS, *PRE]
EXACT = ("A", "B", "bottleneck", "imagenet", "small", "single", *PRE)


def deeper(kind):
    return replace(ALL[kind], depths=(3, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_the_deeper_network_gives_the_same_logits(kind):
    net, images = network(kind), batches()
    before = state(net)
    deep = deepened(net, deeper(kind), images)
    found = check(net, deep, images)
    assert same(before, state(net))
    assert deep.architecture == deeper(kind)
    assert found.images == 21
    assert found.good
    assert found.difference == 0 or kind not in EXACT
    theirs = net(images[0]).abs().max()
    assert found.largest >= float(theirs)
    copied = state(deep)
    assert all(torch.equal(t, copied[name]) for name, t in before.items())


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_statistics_of_a_batch_it_is_nearly_the_same(kind):
    net, images = network(kind), batches((64, 64, 64))
    for module in net.modules():  # the statistics that the shallower network really meets
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        net.train()
        for part in images:
            net(part)
        net.eval()
        deep = deepened(net, deeper(kind), images)
        ours, theirs = net.train()(images[0]), deep.train()(images[0])
    assert float((ours - theirs).norm() / ours.norm()) < 0.05
    assert torch.equal(ours, theirs) or kind not in EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_every_new_block_can_learn(kind):
    torch.manual_seed(0)
    deep = deepened(network(kind), deeper(kind), batches()).train().requires_grad_(True)
    images, labels = batches((8,))[0], torch.arange(8) % 5
    optimizer = torch.optim.SGD(deep.parameters(), lr=0.01)
    for _ in range(2):  # a branch's first layers learn once its last gamma has moved
        optimizer.zero_grad()
        F.cross_entropy(deep(images), labels).backward()
        optimizer.step()
    for name, parameter in deep.named_parameters():
        if "layer1.2" in name or "layer2.3" in name:
            assert float(parameter.grad.abs().max()) > 0, name


def test_drawn_weights_depend_on_the_seed_only():
    net = network("A")
    one = state(deepened(net, deeper("A")))
    random = torch.random.get_rng_state()
    two = state(deepened(net, deeper("A")))
    assert torch.equal(random, torch.random.get_rng_state())
    assert same(one, two)
    assert not same(one, state(deepened(net, deeper("A"), seed=1)))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("A", {"shortcut": "B"}, "another family .shortcut B, not A"),
        ("A", {"block": "bottleneck"}, "another family .block bottleneck, not basic"),
        ("A", {"widths": (4, 16)}, "another family"),
        ("A", {"depths": (1, 2)}, "layers are not more than the"),
        ("A", {"depths": (2, 1)}, "layer2 would shrink from 2 to 1"),
        ("A", {"depths": (2, 2), "classes": 6}, "6 classes, not 5"),
        ("plain", {"depths": (2, 2)}, "statistics of training images"),
        ("C", {"depths": (2, 2)}, "statistics of training images"),
    ],
)
def test_what_is_not_a_deeper_network_of_the_family_is_refused(kind, change, message):
    with pytest.raises(UserError, match=message):
        deepened(network(kind), replace(ROWS[kind], **change))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("highway", {}, "shortcut 'highway' cannot be added as identities"),
        ("pre", {"shortcut": "none"}, "so it cannot be an identity"),
        ("pre", {"shortcut": "C"}, "not a convolution with BN"),
    ],
)
def test_blocks_that_cannot_be_identities_are_refused(kind, change, message):
    row = replace(ALL[kind], **change)
    with pytest.raises(UserError, match=message):
        deepened(ResidualNetwork(row), replace(row, depths=(3, 3)), batches())


def test_a_number_of_layers_of_another_family_is_refused_by_its_name():
    with pytest.raises(UserError, match="block bottleneck, not basic"):
        target("cifar-preact110", "164")
    with pytest.raises(UserError, match="highway"):
        target("cifar-highway19", "32")


def test_a_plain_bottleneck_is_refused():
    row = replace(ROWS["bottleneck"], shortcut="none")
    net = ResidualNetwork(row)
    with pytest.raises(UserError, match="too narrow"):
        deepened(net, replace(row, depths=(2, 3)), batches())


@pytest.mark.parametrize(
    ("name", "to", "expected"),
    [
        ("cifar-resnet20", "56", "cifar-resnet56"),
        ("cifar-resnet20-b", "056", "cifar-resnet56-b"),
        ("cifar-plain20", "56", "cifar-plain56"),
        ("resnet50-ceil", "101", "resnet101-ceil"),
        ("resnet50-v1.5", "152", "resnet152-v1.5"),
        ("plain18", "34", "plain34"),
        ("resnet18", "resnet34", "resnet34"),
        ("resnet18-a-small", "34", "resnet34-a-small"),
        ("cifar-preact164", "1001", "cifar-preact1001"),
        ("cifar-resnet164-bottleneck", "1001", "cifar-resnet1001-bottleneck"),
    ],
)
def test_a_number_of_layers_means_the_same_family(name, to, expected):
    assert target(name, to) == expected


@pytest.mark.parametrize(("name", "to"), [("cifar-resnet20", "57"), ("resnet18", "36")])
def test_an_unknown_depth_is_refused_with_the_nearest(name, to):
    with pytest.raises(UserError, match="did you mean"):
        target(name, to)


def small_model(name="cifar-plain8"):
    classes = [f"thing {i}" for i in range(5)]
    card = model_file.make_card(
        name, classes, {"recipe": "none"}, [{"error": 5.0}], [f"id{i}" for i in range(5)]
    )
    return model_file.Model(network(name), card, Preprocessing(32, 32, mean=torch.zeros(3, 1, 1)))


@pytest.mark.parametrize("name", ["cifar-plain8", "cifar-resnet8", "cifar-resnet8-c"])
def test_the_card_says_what_was_done_and_claims_no_measurements(name, tmp_path):
    model, images = small_model(name), batches()
    deep, found = deepen(model, "14", images)
    assert found.good
    assert deep.card["network"] == name.replace("8", "14")
    assert deep.card["measured"] == []
    assert deep.classes == model.classes
    assert deep.class_ids == model.class_ids
    facts = deep.card["provenance"]["deepened_from"]
    assert facts["network"] == name
    assert facts["added_blocks"] == 3
    assert facts["measured"] == [{"error": 5.0}]
    assert facts["provenance"] == {"recipe": "none"}
    assert facts["images"] == found.images
    assert facts["largest_difference_of_logits"] == found.difference
    model_file.save(tmp_path / "d.safetensors", state(deep.network), deep.preprocessing, deep.card)
    again = model_file.load(str(tmp_path / "d.safetensors"))
    assert check(model.network, again.network, images).good


def test_outputs_that_differ_are_an_error(monkeypatch):
    def broken(net, row, images=(), seed=0):
        return ResidualNetwork(row)

    monkeypatch.setattr("resnets.analysis.deepen.deepened", broken)
    with pytest.raises(UserError, match="does not give the outputs of cifar-plain8"):
        deepen(small_model(), "14", batches())


def test_agreement_is_a_matter_of_rounding():
    assert Agreement(1, 0.9 * TOLERANCE, 0.1).good
    assert Agreement(1, 9 * TOLERANCE, 10.0).good
    assert not Agreement(1, 1.1 * TOLERANCE, 0.1).good
    net, bad = network("A"), network("A")
    bad.fc.bias.fill_(math.nan)
    assert not check(net, bad, batches((2,))).good
    with pytest.raises(UserError, match="no images"):
        check(net, bad, [])


def test_the_family_of_a_named_network_is_kept_from_the_shallowest_to_the_deepest():
    torch.manual_seed(0)
    shallow = zoo.build("plain18", 5).eval()
    images = batches((4,), side=64)
    deep = deepened(shallow, zoo.architecture("plain34").with_classes(5), images)
    assert check(shallow, deep, images).good
