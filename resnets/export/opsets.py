"""Versions of ONNX's operators (opsets) that exports are written in, and what runs them."""

from __future__ import annotations

from resnets.support.errors import UserError

ONNX_RUNTIMES = {18: "1.14", 19: "1.16", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.23"}
"""The opsets of exports, each with the least version of ONNX Runtime that is known to run it."""
DEFAULT = 18
"""The oldest that PyTorch converts to, so that most programs run the file."""


def check(opset: int | None, engine: str) -> None:
    """Raise `UserError` if exports for `engine` cannot be written in this opset."""
    if opset is None:
        return
    if engine != "onnx":
        raise UserError("applies to --to onnx only", f"--opset {opset}", "leave it out")
    if opset not in ONNX_RUNTIMES:
        known = f"{min(ONNX_RUNTIMES)} to {max(ONNX_RUNTIMES)}"
        raise UserError(f"exports are of opset {known}", f"--opset {opset}", "take one of them")
