"""The paper's figures, drawn from results; one figure for each group."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from resnets.analysis.panels import (
    BLUE,
    GREEN,
    GREY,
    INK,
    OCHRE,
    PINK,
    RED,
    TEAL,
    VIOLET,
    Line,
    Panel,
    Points,
    draw,
    step_colours,
)
from resnets.paper.document import Figure, Source, anchor
from resnets.paper.results import CIFAR_ITERATIONS, Results, percent_text
from resnets.paper.store import Group, Outcome

DEPTH_COLOURS = {
    8: GREY, 14: GREY, 18: TEAL, 20: OCHRE, 32: TEAL, 34: RED, 44: GREEN, 56: RED, 110: INK,
    164: BLUE, 1001: PINK, 1202: VIOLET,
}  # fmt: skip
"""One colour for each depth in every figure; those of Figure 6 where the paper has the depth."""


def network_title(network: str) -> str:
    """The name of a network in the paper's style: `plain-56`, `ResNet-110`."""
    short = network.removeprefix("cifar-")
    short = re.sub(r"^resnet(\d+)-([abc])\b", lambda m: f"ResNet-{m[1]} {m[2].upper()}", short)
    short = re.sub(r"^preact(?=\d)", "pre-activation ResNet-", short)
    short = re.sub(r"^highway(?=\d)", "Highway-", short)
    return re.sub(r"^plain(?=\d)", "plain-", re.sub(r"^resnet(?=\d)", "ResNet-", short))


def depth(network: str) -> int:
    """The number of layers in the name of a network."""
    found = re.search(r"\d+", network)
    return int(found[0]) if found else 0


def sources(outcomes: Iterable[Outcome]) -> list[Source]:
    """Links to the results from which a figure was drawn."""
    return [Source(f"{network_title(o.network)}, seed {o.seed}", o.key) for o in outcomes]


@dataclass(frozen=True)
class CurvePanel:
    """A panel with the curves of some networks.

    Args:
        curves: `both`, or only those of the training or the test error.
        zoom: limits of the iterations (in 1e4) at the paper's length, with a dotted line at 1 %.
    """

    title: str
    networks: tuple[str, ...]
    curves: Literal["both", "training", "test"] = "both"
    zoom: tuple[float, float] | None = None


def curves(
    results: Results,
    group: Group,
    name: str,
    *,
    caption: str,
    panels: Sequence[CurvePanel],
    dashed: bool = False,
) -> Figure | None:
    """Training errors (thin) and test errors (bold) during training.

    Args:
        name: beginning of the name of the figure's file.
        caption: what is drawn.
        panels: side by side.
        dashed: whether the curves of training errors are dashed.

    Returns:
        None if none of the networks was trained.
    """
    wanted = dict.fromkeys(network for panel in panels for network in panel.networks)
    networks = [network for network in wanted if results.runs(group, network)]
    if not networks:
        return None
    axes = _Axes(results, group, networks)
    drawn = []
    for panel in panels:
        present = [network for network in panel.networks if network in networks]
        lines: list[Line] = []
        if panel.curves == "both":
            lines += [axes.line(n, "train_curve", bold=False, dashed=dashed) for n in present]
        bold = "train_curve" if panel.curves == "training" else "test_curve"
        lines += [axes.line(n, bold, bold=True) for n in present]
        kind = "error" if panel.curves == "both" else f"{panel.curves} error"
        made = axes.panel(panel.title, lines, f"{kind} (%)")
        if panel.zoom and axes.full:
            made = replace(made, x_limits=panel.zoom, level=1.0)
        drawn += [made] if lines else []
    runs = {network: results.runs(group, network) for network in networks}
    errors = [
        f"{network_title(found[0].network)} {percent_text(found)}, "
        f"training {percent_text(found, 'train_error')}"
        for found in runs.values()
    ]
    most = max(map(len, runs.values()))
    several = f" Mean of up to {most} seeds; the bands span them." if most > 1 else ""
    name = anchor(f"{name}-{group}")
    return Figure(
        name,
        caption + several,
        f"Final errors: {'; '.join(errors)}.",
        results.badge(group),
        draw(drawn, name, len(drawn)),
        sources(run for found in runs.values() for run in found),
    )


