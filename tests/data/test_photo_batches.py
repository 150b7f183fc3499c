"""Batches of photographs depend on seed and step alone; bad images are named."""

import numpy as np
import pytest
import torch

from resnets.data import folders, photo_batches
from resnets.data.augmentation import Augmentation
from resnets.data.preprocessing import Normalize
from resnets.support.errors import UserError
from tests.conftest import draw_photos

CPU = torch.device("cpu")
AUGMENTATION = Augmentation("scale", 24, sides=(26, 40))
PLAIN = Normalize(torch.zeros(3, 1, 1))


@pytest.fixture
def samples(tmp_path, cache):
    draw_photos(tmp_path / "photos", {"ant": 9, "bee": 8, "cow": 6})
    return folders.load_test(tmp_path / "photos")


def make(samples, batch=5, seed=0, augmentation=lambda step: AUGMENTATION, **options):
    return photo_batches.PhotoBatches(
        samples=samples,
        batch=batch,
        seed=seed,
        device=CPU,
        augmentation=augmentation,
        normalize=PLAIN,
        **options,
    )


def test_every_image_once_an_epoch_and_steps_continue_into_the_next(samples):
    still = Augmentation("centre", 24, resize=24, flip=False, colour=0)
    batches = make(samples, augmentation=lambda step: still)
    shown = torch.cat([batches(step)[0] for step in range(23)])  # five epochs of 23
    for epoch in range(5):
        images = shown[23 * epoch : 23 * (epoch + 1)].flatten(1)
        assert len(images.unique(dim=0)) == 23
    assert not torch.equal(shown[:23], shown[23:46])
    assert batches.epoch_of(23) == 5


def test_the_order_of_each_epoch_is_prefetched_once(samples, monkeypatch):
    orders = []
    monkeypatch.setattr(samples, "prefetch", orders.append)
    batches = make(samples, seed=2)
    for step in range(8, 10):  # resumed in the second epoch; the third begins in step 9
        batches(step)
    assert [order.tolist() for order in orders] == [
        samples.order(2, epoch).tolist() for epoch in (1, 2)
    ]


def test_content_depends_on_seed_and_step_only(samples):
    one = make(samples, threads=1)
    wanted = [one(step) for step in range(8)]
    other = make(samples, threads=4)
    for step in (6, 0, 3, 7, 1):  # in any order, from any start
        for mine, theirs in zip(other(step), wanted[step], strict=True):
            assert torch.equal(mine, theirs)
    assert not torch.equal(make(samples, seed=1)(0)[0], wanted[0][0])


def test_random_choices_are_those_of_version_0_1(samples):
    """A training that is resumed depends on them."""
    batches = make(samples, batch=23, seed=7)
    part = batches._begin(1)
    for row in (0, 22):
        expected = np.random.default_rng([7, 4, 1, int(part.indices[row])])
        assert batches._generator(part, row).random(4).tolist() == expected.random(4).tolist()
    batches.close()


def test_parts_of_processes_make_up_the_batch(samples):
    whole = make(samples, batch=6)
    ranks = [make(samples, batch=6, parts=parts) for parts in ([(0, 1), (1, 3)], [(3, 6)])]
    for step in range(6):
        images, labels = whole(step)
        pieces = [ranks[0](step, 0), ranks[0](step, 1), ranks[1](step)]
        assert torch.equal(torch.cat([i for i, _ in pieces]), images)
        assert torch.equal(torch.cat([n for _, n in pieces]), labels)


def test_sizes_may_change_with_the_step(samples):
    small = Augmentation("scale", 16, sides=(17, 20))
    batches = make(samples, augmentation=lambda step: small if step < 2 else AUGMENTATION)
    assert [batches(step)[0].shape[-1] for step in range(4)] == [16, 16, 24, 24]


def test_a_bad_image_is_left_out_and_named_but_not_replaced(samples, tmp_path):
    clean = make(samples, batch=23)
    expected, labels = clean(0)
    bad = samples.path(4)
    bad.write_bytes(b"not an image")
    batches = make(samples, batch=23)
    images, kept = batches(0)
    row = samples.order(0, 0).tolist().index(4)
    good = [i for i in range(23) if i != row]
    assert torch.equal(images, expected[good])
    assert torch.equal(kept, labels[good])
    assert list(batches.bad) == [samples.name(4)]
    assert "not an image" in batches.bad[samples.name(4)]


def test_the_only_readable_image_of_a_batch_comes_twice_but_counts_once(samples):
    bad = samples.path(4)
    row = samples.order(0, 0).tolist().index(4)
    step, other = row // 2, row ^ 1
    expected, labels = make(samples, batch=2)(step)
    bad.write_bytes(b"")
    batches = make(samples, batch=2)
    images, kept = batches(step)
    assert torch.equal(images, expected[[other % 2] * 2])
    assert kept.tolist() == [labels[other % 2], photo_batches.IGNORE_INDEX]
    assert list(batches.bad) == [samples.name(4)]
    single = make(samples, batch=1)(row)  # nothing is left to repeat
    assert len(single[0]) == len(single[1]) == 0


def test_unreadable_images_are_found_within_a_time(samples):
    assert photo_batches.unreadable(samples, 60) == {}
    samples.path(4).write_bytes(b"")
    assert photo_batches.unreadable(samples, 60) == {samples.name(4): "the file is empty"}
    assert photo_batches.unreadable(samples, 0) == {}


def test_the_mean_image_is_that_of_the_central_crops(samples):
    augmentation = Augmentation("scale", 24, sides=(26, 40), resize=28)
    mean = photo_batches.training_mean(samples, augmentation, seed=0)
    assert mean.shape == (3, 24, 24)
    still = Augmentation("centre", 24, resize=28, flip=False, colour=0)
    everything, _ = make(samples, batch=23, augmentation=lambda step: still)(0)
    torch.testing.assert_close(mean, everything.mean(0), atol=1e-5, rtol=0)
    assert np.isfinite(mean.numpy()).all()


def test_a_mean_without_readable_images_is_refused(tmp_path, cache):
    root = tmp_path / "photos" / "ant"
    root.mkdir(parents=True)
    (root / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of the images can be read"):
        photo_batches.training_mean(folders.load_test(tmp_path / "photos"), AUGMENTATION, 0)
