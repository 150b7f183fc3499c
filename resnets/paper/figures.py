"""The paper's figures, drawn from results; one figure for each budget."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from resnets.analysis.panels import INK, Line, Panel, Points, draw, step_colours
from resnets.paper.report_parts import Figure, Missing, Source, anchor
from resnets.paper.results import (
    CIFAR_ITERATIONS,
    Group,
    Results,
    curve,
    damaged,
    measured,
    percent,
    rows,
)
from resnets.paper.store import Outcome

COLOURS = {
    8: "#8a8f98", 14: "#8a8f98", 18: "#1496b0", 20: "#b98a00", 32: "#1496b0", 34: "#d9363e",
    44: "#2f9e44", 56: "#d9363e", 110: INK, 164: "#2f6fd6", 1001: "#c2489b", 1202: "#9b51d6",
}  # fmt: skip
"""One colour for a depth in every figure, those of Figure 6 where the paper has it."""

CIFAR_PLAIN = tuple(f"cifar-plain{depth}" for depth in (20, 32, 44, 56))
CIFAR_RESNET = tuple(f"cifar-resnet{depth}" for depth in (20, 32, 44, 56, 110))
DEEP = ("cifar-resnet110", "cifar-resnet1202")
RESPONSES = ("cifar-plain20", "cifar-plain56", "cifar-resnet20", "cifar-resnet56",
             "cifar-resnet110")  # fmt: skip


def title(network: str) -> str:
    """A network's name as the paper writes it: `plain-56`, `ResNet-110`."""
    short = network.removeprefix("cifar-")
    short = re.sub(r"^resnet(\d+)-([abc])\b", lambda m: f"ResNet-{m[1]} {m[2].upper()}", short)
    short = re.sub(r"^preact(?=\d)", "pre-activation ResNet-", short)
    short = re.sub(r"^highway(?=\d)", "Highway-", short)
    return re.sub(r"^plain(?=\d)", "plain-", re.sub(r"^resnet(?=\d)", "ResNet-", short))


def depth(network: str) -> int:
    """The number of layers in a network's name."""
    found = re.search(r"\d+", network)
    return int(found[0]) if found else 0


def sources(outcomes: Iterable[Outcome]) -> list[Source]:
    """The results that a figure was drawn from."""
    return [Source(f"{title(o.network)}, seed {o.seed}", o.key) for o in outcomes]


def fig1(results: Results, group: Group) -> Figure | None:
    """Figure 1: training error left, test error right, of plain networks of two depths."""
    networks = _present(results, group, ("cifar-plain20", "cifar-plain56"))
    if not networks:
        return None
    axes = _Axes(results, group, networks)
    panels = [
        axes.panel("training error", [axes.line(n, "train_curve", bold=True) for n in networks],
                   "training error (%)"),
        axes.panel("test error", [axes.line(n, "test_curve", bold=True) for n in networks],
                   "test error (%)"),
    ]  # fmt: skip
    caption = "Figure 1. Plain networks on CIFAR-10: training error (left) and test error (right)."
    return _figure(results, group, "fig1", caption, networks, panels, 2)


def fig4(results: Results, group: Group) -> Figure | None:
    """Figure 4: thin training error, bold validation error; plain left, residual right."""
    halves = [
        _present(results, group, ("plain18", "plain34")),
        _present(results, group, ("resnet18-a", "resnet34-a")),
    ]
    networks = [*halves[0], *halves[1]]
    if not networks:
        return None
    axes = _Axes(results, group, networks)
    panels = [
        axes.panel(name, _pairs(axes, half, dashed=False))
        for name, half in zip(("plain", "ResNet, option A"), halves, strict=True)
    ]
    caption = (
        "Figure 4. Thin: training error. Bold: error of centre crops of the validation images."
    )
    return _figure(results, group, "fig4", caption, networks, panels, 2)


