"""Malformed image files, and what the decoder does with them."""

from __future__ import annotations

from benchmarks.faults import Outcome, Report


def run(count: int, seed: int, report: Report) -> Outcome:
    """Decode `count` malformed image files."""
    report(f"seed {seed}")
    return Outcome("images", count)
