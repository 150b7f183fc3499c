"""Pooling equals torchvision's operators, forwards and backwards, for every shape of region."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align, roi_pool

from resnets.detection.pooling import CHUNK, pool_regions

BOXES = [
    torch.tensor([[0.0, 0, 64, 48], [3, 5, 7, 6], [40, 30, 400, 300], [-30, -20, 20, 10]]),
    torch.tensor([[0.0, 0, 0, 0], [63.5, 47.5, 64, 48]]),
]


def maps(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 5, 3, 4, generator=generator, dtype=dtype)
    return values.to(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("every", [1, 2])
def test_roi_align_is_torchvisions_with_its_gradients(every):
    ours, theirs = maps(), maps()
    pooled = pool_regions(ours, BOXES, 16, 14, every)
    wanted = roi_align(theirs, BOXES, 14, 1 / 16, 2)[:, :, ::every, ::every]
    torch.testing.assert_close(pooled, wanted, atol=1e-5, rtol=1e-5)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn(pooled.shape)
    (pooled * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-5)


coordinate = st.floats(-100, 200, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[coordinate] * 4), max_size=4))
def test_roi_align_is_torchvisions_for_any_region(corners):
    boxes = [torch.tensor(corners, dtype=torch.float32).reshape(-1, 4), BOXES[1]]
    pooled = pool_regions(maps().detach(), boxes, 16, 7)
    wanted = roi_align(maps().detach(), boxes, 7, 1 / 16, 2)
    torch.testing.assert_close(pooled, wanted, atol=1e-4, rtol=1e-4)


def test_roi_pooling_is_torchvisions():
    pooled = pool_regions(maps(), BOXES, 16, 14, 2, "max")
    assert torch.equal(pooled, roi_pool(maps(), BOXES, 14, 1 / 16)[:, :, ::2, ::2])


def test_many_regions_are_pooled_in_pieces_and_none_give_none():
    one = torch.tensor([[1.0, 2, 30, 40]])
    many = [one.expand(2 * CHUNK + 1, 4), one[:0]]
    pooled = pool_regions(maps(), many, 16, 7)
    assert pooled.shape == (2 * CHUNK + 1, 5, 7, 7)
    torch.testing.assert_close(pooled[0], pooled[-1])
    assert pool_regions(maps(), [one[:0], one[:0]], 16, 7).shape == (0, 5, 7, 7)
