"""The paper's tables and figures as experiments.

An experiment is defined in one place: its jobs, its networks and its sections of the report. It
is added to `EXPERIMENTS`; then `resnets paper list`, `run` and `report` have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from resnets.paper import figures, tables
from resnets.paper.document import Figure, Missing, Part, Section, Table
from resnets.paper.figures import CurvePanel, network_title
from resnets.paper.jobs import (
    DataSet,
    Deepen,
    Ensemble,
    Evaluation,
    Job,
    Responses,
    Signals,
    Training,
)
from resnets.paper.numbers import numbers
from resnets.paper.results import Results
from resnets.paper.store import Budget, Group
from resnets.support.errors import UserError, nearest

Needs = Literal["nothing", "cifar10", "photos"]

PLAIN = tuple(f"cifar-plain{depth}" for depth in (20, 32, 44, 56))
RESIDUAL = tuple(f"cifar-resnet{depth}" for depth in (20, 32, 44, 56, 110))
THOUSAND = "cifar-resnet1202"
LONG = (THOUSAND, "cifar-resnet1001-bottleneck", "cifar-preact1001")
"""Networks that the short budget leaves out: they need hours and would learn too little."""
TWENTY_AND_56 = (PLAIN[0], PLAIN[-1], RESIDUAL[0], RESIDUAL[3])
PLAIN_18_34, RESIDUAL_18_34 = ("plain18", "plain34"), ("resnet18-a", "resnet34-a")
DEEP = ("resnet50", "resnet101", "resnet152")

CIFAR_RECIPES: dict[Budget, tuple[str, tuple[str, ...]]] = {
    "full": ("cifar10-paper", ()),
    "short": ("cifar10-short", ()),
    "smoke": (
        "cifar10-short",
        ("iterations=20", "schedule.warmup=5", "batch=32", "limit=256", "test_every=10",
         "log_every=2", "schedule.gentle_start.lr=0.01"),
    ),
}  # fmt: skip
PHOTO_RECIPES: dict[Budget, tuple[str, tuple[str, ...]]] = {
    "full": ("imagenet-paper", ()),
    "short": ("photos-short", ()),
    "smoke": (
        "photos-short",
        ("epochs=2", "batch=16", "limit=64", "test_every=1", "log_every=2", "recompute_bn=32"),
    ),
}
SMALL_IMAGES = 128
"""Pixels a side up to which photographs get networks with the stem for small images."""


@dataclass(frozen=True)
class Setup:
    """How an experiment is run.

    Args:
        budget: length of the trainings.
        seeds: number of trainings of each network.
        data: the images; None if the experiment needs none.
    """

    budget: Budget
    seeds: int = 1
    data: DataSet | None = None

    def on_cifar10(
        self,
        network: str,
        seed: int,
        *,
        variant: str = "",
        settings: Sequence[str] = (),
        init: Deepen | None = None,
    ) -> Training:
        """A training on CIFAR-10; a variant has further settings or a model to start from."""
        assert self.data is not None
        recipe, own = CIFAR_RECIPES[self.budget]
        settings = (*own, *settings)
        return Training(
            network, recipe, self.data, self.budget, seed, settings, variant=variant, init=init
        )

    def on_photos(self, network: str, seed: int) -> Training:
        """A training on photographs; small ones get the network with the stem for them."""
        assert self.data is not None
        assert self.data.size is not None
        recipe, settings = PHOTO_RECIPES[self.budget]
        small = "-small" if self.data.size <= SMALL_IMAGES else ""
        return Training(network + small, recipe, self.data, self.budget, seed, settings)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table, a figure or a statement of the paper.

    Args:
        id: its name on the command line.
        title: a few words.
        needs: the images that its jobs need.
        networks: its networks, in order; of photographs those for large images.
        jobs_of_seed: its jobs for one seed.
        report: its sections of the report.
        order: of its sections in the report; sections with the same title are joined.
        once: whether one seed is enough.
    """

    id: str
    title: str
    needs: Needs = "nothing"
    networks: Sequence[str] = ()
    jobs_of_seed: Callable[[Experiment, Setup, int], Iterable[Job]] = lambda e, setup, seed: ()
    report: Callable[[Experiment, Results], Iterable[Section]] = lambda e, results: ()
    order: int = 50
    once: bool = False

    def jobs(self, setup: Setup) -> list[Job]:
        """All jobs, those of the first seed first."""
        seeds = range(1 if self.once else setup.seeds)
        return [job for seed in seeds for job in self.jobs_of_seed(self, setup, seed)]

    def sections(self, results: Results) -> list[Section]:
        """The sections of the report."""
        return list(self.report(self, results))

    def networks_at(self, budget: Budget) -> list[str]:
        """The networks that are trained with a budget."""
        return [n for n in self.networks if budget != "short" or n not in LONG]

    def groups(self, results: Results) -> list[Group]:
        """The groups of results on the images that the experiment needs."""
        return results.groups(cifar=self.needs == "cifar10")

    def missing(self, text: str, budget: Budget = "full") -> Missing:
        """A line about results that are missing, with the command that makes them."""
        data = " --data FOLDER" if self.needs == "photos" else ""
        return Missing(text, f"resnets paper run {self.id} --budget {budget}{data}")


