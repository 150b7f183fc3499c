"""Counts agree with their noun."""

import pytest

from resnets.support.names import counted


@pytest.mark.parametrize(
    ("number", "nouns", "text"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (0.5, ("epoch",), "0.5 epochs"),
        (1234, ("box", "boxes"), "1,234 boxes"),
        (1, ("box", "boxes"), "1 box"),
    ],
)
def test_counts_agree_with_their_noun(number, nouns, text):
    assert counted(number, *nouns) == text
