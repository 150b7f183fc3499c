"""The one definition: counts, names, layout, shortcuts, features, initialisation."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from resnets.models import complexity, zoo
from resnets.models.blocks import ZeroPadShortcut
from resnets.models.residual import Architecture, ResidualNetwork
from resnets.paper.numbers import complexities
from resnets.support.errors import UserError

# Exact counts, from arithmetic on Table 1 and section 4.2 done independently of this code.
PARAMETERS = {
    "resnet18-a": 11_515_688,
    "resnet18": 11_689_512,
    "resnet18-c": 12_043_816,
    "resnet34-a": 21_623_848,
    "resnet34": 21_797_672,
    "resnet34-c": 22_716_840,
    "resnet50-a": 22_780_456,
    "resnet50": 25_557_032,
    "resnet50-v1.5": 25_557_032,
    "resnet50-c": 40_128_552,
    "resnet101-a": 41_772_584,
    "resnet101": 44_549_160,
    "resnet101-c": 76_981_288,
    "resnet152-a": 57_416_232,
    "resnet152": 60_192_808,
    "resnet152-c": 107_335_720,
    "plain18": 11_515_688,
    "plain34": 21_623_848,
    "cifar-resnet20": 269_722,
    "cifar-resnet32": 464_154,
    "cifar-resnet44": 658_586,
    "cifar-resnet56": 853_018,
    "cifar-resnet110": 1_727_962,
    "cifar-resnet1202": 19_421_274,
    "cifar-resnet20-b": 272_474,
    "cifar-resnet20-c": 283_962,
    "cifar-resnet110-c": 1_826_202,
    "cifar-plain56": 853_018,
    "cifar-highway19": 2_264_154,
    "cifar-highway32": 1_247_674,
    "cifar-preact164": 1_703_258,
}
MULTIPLY_ADDS = {
    "resnet18-a": 1.795e9,
    "resnet18": 1.814e9,
    "resnet34-a": 3.644e9,
    "resnet34": 3.664e9,
    "resnet50": 3.858e9,
    "resnet50-v1.5": 4.089e9,
    "resnet101": 7.570e9,
    "resnet101-v1.5": 7.801e9,
    "resnet152": 11.282e9,
    "resnet152-v1.5": 11.514e9,
    "vgg16": 15.470e9,
    "vgg19": 19.632e9,
    "cifar-resnet20": 40.55e6,
    "cifar-resnet110": 252.89e6,
}


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_parameters_are_exact(name, expected):
    with torch.device("meta"):
        assert complexity.parameters(zoo.build(name)) == expected


@pytest.mark.parametrize(("name", "expected"), MULTIPLY_ADDS.items())
def test_multiply_adds_match_the_analytic_count(name, expected):
    counted = complexity.describe(name).multiply_adds
    assert counted == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("name", ["cifar-resnet20-b", "cifar-highway19", "resnet50-ceil", "vgg16"])
def test_multiply_adds_equal_pytorchs_counter(name):
    with torch.device("meta"):
        network = zoo.build(name).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, 64, 64))
    assert complexity.multiply_adds(network, 64) == counter.get_total_flops() // 2


def test_cifar_parameters_round_to_what_table_6_prints():
    for name, row in complexities().items():
        if row.paper_parameters and "1001" not in name:  # of the follow-up: see test_blocks
            digits = len(row.paper_parameters.rstrip("M").partition(".")[2])
            assert f"{row.parameters / 1e6:.{digits}f}M" == row.paper_parameters, name


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50-v1.5"])
def test_torchvision_weights_give_equal_logits_both_ways(name):
    theirs = torchvision.models.get_model(name.removesuffix("-v1.5")).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics as after training
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    ours = zoo.build(name).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)
    theirs.load_state_dict(zoo.build(name).state_dict(), strict=True)


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_every_option_b_bottleneck_net_has_torchvisions_layout(depth):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}").state_dict()
        for name in (f"resnet{depth}", f"resnet{depth}-b", f"resnet{depth}-v1.5"):
            ours = zoo.build(name).state_dict()
            assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_v1_puts_the_stride_in_the_first_1x1_and_v15_in_the_3x3():
    with torch.device("meta"):
        v1 = zoo.build("resnet50").get_submodule("layer2.0")
        v15 = zoo.build("resnet50-v1.5").get_submodule("layer2.0")
    assert (v1.conv1.stride, v1.conv2.stride) == ((2, 2), (1, 1))
    assert (v15.conv1.stride, v15.conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("resnet34", {"identity": 13, "projection": 3}),
        ("resnet34-a", {"identity": 13, "zero-pad": 3}),
        ("resnet34-c", {"projection": 16}),
        ("plain34", {"none": 16}),
        ("resnet50", {"identity": 12, "projection": 4}),
        ("cifar-resnet110", {"identity": 52, "zero-pad": 2}),
        ("cifar-plain20", {"none": 9}),
    ],
)
def test_shortcuts_are_the_papers(name, kinds):
    found = [s.kind for s in complexity.describe(name).shortcuts]
    assert {kind: found.count(kind) for kind in set(found)} == kinds


def test_option_a_keeps_every_second_pixel_and_adds_zero_channels():
    x = torch.randn(2, 16, 32, 32)
    out = ZeroPadShortcut(16, 32, 2)(x)
    assert out.shape == (2, 32, 16, 16)
    assert torch.equal(out[:, :16], x[:, :, ::2, ::2])
    assert not out[:, 16:].any()


def test_the_residual_network_is_its_plain_twin_plus_the_shortcuts():
    torch.manual_seed(0)
    residual, plain = zoo.build("cifar-resnet8").eval(), zoo.build("cifar-plain8").eval()
    plain.load_state_dict(residual.state_dict(), strict=True)
    x = torch.randn(2, 16, 32, 32)
    branch = plain.layer2[0].branch(x)
    assert torch.equal(plain.layer2[0](x), F.relu(branch))
    expected = F.relu(branch + residual.layer2[0].downsample(x))
    assert torch.equal(residual.layer2[0](x), expected)


@given(n=st.integers(1, 12), family=st.sampled_from(["resnet", "plain"]))
@settings(max_examples=15, deadline=None)
def test_any_cifar_depth_follows_6n_plus_2(n, family):
    described = complexity.describe(f"cifar-{family}{6 * n + 2}")
    assert described.layers == 6 * n + 2
    assert len(described.shortcuts) == 3 * n
    assert [(s.channels, s.height) for s in described.stages[1:]] == [(16, 32), (32, 16), (64, 8)]
    twin = complexity.describe(f"cifar-{'plain' if family == 'resnet' else 'resnet'}{6 * n + 2}")
    assert (described.parameters, described.multiply_adds) == (twin.parameters, twin.multiply_adds)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("resnet51", "resnet50"),
        ("cifar-resnet21", "cifar-resnet20"),
        ("cifar-resnet21", "cifar-resnet26"),
        ("cifar-resnet2", "cifar-resnet8"),
        ("cifar-plain20-b", "cifar-resnet20-b"),
        ("vgg17", "vgg16"),
        ("plian34", "plain34"),
    ],
)
def test_a_wrong_name_hints_at_the_nearest(wrong, named):
    with pytest.raises(UserError, match=rf"did you mean .*{named}"):
        zoo.build(wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"block": "basci"},
        {"shortcut": "D"},
        {"stem": "mnist"},
        {"stride_in": "7x7"},
        {"depths": (1, 1)},
        {"classes": 0},
        {"depths": ()},
    ],
)
def test_an_impossible_architecture_is_refused(change):
    row = {"block": "basic", "shortcut": "A", "depths": (1, 1, 1), "widths": (8, 8, 8)}
    with pytest.raises(ValueError, match=r"must be|need"):
        Architecture(**{**row, "stem": "cifar", **change})


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
def test_every_combination_of_choices_trains(block, shortcut, stem, stride_in):
    network = ResidualNetwork(Architecture(block, shortcut, (1, 2), (8, 16), stem, stride_in, 5))
    logits = network(torch.randn(2, 3, 40, 40))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_features_and_heads_agree_with_the_forward_pass():
    network = zoo.build("resnet18", 7).eval()
    x = torch.randn(2, 3, 256, 224)
    with torch.no_grad():
        maps = network.features(x)
        assert {k: tuple(v.shape[1:]) for k, v in maps.items()} == {
            "stem": (64, 64, 56),
            "layer1": (64, 64, 56),
            "layer2": (128, 32, 28),
            "layer3": (256, 16, 14),
            "layer4": (512, 8, 7),
        }
        logits = network(x)
        torch.testing.assert_close(network.head(maps["layer4"]), logits)
        everywhere = network.dense_head(maps["layer4"])
        assert everywhere.shape == (2, 7, 8, 7)
        torch.testing.assert_close(everywhere.mean((2, 3)), logits, atol=1e-4, rtol=1e-4)
        windows = network.dense_head(maps["layer4"], 7)
        assert windows.shape == (2, 7, 2, 1)
        crop = network.head(maps["layer4"][:, :, 1:8, 0:7])
        torch.testing.assert_close(windows[:, :, 1, 0], crop, atol=1e-4, rtol=1e-4)


def test_initialisation_is_hes():
    torch.manual_seed(0)
    network = zoo.build("resnet34")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 30_000:
            fan_in = module.in_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.03), (
                name
            )
        if isinstance(module, nn.BatchNorm2d):
            assert module.eps == 1e-5
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert not any(isinstance(m, nn.Dropout) for m in network.modules())
