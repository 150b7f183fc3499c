"""The paper's statements about depth and shortcuts, each with a check against the results.

`resnets.paper.verdicts` says how a difference is distinguished from noise.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from resnets.paper.experiments import PLAIN, RESIDUAL, THOUSAND, Needs
from resnets.paper.numbers import complexities, number, numbers
from resnets.paper.results import Results
from resnets.paper.store import Group, Outcome
from resnets.paper.verdicts import (
    Sample,
    State,
    Verdict,
    all_of,
    bounded,
    holds_if,
    no_worse,
    noise,
    not_run,
    rising,
    sample,
    similar,
    state_of,
)

Check = Callable[[Results, Group], Verdict]
"""A check of a statement against the results of a group and its variants."""
DEEP = ("resnet34-b", "resnet50", "resnet101", "resnet152")
OPTIONS = ("resnet34-a", "resnet34-b", "resnet34-c")
HEALTHY = 100
"""Gradients within this factor of each other neither vanish nor explode."""
LATE = 2
"""Epochs that count as "several" for a late start."""
ROUNDING = 0.05
"""Percent of images by which rounding may change the error of the same function."""


NO_GROUP = Group("", None, "full")
"""A group that has no results."""


@dataclass(frozen=True)
class Claim:
    """A statement and its check.

    Args:
        id: a short name.
        section: of the paper; with "our question" if the paper leaves it open.
        statement: in our own words.
        needs: the images of the results; `nothing` if it is checked by counting.
        judge: the check.
    """

    id: str
    section: str
    statement: str
    needs: Needs
    judge: Check

    def check(self, results: Results, group: Group | None = None) -> Verdict:
        """Judge by the results of a group and its variants; without a group, by none.

        The verdict is `not clear` if the trainings have different lengths.

        Raises:
            UserError: if a result is damaged.
        """
        if group is not None and group.cifar != (self.needs == "cifar10"):
            return Verdict("not run", f"needs results on {self.needs}")
        verdict = self.judge(results, group or NO_GROUP)
        if group is None or verdict.state == "not run":
            return verdict
        runs = [o for o in results.all if o.kind == "training" and o.group.base == group]
        lengths = sorted({int(run.number("iterations")) for run in runs})
        context = str(group)
        if lengths:
            last = f" to {lengths[-1]:,}" if len(lengths) > 1 else ""
            context += f", {lengths[0]:,}{last} iterations"
        evidence = f"{verdict.evidence} [{context}]"
        if len(lengths) > 1:
            return Verdict("not clear", f"trainings of different lengths: {evidence}")
        return Verdict(verdict.state, evidence)


# Checks of several statements


def _training_rises(*networks: str) -> Check:
    """The training error rises in this order of networks."""
    return lambda results, group: rising(
        results.training_errors(group, networks), networks, "training error"
    )


def _test_rises(*networks: str) -> Check:
    """The test error rises in this order of networks."""
    return lambda results, group: rising(results.errors(group, networks), networks, "test error")


def _responses_rise(*networks: str) -> Check:
    """The mean response over the layers rises in this order of networks."""

    def check(results: Results, group: Group) -> Verdict:
        runs = [results.runs(group, network, "responses") for network in networks]
        means = [[statistics.fmean(run.responses()) for run in found] for found in runs]
        samples = [sample(n, values, unit="") for n, values in zip(networks, means, strict=True)]
        return rising(samples, networks, "mean response of the layers")

    return check


def _both_rise(*networks: str) -> Check:
    """The training and the test error rise in this order of networks."""
    return _each(_training_rises(*networks), _test_rises(*networks))


def _each(*checks: Check) -> Check:
    """All of several checks."""
    return lambda results, group: all_of(check(results, group) for check in checks)


def _lacking(networks: Sequence[str], samples: Sequence[Sample | None]) -> list[str]:
    return [name for name, found in zip(networks, samples, strict=True) if found is None]


# Counted, not run


def _cost_of_34(results: Results, group: Group) -> Verdict:
    counted = complexities()
    share = 100 * counted["resnet34-a"].multiply_adds / counted["vgg19"].multiply_adds
    printed = {n.row: n.value for n in numbers("table1")}
    ratio = 100 * printed["34-layer"] / printed["VGG-19"]
    text = f"{share:.1f} % of VGG-19's multiply-adds by our count, {ratio:.1f} % as printed"
    return holds_if(abs(share - 18) < 1, text)


def _cost_of_152(results: Results, group: Group) -> Verdict:
    cost = {name: complexities()[name].multiply_adds for name in ("resnet152", "vgg16", "vgg19")}
    text = ", ".join(f"{name} {count / 1e9:.1f} G" for name, count in cost.items())
    return holds_if(min(cost.values()) == cost["resnet152"], f"multiply-adds: {text}")


def _equal_counterparts(results: Results, group: Group) -> Verdict:
    counted = complexities()
    pairs = [(f"plain{depth}", f"resnet{depth}-a") for depth in (18, 34)]
    pairs += [(f"cifar-plain{depth}", f"cifar-resnet{depth}") for depth in (20, 32, 44, 56, 110)]

    def facts(name: str) -> tuple[int, int, int]:
        return counted[name].layers, counted[name].parameters, counted[name].multiply_adds

    unequal = [f"{plain} and {other}" for plain, other in pairs if facts(plain) != facts(other)]
    text = f"unequal: {', '.join(unequal)}"
    equal = f"equal layers, parameters and multiply-adds in {len(pairs)} pairs"
    return holds_if(not unequal, text if unequal else equal)


# Introduction: the constructed solution


def _constructed(results: Results, group: Group, network: str) -> list[Outcome]:
    return results.runs(replace(group, variant="deepened"), network, "deepened")


def _constructed_exists(results: Results, group: Group) -> Verdict:
    starts = _constructed(results, group, "cifar-plain56")
    starts += _constructed(results, group, "cifar-resnet56")
    if not starts:
        return not_run(["a deepened network"])
    worst = max(start.number("error") - start.number("shallow_error") for start in starts)
    parts = [
        f"{start.network} from {start.values.get('from', '?')}, seed {start.seed}: "
        f"{start.number('error'):.2f} % and {start.number('shallow_error'):.2f} % test error, "
        f"largest difference of logits {start.number('difference'):.1e}"
        for start in starts
    ]
    return holds_if(worst <= ROUNDING, "; ".join(parts))


def _scratch_is_worse(results: Results, group: Group) -> Verdict:
    """From scratch SGD ends above the constructed solution, which has the shallow error."""
    name = "constructed cifar-plain56"
    starts = _constructed(results, group, "cifar-plain56")
    built = sample(name, [start.number("error") for start in starts])
    (scratch,) = results.errors(group, ["cifar-plain56"])
    test = rising([built, scratch], [name, "cifar-plain56"], "test error")
    training = _training_rises("cifar-plain20", "cifar-plain56")(results, group)
    return all_of([test, training])


def _constructed_is_kept(network: str) -> Check:
    """Training the constructed solution further makes it no worse than the shallow network."""

    def check(results: Results, group: Group) -> Verdict:
        starts = _constructed(results, group, network)
        before = sample("the shallow network", [o.number("shallow_error") for o in starts])
        (after,) = results.errors(replace(group, variant="deepened"), [network])
        if before is None or after is None:
            return not_run([f"{network} deepened and trained further"])
        return no_worse(after, before, "test error")

    return check


# Section 4.1


def _similar_errors(one: str, other: str) -> Check:
    """The test errors of two networks are similar."""

    def check(results: Results, group: Group) -> Verdict:
        samples = results.errors(group, (one, other))
        match samples:
            case [Sample() as first, Sample() as second]:
                return similar(first, second, "test error")
        return not_run(_lacking((one, other), samples))

    return check


def _residual_is_faster(results: Results, group: Group) -> Verdict:
    """Compare the iterations to the test error that the plain network has half-way.

    Test errors fluctuate. So it is clear only if the residual network stays below that error
    before the plain one first reaches it, or the reverse.
    """
    plain, residual = (results.runs(group, name) for name in ("plain18", "resnet18-a"))
    if not plain or not residual:
        return not_run(["plain18 and resnet18-a"])
    half = plain[0].number("iterations") / 2
    level = statistics.fmean(_test_error_at(run, half) for run in plain)
    of_plain, of_residual = ([_crossings(run, level) for run in of] for of in (plain, residual))
    state: State = "not clear"
    if max(last for _, last in of_residual) < min(first for first, _ in of_plain):
        state = "holds"
    elif min(first for first, _ in of_residual) > max(last for _, last in of_plain):
        state = "does not hold"
    parts = [
        f"{name} {', '.join(f'{first:,.0f} and {last:,.0f}' for first, last in of)}"
        for name, of in (("plain18", of_plain), ("resnet18-a", of_residual))
    ]
    return Verdict(
        state,
        f"iterations until the test error is below {level:.2f} % (plain18's half-way) for the "
        f"first time and for good: {'; '.join(parts)}",
    )


def _test_error_at(run: Outcome, step: float) -> float:
    """The test error at an iteration, interpolated linearly between tests."""
    points = run.curve("test_curve")
    for (x, y), (after, z) in itertools.pairwise(points):
        if x <= step <= after:
            return y + (z - y) * (step - x) / (after - x)
    if not points:
        raise run.damaged("test_curve")
    return points[0][1] if step < points[0][0] else points[-1][1]


def _crossings(run: Outcome, level: float) -> tuple[float, float]:
    """The iterations at which the test error falls to a level for the first and the last time.

    The end of the training if it never does, or does not stay there.
    """
    points = run.curve("test_curve")
    falls = [
        before + (step - before) * (higher - level) / (higher - error)
        for (before, higher), (step, error) in itertools.pairwise(points)
        if error <= level < higher
    ]
    if points and points[0][1] <= level:
        falls.insert(0, points[0][0])
    end = run.number("iterations")
    stays = falls and points[-1][1] <= level
    return falls[0] if falls else end, falls[-1] if stays else end


def _options_differ_little(results: Results, group: Group) -> Verdict:
    names = ("plain34", *OPTIONS)
    samples = results.errors(group, names)
    found = [s for s in samples if s is not None]
    if len(found) < len(names):
        return not_run(_lacking(names, samples))
    plain, option_a = found[0], found[1]
    best, worst = (f(found[1:], key=lambda s: s.mean) for f in (min, max))
    half_gain, apart = (plain.mean - option_a.mean) / 2, worst.mean - best.mean
    text = f"test error: {', '.join(map(str, found))}; options {apart:.2f} apart "
    text += f"(noise {noise(best, worst):.2f}), little if below {half_gain:.2f}, half of A's gain"
    return Verdict(state_of(half_gain - apart, noise(best, worst)), text)


def _each_layer(key: str, judge: Callable[[list[float]], tuple[bool, str]]) -> Check:
    """A check of the layers of plain networks at each iteration at which they were measured.

    Args:
        key: `forward` or `gradient`.
        judge: from the values of all layers to whether they are as stated, and a description.
    """
    names = ("cifar-plain20", "cifar-plain56")

    def check(results: Results, group: Group) -> Verdict:
        runs = {name: results.runs(group, name, "signals") for name in names}
        lacking = [name for name in names if not runs[name]]
        if len(lacking) == len(names):
            return not_run(names)
        parts = []
        for run in itertools.chain(*runs.values()):
            for step, layers in run.signals().items():
                values = [value for layer in layers if (value := layer.get(key)) is not None]
                if len(values) < len(layers):
                    raise run.damaged(f"steps, {key}")
                fine, text = judge(values)
                text = f"{run.network}, iteration {step}: {text}"
                parts.append(holds_if(fine, text))
        return all_of([*parts, not_run(lacking)] if lacking else parts)

    return check


def _signals_vary(deviations: list[float]) -> tuple[bool, str]:
    return min(deviations) > 0.01, f"smallest deviation {min(deviations):.3g}"


def _gradients_healthy(gradients: list[float]) -> tuple[bool, str]:
    factor = max(gradients) / min(gradients) if min(gradients) > 0 else float("inf")
    return factor <= HEALTHY, f"gradients within a factor of {factor:.3g}"


# Section 4.2


def _does_not_train(results: Results, group: Group) -> Verdict:
    (found,) = results.errors(group, ["cifar-plain110"])
    return bounded(found, "above", 60, "test error") if found else not_run(["cifar-plain110"])


def _thousand_trains(results: Results, group: Group) -> Verdict:
    (found,) = results.training_errors(group, [THOUSAND])
    return bounded(found, "below", 0.1, "training error") if found else not_run([THOUSAND])


def _starts_late(results: Results, group: Group) -> Verdict:
    """Epochs until the training error is below 90 %, at the full rate from the start."""
    rough = results.runs(replace(group, variant="no-warmup"), "cifar-resnet110")
    if not rough:
        return not_run(["cifar-resnet110 without warm-up"])
    late = [_first_epoch(run) for run in rough]
    gentle = [_first_epoch(run) for run in results.runs(group, "cifar-resnet110")]
    text = f"training error below 90 % {_epochs(late)} without warm-up"
    if gentle:
        text += f", {_epochs(gentle)} with it"
    text += f" (late: {LATE} or more)"
    if all(epochs >= LATE for epochs, _ in late):
        return Verdict("holds", text)
    early = all(epochs < LATE and reached for epochs, reached in late)
    return Verdict("does not hold" if early else "not clear", text)


def _first_epoch(run: Outcome) -> tuple[float, bool]:
    """The epoch of the first training error below 90 %, or the last epoch and False."""
    plan: dict[str, Any] = run.identity.get("plan", {})
    images = plan.get("limit") or (45_000 if str(plan.get("split")).startswith("45k") else 50_000)
    steps = [step for step, error in run.curve("train_curve") if error < 90]
    step = steps[0] if steps else run.number("iterations")
    return step * int(plan.get("batch", 128)) / int(images), bool(steps)


def _epochs(found: Sequence[tuple[float, bool]]) -> str:
    return ", ".join(
        f"after {epochs:.1f} epochs" if reached else f"not within {epochs:.1f} epochs"
        for epochs, reached in found
    )


def _similar_without_warmup(results: Results, group: Group) -> Verdict:
    (gentle,) = results.errors(group, ["cifar-resnet110"])
    (rough,) = results.errors(replace(group, variant="no-warmup"), ["cifar-resnet110"])
    if gentle is None or rough is None:
        return not_run(["cifar-resnet110 with and without warm-up"])
    return similar(gentle, rough, "test error")


def _thin_and_better(results: Results, group: Group) -> Verdict:
    """Fewer parameters than FitNet and Highway, and a lower error than comparable ones."""
    found, highway = results.errors(group, ["cifar-resnet110", "cifar-highway19"])
    if found is None:
        return not_run(["cifar-resnet110"])
    others = [n for row in ("FitNet-19", "Highway-19") if (n := number("table6", row, "error"))]
    ours = complexities()["cifar-resnet110"].parameters / 1e6
    sizes = ", ".join(f"{n.row} {n.parameters}" for n in others)
    if thinner := number("table6", "Highway-32", "error"):
        sizes += f" (Highway-32, with more layers, {thinner.parameters})"
    fewer = all(ours < (n.millions or 0) for n in others)
    text = f"parameters: cifar-resnet110 {ours:.2f}M, {sizes}"
    parts = [holds_if(fewer, text)]
    if highway is not None:
        parts.append(rising([found, highway], [found.name, highway.name], "test error"))
    if group.budget == "full":
        parts += [bounded(found, "below", n.target, f"{n.row} as printed") for n in others]
    if len(parts) == 1:
        parts.append(Verdict("not run", "errors: no results of the same budget to compare with"))
    return all_of(parts)


_PAIRS = tuple(zip(RESIDUAL, PLAIN, strict=False))

CLAIMS = (
    Claim("degradation", "1", "A plain network of 56 layers has a higher training and test error "
          "than one of 20.", "cifar10",
          _both_rise(PLAIN[0], PLAIN[-1])),
    Claim("construction", "1", "A deeper network that is as good as a shallow one exists: its "
          "added layers are identities.", "cifar10", _constructed_exists),
    Claim("construction-missed", "1", "From scratch, SGD finds a worse solution for the deeper "
          "plain network than the constructed one.", "cifar10", _scratch_is_worse),
    Claim("construction-kept-plain", "1, our question", "Trained further with SGD, the "
          "constructed plain network ends no worse than the shallow one.", "cifar10",
          _constructed_is_kept("cifar-plain56")),
    Claim("construction-kept-residual", "1, our question", "Trained further with SGD, the "
          "constructed residual network ends no worse than the shallow one.", "cifar10",
          _constructed_is_kept("cifar-resnet56")),
    Claim("cost-34", "3.3", "The network of 34 layers costs 18 % of VGG-19.", "nothing",
          _cost_of_34),
    Claim("twins", "3.3", "Plain networks and residual networks with option A have the same "
          "numbers of layers, parameters and multiply-adds.", "nothing", _equal_counterparts),
    Claim("plain-34-training", "4.1", "A plain network of 34 layers has a higher training error "
          "than one of 18.", "photos", _training_rises("plain18", "plain34")),
    Claim("plain-34-validation", "4.1", "A plain network of 34 layers has a higher validation "
          "error than one of 18.", "photos", _test_rises("plain18", "plain34")),
    Claim("signals-forward", "4.1", "Signals do not vanish in plain networks with BN: the "
          "response of every layer varies.", "cifar10", _each_layer("forward", _signals_vary)),
    Claim("signals-backward", "4.1", "Gradients in plain networks with BN are healthy: those of "
          f"all layers are within a factor of {HEALTHY}.", "cifar10",
          _each_layer("gradient", _gradients_healthy)),
    Claim("resnet-34", "4.1", "ResNet-34 has a lower training and validation error than "
          "ResNet-18.", "photos",
          _both_rise("resnet34-a", "resnet18-a")),
    Claim("residual-34", "4.1", "ResNet-34 has a lower training and validation error than the "
          "plain network of 34 layers.", "photos",
          _both_rise("resnet34-a", "plain34")),
    Claim("residual-18", "4.1", "The plain and the residual network of 18 layers are similarly "
          "accurate.", "photos", _similar_errors("resnet18-a", "plain18")),
    Claim("residual-18-faster", "4.1", "ResNet-18 reaches the error that plain-18 has half-way in "
          "fewer iterations.", "photos", _residual_is_faster),
    Claim("options-beat-plain", "4.1", "With each of options A, B and C, the residual network of "
          "34 layers is better than the plain one.", "photos",
          _each(*(_test_rises(option, "plain34") for option in OPTIONS))),
    Claim("options-differ-little", "4.1", "Options A, B and C differ little: by less than half of "
          "the gain of A.", "photos", _options_differ_little),
    Claim("options-order", "4.1", "Option B is slightly better than A, and C than B.", "photos",
          _test_rises(*reversed(OPTIONS))),
    Claim("deeper-validation", "4.1", "The validation error of ResNets falls with depth: 34, 50, "
          "101 and 152 layers.", "photos", _test_rises(*reversed(DEEP))),
    Claim("deeper-training", "4.1", "Up to 152 layers there is no degradation: the training error "
          "falls with depth.", "photos", _training_rises(*reversed(DEEP[1:]))),
    Claim("cost-152", "4.1", "ResNet-152 costs less than VGG-16 and VGG-19.", "nothing",
          _cost_of_152),
    Claim("plain-depth", "4.2", "The training error of plain networks rises with depth: 20, 32, "
          "44, 56 layers.", "cifar10", _training_rises(*PLAIN)),
    Claim("plain-depth-test", "4.2", "The test error of plain networks rises with depth: 20, 32, "
          "44, 56 layers.", "cifar10", _test_rises(*PLAIN)),
    Claim("plain-110", "4.2", "A plain network of 110 layers does not train: its error stays above "
          "60 %.", "cifar10",
          _does_not_train),
    Claim("residual-depth", "4.2", "The test error of ResNets falls with depth: 20, 32, 44, 56, "
          "110 layers.", "cifar10", _test_rises(*reversed(RESIDUAL))),
    Claim("residual-depth-training", "4.2", "The training error of ResNets falls with depth: 20, "
          "32, 44, 56, 110 layers.", "cifar10", _training_rises(*reversed(RESIDUAL))),
    Claim("residual-beats-plain", "4.2", "At each of 20, 32, 44 and 56 layers the residual network "
          "has the lower test error.", "cifar10", _each(*(_test_rises(*pair) for pair in _PAIRS))),
    Claim("start-late", "4.2", "At the full rate from the start, ResNet-110 begins to learn late: "
          "only after several epochs is its training error below 90 %.", "cifar10", _starts_late),
    Claim("start-similar", "4.2", "ResNet-110 reaches a similar accuracy without warm-up.",
          "cifar10", _similar_without_warmup),
    Claim("thin", "4.2", "ResNet-110 has fewer parameters than the FitNet and the Highway network "
          "of 19 layers, and a lower error.", "cifar10", _thin_and_better),
    Claim("responses-residual", "4.2", "The layers of ResNets have smaller responses than those "
          "of plain networks of the same depth.", "cifar10",
          _each(*(_responses_rise(*_PAIRS[i]) for i in (0, 3)))),
    Claim("responses-depth", "4.2", "The deeper a ResNet, the smaller the responses of its "
          "layers.", "cifar10",
          _responses_rise("cifar-resnet110", "cifar-resnet56", "cifar-resnet20")),
    Claim("thousand-trains", "4.2", "A ResNet of 1202 layers trains to an error below 0.1 %.",
          "cifar10", _thousand_trains),
    Claim("thousand-overfits", "4.2", "ResNet-1202 has a higher test error than ResNet-110.",
          "cifar10", _test_rises("cifar-resnet110", THOUSAND)),
)  # fmt: skip
"""All statements, in the paper's order."""
