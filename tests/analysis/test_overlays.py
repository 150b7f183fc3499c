"""Maps lie over the right pixels; sheets hold every picture, and captions fit."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.analysis import overlays
from resnets.analysis.overlays import SIDE, CaptionedPicture


def brightness(picture):
    return np.asarray(picture.convert("L"), np.float64)


@pytest.mark.parametrize("size", [(64, 64), (90, 30)])
def test_a_map_is_brightest_where_its_values_are(size):
    photo = Image.new("RGB", size, (10, 120, 30))
    values = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    picture = overlays.overlay(photo, values, 1)
    assert picture.size == size
    down, across = np.unravel_index(brightness(picture).argmax(), size[::-1])
    assert down < size[1] / 2
    assert across > size[0] / 2
    pixels = np.asarray(picture)
    assert pixels[-1, 0].sum() < 30  # nothing is black
    assert pixels[0, -1].min() > 100  # the most is pale yellow
    assert pixels[0, -1, 2] < pixels[0, -1, :2].min()


def test_opacity_goes_from_the_grey_photograph_to_the_map_alone():
    photo = Image.effect_noise((40, 20), 60).convert("RGB")
    photo.paste((200, 0, 0), (0, 0, 20, 20))
    values = torch.rand(5, 10, generator=torch.Generator().manual_seed(0))
    none, half, full = (np.asarray(overlays.overlay(photo, values, x)) for x in (0, 0.5, 1))
    np.testing.assert_array_equal(none, np.asarray(photo.convert("L").convert("RGB")))
    assert (none[..., 0] == none[..., 2]).all()
    between = (none.astype(int) + full) / 2
    assert np.abs(half - between).max() <= 1
    plain = np.asarray(overlays.overlay(Image.new("RGB", photo.size), values, 1))
    np.testing.assert_array_equal(full, plain)


def test_a_sheet_holds_all_pictures_in_rows():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    panels = [CaptionedPicture(Image.new("RGB", (8, 8), c), (f"panel {c}", "x")) for c in colours]
    paper = np.asarray(overlays.sheet(panels, "a title", columns=3))
    places = []
    for colour in colours:
        rows, columns = np.nonzero((paper == colour).all(2))
        assert len(rows) == SIDE * SIDE
        assert (np.ptp(rows), np.ptp(columns)) == (SIDE - 1, SIDE - 1)
        places.append((rows.min(), columns.min()))
    tops, lefts = zip(*places, strict=True)
    assert len(set(tops[:3])) == len(set(tops[3:])) == 1
    assert tops[3] > tops[0] + SIDE + 20  # room for the captions
    assert lefts[:2] == lefts[3:]
    assert lefts[0] < lefts[1] < lefts[2]
    below = paper[tops[0] + SIDE : tops[3], :, 0]
    assert (below < 100).any()  # letters


def test_captions_are_cut_where_they_do_not_fit():
    font = overlays._font(15, "")
    long = "a very long name of a class, " * 10
    short = overlays.fitting(long, 200, font)
    assert short.endswith("…")
    assert long.startswith(short[:-1])
    assert font.getlength(short) <= 200 < font.getlength(short[:-1] + "xx…")
    assert overlays.fitting("fits", 200, font) == "fits"
    assert overlays.fitting("two\nlines", 200, font) == "two lines"
    assert overlays.fitting("\udcff.png", 200, font) == r"\udcff.png"
    picture = overlays.sheet([CaptionedPicture(Image.new("RGB", (8, 8)), (long,))], long)
    assert picture.width < SIDE + 50


def test_few_pixels_stay_visible_and_many_are_smoothed():
    few = Image.new("RGB", (2, 2), "black")
    few.putpixel((0, 0), (255, 255, 255))
    large = np.asarray(overlays.scaled(few))
    assert large.shape == (SIDE, SIDE, 3)
    assert set(np.unique(large)) == {0, 255}
    assert large[: SIDE // 2, : SIDE // 2].min() == 255
    many = Image.new("RGB", (SIDE - 1, SIDE - 1), "black")
    many.paste("white", (0, 0, 150, SIDE))
    assert len(np.unique(np.asarray(overlays.scaled(many)))) > 2


def test_a_png_gives_the_same_pixels():
    picture = Image.effect_noise((30, 20), 90).convert("RGB")
    again = Image.open(io.BytesIO(overlays.png(picture)))
    assert again.format == "PNG"
    np.testing.assert_array_equal(np.asarray(again), np.asarray(picture))
