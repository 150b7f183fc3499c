"""BN, an addition and ReLU as one operation equal PyTorch's in float64."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnets.kernels import norm as kernels

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no C++ compiler, or not Linux")
CL = torch.channels_last
SHAPES = ((4, 16, 6, 6), (2, 32, 5, 4), (3, 64, 3, 5), (2, 192, 3, 3), (1, 256, 3, 2))


def layer(channels, mean=0.0):
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels) - mean)
        norm.running_mean.fill_(0.3)
    return norm


def given(shape, dtype, mean=0.0):
    torch.manual_seed(0)

    def make():
        return torch.randn(shape).to(dtype).to(memory_format=CL)

    return make() * 2 + mean, make(), make()


def plain(norm, x, shortcut, relu):
    out = norm(x)
    if shortcut is not None:
        out = out + shortcut
    return F.relu(out) if relu else out


def follow(function, norm, x, shortcut, relu, gradient):
    x = x.clone().requires_grad_()
    shortcut = None if shortcut is None else shortcut.clone().requires_grad_()
    out = function(norm, x, shortcut, relu)
    out.backward(gradient.to(out.dtype))
    made = [out.detach(), x.grad, norm.weight.grad, norm.bias.grad]
    made += [norm.running_mean, norm.running_var]
    return made + ([] if shortcut is None else [shortcut.grad])


@pytest.mark.parametrize(
    ("shape", "dtype", "adds", "relu"),
    list(itertools.product(SHAPES, (torch.float32, torch.bfloat16), (True, False), (True, False))),
)
def test_it_equals_pytorch_in_float64(shape, dtype, adds, relu):
    x, shortcut, gradient = given(shape, dtype)
    shortcut = shortcut if adds else None
    norm = layer(shape[1])
    assert kernels.fits(norm, x, shortcut)
    ours = follow(kernels.norm_relu, norm, x, shortcut, relu, gradient)
    doubles = [None if t is None else t.double() for t in (x, shortcut)]
    theirs = follow(plain, layer(shape[1]).double(), *doubles, relu, gradient)
    assert int(norm.num_batches_tracked) == 1
    tolerance = 5e-5 if dtype == torch.float32 else 3e-2
    for mine, reference in zip(ours, theirs, strict=True):
        error = (mine.double() - reference).norm() / reference.norm()
        assert error < tolerance


def test_a_mean_far_from_zero_costs_no_digits():
    x, _, gradient = given((8, 16, 16, 16), torch.float32, mean=3000.0)
    ours = follow(kernels.norm_relu, layer(16), x, None, False, gradient)
    theirs = follow(plain, layer(16).double(), x.double(), None, False, gradient)
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine.double() - reference).norm() / reference.norm() < 2e-4


def test_results_repeat_bit_for_bit():
    x, shortcut, gradient = given((8, 32, 8, 8), torch.bfloat16)
    runs = [follow(kernels.norm_relu, layer(32), x, shortcut, True, gradient) for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_not_hidden(dtype):
    x, shortcut, gradient = given((2, 16, 4, 4), dtype)
    x[1, 3, 2, 2] = float("nan")
    out, to_x, *_ = follow(kernels.norm_relu, layer(16), x, shortcut, True, gradient)
    assert out[:, 3].isnan().all()
    assert to_x[:, 3].isnan().all()
    assert not out[:, :3].isnan().any()


def test_fits_refuses_unsupported_layers():
    x = torch.randn(4, 16, 8, 8).to(memory_format=CL)
    assert kernels.fits(nn.BatchNorm2d(16), x, None)
    assert not kernels.fits(nn.BatchNorm2d(16).eval(), x, None)
    assert not kernels.fits(nn.BatchNorm2d(16, affine=False), x, None)
    assert not kernels.fits(nn.BatchNorm2d(16, momentum=None), x, None)
    assert not kernels.fits(nn.BatchNorm2d(16, track_running_stats=False), x, None)
    assert not kernels.fits(nn.BatchNorm2d(16).double(), x.double(), None)
    assert not kernels.fits(nn.BatchNorm2d(16), x.contiguous(), None)
    assert not kernels.fits(nn.BatchNorm2d(16), x, x[:2])
    assert not kernels.fits(nn.BatchNorm2d(24), torch.randn(4, 24, 8, 8).to(memory_format=CL), None)
    assert not kernels.fits(nn.BatchNorm2d(16), x[:1, :, :1, :2], None)
    assert not kernels.fits(nn.BatchNorm2d(64), torch.randn(1, 64, 1, 1), None)
    assert not kernels.fits(nn.BatchNorm2d(32), x, None)
    assert not kernels.fits(nn.BatchNorm2d(16, device="meta"), x, None)
    for hook in ("forward_hook", "forward_pre_hook", "full_backward_hook"):
        hooked = nn.BatchNorm2d(16)
        getattr(hooked, f"register_{hook}")(lambda *_: None)
        assert not kernels.fits(hooked, x, None)