# Jobs that several experiments have


def _train_on_cifar10(experiment: Experiment, setup: Setup, seed: int) -> list[Job]:
    return [setup.on_cifar10(name, seed) for name in experiment.networks_at(setup.budget)]


def _train_on_photos(experiment: Experiment, setup: Setup, seed: int) -> list[Job]:
    return [setup.on_photos(name, seed) for name in experiment.networks]


def _test_on_photos(views: str) -> Callable[[Experiment, Setup, int], list[Job]]:
    def jobs(experiment: Experiment, setup: Setup, seed: int) -> list[Job]:
        return [Evaluation(setup.on_photos(n, seed), views=views) for n in experiment.networks]

    return jobs


# Parts of sections that several experiments have


def _drawn(
    experiment: Experiment,
    results: Results,
    draw: Callable[[Group], Figure | None],
    kind: str = "training",
) -> list[Part]:
    """A figure for each group, and lines about the networks that are missing.

    Args:
        draw: from a group to its figure, None if there are no results for it.
        kind: of the results in the figure.
    """
    parts: list[Part] = []
    complete = False
    for group in experiment.groups(results):
        networks = experiment.networks
        found = [n for n in networks if results.runs(group, n, kind)]
        complete = complete or (bool(found) and results.comparable(group))
        figure = draw(group)
        if figure is None:
            continue
        parts.append(figure)
        lacking = [n for n in experiment.networks_at(group.budget) if n not in found]
        if lacking:
            text = f"Not run yet with this budget: {', '.join(map(network_title, lacking))}"
            parts.append(experiment.missing(text, group.budget))
    if not complete:
        parts.append(experiment.missing("Not run at the paper's length yet"))
    return parts


def _table(
    experiment: Experiment, results: Results, caption: str, kind: str, *, wide: bool = True
) -> list[Part]:
    """The paper's table of the same name with our results, and a line about missing rows."""
    groups = experiment.groups(results)
    held = results.groups_with(kind, cifar=experiment.needs == "cifar10")
    parts: list[Part] = [tables.comparison(results, experiment.id, caption, held, wide=wide)]
    lacking = tables.lacking(results, experiment.id, groups)
    return parts + _not_run(experiment, lacking)


def _not_run(experiment: Experiment, rows: Sequence[str]) -> list[Part]:
    text = f"Not run at the paper's length yet: {', '.join(rows)}"
    return [experiment.missing(text)] if rows else []


def _table_section(
    title: str, caption: str, kind: str
) -> Callable[[Experiment, Results], list[Section]]:
    def report(experiment: Experiment, results: Results) -> list[Section]:
        return [Section(title, _table(experiment, results, caption, kind))]

    return report


