"""Kinds of blocks: gates, pre-activation, one layer; and the networks made of them."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnets.models import complexity, zoo
from resnets.models.blocks import GATE_BIAS, Block, Convolution
from resnets.models.residual import Architecture, ResidualNetwork
from resnets.paper.numbers import complexities
from resnets.support.errors import UserError

BASIC = (Convolution(3, 8, 1), Convolution(3, 8, 1))
BLOCKS = ("single", "alternating", "basic", "bottleneck")
CHOICES = [
    (block, shortcut, order)
    for block in BLOCKS
    for shortcut in ("none", "A", "B", "C", "highway")
    for order in ("post", "pre")
    if (shortcut, order) != ("highway", "pre")
]
RELATIVES = (
    "cifar-highway19",
    "cifar-highway32",
    "cifar-preact110",
    "cifar-preact164",
    "cifar-preact1001",
    "cifar-resnet164-bottleneck",
    "cifar-resnet1001-bottleneck",
)


def small(block, shortcut, order="post", stem="cifar"):
    row = Architecture(block, shortcut, (2, 3), (8, 12), stem, classes=5, order=order)
    torch.manual_seed(0)
    network = ResidualNetwork(row)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics as after training
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    return network


def test_a_gate_fully_closed_carries_the_input_and_open_gives_the_branch():
    torch.manual_seed(0)
    block = Block(8, BASIC, "highway").eval()
    x = torch.randn(2, 8, 5, 5)  # what is carried is not activated
    nn.init.zeros_(block.gate.weight)
    nn.init.constant_(block.gate.bias, -1e3)
    assert torch.equal(block(x), x)
    nn.init.constant_(block.gate.bias, 1e3)
    assert torch.equal(block(x), F.relu(block.branch(x)))
    nn.init.zeros_(block.gate.bias)
    torch.testing.assert_close(block(x), (F.relu(block.branch(x)) + x) / 2)


def test_gates_depend_on_the_data_and_start_nearly_closed():
    torch.manual_seed(0)
    network = zoo.build("cifar-highway19")
    gates = [block.gate for _, block in network.blocks() if block.gate is not None]
    assert len(gates) == 15
    for gate in gates:
        assert (gate.bias == GATE_BIAS).all()
        fan_in = 9 * gate.in_channels
        assert gate.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
    block = network.layer1[0]
    x = torch.rand(1, 32, 4, 4)
    assert not torch.equal(block.gate(x), block.gate(x + 1))


@pytest.mark.parametrize("shortcut", ["none", "A", "highway"])
def test_highway_layers_are_ordinary_where_the_size_changes(shortcut):
    wider = Block(8, (Convolution(3, 16, 2),), shortcut).eval()
    x = torch.randn(1, 8, 6, 6)
    carried = 0 if shortcut != "A" else wider.downsample(x)
    assert wider.gate is None
    assert torch.equal(wider(x), F.relu(wider.branch(x) + carried))


def test_a_block_of_one_layer_is_w1_x_plus_x():
    block = Block(8, (Convolution(3, 8, 1),), "A").eval()
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), F.relu(block.bn1(block.conv1(x)) + x))


def test_alternating_blocks_and_their_gates_alternate_between_3x3_and_1x1():
    stage = zoo.build("cifar-highway32").layer2
    assert [block.conv1.kernel_size[0] for block in stage] == [3, 1] * 5
    assert [block.gate.kernel_size[0] for block in stage if block.gate] == [
        1,
        3,
        1,
        3,
        1,
        3,
        1,
        3,
        1,
    ]


def test_a_pre_activation_block_with_zero_branch_is_the_identity():
    x = torch.randn(2, 8, 5, 5)
    block = Block(8, BASIC, "A", "pre")
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), x)  # negative values too, unlike in the original order
    original = Block(8, BASIC, "A", "post")
    nn.init.zeros_(original.bn2.weight)
    assert torch.equal(original(x), F.relu(x))


def test_a_pre_activation_network_is_the_authors_sequence_of_layers():
    """resnet-pre-act.lua, written out: a shared BN and ReLU before blocks that project."""
    net = small("bottleneck", "B", "pre").eval()
    x = torch.randn(2, 3, 12, 12)

    def rest(block, a):
        a = block.conv2(F.relu(block.bn2(block.conv1(a))))
        return block.conv3(F.relu(block.bn3(a)))

    def whole(block, x):
        return x + rest(block, F.relu(block.bn1(x)))

    with torch.no_grad():
        a = F.relu(net.bn1(net.conv1(x)))  # the first block's BN and ReLU, right after conv1
        y = rest(net.layer1[0], a) + net.layer1[0].downsample(a)
        y = whole(net.layer1[1], y)
        a = F.relu(net.layer2[0].bn1(y))
        y = rest(net.layer2[0], a) + net.layer2[0].downsample(a)
        y = whole(net.layer2[2], whole(net.layer2[1], y))
        logits = net.fc(F.relu(net.last_bn(y)).mean((2, 3)))
        torch.testing.assert_close(net(x), logits)
    assert net.layer2[0].conv1.stride == (2, 2)
    assert isinstance(net.layer2[0].downsample, nn.Conv2d)


def test_parameter_free_shortcuts_carry_the_raw_input_in_pre_activation_order():
    block = Block(4, (Convolution(3, 8, 2), Convolution(3, 8, 1)), "A", "pre").eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(block(x)[:, :4], x[:, :, ::2, ::2])


@pytest.mark.parametrize(("block", "shortcut", "order"), CHOICES)
def test_every_combination_trains_and_its_heads_agree(block, shortcut, order):
    network = small(block, shortcut, order, "small").to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 24, 16).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        network(x).float().logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    network.eval()
    with torch.no_grad():
        maps, logits = network.features(x), network(x)
        assert list(maps) == ["stem", "layer1", "layer2"]
        torch.testing.assert_close(network.head(maps["layer2"]), logits)
        everywhere = network.dense_head(maps["layer2"])
        torch.testing.assert_close(everywhere.mean((2, 3)), logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("block", "shortcut", "order"), CHOICES)
def test_saving_memory_changes_neither_gradients_nor_statistics(block, shortcut, order):
    x = torch.randn(4, 3, 8, 8)
    states = []
    for save in (False, True):
        network = small(block, shortcut, order)
        network.layer2.save_memory = save
        network(x).logsumexp(1).sum().backward()
        states.append((network.state_dict(), [p.grad for p in network.parameters()]))
    torch.testing.assert_close(states[0], states[1])


def seeded(name):
    torch.manual_seed(0)
    return zoo.build(name, 4)


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-plain14", "resnet50"])
def test_saving_memory_gives_the_same_bits(name):
    nets = [seeded(name), seeded(name)]
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
        net = seeded("cifar-resnet56")
        for stage in net.stage_names:
            net.get_submodule(stage).save_memory = save
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t
        ):
            net.train()(torch.randn(1, 3, 32, 32))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


@pytest.mark.parametrize("name", RELATIVES)
def test_depth_counts_weighted_layers_on_the_main_path(name):
    with torch.device("meta"):
        network = zoo.build(name)
    main = [
        key
        for key, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and not any(part in key for part in ("gate", "downsample"))
    ]
    assert network.architecture.layers == len(main) == int("".join(filter(str.isdigit, name[6:])))


def test_the_follow_ups_parameters_leave_out_bn_for_1001_layers():
    """Its Table 4 prints 1.7M and 10.2M; with BN's scale and shift 1001 layers have 10.3M."""
    for name in ("cifar-preact1001", "cifar-resnet1001-bottleneck"):
        with torch.device("meta"):
            network = zoo.build(name)
        norms = sum(
            p.numel()
            for m in network.modules()
            if isinstance(m, nn.BatchNorm2d)
            for p in m.parameters()
        )
        row = complexities()[name]
        assert row.paper_parameters == f"{(row.parameters - norms) / 1e6:.1f}M" == "10.2M"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("cifar-highway19", {"highway": 15, "none": 2}),
        ("cifar-preact110", {"identity": 52, "zero-pad": 2}),
        ("cifar-preact164", {"identity": 51, "projection": 3}),
        ("cifar-resnet164-bottleneck", {"identity": 51, "projection": 3}),
    ],
)
def test_shortcuts_of_the_relatives(name, kinds):
    found = [s.kind for s in complexity.describe(name).shortcuts]
    assert {kind: found.count(kind) for kind in set(found)} == kinds


