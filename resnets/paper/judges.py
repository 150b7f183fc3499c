"""How the paper's statements are checked: what is measured for each, and what counts as enough."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from resnets.paper.numbers import complexities, number, numbers
from resnets.paper.results import curve, damaged, value
from resnets.paper.store import Outcome
from resnets.paper.verdicts import (
    Runs,
    Sample,
    State,
    Verdict,
    above,
    all_of,
    below,
    no_worse,
    noise,
    not_run,
    rising,
    sample,
    similar,
    state_of,
)

Judge = Callable[[Runs], Verdict]
OPTIONS = ("resnet34-a", "resnet34-b", "resnet34-c")
HEALTHY = 100
"""Factor within which the layers' gradients lie if they neither vanish nor explode."""
LATE = 2
"""Epochs from which on the start counts as late: "several"."""
KEPT = 0.05
"""Percent of images by which two computations of the same function may differ by rounding."""


def training_rises(*networks: str) -> Judge:
    """Training errors rise in this order."""
    return lambda runs: rising(runs.training_errors(networks), networks, "training error")


def test_rises(*networks: str) -> Judge:
    """Test errors rise in this order."""
    return lambda runs: rising(runs.errors(networks), networks, "test error")


def each(*judges: Judge) -> Judge:
    """All of several checks."""
    return lambda runs: all_of(judge(runs) for judge in judges)


def pairs(judge: Callable[..., Judge], *pairs: tuple[str, str]) -> Judge:
    """A check of each of several pairs of networks."""
    return each(*(judge(*pair) for pair in pairs))


def alike(*networks: str) -> Judge:
    """Two networks' test errors are similar."""

    def judge(runs: Runs) -> Verdict:
        match runs.errors(networks):
            case [Sample() as one, Sample() as other]:
                return similar(one, other, "test error")
            case found:
                return not_run([n for n, s in zip(networks, found, strict=True) if s is None])

    return judge


# Counted, not run


def cost_of_34(runs: Runs) -> Verdict:
    rows = complexities()
    share = 100 * rows["resnet34-a"].multiply_adds / rows["vgg19"].multiply_adds
    printed = {n.row: n.value for n in numbers("table1")}
    ratio = 100 * printed["34-layer"] / printed["VGG-19"]
    text = f"{share:.1f} % of VGG-19's multiply-adds by our count, {ratio:.1f} % as printed"
    return Verdict("holds" if abs(share - 18) < 1 else "does not hold", text)


def cost_of_152(runs: Runs) -> Verdict:
    cost = {name: complexities()[name].multiply_adds for name in ("resnet152", "vgg16", "vgg19")}
    text = ", ".join(f"{name} {count / 1e9:.1f} G" for name, count in cost.items())
    lowest = min(cost.values()) == cost["resnet152"]
    return Verdict("holds" if lowest else "does not hold", f"multiply-adds: {text}")


def equal_twins(runs: Runs) -> Verdict:
    rows = complexities()
    pairs = [(f"plain{depth}", f"resnet{depth}-a") for depth in (18, 34)]
    pairs += [(f"cifar-plain{depth}", f"cifar-resnet{depth}") for depth in (20, 32, 44, 56, 110)]

    def facts(name: str) -> tuple[int, int, int]:
        return rows[name].layers, rows[name].parameters, rows[name].multiply_adds

    unequal = [f"{plain} and {twin}" for plain, twin in pairs if facts(plain) != facts(twin)]
    if unequal:
        return Verdict("does not hold", f"unequal: {', '.join(unequal)}")
    return Verdict("holds", f"equal layers, parameters and multiply-adds in {len(pairs)} pairs")


# Introduction: the constructed solution


def exists(runs: Runs) -> Verdict:
    starts = [o for n in ("cifar-plain56", "cifar-resnet56") for o in _starts(runs, n)]
    if not starts:
        return not_run(["a deepened network"])
    worst = max(value(o, "error") - value(o, "shallow_error") for o in starts)
    told = [
        f"{o.network} from {o.values.get('from', '?')}, seed {o.seed}: "
        f"{value(o, 'error'):.2f} % against {value(o, 'shallow_error'):.2f} %, "
        f"logits {value(o, 'difference'):.1e} apart"
        for o in starts
    ]
    return Verdict("holds" if worst <= KEPT else "does not hold", "; ".join(told))


def _starts(runs: Runs, network: str) -> list[Outcome]:
    return runs.find(network, "deepened", "-deepened")


def missed(runs: Runs) -> Verdict:
    """From scratch SGD ends above the constructed solution, which has the shallow one's errors."""
    starts = [value(o, "error") for o in _starts(runs, "cifar-plain56")]
    built = sample("constructed cifar-plain56", starts)
    scratch = runs.errors(["cifar-plain56"])[0]
    names = ("constructed cifar-plain56", "cifar-plain56")
    return all_of(
        [
            rising([built, scratch], names, "test error"),
            training_rises("cifar-plain20", "cifar-plain56")(runs),
        ]
    )


