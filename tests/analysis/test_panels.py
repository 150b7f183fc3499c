"""Panels with curves: what is written at their axes."""

from __future__ import annotations

import re

import pytest

from resnets.analysis.panels import Line, Panel, draw

_LABEL = re.compile(r"<text[^>]*>([^<]*)</text>")


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ((0.0004, 3.0), {"0.001", "0.01", "0.1", "1"}),
        ((0.6, 2.1), {"1", "2"}),
        ((0.3, 0.4), {"0.2", "0.5"}),
    ],
)
def test_a_logarithmic_axis_has_plain_numbers(heights, expected):
    limits = (heights[0] / 1.6, heights[1] * 1.6)
    line = Line([[(0.0, heights[0]), (1.0, heights[1])]])
    panel = Panel("responses", [line], "x", "y", y_limits=limits, logarithmic=True)
    labels = set(_LABEL.findall(draw([panel], "p", columns=1).svg))
    assert expected <= labels
    assert not [label for label in labels if "$" in label or "\\" in label]