def _curve_section(
    title: str, caption: str, panels: Sequence[CurvePanel], *, dashed: bool = False
) -> Callable[[Experiment, Results], list[Section]]:
    """A section with a figure of training curves."""

    def report(experiment: Experiment, results: Results) -> list[Section]:
        def draw(group: Group) -> Figure | None:
            return figures.curves(
                results, group, experiment.id, caption=caption, panels=panels, dashed=dashed
            )

        return [Section(title, _drawn(experiment, results, draw))]

    return report


def _fixed_section(
    title: str, table: Callable[[], Table]
) -> Callable[[Experiment, Results], list[Section]]:
    return lambda experiment, results: [Section(title, [table()])]


# Figure 4 and Table 2, which share a section

PLAIN_AND_RESIDUAL = "Table 2 and Figure 4: plain and residual networks on photographs"
FIGURE_4 = _curve_section(
    PLAIN_AND_RESIDUAL,
    "Figure 4. Thin: training error. Bold: error of centre crops of the validation images.",
    [CurvePanel("plain", PLAIN_18_34), CurvePanel("ResNet, option A", RESIDUAL_18_34)],
)


def _report_figure4(experiment: Experiment, results: Results) -> list[Section]:
    sections = FIGURE_4(experiment, results)
    if results.groups_with("training", cifar=False):
        parts = _table(experiment, results, "Figure 4 in numbers", "training", wide=False)
        sections.append(Section(PLAIN_AND_RESIDUAL, parts))
    return sections


# Figure 6

FIGURE_6 = _curve_section(
    "Figure 6: trainings on CIFAR-10",
    "Figure 6. CIFAR-10. Dashed: training error. Bold: test error. A depth has the same colour "
    "in all panels.",
    [
        CurvePanel("plain", PLAIN),
        CurvePanel("ResNet", RESIDUAL),
        CurvePanel("ResNet-110 and ResNet-1202", (RESIDUAL[-1], THOUSAND), zoom=(3.5, 6.4)),
    ],
    dashed=True,
)


def _report_figure6(experiment: Experiment, results: Results) -> list[Section]:
    (section,) = FIGURE_6(experiment, results)
    caption = "Figure 6 in numbers, the paper's read off the plot"
    groups = results.groups_with("training", cifar=True)
    columns = ("test", "train", "error")
    table = tables.comparison(results, "fig6", caption, groups, columns=columns)
    return [Section(section.title, [*section.parts, table])]


# Section 4.2: 110 layers without warm-up, and without shortcuts


def _start_jobs(experiment: Experiment, setup: Setup, seed: int) -> list[Job]:
    # The short budget warms up by a rising rate.
    no_warmup = ("schedule.gentle_start.from_depth=100_000", "schedule.warmup=0")
    return [
        setup.on_cifar10("cifar-plain110", seed),
        setup.on_cifar10("cifar-resnet110", seed),
        setup.on_cifar10("cifar-resnet110", seed, variant="no-warmup", settings=no_warmup),
    ]


def _report_start(experiment: Experiment, results: Results) -> list[Section]:
    sections = []
    for variant in results.groups(variant=True):
        if variant.variant == "no-warmup" and results.runs(variant):
            parts: list[Part] = [tables.against_base(results, variant)]
            parts += _optional(figures.against_base(results, variant))
            sections.append(Section(f"Variant: no warmup ({variant.base})", parts))
    return sections


def _optional(figure: Figure | None) -> list[Part]:
    return [] if figure is None else [figure]


# Figure 7, and signals through the layers


def _responses_jobs(experiment: Experiment, setup: Setup, seed: int) -> list[Job]:
    return [Responses(setup.on_cifar10(network, seed)) for network in experiment.networks]


