"""Whether an exported network still answers like its source."""

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
NOISE, REAL = "random pixels", "real images"


class Tolerance(NamedTuple):
    """How far logits and features may be off.

    Args:
        largest: difference, over the largest value of the source.
        rms: root mean square of the differences, over that of the source's values.
    """

    largest: float
    rms: float


TOLERANCES = {
    "fp32": Tolerance(0.001, 0.0001),
    "bf16": Tolerance(0.05, 0.02),
    "int8": Tolerance(1.0, 0.25),
}
"""By precision. Int8 is held to it on real images only: random pixels are nothing that it was
calibrated for."""
SAME = {"fp32": 0.001, "bf16": TOLERANCES["bf16"].largest, "int8": 0.001}
"""How far an image's answer may depend on the batch that it comes in, over the largest value. Where
hardware multiplies bf16, kernels that are chosen by the batch round in different orders."""

Source = Callable[[Tensor], Outputs]


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        pixels: `random pixels` or `real images`.
        batch: images at a time.
        images: how many.
        largest: difference of a logit or feature, as in `Tolerance`.
        rms: of the differences, likewise.
        probability: the largest difference of a probability.
        agreement: share of the images (of the locations, where dense) with the same first class.
        tolerance: None where nothing is asked.
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
    def holds(self) -> bool:
        """Whether the differences are numbers within the tolerance."""
        if self.tolerance is None:
            return math.isfinite(self.largest)
        return self.largest <= self.tolerance.largest and self.rms <= self.tolerance.rms

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        wanted = self.tolerance
        facts = {key: _short(value) for key, value in asdict(self).items() if key != "tolerance"}
        return {**facts, "tolerance": None if wanted is None else wanted._asdict()}


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def source(model: Model, dense: bool) -> Source:
    """The model as it was trained: BN not folded, preprocessing in front, PyTorch, float32."""
    network = model.network
    look = of_channels(model.preprocessing) if dense else model.preprocessing
    normalize = look.normalize(torch.device("cpu"))

    @torch.inference_mode()
    def answer(images: Tensor) -> Outputs:
        inputs = normalize(images)
        if not isinstance(network, ResidualNetwork):
            logits = network(inputs)
            return Outputs(logits, logits[:, :0])
        last = network.features(inputs)[network.stage_names[-1]]
        if dense:
            return Outputs(network.dense_head(last), last)
        return Outputs(network.head(last), last.mean((2, 3)))

    return answer


def compare(
    engine: Runtime,
    expected: Source,
    images: Sequence[Tensor],
    precision: str,
    size: int,
    dense: bool,
    hint: str = "nothing was written; try another --precision or --to",
) -> list[Case]:
    """Compare an engine with the source at every batch size.

    Args:
        images: real ones, uint8 (3, H, W); those of one size are shown together.
        size: side in pixels of random images; a dense network gets those of other sizes too.
        hint: what a user may do if they differ.

    Raises:
        UserError: if they differ by more than the precision's tolerance, or an image's answer
            depends on the batch that it comes in.
    """
    wanted = TOLERANCES[precision]
    on_noise = None if precision == "int8" else wanted
    random = torch.Generator().manual_seed(0)
    cases = []
    shapes = ((size, size), (size + size // 3, size + size // 2)) if dense else ((size, size),)
    for shape in shapes:
        noise = torch.randint(
            0, 256, (max(BATCHES), 3, *shape), dtype=torch.uint8, generator=random
        )
        whole = expected(noise)
        alone = [engine(noise[i : i + 1]) for i in range(len(noise))]
        for batch in BATCHES:
            found = engine(noise[:batch])
            _refuse_dependence(found, _joined(alone[:batch]), batch, SAME[precision])
            part = Outputs(whole.logits[:batch], whole.features[:batch])
            cases.append(_case(NOISE, batch, [(found, part)], on_noise))
    for batch in BATCHES:
        pairs = [(engine(shown), expected(shown)) for shown in _groups(images, batch)]
        cases.append(_case(REAL, batch, pairs, wanted))
    for case in cases:
        if not case.holds:
            raise UserError(
                f"{engine.name} differs from its source on {case.pixels} at batch {case.batch}: by "
                f"{case.largest:.2g} of the largest value, {case.rms:.2g} in the root mean "
                f"square; tolerated: {case.tolerance}",
                hint=hint,
            )
    return cases


def _groups(images: Sequence[Tensor], batch: int) -> Iterator[Tensor]:
    """Batches of images of one size."""
    alike: dict[torch.Size, list[Tensor]] = {}
    for image in images:
        alike.setdefault(image.shape, []).append(image)
    for group in alike.values():
        for start in range(0, len(group), batch):
            yield torch.stack(group[start : start + batch])


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return Outputs(torch.cat([p.logits for p in parts]), torch.cat([p.features for p in parts]))


def _refuse_dependence(found: Outputs, alone: Outputs, batch: int, same: float) -> None:
    off = _largest(_off(a, b) for a, b in zip(found, alone, strict=True))
    if not off <= same:
        raise UserError(
            f"the export's answers depend on the batch: at {batch} they differ by {off:.2g} of the "
            "largest value from those of single images",
            hint="nothing was written; try another --to",
        )


def _largest(values: Iterable[float]) -> float:
    """NaN if there is one, which `max` overlooks where it does not stand first."""
    return float(np.max(list(values)))


def _off(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value expected; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def _rms(pairs: Sequence[tuple[Outputs, Outputs]], output: int) -> float:
    """Of the differences of an output, over that of the values expected."""
    wrong = sum(float((a[output] - b[output]).double().square().sum()) for a, b in pairs)
    whole = sum(float(b[output].double().square().sum()) for _, b in pairs)
    return math.sqrt(wrong / whole) if whole else math.sqrt(wrong)


def _case(
    pixels: str, batch: int, pairs: Sequence[tuple[Outputs, Outputs]], tolerance: Tolerance | None
) -> Case:
    chances = [(a.logits.softmax(1), b.logits.softmax(1)) for a, b in pairs]
    same = torch.cat([(a.argmax(1) == b.argmax(1)).flatten().float() for a, b in chances])
    return Case(
        pixels,
        batch,
        sum(len(a.logits) for a, _ in pairs),
        _largest(_off(x, y) for a, b in pairs for x, y in zip(a, b, strict=True)),
        _largest(_rms(pairs, output) for output in (0, 1)),
        _largest(float((a - b).abs().max()) for a, b in chances),
        float(same.mean()),
        tolerance,
    )
