"""Batches are a pure function of (seed, step), and do what section 4.2 says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from resnets.data.cifar import ImageArrays
from resnets.data.cifar_batches import CifarBatches, resized
from tests.conftest import synthetic

CPU = torch.device("cpu")


def numbered(count: int) -> ImageArrays:
    """Images that carry their own number in the label (below 256)."""
    data = synthetic(count, 0)
    return ImageArrays(data.images, np.arange(count).astype(np.uint8))


def make(count=50, batch=16, seed=0, pad=4, flip="random"):
    return CifarBatches(numbered(count), batch=batch, seed=seed, device=CPU, pad=pad, flip=flip)


@given(
    count=st.integers(5, 60),
    batch=st.integers(2, 90),
    seed=st.integers(0, 1000),
    steps=st.lists(st.integers(0, 40), min_size=1, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_a_batch_depends_on_seed_and_step_alone(count, batch, seed, steps):
    one, other = make(count, batch, seed), make(count, batch, seed)
    in_order = {step: one(step) for step in sorted(set(steps))}
    for step in steps:  # any order, any history
        images, labels = other(step)
        assert torch.equal(images, in_order[step][0])
        assert torch.equal(labels, in_order[step][1])
        assert images.shape == (batch, 3, 32, 32)


@given(count=st.integers(5, 60), batch=st.integers(2, 30))
@settings(max_examples=25, deadline=None)
def test_every_epoch_shows_every_image_once(count, batch):
    batches = make(count, batch)
    epochs = 3
    stream = torch.cat([batches(s)[1] for s in range(-(-epochs * count // batch))])
    shown = stream[: epochs * count].view(epochs, count)
    for row in shown:
        assert sorted(row.tolist()) == list(range(count))
    if count > 20:
        assert not torch.equal(shown[0], shown[1])


def test_random_choices_are_those_of_version_0_1():
    """A training that is resumed depends on them."""
    batches = make(20, 4, seed=7, flip="alternating")
    first, second = batches._plan(0), batches._plan(5)
    assert first.tolist() == [[17, 14, 18, 10], [8, 1, 7, 8], [3, 2, 1, 4], [0, 1, 0, 1]]
    assert second.tolist() == [[1, 6, 9, 15], [6, 7, 6, 1], [1, 7, 7, 6], [0, 0, 1, 1]]


def test_seeds_differ():
    assert not torch.equal(make(seed=0)(0)[1], make(seed=1)(0)[1])


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_each_image_is_a_crop_of_the_padded_normalised_image_or_its_flip(pad):
    data = numbered(40)
    batches = CifarBatches(data, batch=40, seed=3, device=CPU, pad=pad, flip="random")
    images, labels = batches(0)
    mean = data.pixel_mean()
    seen, flips = set(), 0
    for image, label in zip(images.numpy(), labels, strict=True):
        padded = np.pad(
            data.images[label] / np.float32(255) - mean, ((0, 0), (pad, pad), (pad, pad))
        )
        matches = [
            (top, left, flip)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for flip in (False, True)
            if np.allclose(
                padded[:, top : top + 32, left : left + 32][:, :, :: -1 if flip else 1],
                image,
                atol=1e-6,
            )
        ]
        assert len(matches) == 1
        seen.add(matches[0][:2])
        flips += matches[0][2]
    assert 8 <= flips <= 32
    assert len(seen) > (1 if pad == 0 else 3) - 1


def test_alternating_flips_show_each_image_both_ways_in_two_epochs():
    batches = make(count=30, batch=30, pad=0, flip="alternating")
    first, second, third = (
        dict(zip(labels.tolist(), images, strict=True))
        for images, labels in (batches(i) for i in range(3))
    )
    ways = set()
    for label, image in first.items():
        assert torch.equal(second[label], image.flip(2))
        assert torch.equal(third[label], image)
        original = torch.from_numpy(numbered(30).images[label] / np.float32(255))
        centred = original - batches.normalize.mean
        ways.add(torch.allclose(image, centred, atol=1e-6))
    assert ways == {True, False}


def test_no_flip_no_pad_shows_the_images_as_they_are():
    batches = make(count=10, batch=10, pad=0, flip="none")
    images, labels = batches(0)
    raw = torch.from_numpy(np.array(numbered(10).images[labels.numpy()]))
    torch.testing.assert_close(images, batches.normalize(raw))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_epochs_are_counted_in_images():
    assert make(count=50, batch=16).epoch_of(25) == 8.0


def test_resized_is_antialiased_bilinear_in_channels_last_memory():
    images = make(batch=32)(0)[0]
    small = resized(images, 24)
    expected = F.interpolate(images, size=(24, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(small, expected, atol=1e-5, rtol=1e-4)
    assert small.is_contiguous(memory_format=torch.channels_last)
    assert resized(images, 32) is images
