"""From images to inputs: crops of the scaled image, and one formula for every memory layout."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnets.data.preprocessing import (
    CentralCrop,
    Normalize,
    Preprocessing,
    imagenet,
    resize_shorter,
    scaled_size,
    to_tensor,
)
from tests.data.test_images import picture


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (256, 256), (97, 411)])
def test_a_crop_is_that_of_the_resized_image(width, height, interpolation):
    image = Image.fromarray(picture(width, height))
    whole = resize_shorter(image, 128, interpolation)
    assert min(whole.size) == 128
    left, top = (whole.width - 100) // 2, (whole.height - 100) // 3
    part = CentralCrop(100, 128, interpolation).crop_at(image, left, top)
    expected = np.asarray(whole.crop((left, top, left + 100, top + 100))).astype(int)
    assert np.abs(np.asarray(part).astype(int) - expected).max() <= 3


@given(st.integers(1, 500), st.integers(1, 500), st.integers(8, 64), st.data())
def test_any_crop_within_the_scaled_image_can_be_made(width, height, size, data):
    shorter = data.draw(st.integers(size, 80))
    scaled = scaled_size(width, height, shorter)
    left = data.draw(st.integers(0, scaled[0] - size))
    top = data.draw(st.integers(0, scaled[1] - size))
    image = Image.new("RGB", (width, height), (1, 2, 3))
    part = CentralCrop(size, shorter).crop_at(image, left, top)
    assert part.size == (size, size)
    assert part.getpixel((size - 1, size - 1)) == (1, 2, 3)


def test_the_centre_is_the_middle():
    image = Image.fromarray(picture(300, 200))
    part = np.asarray(CentralCrop(80, 100).crop(image)).astype(int)
    assert np.abs(part[:, ::-1, 0] + part[..., 0] - 255).max() <= 3
    assert np.abs(part[::-1, :, 1] + part[..., 1] - 255).max() <= 4


def test_to_tensor():
    pixels = picture()
    tensor = to_tensor(Image.fromarray(pixels))
    assert tensor.shape == (3, 64, 96)
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), pixels)


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


def test_for_a_mean_image_of_another_size_its_channels_means_are_used():
    mean = torch.rand(3, 6, 6)
    images = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8)
    by_channel = Normalize(mean.mean((1, 2), keepdim=True))(images)
    torch.testing.assert_close(Normalize(mean)(images), by_channel)


def test_another_size_keeps_the_margin():
    small = imagenet().resized_to(112)
    assert (small.size, small.resize) == (112, 128)


MEAN = torch.zeros(3, 1, 1)


@pytest.mark.parametrize(
    ("crop", "options"),
    [((224, 200), {"mean": MEAN}), ((32, 32), {"mean": torch.zeros(3, 31, 31)}),
     ((0, 0), {"mean": MEAN}), ((32, 36), {"mean": MEAN, "std": torch.ones(3)}),
     ((32, 36), {"mean": MEAN, "std": MEAN}), ((32, 36, "cubic"), {"mean": MEAN})],
)  # fmt: skip
def test_impossible_preprocessing_is_refused(crop, options):
    with pytest.raises(ValueError, match=r"."):
        Preprocessing(*crop, **options)