def fig6(results: Results, group: Group) -> Figure | None:
    """Figure 6: dashed training error, bold test error; plain, residual, and very deep."""
    thirds = [_present(results, group, names) for names in (CIFAR_PLAIN, CIFAR_RESNET, DEEP)]
    networks = list(dict.fromkeys(n for third in thirds for n in third))
    if not networks:
        return None
    axes = _Axes(results, group, networks)
    names = ("plain", "ResNet", "ResNet-110 and ResNet-1202")
    panels = [
        axes.panel(name, _pairs(axes, third, dashed=True))
        for name, third in zip(names, thirds, strict=True)
    ]
    if axes.full:
        panels[2] = replace(panels[2], x_limits=(3.5, 6.4), level=1.0)
    caption = (
        "Figure 6. CIFAR-10. Dashed: training error. Bold: test error. A depth has the same "
        "colour in all panels."
    )
    return _figure(results, group, "fig6", caption, networks, panels, 3)


def fig7(results: Results, group: Group) -> Figure | None:
    """Figure 7: standard deviations of the layers' responses, in order and by size."""
    found = {
        network: runs
        for network in RESPONSES
        if (runs := results.runs(group.name, network, "responses"))
    }
    if not found:
        return None
    ordered: list[Line] = []
    by_size: list[Line] = []
    said = []
    for network, runs in found.items():
        stds = [responses(run) for run in runs]
        style: dict[str, Any] = {
            "colour": COLOURS.get(depth(network), INK), "label": title(network),
            "dashed": "plain" in network, "width": 1.3,
        }  # fmt: skip
        ordered.append(Line([_ranked(s) for s in stds], **style))
        by_size.append(Line([_ranked(sorted(s, reverse=True)) for s in stds], **style))
        mean = sum(sum(s) / len(s) for s in stds) / len(stds)
        said.append(f"{title(network)} {mean:.2f}")
    panels = [
        Panel("layers in order", ordered, "layer", "std", legend=True),
        Panel("layers by size of response", by_size, "rank of the layer", "std", legend=True),
    ]
    outcomes = [run for runs in found.values() for run in runs]
    name = anchor(f"fig7-{group.name}")
    return Figure(
        name,
        "Figure 7. Standard deviations of the responses of the 3x3 layers, after BN and before "
        "any other non-linearity: in the layers' order (top), sorted (bottom). "
        "Plain networks dashed.",
        f"Mean over the layers: {', '.join(said)}. BN with {_statistics(outcomes)}.",
        results.badge(group),
        draw(panels, name, 1, width=7.2, height=2.5),
        sources(outcomes),
    )


def responses(outcome: Outcome) -> list[float]:
    """Standard deviations of the layers' responses, in order.

    Raises:
        UserError: if the result holds none.
    """
    found = rows(outcome, outcome.values.get("responses"), "responses", ("std",))
    stds = [float(row["std"]) for row in found if row.get("std") is not None]
    if not stds:
        raise damaged(outcome, "responses")
    return stds


def _statistics(outcomes: Iterable[Outcome]) -> str:
    """By what BN normalised when responses were measured, and on which images."""
    told = {
        f"{o.values.get('statistics') or 'unknown'} statistics, "
        f"on {o.values.get('images') or 'unknown images'}"
        for o in outcomes
    }
    return " or ".join(sorted(told))


