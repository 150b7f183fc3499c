"""Batches that DALI decodes: the same as Pillow's, but for a grey level here and there."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.data import folders
from resnets.data.augmentation import Augmentation
from resnets.data.photo_batches import PhotoBatches
from resnets.data.preprocessing import Normalize
from resnets.support.errors import UserError
from resnets.training import objective, recipe_file

CPU = torch.device("cpu")
AUGMENTATION = Augmentation("scale", 24, sides=(26, 40))
PLAIN = Normalize(torch.zeros(3, 1, 1))


def photo(number, width=90, height=70):
    """A smooth picture with some detail, not the same for any two numbers."""
    random = np.random.default_rng(number)
    small = random.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write(path, number, width=90, height=70, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    photo(number, width, height).save(path, "JPEG", quality=90, **options)


@pytest.fixture
def dali():
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    from resnets.data import dali_batches

    return dali_batches


@pytest.fixture
def root(tmp_path, cache):
    sizes = [(90, 70), (64, 120), (300, 200), (33, 31)]
    for number in range(12):
        name = ("ant", "bee")[number % 2]
        write(tmp_path / "photos" / name / f"{number}.jpg", number, *sizes[number % 4])
    return tmp_path / "photos"


def make(kind, samples, batch=5, seed=0, augmentation=AUGMENTATION, **options):
    return kind(
        samples=samples,
        batch=batch,
        seed=seed,
        device=CPU,
        augmentation=lambda step: augmentation,
        normalize=PLAIN,
        **options,
    )


AUGMENTATIONS = {
    "scale": AUGMENTATION,
    "area": Augmentation("area", 24),
    "centre": Augmentation("centre", 24, resize=28),
    "bicubic": Augmentation("scale", 24, sides=(26, 40), interpolation="bicubic"),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_crops_equal_those_of_pillow(dali, root, name):
    samples = folders.load_test(root)
    by_dali = make(dali.DaliBatches, samples, 6, augmentation=AUGMENTATIONS[name])
    by_pillow = make(PhotoBatches, samples, 6, augmentation=AUGMENTATIONS[name])
    for step in range(4):
        (images, labels), (expected, wanted) = by_dali(step), by_pillow(step)
        assert torch.equal(labels, wanted)
        apart = 255 * (images - expected).abs()
        assert apart.mean() < 1.5  # with the crops one pixel to the side it would be above 12
    assert not by_dali.bad


def test_pixels_of_whole_images_equal_those_of_pillow_but_for_rounding(dali, root):
    """A crop as large as the image is scaled from all of its pixels by both."""
    augmentation = Augmentation("scale", 24, sides=(60, 60), colour=0)
    for path in root.rglob("*.jpg"):
        write(path, int(path.stem))  # 90 x 70: too small to be decoded at half the scale
    samples = folders.load_test(root)
    images, _ = make(dali.DaliBatches, samples, 12, augmentation=augmentation)(0)
    expected, _ = make(PhotoBatches, samples, 12, augmentation=augmentation)(0)
    assert (255 * (images - expected)).abs().max() < 2.5


def test_content_depends_on_seed_and_step_only(dali, root):
    samples = folders.load_test(root)
    one = make(dali.DaliBatches, samples, threads=1)
    wanted = [one(step) for step in range(6)]
    other = make(dali.DaliBatches, samples, threads=3)
    parts = make(dali.DaliBatches, samples, parts=[(0, 1), (1, 5)])
    for step in (5, 0, 3, 4):
        for mine, theirs in zip(other(step), wanted[step], strict=True):
            assert torch.equal(mine, theirs)
        pieces = [parts(step, 0), parts(step, 1)]
        assert torch.equal(torch.cat([images for images, _ in pieces]), wanted[step][0])
        assert torch.equal(torch.cat([labels for _, labels in pieces]), wanted[step][1])
    for batches in (one, other, parts):
        batches.close()


def broken(path, how):
    content = path.read_bytes()
    if how == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif how == "cut off, with an end":  # as far as its head and end tell, whole
        path.write_bytes(content[:-400] + b"\xff\xd9")
    elif how == "no pixels":
        path.write_bytes(content[: content.index(b"\xff\xda")] + b"\xff\xd9")
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["cut off", "cut off, with an end", "no pixels", "empty"])
def test_a_bad_image_is_named_as_by_pillow_and_the_others_stay(dali, root, how):
    samples = folders.load_test(root)
    clean, labels = make(dali.DaliBatches, samples, 12)(0)
    broken(samples.path(4), how)
    batches, pillow = make(dali.DaliBatches, samples, 12), make(PhotoBatches, samples, 12)
    images, kept = batches(0)
    pillow(0)
    assert batches.bad == pillow.bad
    good = samples.order(0, 0) != 4
    if batches.bad:
        assert torch.equal(images, clean[good])
        assert torch.equal(kept, labels[good])
    else:  # Pillow is content with less
        assert torch.equal(images[good], clean[good])


def exotic(path, kind):
    picture = photo(7)
    if kind == "CMYK":
        picture.convert("CMYK").save(path, "JPEG")
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(path, "JPEG", exif=exif)
    elif kind == "RGB itself":
        picture.save(path, "JPEG", keep_rgb=True)
    elif kind == "transparent":
        picture.putalpha(90)
        picture.save(path, "PNG")
    elif kind == "something behind":
        picture.save(path, "JPEG")
        path.write_bytes(path.read_bytes() + b"something")
    else:
        picture.save(path, kind)


EXOTIC = ["CMYK", "turned", "RGB itself", "transparent", "something behind", "WEBP", "GIF"]


@pytest.mark.parametrize("kind", EXOTIC)
def test_other_files_are_decoded_by_pillow(dali, root, kind):
    samples = folders.load_test(root)
    exotic(samples.path(3), kind)
    images, _ = make(dali.DaliBatches, samples, 12)(0)
    expected, _ = make(PhotoBatches, samples, 12)(0)
    row = samples.order(0, 0).tolist().index(3)
    assert torch.equal(images[row], expected[row])


def test_grey_photographs_are_decoded(dali, root):
    samples = folders.load_test(root)
    photo(3).convert("L").save(samples.path(3), "JPEG")
    images, _ = make(dali.DaliBatches, samples, 12)(0)
    expected, _ = make(PhotoBatches, samples, 12)(0)
    row = samples.order(0, 0).tolist().index(3)
    assert (255 * (images[row] - expected[row])).abs().mean() < 2
    buffer = io.BytesIO()
    photo(3).convert("L").save(buffer, "JPEG")
    assert dali.plain_jpeg_size(buffer.getvalue()) == (90, 70)  # it was DALI's


def test_dali_that_decodes_nothing_is_an_error(dali, root, monkeypatch):
    def refuse(*_):
        raise RuntimeError("Critical error, encountered:\n\nno decoder")

    batches = make(dali.DaliBatches, folders.load_test(root))
    monkeypatch.setattr(batches, "_run_pipeline", refuse)
    for step in range(3):  # fifteen images may be odd ones
        batches(step)
    with pytest.raises(UserError, match=r"decodes none of the images \(no decoder\).*'pillow'"):
        batches(3)


def test_the_recipe_chooses_the_decoder(dali, root):
    data = folders.load(root)
    for decoder, kind in {"dali": dali.DaliBatches, "pillow": PhotoBatches}.items():
        batches = objective.make_objective(plan(decoder), data).batches([(0, 2)], CPU)
        assert type(batches) is kind
        assert batches(0)[0].shape == (2, 3, 32, 32)


def plan(decoder):
    return recipe_file.load("finetune", [f"photos.decoder={decoder}", "photos.size=32"])


def test_without_dali_one_line_says_what_to_do(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali.fn", None)  # the first that is imported
    ready = objective.make_objective(plan("dali"), folders.load(root))
    with pytest.raises(UserError) as error:
        ready.batches([(0, 2)], CPU)
    assert str(error.value) == (
        "photos.decoder = 'dali' needs NVIDIA DALI; "
        "pip install nvidia-dali-cuda130, or set photos.decoder = 'pillow'"
    )
