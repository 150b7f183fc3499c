"""`resnets info`: a network, a model, a recipe, or the table of all networks."""

from __future__ import annotations

import json as json_format
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnets.cli.console import print_table, table
from resnets.cli.options import JsonOption
from resnets.support.errors import UserError, nearest
from resnets.support.names import counted, printable

if TYPE_CHECKING:
    from rich.table import Table

    from resnets.detection.complexity import Cost
    from resnets.models.complexity import Description, Shortcut
    from resnets.training.recipe import Recipe

_SHORTCUTS = {"none": "plain, no shortcuts", "highway": "shortcuts with gates"}
_SIZE_REFUSED = "works with networks and recipes of detectors only"
CLASSES = 10
"""Class names that are listed; of more, the first."""


def info(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A network, model name, model file, run folder, export, or recipe (shipped, or a "
            "TOML file); by default the table of networks.",
            metavar="NETWORK|MODEL|RECIPE",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=32, max=4096, help="Side in pixels; default the paper's.", metavar="N"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show a network, a model or a recipe.

    For a network: stages, shortcuts, parameters, multiply-adds, the paper's figures. For a model:
    network, classes, preprocessing, measured error, origin. For a recipe: its TOML; of a detector
    also its multiply-adds.
    """
    if name is None:
        _show_table(json)
        return
    from resnets.training import recipe_file

    if name.endswith(".toml") or name in recipe_file.shipped():
        _show_recipe(name, image_size, json)
        return
    from resnets.inference import model_facts
    from resnets.models import zoo
    from resnets.models.complexity import describe
    from resnets.weights import hub

    is_network, model = _is_network(name), model_facts.find(name)
    if model is None and not is_network:
        known = [*zoo.names(), *hub.shipped(), *hub.sources(), *recipe_file.shipped()]
        raise UserError(f"no network, model or recipe called {name!r}", hint=nearest(name, known))
    if image_size is not None and not is_network:
        raise UserError(_SIZE_REFUSED, "--image-size", "leave it out")
    if json:
        facts = model
        if is_network:
            facts = {**asdict(describe(name, image_size)), "paper": _paper(name)}
            facts |= {"model": model} if model else {}
        print(json_format.dumps(facts, indent=2))
        return
    if is_network:
        _print_network(describe(name, image_size))
    if is_network and model:
        print("\nTrained weights come with this package:")
    if model:
        _print_model(model)


def _is_network(name: str) -> bool:
    """Whether the table of networks has this name."""
    from resnets.models import zoo

    try:
        return name in zoo.VGG_NAMES or zoo.architecture(name) is not None
    except UserError:
        return False


def _print_model(facts: dict[str, Any]) -> None:
    """The facts of a model as lines."""
    print(f"{printable(facts['name'])}: {facts['network']}")
    if facts.get("downloaded") is False:
        print("not downloaded yet; the first verb that needs it downloads it")
    if "run" in facts:
        _print_run(facts["name"], facts["run"])
    if "file" in facts:
        _print_file(facts)
    for test in facts.get("measured", ()):
        print(
            f"{_measure(test)} ({counted(test['images'], 'image')}, "
            f"{test.get('protocol', 'unknown protocol')})"
        )
    for part in ("trained", "origin"):
        for key, value in facts.get(part, {}).items():
            print(f"{key.replace('_', ' ')}: {value}")


def _measure(test: dict[str, Any]) -> str:
    """A test's result: a classifier's error, or a detector's average precision."""
    if "error" not in test:
        from resnets.weights.card import precisions_of

        return f"detection on its test images: {precisions_of(test)}"
    top5 = f", top-5 {test['top5_error']:.2f} %" if "top5_error" in test else ""
    if "localization_error" in test:
        located = f"localization error on its test images: {test['localization_error']:.2f} %"
        five = test.get("top5_localization_error")
        located += f" given the class{'' if five is None else f', top-5 {five:.2f} %'}"
        return f"{located}; error of its classifier: {test['error']:.2f} %{top5}"
    return f"error on {test.get('dataset', 'its test images')}: {test['error']:.2f} %{top5}"


def _print_run(name: str, run: dict[str, Any]) -> None:
    print(f"unfinished: iteration {run['iteration']:,} of {run['of']:,}; no model yet")
    for key in ("train_error", "test_error", "test_AP50"):
        if key in run:
            print(f"{key.replace('_', ' ')}: {run[key]:.2f} %")
    print(f"resume with: resnets resume {shlex.quote(name)}")


def _print_file(facts: dict[str, Any]) -> None:
    print(f"file: {printable(facts['file'])} ({facts['megabytes']:g} MB)")
    if "engine" in facts:
        print(f"engine: {facts['engine']}, {facts['precision']}")
    names, made = facts["classes"], facts["preprocessing"]
    shown = ", ".join(printable(name) for name in names[:CLASSES])
    print(f"classes: {len(names):,}: {shown}{', ...' if len(names) > CLASSES else ''}")
    if "detection" in facts:
        print(
            f"detector: shorter side {made['size']}, longer side up to "
            f"{facts['detection']['max_size']}, {made['interpolation']}"
        )
        return
    print(
        f"preprocessing: shorter side {made['resize']}, centre {made['size']}, "
        f"{made['interpolation']}"
    )


def _paper(name: str) -> dict[str, Any]:
    """What the paper prints about a network."""
    from resnets.paper.numbers import cifar10_error, complexities

    row, error = complexities().get(name), cifar10_error(name)
    facts: dict[str, Any] = {}
    if row and row.paper_parameters:
        facts["parameters"] = row.paper_parameters
    if row and row.paper_multiply_adds:
        facts["multiply_adds"] = row.paper_multiply_adds
    if error:
        facts["cifar10_test_error"] = asdict(error)
    return facts


def _print_network(d: Description) -> None:
    from rich.console import Console

    from resnets.paper.numbers import cifar10_error

    console = Console(highlight=False)
    paper = _paper(d.name)
    kind = ""
    if d.architecture:
        a = d.architecture
        shortcut = _SHORTCUTS.get(a.shortcut, f"shortcut option {a.shortcut}")
        order = ", pre-activation" if a.order == "pre" else ""
        stride = f", stride in the {a.stride_in}" if a.block == "bottleneck" else ""
        kind = f": {a.block} blocks, {shortcut}{order}{stride}, {a.classes} classes"
    console.print(f"[bold]{d.name}[/]{kind}")
    if d.stages:
        console.print(_stage_table(d))
        console.print("Shortcuts")
        for line in _shortcut_lines(d.shortcuts):
            console.print(f"  {line}")
    made = table("", "here", "paper")
    made.add_row("weighted layers", str(d.layers), str(d.layers) if paper else "-")
    made.add_row("parameters", f"{d.parameters:,}", paper.get("parameters", "-"))
    made.add_row(
        f"multiply-adds at {d.image_size}x{d.image_size}",
        _multiply_adds(d.multiply_adds),
        _multiply_adds(paper["multiply_adds"], 1) if "multiply_adds" in paper else "-",
    )
    if error := cifar10_error(d.name):
        made.add_row("CIFAR-10 test error", "", str(error))
    console.print(made)


def _show_recipe(name: str, size: int | None, as_json: bool) -> None:
    """A recipe as it is written, or with `--json` all its keys; for a detector also its costs."""
    from resnets.training import recipe_file

    plan = recipe_file.load(name)
    detects = plan.dataset == "boxes"
    if size is not None and not detects:
        raise UserError(_SIZE_REFUSED, "--image-size", "leave it out")
    if as_json:
        facts = _detector_facts(plan, size)[0] if detects else {}
        print(json_format.dumps({**facts, "recipe": plan.model_dump(mode="json")}, indent=2))
        return
    print(recipe_file.source(name).strip())
    if detects:
        print()
        _print_detector(name, plan, size)


def _detector_facts(plan: Recipe, size: int | None) -> tuple[dict[str, Any], list[Cost]]:
    """The network of a detector's recipe and its regions, and what an image costs at each shape."""
    from resnets.detection.complexity import SHAPES, costs
    from resnets.weights import hub
    from resnets.weights.card import read_card

    settings, network = plan.detection, plan.network
    if not network and plan.init in hub.sources():  # showing it must not fetch the weights
        network = hub.sources()[plan.init]["network"]
    elif not network:
        network = read_card(hub.resolve(plan.init or ""))[0]["network"]
    shapes = SHAPES if size is None else [(size, round(size * 4 / 3))]
    rows = [costs(network, settings, *shape) for shape in shapes]
    regions = {"training": settings.rois, "test": settings.test_proposals}
    facts = {"network": network, "regions": regions, "costs": [asdict(row) for row in rows]}
    return facts, rows


def _print_detector(name: str, plan: Recipe, size: int | None) -> None:
    """The detector of a recipe: its network, anchors, and what an image costs."""
    facts, rows = _detector_facts(plan, size)
    settings = plan.detection
    kind = "Mask" if settings.masks else "Faster"
    print(f"{printable(name)}: {kind} R-CNN on {facts['network']}, shorter side {settings.size}")
    print(
        f"anchors: {', '.join(f'{side:g}' for side in settings.anchors)} pixels, height to width "
        f"{', '.join(f'{ratio:g}' for ratio in settings.ratios)}"
    )
    made = table(
        "multiply-adds at", "shared layers", "RPN 3x3", "RPN outputs", "a region", "a test"
    )
    for row in rows:
        test = row.trunk + row.rpn + row.rpn_outputs + settings.test_proposals * row.region
        counts = (row.trunk, row.rpn, row.rpn_outputs, row.region, test)
        made.add_row(f"{row.height} x {row.width}", *(_multiply_adds(count) for count in counts))
    print_table(made)
    print(f"regions of an image: {settings.rois} in training, {settings.test_proposals} in a test")


def _multiply_adds(count: float, digits: int = 3) -> str:
    """4.09e9 as `4.089 G`, 40.6e6 as `40.55 M`."""
    return f"{count / 1e9:.{digits}f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"


def _stage_table(d: Description) -> Table:
    made = table("stage")
    for column in ("blocks", "output map"):
        made.add_column(column)
    for stage in d.stages:
        blocks = f"{stage.blocks} {stage.kind}" if stage.blocks else f"{stage.kind} stem"
        made.add_row(stage.name, blocks, f"{stage.channels} x {stage.height} x {stage.width}")
    return made


def _shortcut_lines(shortcuts: Sequence[Shortcut]) -> list[str]:
    """One line for each run of equal shortcuts."""
    lines = []
    for (kind, into, out, stride), run in groupby(
        shortcuts, lambda s: (s.kind, s.in_channels, s.out_channels, s.stride)
    ):
        blocks = [s.block for s in run]
        where = blocks[0] if len(blocks) == 1 else f"{blocks[0]} .. {blocks[-1]} ({len(blocks)})"
        lines.append(f"{where:32} {kind:11} {into} -> {out} channels, stride {stride}")
    return lines


def _show_table(as_json: bool) -> None:
    from resnets.paper.numbers import complexities

    rows = complexities()
    if as_json:
        print(json_format.dumps({name: asdict(row) for name, row in rows.items()}, indent=2))
        return
    made = table("network", "layers", "parameters", "paper", "multiply-adds", "paper", gap=2)
    for name, row in rows.items():
        paper = row.paper_multiply_adds
        made.add_row(
            name,
            str(row.layers),
            f"{row.parameters:,}",
            row.paper_parameters or "-",
            _multiply_adds(row.multiply_adds),
            _multiply_adds(paper, 1) if paper else "-",
        )
    print_table(made)
    print("\nAlso every cifar-resnet<6n+2>, cifar-plain<6n+2>, and cifar-resnet<6n+2>-a, -b, -c;")
    print(
        "every ImageNet network with -small (a stem for 64-pixel images) or -ceil (Caffe's pool)."
    )
