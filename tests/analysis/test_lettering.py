"""Names of any alphabet in pictures: no formulas, no boxes, no errors."""

import warnings

import numpy as np
import pytest
from PIL import Image

from resnets.analysis import figures, lettering, overlays
from resnets.analysis.overlays import CaptionedPicture

ODD = ("$x_1$", "$", "日本", "größe", "<b>", "a\nb", "\udcff", "\x07", '"quoted"', "𝔘")


def test_letters_that_no_font_has_become_escapes():
    assert lettering.drawable("größe <b> $x$") == "größe <b> $x$"
    assert lettering.drawable("a\nb  c") == "a b c"
    assert lettering.drawable("\udcff\x07") == r"\udcff\x07"


def test_without_another_font_other_alphabets_become_escapes(monkeypatch):
    monkeypatch.setattr(lettering, "FALLBACKS", ())
    assert lettering.drawable("日a") == r"\u65e5a"
    assert lettering.style("日a")["font.family"] == [lettering.FAMILY]


def test_a_confusion_matrix_of_odd_names_has_no_boxes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of missing letters
        plain = figures.confusion_png(np.eye(len(ODD), dtype=np.int64), ODD, "$a$ on 日本\udcff")
        other = figures.confusion_png(np.eye(len(ODD), dtype=np.int64), ODD[::-1], "a")
    assert plain[:4] == other[:4] == b"\x89PNG"
    assert plain != other


@pytest.mark.parametrize("name", ODD)
def test_sheets_have_captions_of_odd_names(name):
    sheet = overlays.sheet([CaptionedPicture(Image.new("RGB", (8, 8)), (name, name))], name)
    assert np.asarray(sheet).min() < 128
    path = lettering.font_file(name)
    assert set(lettering.lettered(name, path)) <= lettering._letters_of(path)