def responses(results: Results, group: Group, networks: Sequence[str]) -> Figure | None:
    """Figure 7: standard deviations of the layers' responses, in order and sorted."""
    runs = {network: results.runs(group, network, "responses") for network in networks}
    runs = {network: found for network, found in runs.items() if found}
    if not runs:
        return None
    ordered: list[Line] = []
    by_size: list[Line] = []
    means = []
    for network, found in runs.items():
        stds = [run.responses() for run in found]
        style: dict[str, Any] = {
            "colour": DEPTH_COLOURS.get(depth(network), INK), "label": network_title(network),
            "dashed": "plain" in network, "width": 1.3,
        }  # fmt: skip
        ordered.append(Line([_numbered(s) for s in stds], **style))
        by_size.append(Line([_numbered(sorted(s, reverse=True)) for s in stds], **style))
        mean = sum(sum(s) / len(s) for s in stds) / len(stds)
        means.append(f"{network_title(network)} {mean:.2f}")
    panels = [
        Panel("layers in order", ordered, "layer", "std", legend=True),
        Panel("layers by size of response", by_size, "rank of the layer", "std", legend=True),
    ]
    outcomes = [run for found in runs.values() for run in found]
    statistics = {
        f"{o.values.get('statistics') or 'unknown'} statistics, "
        f"on {o.values.get('images') or 'unknown images'}"
        for o in outcomes
    }
    name = anchor(f"fig7-{group}")
    return Figure(
        name,
        "Figure 7. Standard deviations of the responses of the 3x3 layers, after BN and before "
        "any other non-linearity: in the order of the layers (top), sorted (bottom). "
        "Plain networks dashed.",
        f"Mean over the layers: {', '.join(means)}. BN with {' or '.join(sorted(statistics))}.",
        results.badge(group),
        draw(panels, name, 1, width=7.2, height=2.5),
        sources(outcomes),
    )


def signals(results: Results, group: Group) -> Figure | None:
    """Signals and gradients through the layers after some iterations of a training.

    One row of panels for each network, of its first seed.
    """
    runs = results.runs(group, kind="signals")
    firsts = {run.network: run for run in sorted(runs, key=lambda run: -run.seed)}
    chosen = sorted(firsts.values(), key=lambda run: (depth(run.network), run.network))
    if not chosen:
        return None
    panels = []
    for run in chosen:
        for what, label in (("forward", "signal (std)"), ("gradient", "gradient (rms)")):
            steps = run.signals()
            lines = [
                Line([_numbered([row.get(what) for row in layers])], colour,
                     label=f"step {step:,}", width=1.2)
                for (step, layers), colour in zip(
                    steps.items(), step_colours(len(steps)), strict=True
                )
            ]  # fmt: skip
            panels.append(
                Panel(
                    f"{network_title(run.network)}: {what}", lines, "layer", label,
                    y_limits=_common_limits(chosen, what), legend=True, logarithmic=True,
                )
            )  # fmt: skip
    name = anchor(f"signals-{group}")
    return Figure(
        name,
        "Signals forward (left) and gradients backward (right) through the layers: standard "
        "deviation of the response of each layer, root mean square of the gradient of the loss.",
        f"Ratio of the largest to the smallest gradient of a layer: "
        f"{'; '.join(map(_gradient_ratios, chosen))}.",
        results.badge(group),
        draw(panels, name, 2, height=2.5),
        sources(chosen),
    )


def _common_limits(runs: Sequence[Outcome], what: str) -> tuple[float, float] | None:
    """Limits that contain the values of all networks, so that they can be compared."""
    found = [
        value
        for run in runs
        for layers in run.signals().values()
        for row in layers
        if (value := row.get(what) or 0) > 0
    ]
    return (min(found) / 1.3, max(found) * 1.3) if found else None


def _gradient_ratios(run: Outcome) -> str:
    ratios = []
    for step, layers in run.signals().items():
        sizes = [size for row in layers if (size := row.get("gradient"))]
        if sizes:
            ratios.append(f"{max(sizes) / min(sizes):.3g} (step {step:,})")
    return f"{network_title(run.network)} {', '.join(ratios) or 'no gradients'}"


