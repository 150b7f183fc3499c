"""Outputs of an export against those of its source model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resnets.inference.deployable import Outputs, of_channels
from resnets.inference.engines import Runtime
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError
from resnets.weights.model_file import Model

BATCHES = (1, 3, 8)
"""Batch sizes at which outputs are compared."""
RANDOM_PIXELS, REAL_IMAGES = "random pixels", "real images"

Reference = Callable[[Tensor], Outputs]
"""The source model: uint8 images (N, 3, H, W) to the outputs that the export should have."""


class Tolerance(NamedTuple):
    """The largest acceptable differences of logits and features.

    Args:
        largest: the largest absolute difference, divided by the largest absolute value of the
            source.
        rms: the root mean square of the differences, divided by that of the source's values.
    """

    largest: float
    rms: float


TOLERANCES = {
    "fp32": Tolerance(0.001, 0.0001),
    "bf16": Tolerance(0.05, 0.02),
    "int8": Tolerance(1.0, 0.25),
}
"""By precision. For int8 it applies to real images only: random pixels are unlike the calibration
images."""
BATCH_TOLERANCES = {"fp32": 0.001, "bf16": TOLERANCES["bf16"].largest, "int8": 0.001}
"""How much an image's outputs may change with the batch size, divided by the largest value. Where
hardware multiplies bf16, kernels chosen by batch size round in different orders."""


@dataclass(frozen=True)
class Comparison:
    """Outputs of an export compared with those of its source, at one batch size.

    Args:
        pixels: `random pixels` or `real images`.
        batch: batch size.
        images: number of images.
        largest: the largest difference of logits and features, as in `Tolerance`.
        rms: the root mean square of the differences, as in `Tolerance`.
        probability: the largest difference of a class probability.
        agreement: share of the images (if dense, of the locations) with the same top-1 class.
        tolerance: None if differences of any size are accepted.
    """

    pixels: str
    batch: int
    images: int
    largest: float
    rms: float
    probability: float
    agreement: float
    tolerance: Tolerance | None

    @property
    def passes(self) -> bool:
        """Whether the differences are finite and within the tolerance."""
        if self.tolerance is None:
            return math.isfinite(self.largest)
        return self.largest <= self.tolerance.largest and self.rms <= self.tolerance.rms

    def as_dict(self) -> dict[str, Any]:
        """As JSON, numbers with three digits."""
        values = {
            key: float(f"{value:.3g}") if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }
        return {**values, "tolerance": self.tolerance and self.tolerance._asdict()}


def reference(model: Model, dense: bool) -> Reference:
    """The model as it was trained: PyTorch, float32, BN not folded, preprocessing applied."""
    network = model.network
    preprocessing = of_channels(model.preprocessing) if dense else model.preprocessing
    normalize = preprocessing.normalize(torch.device("cpu"))

    @torch.inference_mode()
    def outputs(images: Tensor) -> Outputs:
        inputs = normalize(images)
        if not isinstance(network, ResidualNetwork):
            logits = network(inputs)
            return Outputs(logits, logits[:, :0])
        last = network.features(inputs)[network.stage_names[-1]]
        if dense:
            return Outputs(network.dense_head(last), last)
        return Outputs(network.head(last), last.mean((2, 3)))

    return outputs


def compare_outputs(
    runtime: Runtime,
    expected: Reference,
    real: Sequence[Tensor],
    *,
    precision: str,
    size: int,
    dense: bool = False,
    hint: str = "",
) -> list[Comparison]:
    """Compare an export's outputs with its source's, at each batch size of `BATCHES`.

    Args:
        real: real images, uint8 (3, H, W); those of one size form batches.
        size: height and width of the random images; dense exports also get a larger size.
        hint: what the user can do if outputs differ.

    Raises:
        UserError: if outputs differ by more than the precision's tolerance, or an image's outputs
            change with the batch size.
    """
    tolerance = TOLERANCES[precision]
    random_tolerance = None if precision == "int8" else tolerance
    generator = torch.Generator().manual_seed(0)
    comparisons = []
    shapes = ((size, size), (size + size // 3, size + size // 2)) if dense else ((size, size),)
    for shape in shapes:
        noise = torch.randint(
            0, 256, (max(BATCHES), 3, *shape), dtype=torch.uint8, generator=generator
        )
        whole = expected(noise)
        singles = [runtime(noise[i : i + 1]) for i in range(len(noise))]
        for batch in BATCHES:
            outputs = runtime(noise[:batch])
            _check_batch_independence(outputs, singles[:batch], BATCH_TOLERANCES[precision])
            part = Outputs(whole.logits[:batch], whole.features[:batch])
            comparisons.append(_compare([(outputs, part)], RANDOM_PIXELS, batch, random_tolerance))
    for batch in BATCHES:
        pairs = [(runtime(images), expected(images)) for images in _batches(real, batch)]
        comparisons.append(_compare(pairs, REAL_IMAGES, batch, tolerance))
    for one in comparisons:
        if not one.passes:
            limits = one.tolerance and f"{one.tolerance.largest:g} and {one.tolerance.rms:g}"
            raise UserError(
                f"{runtime.name} differs from its source on {one.pixels} at batch size "
                f"{one.batch}: the outputs differ by {one.largest:.2g} of the largest value, "
                f"{one.rms:.2g} in the root mean square (tolerated: {limits or 'finite numbers'})",
                hint=hint,
            )
    return comparisons


def _batches(images: Sequence[Tensor], batch: int) -> Iterator[Tensor]:
    """Batches of images of one size."""
    by_size: dict[torch.Size, list[Tensor]] = {}
    for image in images:
        by_size.setdefault(image.shape, []).append(image)
    for group in by_size.values():
        for start in range(0, len(group), batch):
            yield torch.stack(group[start : start + batch])


def _check_batch_independence(
    outputs: Outputs, singles: Sequence[Outputs], tolerance: float
) -> None:
    """Raise `UserError` if the outputs of a batch differ from those of its single images."""
    expected = (torch.cat(parts) for parts in zip(*singles, strict=True))
    difference = _largest(_relative(a, b) for a, b in zip(outputs, expected, strict=True))
    if not difference <= tolerance:
        raise UserError(
            f"the export's outputs depend on the batch size: at {len(singles)} they differ by "
            f"{difference:.2g} of the largest value from those of single images",
            hint="nothing was written; try another --to",
        )


def _largest(values: Iterable[float]) -> float:
    """The largest value; NaN if there is one, which `max` may overlook."""
    return float(np.max(list(values)))


def _relative(actual: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value; infinite if shapes differ."""
    if actual.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def _relative_rms(pairs: Sequence[tuple[Outputs, Outputs]], output: int) -> float:
    """The rms of the differences of one output, over the rms of the expected values."""
    differences = sum(float((a[output] - b[output]).double().square().sum()) for a, b in pairs)
    expected = sum(float(b[output].double().square().sum()) for _, b in pairs)
    return math.sqrt(differences / expected) if expected else math.sqrt(differences)


def _compare(
    pairs: Sequence[tuple[Outputs, Outputs]], pixels: str, batch: int, tolerance: Tolerance | None
) -> Comparison:
    """Compare pairs of (export's outputs, source's outputs)."""
    probabilities = [(a.logits.softmax(1), b.logits.softmax(1)) for a, b in pairs]
    same = torch.cat([(a.argmax(1) == b.argmax(1)).flatten().float() for a, b in probabilities])
    return Comparison(
        pixels=pixels,
        batch=batch,
        images=sum(len(a.logits) for a, _ in pairs),
        largest=_largest(_relative(x, y) for a, b in pairs for x, y in zip(a, b, strict=True)),
        rms=_largest(_relative_rms(pairs, output) for output in (0, 1)),
        probability=_largest(float((a - b).abs().max()) for a, b in probabilities),
        agreement=float(same.mean()),
        tolerance=tolerance,
    )
