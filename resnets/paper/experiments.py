"""The paper's tables and figures as experiments.

An entry of `EXPERIMENTS` defines an experiment: its networks, its jobs and its section of the
report. With it, `resnets paper list`, `run` and `report` include the experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from resnets.paper import detection_tables, detector_jobs, figures, tables
from resnets.paper.document import Figure, Missing, Part, Section, Table
from resnets.paper.figures import CurvePanel, network_title
from resnets.paper.jobs import (
    DataSet,
    Deepen,
    Ensemble,
    Evaluation,
    Job,
    LocalizationTest,
    Responses,
    Signals,
    Training,
)
from resnets.paper.numbers import numbers
from resnets.paper.results import Results
from resnets.paper.store import LOCALIZATION, Budget, Group
from resnets.support.errors import UserError, nearest

Needs = Literal["nothing", "cifar10", "photos", "boxes", "photos with boxes"]

PLAIN = tuple(f"cifar-plain{depth}" for depth in (20, 32, 44, 56))
RESIDUAL = tuple(f"cifar-resnet{depth}" for depth in (20, 32, 44, 56, 110))
THOUSAND = "cifar-resnet1202"
LONG = (THOUSAND, "cifar-resnet1001-bottleneck", "cifar-preact1001")
"""Networks that the short budget leaves out: they need hours and would learn too little."""
TWENTY_AND_56 = (PLAIN[0], PLAIN[-1], RESIDUAL[0], RESIDUAL[3])
PLAIN_18_34, RESIDUAL_18_34 = ("plain18", "plain34"), ("resnet18-a", "resnet34-a")
DEEP = ("resnet50", "resnet101", "resnet152")
LOCALIZERS = ("resnet101", "resnet18-a")
"""The network of Table 13, and the one for the short budget."""
ENSEMBLE = ("resnet34-b", "resnet34-c", *DEEP)

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
LOCALIZATION_RECIPES: dict[Budget, tuple[str, tuple[str, ...]]] = {
    "full": ("localize", ()),
    "short": ("localize-small", ()),
    "smoke": (
        "localize-small",
        ("epochs=2", "batch=16", "limit=64", "schedule.warmup=0", "test_every=1", "log_every=2"),
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
        located: those of the photographs that have boxes, if the experiment needs both.
    """

    budget: Budget
    seeds: int = 1
    data: DataSet | None = None
    located: DataSet | None = None

    def training(
        self,
        network: str,
        seed: int,
        *,
        variant: str = "",
        settings: Sequence[str] = (),
        init: Deepen | Training | None = None,
    ) -> Training:
        """A training on these images; small photographs get the network with the stem for them.

        Args:
            variant: name for trainings with `settings` or `init`; `localization` is one by the
                recipes for it, on the images with boxes.
            settings: changes to the recipe, besides those of the budget.
            init: makes the model to start from.
        """
        data = self.located if variant == LOCALIZATION else self.data
        assert data is not None
        recipes = CIFAR_RECIPES if data.size is None else PHOTO_RECIPES
        if variant == LOCALIZATION:
            recipes = LOCALIZATION_RECIPES
        recipe, own = recipes[self.budget]
        small = data.size is not None and data.size <= SMALL_IMAGES
        return Training(
            network=network + ("-small" if small else ""),
            recipe=recipe,
            data=data,
            budget=self.budget,
            seed=seed,
            settings=(*own, *settings),
            variant=variant,
            init=init,
        )


def train(setup: Setup, network: str, seed: int) -> Job:
    """The job of experiments that only train their networks."""
    return setup.training(network, seed)