def test_164_layers_without_a_suffix_are_basic_blocks():
    assert zoo.architecture("cifar-resnet164").block == "basic"
    assert zoo.architecture("cifar-resnet164").depths == (27,) * 3


@pytest.mark.parametrize("name", ["resnet34-a", "plain18", "resnet50", "resnet50-v1.5"])
def test_a_small_stem_gives_64_pixels_the_depth_of_table_1(name):
    whole, reduced = complexity.describe(name), complexity.describe(f"{name}-small")
    assert reduced.image_size == 64
    assert [s.height for s in reduced.stages] == [32, 32, 16, 8, 4]
    assert [s.blocks for s in reduced.stages] == [s.blocks for s in whole.stages]
    assert reduced.shortcuts == whole.shortcuts
    assert whole.parameters - reduced.parameters == 64 * 3 * (7 * 7 - 3 * 3)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("cifar-highway20", "cifar-highway19"),
        ("cifar-preact165", "cifar-preact164"),
        ("cifar-resnet164-bottlenck", "cifar-resnet164-bottleneck"),
        ("cifar-preact164-small", "cifar-preact164"),
        ("resnet34-small-ceil", "resnet34"),
    ],
)
def test_a_wrong_name_of_a_relative_hints_at_the_nearest(wrong, named):
    with pytest.raises(UserError, match=rf"did you mean .*{named}"):
        zoo.build(wrong)


@pytest.mark.parametrize("block", BLOCKS)
def test_gates_and_pre_activation_exclude_each_other(block):
    with pytest.raises(ValueError, match="'highway' must be of order 'post'"):
        Architecture(block, "highway", (1,), (8,), "cifar", order="pre")


@pytest.mark.parametrize("change", [{"order": "middle"}, {"block": "double"}, {"shortcut": "gate"}])
def test_an_unknown_choice_lists_the_known_ones(change):
    row = {"block": "single", "shortcut": "A", "depths": (1,), "widths": (8,), "stem": "small"}
    with pytest.raises(ValueError, match=r"must be one of .*, not"):
        Architecture(**{**row, **change})