def kept(network: str) -> Judge:
    def judge(runs: Runs) -> Verdict:
        shallow = [value(o, "shallow_error") for o in _starts(runs, network)]
        before = sample("the shallow network", shallow)
        after = runs.errors([network], "-deepened")[0]
        if before is None or after is None:
            return not_run([f"{network} deepened and trained on"])
        return no_worse(after, before, "test error")

    return judge


# Section 4.1


def faster(runs: Runs) -> Verdict:
    """Iterations until the plain network's test error half-way; curves go up and down on the way.

    Sure is only: for good below it before the plain one is so for the first time; or the reverse.
    """
    plain, residual = (runs.find(name) for name in ("plain18", "resnet18-a"))
    if not plain or not residual:
        return not_run(["plain18 and resnet18-a"])
    half = value(plain[0], "iterations") / 2
    level = statistics.fmean(_reading(o, half) for o in plain)
    theirs, ours = ([_reaches(o, level) for o in of] for of in (plain, residual))
    state: State = "not clear"
    if max(last for _, last in ours) < min(first for first, _ in theirs):
        state = "holds"
    elif min(first for first, _ in ours) > max(last for _, last in theirs):
        state = "does not hold"
    told = [
        f"{name} {', '.join(f'{first:,.0f} and {last:,.0f}' for first, last in of)}"
        for name, of in (("plain18", theirs), ("resnet18-a", ours))
    ]
    return Verdict(
        state,
        f"iterations to {level:.2f} % test error, plain18's half-way, for the first time "
        f"and for good: {'; '.join(told)}",
    )


def _reading(outcome: Outcome, step: float) -> float:
    """The test error at an iteration, between readings on a straight line."""
    points = curve(outcome, "test_curve")
    for (x, y), (after, z) in itertools.pairwise(points):
        if x <= step <= after:
            return y + (z - y) * (step - x) / (after - x)
    if not points:
        raise damaged(outcome, "test_curve")
    return points[0][1] if step < points[0][0] else points[-1][1]


def _reaches(outcome: Outcome, level: float) -> tuple[float, float]:
    """The iterations at which the test error falls to a level for the first and the last time.

    The training's end where it never does, or does not stay there.
    """
    points = curve(outcome, "test_curve")
    falls = [
        before + (step - before) * (higher - level) / (higher - error)
        for (before, higher), (step, error) in itertools.pairwise(points)
        if error <= level < higher
    ]
    if points and points[0][1] <= level:
        falls.insert(0, points[0][0])
    end = value(outcome, "iterations")
    stays = falls and points[-1][1] <= level
    return falls[0] if falls else end, falls[-1] if stays else end


def options_differ_little(runs: Runs) -> Verdict:
    names = ("plain34", *OPTIONS)
    found = runs.errors(names)
    there = [s for s in found if s is not None]
    if len(there) < len(names):
        return not_run([n for n, s in zip(names, found, strict=True) if s is None])
    plain, option_a = there[0], there[1]
    best, worst = (f(there[1:], key=lambda s: s.mean) for f in (min, max))
    half_gain, apart = (plain.mean - option_a.mean) / 2, worst.mean - best.mean
    text = f"test error: {', '.join(map(str, there))}; options {apart:.2f} apart "
    text += f"(noise {noise(best, worst):.2f}), little if below {half_gain:.2f}, half of A's gain"
    return Verdict(state_of(half_gain - apart, noise(best, worst)), text)


def signals(judge: Callable[[Outcome], list[tuple[bool, str]]]) -> Judge:
    """A check of plain networks at each step at which signals were measured."""
    names = ("cifar-plain20", "cifar-plain56")

    def check(runs: Runs) -> Verdict:
        found = {name: runs.find(name, "signals") for name in names}
        gone = [name for name in names if not found[name]]
        if len(gone) == len(names):
            return not_run(names)
        readings = [reading for of in found.values() for o in of for reading in judge(o)]
        parts = [Verdict("holds" if fine else "does not hold", text) for fine, text in readings]
        return all_of([*parts, not_run(gone)] if gone else parts)

    return check


def forward(outcome: Outcome) -> list[tuple[bool, str]]:
    found = []
    for step, layers in _steps(outcome, "forward"):
        least = min(layers)
        found.append(
            (least > 0.01, f"{outcome.network}, iteration {step}: least deviation {least:.3g}")
        )
    return found


def gradients(outcome: Outcome) -> list[tuple[bool, str]]:
    found = []
    for step, layers in _steps(outcome, "gradient"):
        factor = max(layers) / min(layers) if min(layers) > 0 else float("inf")
        fine = factor <= HEALTHY
        found.append(
            (
                fine,
                f"{outcome.network}, iteration {step}: gradients within a factor of {factor:.3g}",
            )
        )
    return found


