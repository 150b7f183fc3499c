"""Batches of images with boxes: pure functions of (seed, step), boxes on their objects."""

import numpy as np
import pytest
import torch

from resnets.data.boxes.batches import DetectionBatches, Views
from resnets.data.boxes.rescaling import Rescaling, load_scaled, scale_boxes
from resnets.data.preprocessing import Normalize
from tests.detection.shapes import draw_boxes

CPU = torch.device("cpu")
PLAIN = Normalize(torch.zeros(3, 1, 1))


@pytest.fixture
def images(tmp_path):
    return draw_boxes(tmp_path / "images", "train", 5, empty=(3,)).images


def batches(images, *, batch=2, seed=0, parts=(), threads=2, views=None):
    views = views or Views(Rescaling(40, 80), (0.6, 1.4))
    return DetectionBatches(
        images=images, batch=batch, seed=seed, device=CPU, views=views, normalize=PLAIN,
        parts=parts, threads=threads,
    )  # fmt: skip


def facts(batch):
    pixels, targets = batch
    return [pixels.tolist(), [[t.tolist() for t in one[:3]] + [*one[3:]] for one in targets]]


def test_a_batch_depends_on_seed_and_step_alone(images):
    whole = batches(images)
    in_order = [facts(whole(step)) for step in range(9)]
    again = batches(images, threads=1)
    assert [facts(again(step)) for step in (7, 2, 8)] == [in_order[i] for i in (7, 2, 8)]
    assert facts(batches(images, seed=1)(0)) != in_order[0]
    assert whole.epoch_of(5) == 2
    for one in (whole, again):
        one.close()


def test_parts_are_the_images_of_the_batch(images):
    whole, parted = batches(images, batch=4), batches(images, batch=4, parts=[(0, 1), (1, 4)])
    for step in range(4):
        keys = [one.key for one in whole(step)[1]]
        assert [one.key for part in (0, 1) for one in parted(step, part)[1]] == keys
        assert len(set(keys)) == 4


def test_every_epoch_has_every_image_once(images):
    made = batches(images, batch=5, views=Views(Rescaling(40, 80), flip=False))
    for step in range(3):
        found = sorted(one.boxes.flatten().tolist() for one in made(step)[1])
        wanted = [[one.box for one in image.objects] for image in images]
        sizes = (images[0].width, images[0].height), made(0)[1][0].size[::-1]
        assert found == sorted(scale_boxes(one, *sizes).flatten().tolist() for one in wanted)


def test_boxes_stay_on_their_objects(images):
    """The rectangles are bright in their category's channel, whatever the flip and the scale."""
    made = batches(images, batch=5)
    seen = 0
    for step in range(4):
        pixels, targets = made(step)
        for one, target in zip(pixels, targets, strict=True):
            height, width = target.size
            assert not one[:, height:].any()
            assert not one[:, :, width:].any()
            for box, label in zip(target.boxes, target.labels.tolist(), strict=True):
                x1, y1, x2, y2 = box.round().int().tolist()
                inside = one[label, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
                seen += 1
                assert inside.median() > 0.85
    assert seen > 10


def test_images_are_padded_to_a_common_multiple(images):
    pixels, targets = batches(images, batch=5)(0)
    assert pixels.shape[2] % 16 == pixels.shape[3] % 16 == 0
    assert pixels.shape[2] - max(one.size[0] for one in targets) < 16
    assert pixels.is_contiguous(memory_format=torch.channels_last)


def test_an_image_that_cannot_be_read_is_left_out_and_named(images):
    images[1].path.write_bytes(b"no image")
    made = batches(images, batch=5)
    pixels, targets = made(0)
    assert len(pixels) == len(targets) == 4
    assert list(made.bad) == [images[1].name]
    assert "not an image" in made.bad[images[1].name]
    alone = batches([images[1]], batch=1)
    assert alone(0)[0].shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("size", "scaled"),
    [((400, 300), (400, 300)), ((800, 600), (400, 300)), ((1, 1), (300, 300)),
     ((3000, 10), (500, 2)), ((1, 5000), (1, 500)), ((30, 40), (300, 400))],
)  # fmt: skip
def test_the_shorter_side_is_scaled_unless_the_longer_one_grows_too_long(size, scaled):
    assert Rescaling(300, 500).scaled(*size) == scaled


def test_large_jpegs_are_decoded_at_a_smaller_scale(tmp_path, images):
    from PIL import Image

    from resnets.data.boxes.annotations import AnnotatedImage

    smooth = np.linspace(0, 255, 1600 * 1200).reshape(1200, 1600).astype(np.uint8)
    Image.fromarray(smooth).convert("RGB").save(tmp_path / "large.jpg")
    large = AnnotatedImage(tmp_path / "large.jpg", "large.jpg", 1600, 1200, ())
    pixels = load_scaled(large, Rescaling(150, 500))
    assert pixels.shape == (150, 200, 3)
    whole = Image.open(large.path).resize((200, 150), Image.Resampling.BILINEAR)
    assert np.abs(pixels.astype(int) - np.asarray(whole).astype(int)).mean() < 2