def train_and_test(views: str) -> Callable[[Setup, str, int], Job]:
    """The job of experiments that train their networks and test them by a protocol."""
    return lambda setup, network, seed: Evaluation(setup.training(network, seed), views=views)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table, a figure or a statement of the paper.

    Args:
        id: its name on the command line.
        title: a few words.
        needs: the images that its jobs need.
        networks: its networks, in order; of photographs those without `-small`.
        job: its job for each network and seed: a training, or a job on a trained network.
        jobs_of_seed: all jobs of a seed, if they are not `job` of each network.
        section: title of its section in the report; experiments can share one.
        parts: make the tables and figures of the section. It is left out if there are none.
        order: of the section in the report.
        once: whether one seed is enough.
    """

    id: str
    title: str
    needs: Needs = "nothing"
    networks: Sequence[str] = ()
    job: Callable[[Setup, str, int], Job] = train
    jobs_of_seed: Callable[[Setup, int], list[Job]] | None = None
    section: str
    parts: Sequence[PartMaker]
    order: int = 50
    once: bool = False

    @property
    def takes_data(self) -> bool:
        """Whether its images are those of `--data FOLDER`."""
        return self.needs not in ("nothing", "cifar10")

    def jobs(self, setup: Setup) -> list[Job]:
        """All jobs, those of the first seed first."""
        jobs: list[Job] = []
        for seed in range(1 if self.once else setup.seeds):
            if self.jobs_of_seed is not None:
                jobs += self.jobs_of_seed(setup, seed)
            else:
                jobs += [self.job(setup, n, seed) for n in self.networks_at(setup.budget)]
        return jobs

    def sections(self, results: Results) -> list[Section]:
        """The section of the report, if there is something in it."""
        parts = [part for make in self.parts for part in make(self, results)]
        return [Section(self.section, parts)] if parts else []

    def networks_at(self, budget: Budget) -> list[str]:
        """The networks that are trained with a budget."""
        return [n for n in self.networks if budget != "short" or n not in LONG]

    def groups(self, results: Results) -> list[Group]:
        """The groups of results on the images that the experiment needs."""
        return results.groups(cifar=self.needs == "cifar10")

    def missing(self, text: str, budget: Budget = "full") -> Missing:
        """A line about results that are missing, with the command that makes them."""
        data = " --data FOLDER" if self.takes_data else ""
        return Missing(text, f"resnets paper run {self.id} --budget {budget}{data}")


PartMaker = Callable[[Experiment, Results], Sequence[Part]]
"""Makes tables, figures and lines about missing results for an experiment's section."""


# Parts of sections that several experiments have


def table(caption: str, kind: str, *, wide: bool = True) -> PartMaker:
    """The paper's table of the experiment's name with our results, and a line on missing rows.

    Args:
        kind: of the results.
        wide: whether the paper's columns are columns here too. If not, the table gives the
            numbers of a figure, and is left out if there are no results.
    """

    def parts(experiment: Experiment, results: Results) -> list[Part]:
        held = results.groups_with(kind, cifar=experiment.needs == "cifar10")
        if not held and not wide:
            return []
        compared = tables.comparison(results, experiment.id, caption, held, wide=wide)
        lacking = tables.lacking(results, experiment.id, experiment.groups(results))
        return [compared, *_not_run(experiment, lacking)]

    return parts


def _not_run(experiment: Experiment, rows: Sequence[str]) -> list[Part]:
    text = f"Not run at the paper's length yet: {', '.join(rows)}"
    return [experiment.missing(text)] if rows else []


def curves(caption: str, *panels: CurvePanel, dashed: bool = False) -> PartMaker:
    """A figure of training curves for each group, see `figures.curves`."""

    def draw(experiment: Experiment, results: Results, group: Group) -> Figure | None:
        return figures.curves(
            results, group, experiment.id, caption=caption, panels=panels, dashed=dashed
        )

    return drawn(draw)


def drawn(
    draw: Callable[[Experiment, Results, Group], Figure | None], kind: str = "training"
) -> PartMaker:
    """A figure for each group, and lines about the networks that are missing.

    Args:
        draw: makes the figure of a group; None if there are no results for it.
        kind: of the results in the figure.
    """

    def parts(experiment: Experiment, results: Results) -> list[Part]:
        made: list[Part] = []
        complete = False
        for group in experiment.groups(results):
            found = [n for n in experiment.networks if results.runs(group, n, kind)]
            complete = complete or (bool(found) and results.comparable(group))
            figure = draw(experiment, results, group)
            if figure is None:
                continue
            made.append(figure)
            lacking = [n for n in experiment.networks_at(group.budget) if n not in found]
            if lacking:
                text = f"Not run yet with this budget: {', '.join(map(network_title, lacking))}"
                made.append(experiment.missing(text, group.budget))
        if not complete:
            made.append(experiment.missing("Not run at the paper's length yet"))
        return made

    return parts


