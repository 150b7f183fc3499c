"""Blocks with this project's kernels compute what PyTorch does, and in float64."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from resnets.kernels import block as whole
from resnets.kernels import fuse, norm
from resnets.kernels.fuse import use_cpu_kernels
from resnets.models.blocks import Block, Convolution, Stage

CL = torch.channels_last
needs_kernels = pytest.mark.skipif(not norm.available(), reason="no C++ compiler, or not Linux")


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request):
    """Types of maps for which this CPU has kernels for whole blocks."""
    if not norm.available():
        pytest.skip("no C++ compiler, or not Linux")
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if request.param == torch.float32:
        possible = {"avx2", "fma"} <= flags
    else:
        possible = "avx512_bf16" in flags and "amx_bf16" not in flags
    if not possible:
        pytest.skip("whole blocks need AVX2 in float32, AVX-512 BF16 without AMX in bf16")
    assert whole.available(request.param), whole.unavailable_reason(request.param)
    return request.param


def make(channels, stride=1, kind="A", filters=None):
    torch.manual_seed(0)
    filters = filters or channels * stride
    made = Block(channels, [Convolution(3, filters, stride), Convolution(3, filters, 1)], kind)
    with torch.no_grad():
        for bn in (made.bn1, made.bn2):
            bn.weight.copy_(torch.linspace(0.5, 1.5, filters))
            bn.bias.copy_(torch.linspace(-1, 1, filters))
    return made.to(memory_format=CL)


def follow(module, x, gradient, half):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = module(x)
    out.backward(gradient.to(out.dtype))
    return [
        out.detach(),
        x.grad,
        *(p.grad for p in module.parameters()),
        *(b.double() for b in module.buffers()),
    ]


def worst(made, reference):
    """The largest error, relative to each tensor's size; NaN if there is one."""
    pairs = zip(made, reference, strict=True)
    return float(torch.stack([(a.double() - b).norm() / b.norm() for a, b in pairs]).max())


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("kind", ["A", "none"])
@pytest.mark.parametrize(
    ("channels", "stride", "height", "width"),
    [
        (16, 1, 32, 32), (16, 1, 24, 24), (16, 1, 4, 12), (16, 1, 2, 4), (16, 1, 10, 6),
        (32, 1, 16, 16), (32, 1, 12, 12), (32, 1, 6, 4), (64, 1, 8, 8), (64, 1, 6, 6),
        (16, 2, 32, 32), (16, 2, 24, 24), (32, 2, 16, 16), (32, 2, 12, 12), (32, 2, 4, 8),
    ],
)  # fmt: skip
def test_a_whole_block_equals_pytorch_in_float64(
    channels, stride, height, width, kind, images, dtype
):
    block = make(channels, stride, kind)
    half = dtype == torch.bfloat16
    x = torch.randn(images, channels, height, width).relu().to(dtype).to(memory_format=CL)
    size = (images, channels * stride, height // stride, width // stride)
    gradient = torch.randn(size).to(dtype).to(memory_format=CL)
    # Rounding decides where ReLU opens or shuts; with all open there is nothing to decide. Then
    # errors in float32 are up to 1e-5, those of PyTorch's own blocks as well.
    few = images * height * width < 64  # of which one can decide much
    open_, usual = (0.04, 0.25) if half else (4e-5, 0.02)
    for shift, tolerance in ((8.0, open_), *([] if few else [(0.0, usual)])):
        with torch.no_grad():
            block.bn1.bias += shift
            block.bn2.bias += shift
        fused = copy.deepcopy(block)
        use_cpu_kernels(fused)
        assert whole.fits(fused.convolutions(), fused.norms(), x)
        reference = follow(copy.deepcopy(block).double(), x.double(), gradient, False)
        assert worst(follow(fused, x, gradient, half), reference) < tolerance
        with torch.no_grad():
            block.bn1.bias -= shift
            block.bn2.bias -= shift


@pytest.mark.parametrize("kind", ["A", "none"])
@pytest.mark.parametrize(
    ("channels", "stride", "runs"), [(16, 1, [3]), (16, 2, [1, 2]), (64, 1, [3])]
)
def test_blocks_in_a_row_equal_single_blocks(monkeypatch, channels, stride, runs, kind, dtype):
    width = channels * stride
    first, others = make(channels, stride, kind), [make(width, 1, kind) for _ in range(2)]
    stage = Stage(first, *others).to(memory_format=CL)
    use_cpu_kernels(stage)
    half = dtype == torch.bfloat16
    x = torch.randn(3, channels, 12, 12).relu().to(dtype).to(memory_format=CL)
    gradient = torch.randn(3, width, 12 // stride, 12 // stride).to(dtype)
    gradient = gradient.to(memory_format=CL)
    seen = []
    together = whole.basic_blocks
    monkeypatch.setattr(
        whole, "basic_blocks", lambda b, *rest: seen.append(len(b)) or together(b, *rest)
    )
    row = follow(copy.deepcopy(stage), x, gradient, half)
    assert seen == runs
    single = follow(nn.Sequential(*copy.deepcopy(stage)), x, gradient, half)
    assert seen[len(runs) :] == [1, 1, 1]
    assert torch.equal(row[0], single[0])
    assert worst(row[1:], [t.double() for t in single[1:]]) < (0.15 if half else 1e-4)


@pytest.fixture
def threads():
    """A function that sets the number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (32, 1), (16, 2)])
def test_threads_share_the_images(channels, stride, images, dtype, threads):
    """More threads than images, and another number in the backward pass."""
    stage = Stage(make(channels, stride), make(channels * stride)).to(memory_format=CL)
    half = dtype == torch.bfloat16
    with torch.no_grad():
        for name, bias in stage.named_parameters():
            if "bn" in name and "bias" in name:
                bias += 8  # ReLU open, as above
    use_cpu_kernels(stage)
    x = torch.randn(images, channels, 12, 12).relu().to(dtype).to(memory_format=CL)
    side = 12 // stride
    gradient = torch.randn(images, channels * stride, side, side).to(dtype).to(memory_format=CL)
    threads(1)
    alone = follow(copy.deepcopy(stage), x, gradient, half)
    for forwards, back in ((4, 4), (3, 2), (1, 4), (4, 1)):
        results = []
        for _ in range(2):
            threads(forwards)
            network, there = copy.deepcopy(stage), x.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                out = network(there)
            threads(back)
            out.backward(gradient.to(out.dtype))
            grads = [p.grad for p in network.parameters()]
            results.append([out.detach(), there.grad, *grads, *map(double, network.buffers())])
        assert all(map(torch.equal, *results))
        assert worst(results[0], [t.double() for t in alone]) < (0.04 if half else 4e-5)


def double(tensor):
    return tensor.double()


def test_a_whole_block_gives_the_same_bits_again(dtype):
    block = make(16, 2)
    use_cpu_kernels(block)
    x = torch.randn(4, 16, 16, 16).to(dtype).to(memory_format=CL)
    gradient = torch.randn(4, 32, 8, 8).to(dtype).to(memory_format=CL)
    half = dtype == torch.bfloat16
    runs = [follow(copy.deepcopy(block), x, gradient, half) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_nan_stays_nan(dtype):
    block = make(16)
    use_cpu_kernels(block)
    x = torch.randn(2, 16, 8, 8).to(dtype).to(memory_format=CL)
    x[0, 3, 5, 2] = float("nan")
    for made in follow(block, x, torch.ones_like(x), dtype == torch.bfloat16)[:3]:
        assert made.isnan().all()


def test_weights_in_any_order_of_memory(dtype):
    block = make(16)
    other = copy.deepcopy(block).to(memory_format=torch.contiguous_format)
    use_cpu_kernels(block)
    use_cpu_kernels(other)
    x = torch.randn(2, 16, 8, 8).to(dtype).to(memory_format=CL)
    gradient = torch.randn_like(x)
    half = dtype == torch.bfloat16
    for a, b in zip(*(follow(m, x, gradient, half) for m in (block, other)), strict=True):
        assert torch.equal(a, b)


def test_fits_refuses_unsupported_blocks(dtype):
    def fits(block, *shape, dtype=dtype):
        x = torch.randn(*shape).to(dtype).to(memory_format=CL)
        return whole.fits(block.convolutions(), block.norms(), x)

    assert fits(make(16), 2, 16, 8, 8)
    assert not fits(make(16), 2, 16, 8, 8, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):  # PyTorch's convolutions would compute in bf16
        assert fits(make(16), 2, 16, 8, 8) == (dtype == torch.bfloat16)
    assert not fits(make(16), 2, 16, 7, 8)
    assert not fits(make(16), 2, 16, 8, 10)
    assert not fits(make(16, 2), 2, 16, 9, 8)
    assert not fits(make(64, 2), 2, 64, 8, 8)
    assert not fits(make(16, filters=32), 2, 16, 8, 8)
    assert not fits(make(48), 2, 48, 8, 8)
    assert not fits(make(16), 0, 16, 8, 8)
    for change in ({"dilation": 2, "padding": 2}, {"padding": 0}, {"bias": True}, {"groups": 2}):
        other = make(16)
        other.conv2 = nn.Conv2d(16, 16, 3, **{"padding": 1, "bias": False, **change})
        assert not fits(other, 2, 16, 8, 8)
    assert not fits(make(16), 2, 16, 4, 0)
    assert not fits(make(16), 2, 16, 0, 4)
    reflecting = make(16)
    reflecting.conv1.padding_mode = "reflect"
    assert not fits(reflecting, 2, 16, 8, 8)
    other_kind = make(16)
    other_kind.conv2.__class__ = type("Conv", (nn.Conv2d,), {})
    assert not fits(other_kind, 2, 16, 8, 8)
    hooked = make(16)
    hooked.conv2.register_forward_pre_hook(lambda *_: None)
    assert not fits(hooked, 2, 16, 8, 8)
    single = Block(16, [Convolution(3, 16, 1)], "A")
    assert not fits(single, 2, 16, 8, 8)


@needs_kernels
@pytest.mark.parametrize("kind", ["A", "B", "C", "none", "highway"])
@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_kind_of_block_is_the_same_with_kernels_in_float32(kind, order, stride):
    if (kind, order) == ("highway", "pre"):
        pytest.skip("no such network")
    torch.manual_seed(0)
    width = 16 * stride
    for convolutions in (
        [Convolution(3, width, stride), Convolution(3, width, 1)],
        [Convolution(3, width, 1), Convolution(3, width, stride)],
        [Convolution(1, 16, stride), Convolution(3, 16, 1), Convolution(1, 4 * width, 1)],
    ):
        block = Block(16, convolutions, kind, order).to(memory_format=CL)
        x = torch.randn(4, 16, 8, 8).to(memory_format=CL)
        gradient = torch.randn_like(block(x))
        block.zero_grad()
        fused = copy.deepcopy(block)
        use_cpu_kernels(fused)
        reference = follow(copy.deepcopy(block).double(), x.double(), gradient, False)
        assert worst(follow(fused, x, gradient, False), reference) < 2e-5


@pytest.mark.parametrize(("kind", "order"), [("A", "pre"), ("none", "pre"), ("highway", "post")])
def test_stages_of_other_blocks_are_the_same_with_kernels(kind, order, dtype):
    """Their layers have the sizes that whole blocks support, but compute something else."""
    torch.manual_seed(0)
    convolutions = [Convolution(3, 16, 1), Convolution(3, 16, 1)]
    stage = Stage(*[Block(16, convolutions, kind, order) for _ in range(3)]).to(memory_format=CL)
    x = torch.randn(2, 16, 8, 8).to(dtype).to(memory_format=CL)
    gradient = torch.randn(2, 16, 8, 8).to(dtype).to(memory_format=CL)
    fused = copy.deepcopy(stage)
    use_cpu_kernels(fused)
    half = dtype == torch.bfloat16
    reference = follow(copy.deepcopy(stage).double(), x.double(), gradient, False)
    assert worst(follow(fused, x, gradient, half), reference) < (0.3 if half else 2e-4)


@needs_kernels
def test_the_zero_pad_shortcut_is_computed_with_the_convolution():
    block = make(16, 2)
    x = torch.randn(2, 16, 8, 8).to(memory_format=CL)
    assert fuse.fits_zero_pad(block.conv1, block.downsample, x)
    maps, padded = fuse.convolve_and_zero_pad(block.conv1, block.downsample, x)
    assert torch.equal(maps, block.conv1(x))
    assert torch.equal(padded, block.downsample(x))
    assert not fuse.fits_zero_pad(block.conv1, block.downsample, x.double())
    assert not fuse.fits_zero_pad(block.conv1, block.downsample, x.contiguous())
    assert not fuse.fits_zero_pad(block.conv2, block.downsample, x)


@needs_kernels
def test_a_network_with_kernels_is_exported_like_any_other():
    block = make(16, 2).eval()
    use_cpu_kernels(block)
    x = torch.randn(2, 16, 8, 8)
    program = torch.export.export(block, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    more = torch.randn(5, 16, 8, 8)
    torch.testing.assert_close(program.module()(more), block(more))