def _steps(outcome: Outcome, key: str) -> list[tuple[str, list[float]]]:
    try:
        steps: dict[str, Any] = outcome.values["steps"]
        found = [(step, [float(layer[key]) for layer in layers]) for step, layers in steps.items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(outcome, f"steps, {key}") from error
    if not found or not all(layers for _, layers in found):
        raise damaged(outcome, f"steps, {key}")
    return found


# Section 4.2


def plain_110(runs: Runs) -> Verdict:
    found = runs.errors(["cifar-plain110"])[0]
    return above(found, 60, "test error") if found else not_run(["cifar-plain110"])


def starts_late(runs: Runs) -> Verdict:
    """Epochs until the training error is below 90 %, at the full rate from the start."""
    found = runs.find("cifar-resnet110", variant="-no-warmup")
    if not found:
        return not_run(["cifar-resnet110 without its gentle start"])
    late = [_begins(o) for o in found]
    gentle = [_begins(o) for o in runs.find("cifar-resnet110")]
    text = f"below 90 % training error {_epochs(late)} at the full rate from the start"
    if gentle:
        text += f", {_epochs(gentle)} with the gentle start"
    text += f" (late: {LATE} or more)"
    if all(epochs >= LATE for epochs, _ in late):
        return Verdict("holds", text)
    early = all(epochs < LATE and begun for epochs, begun in late)
    return Verdict("does not hold" if early else "not clear", text)


def _begins(outcome: Outcome) -> tuple[float, bool]:
    """The epoch of the first training error below 90 %, or of the end if there is none."""
    plan = outcome.identity.get("plan", {})
    images = plan.get("limit") or (45_000 if str(plan.get("split")).startswith("45k") else 50_000)
    steps = [step for step, error in curve(outcome, "train_curve") if error < 90]
    step = steps[0] if steps else value(outcome, "iterations")
    return step * int(plan.get("batch", 128)) / int(images), bool(steps)


def _epochs(found: Sequence[tuple[float, bool]]) -> str:
    told = (
        f"after {epochs:.1f} epochs" if begun else f"not within {epochs:.1f} epochs"
        for epochs, begun in found
    )  # fmt: skip
    return ", ".join(told)


def still_similar(runs: Runs) -> Verdict:
    gentle = runs.errors(["cifar-resnet110"])[0]
    rough = runs.errors(["cifar-resnet110"], "-no-warmup")[0]
    if gentle is None or rough is None:
        return not_run(["cifar-resnet110 with and without its gentle start"])
    return similar(gentle, rough, "test error")


def thousand_trains(runs: Runs) -> Verdict:
    found = runs.training_errors(["cifar-resnet1202"])[0]
    return below(found, 0.1, "training error") if found else not_run(["cifar-resnet1202"])


def thin_and_better(runs: Runs) -> Verdict:
    """Fewer parameters than FitNet and Highway; lower error than what can fairly be compared."""
    others = [number("table6", row, "error") for row in ("FitNet-19", "Highway-19")]
    ours = complexities()["cifar-resnet110"].parameters / 1e6
    thinner = number("table6", "Highway-32", "error")
    sizes = ", ".join(f"{n.row} {n.parameters}" for n in others if n)
    sizes += f" (Highway-32, with more layers, {thinner.parameters})" if thinner else ""
    fewer = all(ours < float((n.parameters or "0M").rstrip("M")) for n in others if n)
    parts = [
        Verdict(
            "holds" if fewer else "does not hold",
            f"parameters: cifar-resnet110 {ours:.2f}M, {sizes}",
        )
    ]
    found, highway = runs.errors(["cifar-resnet110", "cifar-highway19"])
    if found is None:
        return not_run(["cifar-resnet110"])
    if highway is not None:
        parts.append(rising([found, highway], [found.name, highway.name], "test error"))
    if runs.group.endswith("-full"):
        parts += [below(found, n.target, f"{n.row} as printed") for n in others if n]
    if len(parts) == 1:
        parts.append(Verdict("not run", "errors: nothing of the same budget to compare with"))
    return all_of(parts)


def responses(*networks: str) -> Judge:
    """Mean responses over the layers rise in this order."""

    def judge(runs: Runs) -> Verdict:
        found = [[_mean_response(o) for o in runs.find(n, "responses")] for n in networks]
        samples = [sample(n, values, "") for n, values in zip(networks, found, strict=True)]
        return rising(samples, networks, "mean response of the layers")

    return judge


def _mean_response(outcome: Outcome) -> float:
    try:
        return statistics.fmean(float(layer["std"]) for layer in outcome.values["responses"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(outcome, "responses") from error