def _against_base(results: Results, variant: Group) -> list[Part]:
    figure = figures.against_base(results, variant)
    return [] if figure is None else [figure]


# Figure 6: its numbers at the end of the training


def _readings(experiment: Experiment, results: Results) -> list[Part]:
    caption = "Figure 6 in numbers, the paper's read off the plot"
    groups = results.groups_with("training", cifar=True)
    columns = ("test", "train", "error")
    return [tables.comparison(results, "fig6", caption, groups, columns=columns)]


# Section 4.2: 110 layers without warm-up, and without shortcuts


def _start_jobs(setup: Setup, seed: int) -> list[Job]:
    # The short budget warms up by a rising rate.
    no_warmup = ("schedule.gentle_start.from_depth=100_000", "schedule.warmup=0")
    return [
        setup.training("cifar-plain110", seed),
        setup.training("cifar-resnet110", seed),
        setup.training("cifar-resnet110", seed, variant="no-warmup", settings=no_warmup),
    ]


def _start_parts(experiment: Experiment, results: Results) -> list[Part]:
    parts: list[Part] = []
    for variant in results.groups(variant=True):
        if variant.variant == "no-warmup" and results.runs(variant):
            parts += [tables.against_base(results, variant), *_against_base(results, variant)]
    return parts


# Figure 7, and signals through the layers


def _responses_figure(experiment: Experiment, results: Results, group: Group) -> Figure | None:
    return figures.responses(results, group, experiment.networks)


def _signals(setup: Setup, network: str, seed: int) -> Job:
    steps = {"full": (0, 400, 4000), "short": (0, 100, 400), "smoke": (0, 4)}[setup.budget]
    return Signals(setup.training(network, seed), steps=steps)


def _signals_parts(experiment: Experiment, results: Results) -> Sequence[Part]:
    groups = [*results.groups(), *results.groups(variant=True)]
    made = [figure for group in groups if (figure := figures.signals(results, group))]
    return made or [experiment.missing("Not run yet")]


# The introduction: deeper networks with the same outputs, trained further


def _deepened_jobs(setup: Setup, seed: int) -> list[Job]:
    jobs: list[Job] = []
    for shallow, deep in ((PLAIN[0], PLAIN[-1]), (RESIDUAL[0], RESIDUAL[3])):
        trained = setup.training(shallow, seed)
        deeper = Deepen(trained, to=deep)
        further = setup.training(deep, seed, variant="deepened", init=deeper)
        jobs += [trained, setup.training(deep, seed), deeper, further]
    return jobs


def _deepened_parts(experiment: Experiment, results: Results) -> list[Part]:
    parts: list[Part] = []
    for variant in results.groups(variant=True):
        if results.runs(variant, kind="deepened"):
            parts += [tables.deepening(results, variant), *_against_base(results, variant)]
    return parts or [experiment.missing("Not run yet")]


# The authors' follow-up: pre-activation


def _preactivation_parts(experiment: Experiment, results: Results) -> list[Part]:
    parts: list[Part] = []
    for cifar, data, kind in ((True, "CIFAR", "training"), (False, "ImageNet", "test")):
        columns = [n.column for n in numbers("preact") if n.data.startswith(data)]
        caption = f"The follow-up's networks with pre-activation, {data}"
        held = results.groups_with(kind, cifar=cifar)
        compared = tables.comparison(results, "preact", caption, held, columns=columns, wide=False)
        parts.append(compared)
        if cifar:
            groups = experiment.groups(results)
            parts += _not_run(experiment, tables.lacking(results, "preact", groups, columns))
    return parts


# Table 5


def _ensemble_jobs(setup: Setup, seed: int) -> list[Job]:
    """Six models of different depths, two of them of 152 layers."""
    trained = [setup.training(name, seed) for name in ENSEMBLE]
    trained.append(setup.training("resnet152", seed + 1000))
    return [Ensemble(tuple(Evaluation(t, views="dense") for t in trained))]


# Tables 13 and 14