def signals(results: Results, group: Group) -> Figure | None:
    """How large signals and gradients are through the layers, at moments of a training.

    One row of panels for a network, of its first seed.
    """
    runs = results.runs(group.name, kind="signals")
    firsts = {run.network: run for run in sorted(runs, key=lambda run: -run.seed)}
    chosen = sorted(firsts.values(), key=lambda run: (depth(run.network), run.network))
    if not chosen:
        return None
    moments = {run.key: _moments(run) for run in chosen}
    kinds = {"forward": "signal (std)", "gradient": "gradient (rms)"}
    limits = {what: _limits(moments.values(), what) for what in kinds}
    panels = [
        Panel(
            f"{title(run.network)}: {what}",
            [
                Line([_ranked([row.get(what) for row in layers])], colour,
                     label=f"step {step:,}", width=1.2)
                for (step, layers), colour in zip(
                    moments[run.key], step_colours(len(moments[run.key])), strict=True
                )
            ],
            "layer", label, y_limits=limits[what], legend=True, logarithmic=True,
        )
        for run in chosen for what, label in kinds.items()
    ]  # fmt: skip
    said = []
    for run in chosen:
        found = []
        for step, layers in moments[run.key]:
            sizes = [row["gradient"] for row in layers if row.get("gradient")]
            if sizes:
                found.append(f"{max(sizes) / min(sizes):.3g} (step {step:,})")
        said.append(f"{title(run.network)} {', '.join(found) or 'no gradients'}")
    name = anchor(f"signals-{group.name}")
    return Figure(
        name,
        "Signals forward (left) and gradients backward (right) through the layers: standard "
        "deviation of each layer's response, root mean square of the loss's gradient there.",
        f"Largest over smallest gradient of a layer: {'; '.join(said)}.",
        results.badge(group),
        draw(panels, name, 2, height=2.5),
        sources(chosen),
    )


def against(
    results: Results, group: Group, variant: Group, networks: Sequence[str]
) -> Figure | None:
    """Trainings of a variant (bold) beside those of the same networks without it (dashed)."""
    both = [n for n in networks if results.runs(variant.name, n)]
    if not both:
        return None
    axes = _Axes(results, group, both, others=variant)
    panels = []
    for network in both:
        starts = results.runs(variant.name, network, "deepened")
        lines = [] if starts else [
            axes.line(network, "train_curve", False, dashed=True),
            axes.line(network, "train_curve", False, group=variant),
        ]  # fmt: skip
        before, after = ("as elsewhere", variant.variant.replace("-", " "))
        if starts:
            shallow = str(starts[0].values.get("from", ""))
            before, after = "from scratch", f"from {title(shallow)}"
            lines.append(axes.line(shallow, "test_curve", True, True, title(shallow)))
        lines.append(axes.line(network, "test_curve", True, True, before))
        bold = axes.line(network, "test_curve", True, False, after, variant)
        if starts:
            begun = [(0.0, measured(start, "error")) for start in starts]
            bold = replace(bold, seeds=[[p, *s] for p, s in zip(begun, bold.seeds, strict=False)])
        lines.append(bold)
        panels.append(
            axes.panel(title(network), lines, "test error (%)" if starts else "error (%)")
        )
    runs = [run for network in both for run in results.runs(variant.name, network)]
    said = [f"{title(n)} {_error(results.runs(variant.name, n))}" for n in both]
    name = anchor(f"against-{variant.name}")
    return Figure(
        name,
        f"Variant: {variant.variant.replace('-', ' ')}. Test error, and where thin the training "
        "error, beside other trainings of the same length (dashed).",
        f"Final test errors of the solid curves: {', '.join(said)}.",
        results.badge(variant),
        draw(panels, name, min(2, len(panels)), width=4.2),
        sources(runs),
    )


def _limits(
    moments: Iterable[list[tuple[int, list[dict[str, float]]]]], what: str
) -> tuple[float, float] | None:
    """Limits that hold all of the figure's panels, so that networks can be compared."""
    sizes = [
        row[what] for m in moments for _, layers in m for row in layers if (row.get(what) or 0) > 0
    ]
    return (min(sizes) / 1.3, max(sizes) * 1.3) if sizes else None


def absent(results: Results, group: Group, networks: Sequence[str], experiment: str) -> Missing:
    """A line about the networks of a figure that have not been trained."""
    return Missing(
        f"Not run yet with this budget: {', '.join(map(title, networks))}",
        command(experiment, group.budget, group.cifar),
    )


def command(experiment: str, budget: str = "full", cifar: bool = True) -> str:
    """What makes an experiment's results."""
    data = "" if cifar else " --data FOLDER"
    return f"resnets paper run {experiment} --budget {budget}{data}"


