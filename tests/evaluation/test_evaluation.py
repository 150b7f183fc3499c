"""Errors and confusion are exact, whatever the batch size; pictures are pictures."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from resnets.data.cifar10 import CLASSES, Images
from resnets.evaluation import plots
from resnets.evaluation.classify import Result, evaluate


class Reads(nn.Module):
    """Answers the class written in the first pixel."""

    def forward(self, x):
        return nn.functional.one_hot(x[:, 0, 0, 0].long(), 10).float()


@given(count=st.integers(1, 60), batch=st.integers(1, 70), seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_every_image_counts_once(count, batch, seed):
    random = np.random.default_rng(seed)
    labels, answers = random.integers(0, 10, (2, count)).astype(np.uint8)
    images = np.zeros((count, 3, 4, 4), np.uint8)
    images[:, 0, 0, 0] = answers
    network = Reads().train()
    result = evaluate(
        network, Images(images, labels), lambda x: x.float(), torch.device("cpu"), 10, batch
    )
    expected = np.zeros((10, 10), np.int64)
    np.add.at(expected, (labels, answers), 1)
    assert (result.confusion == expected).all()
    assert result.images == count
    assert result.error == pytest.approx(100 * (labels != answers).mean())
    assert network.training


def test_class_errors():
    confusion = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]])
    errors = Result(confusion, "test").class_errors()
    assert errors[:2] == [20, 50]
    assert np.isnan(errors[2])


def test_plots_are_pngs_of_sensible_size():
    random = np.random.default_rng(0)
    result = Result(random.integers(0, 99, (10, 10)) + np.eye(10, dtype=int) * 900, "test")
    rows = [{"step": s, "train_error": 50 - s / 10} for s in range(0, 400, 10)]
    rows += [{"step": 200, "test_error": 30.0}, {"step": 400, "test_error": 20.0}]
    for png in (
        plots.confusion_png(result, CLASSES, "a network"),
        plots.training_png(rows, "a network", 8.75),
        plots.training_png([], "nothing yet", None),
    ):
        with Image.open(io.BytesIO(png)) as image:
            assert image.format == "PNG"
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(1 << 20)) > 20
