"""What an export must pass before it is written: outputs and top-1 near its source's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from resnets.export import accuracy, parity
from resnets.export.calibration import ExportImages
from resnets.inference.engines import OpenVinoRuntime, Runtime
from resnets.inference.predictor import Predictor
from resnets.support.devices import hardware_name, has_bf16
from resnets.support.names import counted
from resnets.support.timing import throughput
from resnets.weights.model_file import Model

_TIMED_BATCHES = (1, 16)
_CPU = torch.device("cpu")


def check(
    model: Model,
    runtime: Runtime,
    images: ExportImages,
    *,
    real: Sequence[Tensor],
    precision: str,
    dense: bool = False,
    max_loss: float | None = None,
    baseline: Runtime | None = None,
    hint: str = "nothing was written; try another --precision or --to",
    loss_hint: str = "nothing was written; allow it with --max-loss",
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Compare an export with its source in outputs, top-1 and speed.

    Args:
        model: the source.
        runtime: the export.
        images: the test set for top-1; dense exports are not tested.
        real: real images to compare outputs on, uint8 (3, H, W).
        max_loss: most points of top-1 that may be lost; None for `accuracy.MAX_LOSS`.
        baseline: a float network to compare the speed with, if any.
        hint, loss_hint: what the user can do if outputs differ, or too much top-1 is lost.
        report: called with a line of text at the start of each step.

    Returns:
        `parity`, `accuracy` and, with a baseline, `speed`, as JSON.

    Raises:
        UserError: if outputs differ by more than the tolerance, or too much top-1 is lost.
    """
    report(f"comparing with the source on {counted(len(real), 'image')} and random pixels")
    size = model.preprocessing.size
    comparisons = parity.compare_outputs(
        runtime, parity.reference(model, dense), real,
        precision=precision, size=size, dense=dense, hint=hint,
    )  # fmt: skip
    results: dict[str, Any] = {"parity": [one.as_dict() for one in comparisons]}
    if dense:
        results |= {"accuracy": None, "not_tested": "a dense export has no test"}
    else:
        predictor = Predictor(runtime.name, model.card, model.preprocessing, runtime, "")
        allowed = accuracy.MAX_LOSS if max_loss is None else max_loss
        results |= accuracy.compare(model, predictor, images, allowed, loss_hint, report)
    if baseline is not None:
        report("measuring the speed")
        results["speed"] = _compare_speed(baseline, runtime, size)
    return results


def _compare_speed(baseline: Runtime, runtime: Runtime, size: int) -> dict[str, Any]:
    """Speed of an int8 network and of its float `baseline`, on images of `size` pixels.

    Returns:
        `images_per_second` by runtime and batch size, a `verdict` in words, and the `hardware`.
    """
    shape = (max(_TIMED_BATCHES), 3, size, size)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    rates: dict[str, dict[str, float]] = {baseline.name: {}, runtime.name: {}}
    for batch in _TIMED_BATCHES:
        runs = {one.name: partial(one, pixels[:batch]) for one in (baseline, runtime)}
        for name, values in throughput(runs, batch, rounds=3, seconds=0.5).items():
            rates[name][str(batch)] = float(f"{sorted(values)[1]:.4g}")
    factors = {
        batch: rate / rates[baseline.name][batch] for batch, rate in rates[runtime.name].items()
    }
    float_name = baseline.name.split()[-1].replace("fp32", "float32")
    if min(factors.values()) >= 1:
        relation = "faster than"
    elif max(factors.values()) < 1:
        relation = "SLOWER than"
    else:
        relation = "not always faster than"
    listed = " and ".join(f"{factor:.2f} x at batch {batch}" for batch, factor in factors.items())
    verdict = f"int8 is {relation} {float_name} on this machine: {listed}"
    if float_name != "bf16" and has_bf16(_CPU) and isinstance(runtime, OpenVinoRuntime):
        verdict += "; this CPU multiplies bf16 too, which loses less: compare with that"
    return {"images_per_second": rates, "verdict": verdict, "hardware": hardware_name(_CPU)}
