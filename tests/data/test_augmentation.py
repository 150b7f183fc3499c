"""Training crops: where they may be, and that the generator alone decides."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnets.data import augmentation
from resnets.data.augmentation import Augmentation
from resnets.support.errors import UserError


def gradient(width, height, kind="PNG"):
    """An image whose red grows with x and whose green grows with y."""
    x = np.broadcast_to(np.linspace(0, 255, width)[None], (height, width))
    y = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    pixels = np.stack([x, y, np.full((height, width), 90.0)], 2).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def shown(content, how, seed=0):
    out = np.empty((how.size, how.size, 3), np.uint8)
    shift = augmentation.load_augmented(
        content, "x.png", how, random=np.random.default_rng(seed), out=out
    )
    return out, shift


@given(
    kind=st.sampled_from(["scale", "area", "centre"]),
    width=st.integers(20, 300),
    height=st.integers(20, 300),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_any_image_gives_a_full_crop_that_depends_on_the_generator_alone(kind, width, height, seed):
    how = Augmentation(kind, 32, sides=(36, 60), resize=40)
    content = gradient(width, height)
    one, shift = shown(content, how, seed)
    other, again = shown(content, how, seed)
    assert (one == other).all()
    assert (shift == again).all()
    red = one[..., 0].astype(int)
    steps = np.diff(red, axis=1)
    assert (steps >= -1).all() or (steps <= 1).all()  # upright: mirrored or not, never turned


def test_the_papers_crop_is_a_square_of_the_scaled_image():
    """224 pixels from a shorter side in [256, 480] (section 3.4)."""
    how = Augmentation("scale", 224, flip=False, colour=0)
    content = gradient(1000, 500)
    seen = []
    for seed in range(60):
        out, _ = shown(content, how, seed)
        across = np.ptp(out[..., 0].astype(float)) / 255
        down = np.ptp(out[..., 1].astype(float)) / 255
        seen.append(224 / down)  # the scaled image's height
        assert across == pytest.approx(down / 2, abs=0.02)
    assert 250 < min(seen) < 290
    assert 440 < max(seen) < 490


def test_half_of_the_images_are_mirrored():
    how = Augmentation("centre", 32, resize=36, colour=0)
    mirrored = 0
    for seed in range(200):
        out, _ = shown(gradient(60, 60), how, seed)
        mirrored += int(out[0, 0, 0] > out[0, -1, 0])
    assert 70 < mirrored < 130


def test_colour_shifts_have_the_spread_that_the_constants_give():
    random = np.random.default_rng(0)
    shifts = np.stack([augmentation.draw_colour_shift(random, 0.1) for _ in range(4000)])
    expected = np.sqrt(((augmentation.PCA_VECTORS * augmentation.PCA_VALUES * 0.1) ** 2).sum(1))
    assert shifts.std(0) == pytest.approx(expected, rel=0.05)
    assert (255 * shifts.std(0)).round(1).tolist() == pytest.approx([3.2, 3.2, 3.3], abs=0.2)
    assert not augmentation.draw_colour_shift(random, 0.0).any()


@given(width=st.integers(1, 400), height=st.integers(1, 400), seed=st.integers(0, 100))
def test_boxes_by_area_are_within_the_image(width, height, seed):
    random = np.random.default_rng(seed)
    left, top, right, bottom = augmentation.draw_area_box(width, height, (0.08, 1.0), random)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@given(
    kind=st.sampled_from(["scale", "area", "centre"]),
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    seed=st.integers(0, 100),
)
def test_crops_are_within_the_image_and_decoded_at_least_at_their_own_scale(
    kind, width, height, seed
):
    how = Augmentation(kind, 32, sides=(36, 60), resize=40)
    crop = augmentation.draw_crop(width, height, how, np.random.default_rng(seed))
    left, top, right, bottom = crop.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    across = min(right - left, bottom - top) * crop.shorter / min(width, height)
    assert across >= 32 - 1  # the scaled longer side is a whole number


def test_a_large_jpeg_decoded_at_a_smaller_scale_gives_the_same_crop():
    how = Augmentation("scale", 64, sides=(70, 70), flip=False, colour=0)
    small, _ = shown(gradient(1200, 900, "JPEG"), how, 3)
    exact, _ = shown(gradient(1200, 900), how, 3)
    assert np.abs(small.astype(int) - exact.astype(int)).mean() < 3


def test_a_file_that_is_not_an_image_is_named():
    with pytest.raises(UserError, match=r"x\.png"):
        shown(b"no image", Augmentation("scale", 32, sides=(36, 40)))
