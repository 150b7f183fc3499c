"""Pixels to inputs: one formula for every layout of memory."""

import pytest
import torch

from resnets.data.preprocessing import Normalize, Preprocessing, imagenet


@pytest.mark.parametrize("std", [None, torch.tensor([0.2, 0.3, 0.5])[:, None, None]])
@pytest.mark.parametrize("mean", [torch.rand(3, 1, 1), torch.rand(3, 6, 4)])
@pytest.mark.parametrize("shifted", [False, True])
def test_normalising_is_the_formula_in_both_memory_formats(mean, std, shifted):
    images = torch.randint(0, 256, (5, 3, 6, 4), dtype=torch.uint8)
    shift = torch.randn(5, 3) if shifted else None
    expected = images.double() / 255 - mean.double()
    if shift is not None:
        expected = expected + shift[:, :, None, None].double()
    if std is not None:
        expected = expected / std.double()
    normalize = Normalize(mean, std)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = normalize(images.contiguous(memory_format=layout), shift)
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
        assert found.is_contiguous(memory_format=layout)
        assert images.dtype == torch.uint8


def test_a_mean_image_of_another_size_gives_way_to_its_channels_means():
    mean = torch.rand(3, 6, 6)
    images = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8)
    by_channel = Normalize(mean.mean((1, 2), keepdim=True))(images)
    torch.testing.assert_close(Normalize(mean)(images), by_channel)


def test_another_size_keeps_the_margin():
    look = imagenet().resized_to(112)
    assert (look.size, look.resize) == (112, 128)


@pytest.mark.parametrize(
    "arguments",
    [(224, 200, torch.zeros(3, 1, 1)), (32, 32, torch.zeros(3, 31, 31)),
     (0, 0, torch.zeros(3, 1, 1)), (32, 36, torch.zeros(3, 1, 1), torch.ones(3)),
     (32, 36, torch.zeros(3, 1, 1), None, "cubic")],
)  # fmt: skip
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match=r"."):
        Preprocessing(*arguments)
