"""RoI pooling for exports is torchvision's, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_pool

from resnets.inference.deployable_pooling import MaxPooling

LONGEST = 1000
coordinate = st.one_of(
    st.floats(0, LONGEST, width=32), st.integers(0, LONGEST // 8).map(lambda n: 8.0 * n)
)


def maps(height, width):
    generator = torch.Generator().manual_seed(height)
    return torch.randn(1, 3, height, width, generator=generator)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(*[coordinate] * 4), min_size=1, max_size=4),
    st.integers(1, 63),
    st.integers(1, 63),
    st.sampled_from([(14, 1), (14, 2), (7, 1)]),
)
def test_it_is_torchvisions_for_any_region(corners, height, width, kind):
    bins, every = kind
    limit = torch.tensor([16.0 * width, 16.0 * height] * 2)
    boxes = torch.tensor(corners)
    low, high = torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])
    boxes = torch.minimum(torch.cat((low, high), 1), limit)
    pooled = MaxPooling(16, bins, every, LONGEST)(maps(height, width), boxes)
    wanted = roi_pool(maps(height, width), [boxes], bins, 1 / 16)[:, :, ::every, ::every]
    assert torch.equal(pooled, wanted)


@pytest.mark.parametrize("cells", range(1, 64))
def test_bins_are_those_of_regions_of_every_length(cells):
    boxes = torch.tensor([[0.0, 16, 16.0 * (cells - 1), 16.0 * cells], [8, 8, 8, 8]])
    wanted = roi_pool(maps(64, 64), [boxes], 14, 1 / 16)
    assert torch.equal(MaxPooling(16, 14, 1, LONGEST)(maps(64, 64), boxes), wanted)
