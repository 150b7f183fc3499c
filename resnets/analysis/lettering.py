"""Fonts for names in pictures: whatever alphabet a class or file name has, no letter is a box.

matplotlib's own font is the first choice. Letters that it lacks come from an installed font, if
there is one that has them; else they are written as escapes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

FAMILY = "DejaVu Sans"
"""matplotlib's font, which has more alphabets than Pillow's."""
FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Serif CJK SC", "Source Han Sans", "PingFang SC",
    "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "Noto Sans", "Noto Sans Devanagari", "Noto Sans Thai", "FreeSans",
    "Arial Unicode MS", "Segoe UI Symbol",
)  # fmt: skip


def style(*texts: str) -> dict[str, Any]:
    """Settings of matplotlib for texts that contain names: fonts, and no formulas between `$`."""
    lacking = set("".join(texts)) - _letters(FAMILY)
    families = [FAMILY]
    for family in FALLBACKS if any(map(str.isprintable, lacking)) else ():
        if lacking & _letters(family):
            families.append(family)
            lacking -= _letters(family)
    return {"font.family": families, "text.parse_math": False}


def drawable(text: str) -> str:
    """The text on one line, with escapes for letters that no font of `style` has."""
    letters = frozenset().union(*map(_letters, style(text)["font.family"]))
    text = " ".join(text.split())
    return "".join(letter if letter in letters else _escape(letter) for letter in text)


def font_file(text: str) -> Path:
    """The font that has most of a text's letters, as a file."""
    families = style(text)["font.family"]
    return _file(max(families, key=lambda family: len(set(text) & _letters(family))))


def lettered(text: str, path: Path) -> str:
    """The text on one line, with escapes for letters that a font file does not have."""
    letters = _letters_of(path)
    return "".join(c if c in letters else _escape(c) for c in " ".join(text.split()))


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


@cache
def _letters(family: str) -> frozenset[str]:
    """The letters of a font; none if it is not installed."""
    try:
        return _letters_of(_file(family))
    except ValueError:
        return frozenset()


@cache
def _letters_of(path: Path) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(str(path)).get_charmap()))


def _file(family: str) -> Path:
    """The file of a font; raises `ValueError` if it is not installed."""
    from matplotlib import font_manager

    return Path(font_manager.findfont(family, fallback_to_default=False))
