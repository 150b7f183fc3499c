"""Panels with lines, and the figures of one run or of some models."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.analysis import figures
from resnets.analysis.panels import Line, Panel, _apart, draw
from resnets.analysis.signals import measure
from resnets.data.cifar import CLASSES
from tests.analysis.nets import batches, network


def check_picture(png):
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20


@pytest.mark.parametrize("paper_error", [8.75, None])
def test_the_training_curve_is_a_png_of_sensible_size(paper_error):
    rows = [{"step": s, "train_error": 50 - s / 10} for s in range(0, 400, 10)]
    rows += [{"step": 200, "test_error": 30.0}, {"step": 400, "test_error": 20.0}]
    check_picture(figures.training_png(rows, "a network", paper_error))
    check_picture(figures.training_png([], "nothing yet", paper_error))


def test_signals_and_responses_are_pngs_of_sensible_size():
    found = measure(network("plain"), batches((4,))[0], torch.arange(4))
    check_picture(figures.signals_png("cifar-plain8", {0: found, 5: found}, dashed=True))
    named = [(f"network {n}", n % 2 == 0, [1.0, 2.0, 0.5 + n]) for n in range(10)]
    check_picture(figures.responses_png([*named, ("b", False, [0.5, 0.7])]))


def test_the_confusion_matrix_is_a_png_of_sensible_size():
    random = np.random.default_rng(0)
    confusion = random.integers(0, 99, (10, 10)) + np.eye(10, dtype=int) * 900
    check_picture(figures.confusion_png(confusion, CLASSES, "a network"))


def test_seeds_of_different_lengths_are_drawn():
    lines = [Line([[(1, 2), (2, 3)], [(5, 6), (7, 8)], []]), Line([[]]), Line([])]
    drawing = draw([Panel("title", lines, "x", "y")], "some-name", 1)
    assert drawing.svg.startswith("<svg")


def test_a_drawing_takes_its_ink_from_the_page_and_keeps_its_names_apart():
    panel = Panel("a & b", [Line([[(0.0, 1.0), (1.0, 2.0)]], label="<line>")], "x", "y")
    drawing = draw([panel, panel], "some-name", 2)
    assert "currentColor" in drawing.svg
    assert "http" not in drawing.svg
    assert all(name.startswith("some-name-") for name in re.findall(r' id="(.*?)"', drawing.svg))
    assert "a &amp; b" in drawing.svg
    assert drawing == draw([panel, panel], "some-name", 2)


def test_labels_do_not_overlap_and_keep_their_order():
    heights = _apart([1.0, 1.1, 1.2, 9.0], 1.0)
    assert heights == pytest.approx([0.1, 1.1, 2.1, 9.0])
    assert _apart([3.0], 1.0) == [3.0]
