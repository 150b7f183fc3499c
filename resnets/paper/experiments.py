"""The paper's tables and figures as experiments: which jobs each of them is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from resnets.paper.jobs import (
    Budget,
    DataSet,
    Deepen,
    Ensemble,
    Evaluation,
    Job,
    Responses,
    Signals,
    Training,
)
from resnets.support.errors import UserError, nearest

Needs = Literal["nothing", "cifar10", "photos"]

PLAIN = tuple(f"cifar-plain{depth}" for depth in (20, 32, 44, 56))
RESIDUAL = tuple(f"cifar-resnet{depth}" for depth in (20, 32, 44, 56, 110))
THOUSAND = "cifar-resnet1202"
HIGHWAY = ("cifar-highway19", "cifar-highway32")
FOLLOW_UP = (
    "cifar-preact110", "cifar-resnet164-bottleneck", "cifar-preact164",
    "cifar-resnet1001-bottleneck", "cifar-preact1001",
)  # fmt: skip
LONG = (THOUSAND, "cifar-resnet1001-bottleneck", "cifar-preact1001")
"""Networks that a short budget leaves out: hours for a result that says nothing."""

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
"""Pixels a side up to which photographs get the stem for small images."""


@dataclass(frozen=True)
class Choice:
    """What a user asks of an experiment.

    Args:
        data: the images; None where the experiment needs none.
    """

    budget: Budget
    seeds: int = 1
    data: DataSet | None = None

    def cifar(self, network: str, seed: int, variant: str = "", *more: str) -> Training:
        """A training on CIFAR-10."""
        assert self.data is not None
        recipe, settings = CIFAR_RECIPES[self.budget]
        return Training(network, recipe, self.data, self.budget, seed, (*settings, *more), variant)

    def photos(self, network: str, seed: int) -> Training:
        """A training on photographs; networks for small ones get their stem."""
        assert self.data is not None
        assert self.data.size is not None
        recipe, settings = PHOTO_RECIPES[self.budget]
        small = "-small" if self.data.size <= SMALL_IMAGES else ""
        return Training(network + small, recipe, self.data, self.budget, seed, settings)


@dataclass(frozen=True)
class Experiment:
    """A table, a figure or a statement of the paper.

    Args:
        id: what it is called on the command line.
        title: what it shows.
        needs: the data that its runs need.
        make: its jobs for one seed.
        once: whether further seeds add nothing.
    """

    id: str
    title: str
    needs: Needs
    make: Callable[[Choice, int], Iterable[Job]]
    once: bool = False

    def jobs(self, choice: Choice) -> list[Job]:
        """All its jobs, those of the first seed first."""
        seeds = range(1 if self.once else choice.seeds)
        return [job for seed in seeds for job in self.make(choice, seed)]


def limited(jobs: Sequence[Job], only: Sequence[str]) -> list[Job]:
    """The jobs about the networks `only`; of an ensemble, those of its members.

    Raises:
        UserError: if one of them is in no job.
    """
    jobs = [one for job in jobs for one in (job.needs if isinstance(job, Ensemble) else [job])]
    there = list(dict.fromkeys(job.training.network for job in jobs))
    for name in only:
        if name not in there:
            hint = nearest(name, there) if there else "leave it out"
            raise UserError(f"no run of network {name!r} is asked for", "--only", hint)
    return [job for job in jobs if job.training.network in only]


def _cifar(*networks: str) -> Callable[[Choice, int], list[Job]]:
    def make(choice: Choice, seed: int) -> list[Job]:
        named = [n for n in networks if choice.budget != "short" or n not in LONG]
        return [choice.cifar(network, seed) for network in named]

    return make


def _responses(choice: Choice, seed: int) -> list[Job]:
    networks = ("cifar-plain20", "cifar-plain56", "cifar-resnet20", "cifar-resnet56")
    return [Responses(choice.cifar(n, seed)) for n in (*networks, "cifar-resnet110")]


def _start(choice: Choice, seed: int) -> list[Job]:
    """Section 4.2: what happens to 110 layers without the gentle start, and without shortcuts."""
    # The short budget starts gently by a rising rate.
    off = ("schedule.gentle_start.from_depth=100_000", "schedule.warmup=0")
    return [
        choice.cifar("cifar-plain110", seed),
        choice.cifar("cifar-resnet110", seed),
        choice.cifar("cifar-resnet110", seed, "-no-warmup", *off),
    ]


def _signals(choice: Choice, seed: int) -> list[Job]:
    networks = ("cifar-plain20", "cifar-plain56", "cifar-resnet20", "cifar-resnet56")
    steps = {"full": (0, 400, 4000), "short": (0, 100, 400), "smoke": (0, 4)}[choice.budget]
    return [Signals(choice.cifar(network, seed), steps=steps) for network in networks]


def _deepen(choice: Choice, seed: int) -> list[Job]:
    """The introduction: shallow, deeper with the same outputs, and that trained on."""
    jobs: list[Job] = []
    for kind in ("plain", "resnet"):
        shallow = choice.cifar(f"cifar-{kind}20", seed)
        deeper = Deepen(shallow, to=f"cifar-{kind}56")
        recipe, settings = CIFAR_RECIPES[choice.budget]
        assert choice.data is not None
        on = Training(
            deeper.to, recipe, choice.data, choice.budget, seed, settings, "-deepened", deeper
        )
        jobs += [shallow, choice.cifar(deeper.to, seed), deeper, on]
    return jobs


def _photos(*networks: str, views: str | None = None) -> Callable[[Choice, int], list[Job]]:
    def make(choice: Choice, seed: int) -> list[Job]:
        trained = [choice.photos(network, seed) for network in networks]
        return [Evaluation(t, views=views) for t in trained] if views else list(trained)

    return make


def _ensemble(choice: Choice, seed: int) -> list[Job]:
    """Table 5: six models of different depth, two of them of 152 layers."""
    names = ("resnet34-b", "resnet34-c", "resnet50", "resnet101", "resnet152")
    trained = [choice.photos(name, seed) for name in names]
    trained.append(choice.photos("resnet152", seed + 1000))
    return [Ensemble(tuple(Evaluation(t, views="dense") for t in trained))]


TWINS = ("plain18", "plain34", "resnet18-a", "resnet34-a")
DEEP = ("resnet50", "resnet101", "resnet152")

EXPERIMENTS = (
    Experiment("table1", "architectures and their cost", "nothing", lambda c, s: []),
    Experiment("complexity", "parameters and multiply-adds", "nothing", lambda c, s: []),
    Experiment("fig1", "degradation: plain 20 and 56", "cifar10", _cifar(PLAIN[0], PLAIN[-1])),
    Experiment("fig6", "CIFAR-10 curves", "cifar10", _cifar(*PLAIN, *RESIDUAL, THOUSAND)),
    Experiment("table6", "CIFAR-10 errors", "cifar10", _cifar(*RESIDUAL, THOUSAND, *HIGHWAY)),
    Experiment("start", "section 4.2: 110 layers", "cifar10", _start),
    Experiment("fig7", "layer responses", "cifar10", _responses),
    Experiment("signals", "signals, gradients by layer", "cifar10", _signals, once=True),
    Experiment("deepened", "the constructed solution", "cifar10", _deepen),
    Experiment("preact", "the follow-up's units", "cifar10", _cifar("cifar-resnet110", *FOLLOW_UP)),
    Experiment("fig4", "ImageNet curves", "photos", _photos(*TWINS)),
    Experiment("table2", "plain and residual, 18 and 34", "photos",
               _photos(*TWINS, views="ten-crop")),
    Experiment("table3", "options A, B, C; 50 to 152", "photos",
               _photos("plain34", "resnet34-a", "resnet34-b", "resnet34-c", *DEEP,
                       views="ten-crop")),
    Experiment("table4", "single models, dense test", "photos",
               _photos("resnet34-b", "resnet34-c", *DEEP, views="dense")),
    Experiment("table5", "the ensemble of six", "photos", _ensemble),
)  # fmt: skip


def find(name: str) -> Experiment:
    """The experiment called `name`.

    Raises:
        UserError: if there is none, naming the nearest.
    """
    by_id = {experiment.id: experiment for experiment in EXPERIMENTS}
    if name not in by_id:
        raise UserError(f"unknown experiment {name!r}", hint=nearest(name, by_id))
    return by_id[name]