def _localization_jobs(setup: Setup, seed: int) -> list[Job]:
    """A classifier, and a localizer that starts from it, tested in both ways of Table 13."""
    network = LOCALIZERS[0] if setup.budget == "full" else LOCALIZERS[1]
    trained = setup.training(network, seed)
    localizer = setup.training(network, seed, variant=LOCALIZATION, init=trained)
    return [LocalizationTest(localizer, views=views) for views in ("center", "dense")]


def _localization_parts(experiment: Experiment, results: Results) -> list[Part]:
    groups = [g for g in results.groups(variant=True) if g.variant == LOCALIZATION]
    groups = [group for group in groups if results.runs(group, kind=LocalizationTest.kind)]
    parts: list[Part] = [tables.localization(results, groups), tables.localization_history()]
    if not any(tables.localized_as_in_the_paper(results, group) for group in groups):
        parts.append(experiment.missing("Not run at the paper's size yet"))
    return parts


# Tables 7 to 12: detectors


def _detector_jobs(setup: Setup, seed: int, *, voc: bool, improved: bool = False) -> list[Job]:
    assert setup.data is not None
    if improved:
        return [*detector_jobs.table9(setup.data, setup.budget, seed)]
    trained = detector_jobs.training(setup.data, setup.budget, seed, voc=voc)
    return [detector_jobs.DetectorTest(trained, metric="voc07" if voc else "coco")]


def _detectors(*tables: Callable[[Results], Table], steps: Sequence[str]) -> PartMaker:
    """Tables of detectors, and a line about tests that were not run on the paper's images."""

    def parts(experiment: Experiment, results: Results) -> list[Part]:
        made: list[Part] = [table(results) for table in tables]
        if detection_tables.missing(results, steps):
            made.append(experiment.missing("Not run on the paper's images at its length yet"))
        return made

    return parts


PLAIN_AND_RESIDUAL = "Table 2 and Figure 4: plain and residual networks on photographs"