def against_base(results: Results, variant: Group) -> Figure | None:
    """Trainings of a variant (solid) and trainings of the same networks without it (dashed).

    For deepened networks also the training of the shallow network that they were made from.
    """
    runs = results.runs(variant)
    networks = [n for n in dict.fromkeys(run.network for run in runs)]
    if not networks:
        return None
    axes = _Axes(results, variant.base, networks, variant=variant)
    panels = []
    for network in networks:
        starts = results.runs(variant, network, "deepened")
        lines = [] if starts else [
            axes.line(network, "train_curve", bold=False, dashed=True),
            axes.line(network, "train_curve", bold=False, group=variant),
        ]  # fmt: skip
        base_label, label = "unchanged", variant.variant.replace("-", " ")
        if starts:
            shallow = str(starts[0].values.get("from", ""))
            name = network_title(shallow)
            base_label, label = "from scratch", f"from {name}"
            lines.append(axes.line(shallow, "test_curve", bold=True, dashed=True, label=name))
        lines.append(axes.line(network, "test_curve", bold=True, dashed=True, label=base_label))
        bold = axes.line(network, "test_curve", bold=True, label=label, group=variant)
        if starts:
            first = [(0.0, start.percent()) for start in starts]
            bold = replace(bold, seeds=[[p, *s] for p, s in zip(first, bold.seeds, strict=False)])
        lines.append(bold)
        y_label = "test error (%)" if starts else "error (%)"
        panels.append(axes.panel(network_title(network), lines, y_label))
    errors = [f"{network_title(n)} {percent_text(results.runs(variant, n))}" for n in networks]
    name = anchor(f"against-{variant}")
    return Figure(
        name,
        f"Variant: {variant.variant.replace('-', ' ')} (solid), and trainings of the same length "
        "without it (dashed). Bold: test error. Thin: training error.",
        f"Final test errors of the solid curves: {', '.join(errors)}.",
        results.badge(variant),
        draw(panels, name, min(2, len(panels)), width=4.2),
        sources(run for network in networks for run in results.runs(variant, network)),
    )


class _Axes:
    """Scales and limits that the panels of one figure have in common."""

    def __init__(
        self,
        results: Results,
        group: Group,
        networks: Sequence[str],
        variant: Group | None = None,
    ) -> None:
        self.results, self.group = results, group
        lengths = results.iterations(group)
        self.full = group.cifar and variant is None and lengths == [CIFAR_ITERATIONS]
        full_budget = group.budget == "full"
        self.unit = 1e4 if full_budget else 1e3
        self.x_label = "iter. (1e4)" if full_budget else "iterations (thousands)"
        end = max(lengths, default=1) / self.unit
        self.x_limits = (0.0, end)
        late = [
            y
            for drawn in (group, variant) if drawn
            for network in networks
            for run in results.runs(drawn, network)
            for name in ("train_curve", "test_curve")
            for x, y in run.curve(name)
            if x / self.unit >= 0.2 * end
        ]  # fmt: skip
        low, high = min(late, default=0.0), max(late, default=100.0)
        bottom = 5.0 * math.floor(0.9 * low / 5)
        top = min(100.0, 5.0 * math.ceil(1.05 * high / 5) or 5.0)
        self.y_limits = (0.0, 20.0) if self.full else (bottom, top)

    def line(
        self,
        network: str,
        curve: str,
        *,
        bold: bool,
        dashed: bool = False,
        label: str | None = None,
        group: Group | None = None,
    ) -> Line:
        """A curve of a network, over its seeds; a bold one has a label, by default the depth."""
        runs = self.results.runs(group or self.group, network)
        seeds: list[Points] = [[(x / self.unit, y) for x, y in run.curve(curve)] for run in runs]
        if label is None:
            label = f"{depth(network)}-layer" if bold else ""
        colour, width = DEPTH_COLOURS.get(depth(network), INK), 1.9 if bold else 0.8
        return Line(seeds, colour, label, dashed, width, smooth=curve == "train_curve")

    def panel(self, title: str, lines: Sequence[Line], y_label: str) -> Panel:
        return Panel(title, lines, self.x_label, y_label, self.x_limits, self.y_limits)


def _numbered(values: Sequence[float | None]) -> Points:
    """Points (1, value), (2, value), ... without those that are not finite."""
    return [(n, v) for n, v in enumerate(values, 1) if v is not None and math.isfinite(v)]