def _report_responses(experiment: Experiment, results: Results) -> list[Section]:
    def draw(group: Group) -> Figure | None:
        return figures.responses(results, group, experiment.networks)

    parts = _drawn(experiment, results, draw, "responses")
    if results.groups_with("responses", cifar=True):
        parts += _table(experiment, results, "Figure 7 in numbers", "responses", wide=False)
    return [Section("Figure 7: responses of the layers", parts)]


def _signals_jobs(experiment: Experiment, setup: Setup, seed: int) -> list[Job]:
    steps = {"full": (0, 400, 4000), "short": (0, 100, 400), "smoke": (0, 4)}[setup.budget]
    return [Signals(setup.on_cifar10(n, seed), steps=steps) for n in experiment.networks]


def _report_signals(experiment: Experiment, results: Results) -> list[Section]:
    groups = [*results.groups(), *results.groups(variant=True)]
    drawn = [part for group in groups for part in _optional(figures.signals(results, group))]
    parts = drawn or [experiment.missing("Not run yet")]
    return [Section("Signals through the layers", parts)]


# The introduction: deeper networks with the same outputs, trained further


def _deepened_jobs(experiment: Experiment, setup: Setup, seed: int) -> list[Job]:
    jobs: list[Job] = []
    for shallow, deep in ((PLAIN[0], PLAIN[-1]), (RESIDUAL[0], RESIDUAL[3])):
        trained = setup.on_cifar10(shallow, seed)
        deeper = Deepen(trained, to=deep)
        further = setup.on_cifar10(deep, seed, variant="deepened", init=deeper)
        jobs += [trained, setup.on_cifar10(deep, seed), deeper, further]
    return jobs


def _report_deepened(experiment: Experiment, results: Results) -> list[Section]:
    parts: list[Part] = []
    for variant in results.groups(variant=True):
        if results.runs(variant, kind="deepened"):
            parts.append(tables.deepening(results, variant))
            parts += _optional(figures.against_base(results, variant))
    parts = parts or [experiment.missing("Not run yet")]
    return [Section("Deeper by construction", parts)]


# The authors' follow-up: pre-activation


def _report_preactivation(experiment: Experiment, results: Results) -> list[Section]:
    parts: list[Part] = []
    for cifar, data, kind in ((True, "CIFAR", "training"), (False, "ImageNet", "test")):
        columns = dict.fromkeys(n.column for n in numbers("preact") if n.data.startswith(data))
        caption = f"The follow-up's networks with pre-activation, {data}"
        held = results.groups_with(kind, cifar=cifar)
        parts.append(
            tables.comparison(results, "preact", caption, held, columns=list(columns), wide=False)
        )
        if cifar:
            groups = experiment.groups(results)
            lacking = tables.lacking(results, "preact", groups, list(columns))
            parts += _not_run(experiment, lacking)
    return [Section("Pre-activation", parts)]


# Table 5


def _ensemble_jobs(experiment: Experiment, setup: Setup, seed: int) -> list[Job]:
    """Six models of different depths, two of them of 152 layers."""
    trained = [setup.on_photos(name, seed) for name in experiment.networks]
    trained.append(setup.on_photos("resnet152", seed + 1000))
    return [Ensemble(tuple(Evaluation(t, views="dense") for t in trained))]