EXPERIMENTS = (
    Experiment(
        id="table1", title="architectures and their cost",
        section="Table 1: architectures", order=1,
        parts=[lambda experiment, results: [tables.architectures()]],
    ),
    Experiment(
        id="complexity", title="parameters and multiply-adds",
        section="Complexity of the networks", order=99,
        parts=[lambda experiment, results: [tables.complexity()]],
    ),
    Experiment(
        id="fig1", title="degradation: plain 20 and 56", needs="cifar10",
        networks=(PLAIN[0], PLAIN[-1]),
        section="Figure 1: degradation", order=2,
        parts=[curves(
            "Figure 1. Plain networks on CIFAR-10: training error (left) and test error (right).",
            CurvePanel("training error", (PLAIN[0], PLAIN[-1]), "training"),
            CurvePanel("test error", (PLAIN[0], PLAIN[-1]), "test"),
        )],
    ),
    Experiment(
        id="fig6", title="CIFAR-10 curves", needs="cifar10",
        networks=(*PLAIN, *RESIDUAL, THOUSAND),
        section="Figure 6: trainings on CIFAR-10", order=9,
        parts=[curves(
            "Figure 6. CIFAR-10. Dashed: training error. Bold: test error. A depth has the same "
            "colour in all panels.",
            CurvePanel("plain", PLAIN),
            CurvePanel("ResNet", RESIDUAL),
            CurvePanel("ResNet-110 and ResNet-1202", (RESIDUAL[-1], THOUSAND), zoom=(3.5, 6.4)),
            dashed=True,
        ), _readings],
    ),
    Experiment(
        id="table6", title="CIFAR-10 errors", needs="cifar10",
        networks=(*RESIDUAL, THOUSAND, "cifar-highway19", "cifar-highway32"),
        section="Table 6: CIFAR-10", order=8,
        parts=[table("Table 6", "training")],
    ),
    Experiment(
        id="start", title="section 4.2: 110 layers", needs="cifar10",
        networks=("cifar-plain110", "cifar-resnet110"), jobs_of_seed=_start_jobs,
        section="Section 4.2: 110 layers without warm-up", order=14,
        parts=[_start_parts],
    ),
    Experiment(
        id="fig7", title="layer responses", needs="cifar10",
        networks=(*TWENTY_AND_56, "cifar-resnet110"),
        job=lambda setup, network, seed: Responses(setup.training(network, seed)),
        section="Figure 7: responses of the layers", order=10,
        parts=[
            drawn(_responses_figure, "responses"),
            table("Figure 7 in numbers", "responses", wide=False),
        ],
    ),
    Experiment(
        id="signals", title="signals, gradients by layer", needs="cifar10",
        networks=TWENTY_AND_56, job=_signals, once=True,
        section="Signals through the layers", order=11,
        parts=[_signals_parts],
    ),
    Experiment(
        id="deepened", title="the constructed solution", needs="cifar10",
        networks=TWENTY_AND_56, jobs_of_seed=_deepened_jobs,
        section="Deeper by construction", order=12,
        parts=[_deepened_parts],
    ),
    Experiment(
        id="preact", title="the follow-up's units", needs="cifar10",
        networks=(
            "cifar-resnet110", "cifar-preact110", "cifar-resnet164-bottleneck", "cifar-preact164",
            "cifar-resnet1001-bottleneck", "cifar-preact1001",
        ),
        section="Pre-activation", order=13,
        parts=[_preactivation_parts],
    ),
    Experiment(
        id="fig4", title="ImageNet curves", needs="photos",
        networks=(*PLAIN_18_34, *RESIDUAL_18_34),
        section=PLAIN_AND_RESIDUAL, order=4,
        parts=[curves(
            "Figure 4. Thin: training error. Bold: error of centre crops of the validation images.",
            CurvePanel("plain", PLAIN_18_34),
            CurvePanel("ResNet, option A", RESIDUAL_18_34),
        ), table("Figure 4 in numbers", "training", wide=False)],
    ),
    Experiment(
        id="table2", title="plain and residual, 18 and 34", needs="photos",
        networks=(*PLAIN_18_34, *RESIDUAL_18_34), job=train_and_test("ten-crop"),
        section=PLAIN_AND_RESIDUAL, order=3,
        parts=[table("Table 2", "test")],
    ),
    Experiment(
        id="table3", title="options A, B, C; 50 to 152", needs="photos",
        networks=("plain34", "resnet34-a", "resnet34-b", "resnet34-c", *DEEP),
        job=train_and_test("ten-crop"),
        section="Table 3: shortcuts and depth", order=5,
        parts=[table("Table 3", "test")],
    ),
    Experiment(
        id="table4", title="single models, dense test", needs="photos",
        networks=ENSEMBLE, job=train_and_test("dense"),
        section="Table 4: single models", order=6,
        parts=[table("Table 4", "test")],
    ),
    Experiment(
        id="table5", title="the ensemble of six", needs="photos",
        networks=ENSEMBLE, jobs_of_seed=_ensemble_jobs,
        section="Table 5: ensembles", order=7,
        parts=[table("Table 5", "ensemble")],
    ),
    Experiment(
        id="table7", title="detection on PASCAL VOC", needs="boxes",
        jobs_of_seed=partial(_detector_jobs, voc=True),
        section="Tables 7 and 10 to 11: detection on PASCAL VOC", order=20,
        parts=[_detectors(
            detection_tables.table7, detection_tables.table10, partial(
                detection_tables.quoted, table="table11",
                caption="Table 11. VOC 2012 test by category",
            ), steps=["voc07"],
        )],
    ),
    Experiment(
        id="table8", title="detection on COCO", needs="boxes",
        jobs_of_seed=partial(_detector_jobs, voc=False),
        section="Table 8: detection on COCO", order=21,
        parts=[_detectors(detection_tables.table8, steps=["coco"])],
    ),
    Experiment(
        id="table9", title="improvements of detection", needs="boxes",
        jobs_of_seed=partial(_detector_jobs, voc=False, improved=True),
        section="Tables 9 and 12: improvements of detection", order=22,
        parts=[_detectors(
            detection_tables.table9, partial(
                detection_tables.quoted, table="table12", caption="Table 12. ImageNet DET",
            ), steps=[*detection_tables.STEPS.values(), detection_tables.ENSEMBLE],
        )],
    ),
    Experiment(
        id="table13", title="localization, and Table 14", needs="photos with boxes",
        networks=LOCALIZERS, jobs_of_seed=_localization_jobs,
        section="Tables 13 and 14: localization", order=23,
        parts=[_localization_parts],
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