class _Axes:
    """What the panels of one figure have in common: scales and limits."""

    def __init__(
        self, results: Results, group: Group, networks: Sequence[str], others: Group | None = None
    ) -> None:
        self.results, self.group = results, group
        lengths = results.iterations(group)
        self.full = group.cifar and others is None and lengths == [CIFAR_ITERATIONS]
        self.unit = 1e4 if group.budget == "full" else 1e3
        self.across = "iter. (1e4)" if group.budget == "full" else "iterations (thousands)"
        end = max(lengths, default=1) / self.unit
        self.x_limits = (0.0, end)
        groups = [group.name] + ([others.name] if others else [])
        late = [
            y
            for name in groups
            for network in networks
            for run in results.runs(name, network)
            for curve_name in ("train_curve", "test_curve")
            for x, y in curve(run, curve_name)
            if x / self.unit >= 0.2 * end
        ]
        low, high = min(late, default=0.0), max(late, default=100.0)
        self.y_limits = (0.0, 20.0) if self.full else (
            5.0 * math.floor(0.9 * low / 5), min(100.0, 5.0 * math.ceil(1.05 * high / 5) or 5.0)
        )  # fmt: skip

    def line(
        self,
        network: str,
        what: str,
        bold: bool,
        dashed: bool = False,
        label: str | None = None,
        group: Group | None = None,
    ) -> Line:
        """A network's curve; the bold one bears its name."""
        runs = self.results.runs((group or self.group).name, network)
        seeds: list[Points] = [[(x / self.unit, y) for x, y in curve(run, what)] for run in runs]
        if label is None:
            label = f"{depth(network)}-layer" if bold else ""
        return Line(
            seeds, COLOURS.get(depth(network), INK), label, dashed,
            1.9 if bold else 0.8, smooth=what == "train_curve",
        )  # fmt: skip

    def panel(self, name: str, lines: Sequence[Line], up: str = "error (%)") -> Panel:
        return Panel(name, lines, self.across, up, self.x_limits, self.y_limits)


def _pairs(axes: _Axes, networks: Sequence[str], dashed: bool) -> list[Line]:
    thin = [axes.line(n, "train_curve", bold=False, dashed=dashed) for n in networks]
    return thin + [axes.line(n, "test_curve", bold=True) for n in networks]


def _present(results: Results, group: Group, networks: Sequence[str]) -> list[str]:
    return [network for network in networks if results.runs(group.name, network)]


def _error(runs: Sequence[Outcome]) -> str:
    return percent([measured(run, "error") for run in runs])


def _figure(
    results: Results, group: Group, name: str, caption: str, networks: Sequence[str],
    panels: Sequence[Panel], columns: int,
) -> Figure:  # fmt: skip
    said, outcomes = [], []
    for network in networks:
        runs = results.runs(group.name, network)
        outcomes += runs
        text = f"{title(runs[0].network)} {_error(runs)}"
        text += f", training {percent([measured(run, 'train_error') for run in runs])}"
        said.append(text)
    name = anchor(f"{name}-{group.name}")
    panels = [panel for panel in panels if panel.lines]
    most = max(len(results.runs(group.name, network)) for network in networks)
    several = f" Mean of up to {most} seeds; the bands span them." if most > 1 else ""
    return Figure(
        name, caption + several, f"Final errors: {'; '.join(said)}.", results.badge(group),
        draw(panels, name, min(columns, len(panels))), sources(outcomes),
    )  # fmt: skip


def _ranked(values: Sequence[float | None]) -> Points:
    return [(n, v) for n, v in enumerate(values, 1) if v is not None and math.isfinite(v)]


def _moments(outcome: Outcome) -> list[tuple[int, list[dict[str, float]]]]:
    steps = outcome.values.get("steps")
    if not isinstance(steps, dict) or not steps or not all(str(s).isdigit() for s in steps):
        raise damaged(outcome, "steps")
    keys = ("forward", "gradient")
    return sorted((int(s), rows(outcome, layers, "steps", keys)) for s, layers in steps.items())