EXPERIMENTS = (
    Experiment(
        id="table1", title="architectures and their cost", order=1,
        report=_fixed_section("Table 1: architectures", tables.architectures),
    ),
    Experiment(
        id="complexity", title="parameters and multiply-adds", order=99,
        report=_fixed_section("Complexity of the networks", tables.complexity),
    ),
    Experiment(
        id="fig1", title="degradation: plain 20 and 56", needs="cifar10", order=2,
        networks=(PLAIN[0], PLAIN[-1]), jobs_of_seed=_train_on_cifar10,
        report=_curve_section(
            "Figure 1: degradation",
            "Figure 1. Plain networks on CIFAR-10: training error (left) and test error (right).",
            [
                CurvePanel("training error", (PLAIN[0], PLAIN[-1]), "training"),
                CurvePanel("test error", (PLAIN[0], PLAIN[-1]), "test"),
            ],
        ),
    ),
    Experiment(
        id="fig6", title="CIFAR-10 curves", needs="cifar10", order=9,
        networks=(*PLAIN, *RESIDUAL, THOUSAND), jobs_of_seed=_train_on_cifar10,
        report=_report_figure6,
    ),
    Experiment(
        id="table6", title="CIFAR-10 errors", needs="cifar10", order=8,
        networks=(*RESIDUAL, THOUSAND, "cifar-highway19", "cifar-highway32"),
        jobs_of_seed=_train_on_cifar10,
        report=_table_section("Table 6: CIFAR-10", "Table 6", "training"),
    ),
    Experiment(
        id="start", title="section 4.2: 110 layers", needs="cifar10", order=14,
        networks=("cifar-plain110", "cifar-resnet110"), jobs_of_seed=_start_jobs,
        report=_report_start,
    ),
    Experiment(
        id="fig7", title="layer responses", needs="cifar10", order=10,
        networks=(*TWENTY_AND_56, "cifar-resnet110"), jobs_of_seed=_responses_jobs,
        report=_report_responses,
    ),
    Experiment(
        id="signals", title="signals, gradients by layer", needs="cifar10", order=11, once=True,
        networks=TWENTY_AND_56, jobs_of_seed=_signals_jobs, report=_report_signals,
    ),
    Experiment(
        id="deepened", title="the constructed solution", needs="cifar10", order=12,
        networks=TWENTY_AND_56, jobs_of_seed=_deepened_jobs, report=_report_deepened,
    ),
    Experiment(
        id="preact", title="the follow-up's units", needs="cifar10", order=13,
        networks=(
            "cifar-resnet110", "cifar-preact110", "cifar-resnet164-bottleneck", "cifar-preact164",
            "cifar-resnet1001-bottleneck", "cifar-preact1001",
        ),
        jobs_of_seed=_train_on_cifar10, report=_report_preactivation,
    ),
    Experiment(
        id="fig4", title="ImageNet curves", needs="photos", order=4,
        networks=(*PLAIN_18_34, *RESIDUAL_18_34), jobs_of_seed=_train_on_photos,
        report=_report_figure4,
    ),
    Experiment(
        id="table2", title="plain and residual, 18 and 34", needs="photos", order=3,
        networks=(*PLAIN_18_34, *RESIDUAL_18_34), jobs_of_seed=_test_on_photos("ten-crop"),
        report=_table_section(PLAIN_AND_RESIDUAL, "Table 2", "test"),
    ),
    Experiment(
        id="table3", title="options A, B, C; 50 to 152", needs="photos", order=5,
        networks=("plain34", "resnet34-a", "resnet34-b", "resnet34-c", *DEEP),
        jobs_of_seed=_test_on_photos("ten-crop"),
        report=_table_section("Table 3: shortcuts and depth", "Table 3", "test"),
    ),
    Experiment(
        id="table4", title="single models, dense test", needs="photos", order=6,
        networks=("resnet34-b", "resnet34-c", *DEEP), jobs_of_seed=_test_on_photos("dense"),
        report=_table_section("Table 4: single models", "Table 4", "test"),
    ),
    Experiment(
        id="table5", title="the ensemble of six", needs="photos", order=7,
        networks=("resnet34-b", "resnet34-c", *DEEP), jobs_of_seed=_ensemble_jobs,
        report=_table_section("Table 5: ensembles", "Table 5", "ensemble"),
    ),
)  # fmt: skip
"""All experiments, in the order of `resnets paper list`."""


def find(name: str) -> Experiment:
    """The experiment with this id.

    Raises:
        UserError: if there is none, naming the nearest.
    """
    by_id = {experiment.id: experiment for experiment in EXPERIMENTS}
    if name not in by_id:
        raise UserError(f"unknown experiment {name!r}", hint=nearest(name, by_id))
    return by_id[name]
