"""Which improvements of appendix B a test has: those that need no training."""

from __future__ import annotations

from dataclasses import dataclass

from resnets.support.errors import UserError

PAPER = "paper"
PAPER_SIZE, PAPER_SIZES = 600, (200, 400, 600, 800, 1000)
"""The paper's shorter sides: of its detector's images, and of multi-scale testing."""
SIDES = range(8, 4097)
HINT = "for example: --scales 200,400,600,800,1000"


@dataclass(frozen=True)
class Improvements:
    """What a test adds to a detector's own way of searching an image.

    Args:
        refine: box refinement, see `refinement`.
        scales: shorter sides of the scaled images, rising, for multi-scale testing, see `scales`;
            none by default.

    Raises:
        UserError: if the scales are not two or more that rise.
    """

    refine: bool = False
    scales: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        given = ",".join(map(str, self.scales))
        if any(side not in SIDES for side in self.scales):
            message = f"shorter sides are whole numbers from {SIDES[0]} to {SIDES[-1]}"
            raise UserError(message, f"scales {given}", HINT)
        if self.scales and (len(self.scales) < 2 or list(self.scales) != sorted({*self.scales})):
            raise UserError("takes two or more sides that rise", f"scales {given}", HINT)

    @property
    def words(self) -> str:
        """As part of a protocol, such as `, box refinement`; empty without improvements."""
        words = ", box refinement" if self.refine else ""
        return words + (f", scales {' '.join(map(str, self.scales))}" if self.scales else "")


def parse_scales(text: str, size: int) -> tuple[int, ...]:
    """Shorter sides from an option.

    Args:
        text: sides with commas, or `paper`: those of the paper in proportion to the detector's.
        size: the detector's own shorter side.

    Raises:
        UserError: if it is neither.
    """
    if text == PAPER:
        return tuple(round(size * side / PAPER_SIZE) for side in PAPER_SIZES)
    try:
        return tuple(int(side) for side in text.split(","))
    except ValueError:
        message = f"not shorter sides in pixels, nor {PAPER!r}: {text!r}"
        raise UserError(message, "--scales", HINT) from None
