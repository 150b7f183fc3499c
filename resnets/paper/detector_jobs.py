"""Jobs that train and test detectors: Tables 7 to 10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resnets.paper.jobs import DataSet, NetworkJob, Training, Workspace
from resnets.paper.store import Budget

VARIANT = "detector"
"""Of the groups of detectors, which keeps them out of the tables of photographs."""
CONTEXT = "detection.context=true"
ENSEMBLE = 3
"""Members of the paper's ensemble."""
RECIPES: dict[Budget, tuple[str, str, tuple[str, ...]]] = {
    "full": ("detect-coco", "resnet101", ("detection.training=alternating",)),
    "short": ("detect-finetune", "resnet50", ("epochs=2", "test_every=1")),
    "smoke": (
        "detect-finetune",
        "resnet50",
        ("epochs=1", "test_every=1", "schedule.warmup=0", "limit=4", "detection.rois=4",
         "detection.test_proposals=10"),
    ),
}  # fmt: skip
"""Recipe, network and changes of each budget; on VOC the recipe of `full` is `detect-voc`."""
SIZES: dict[Budget, int] = {"full": 600, "short": 300, "smoke": 64}
"""Shorter sides of the images."""


@dataclass(frozen=True)
class DetectorTraining(Training):
    """A detector trained by a recipe."""

    kind = "detector"
    variant: str = VARIANT

    @property
    def name(self) -> str:
        context = "-context" if CONTEXT in self.settings else ""
        return f"{self.network}-{self.recipe}{context}-seed{self.seed}"

    @property
    def timed(self) -> Training:
        photos = DataSet(self.data.name, None, "", self.data.images, 224)
        return Training(self.network, "finetune", photos, self.budget)


@dataclass(frozen=True)
class DetectorTest(NetworkJob):
    """A test of a detector, with improvements of appendix B.

    Args:
        metric: `voc07` or `coco`.
        refine: box refinement.
        multiscale: multi-scale testing.
        others: the other members of an ensemble.
    """

    kind = "detection"
    metric: str = "coco"
    refine: bool = False
    multiscale: bool = False
    others: tuple[DetectorTraining, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.of.name}.{self.step}"

    @property
    def step(self) -> str:
        """The row of Table 9 that it is, and its metric."""
        words = [self.metric]
        words += ["refined"] if self.refine else []
        words += ["context"] if CONTEXT in self.of.settings else []
        words += ["multiscale"] if self.multiscale else []
        return "-".join(words + (["ensemble"] if self.others else []))

    @property
    def prerequisites(self) -> tuple[Training, ...]:
        return (self.of, *self.others)

    def arguments(self, workspace: Workspace) -> list[str]:
        assert self.of.data.location is not None
        words = ["eval", str(self.of.file(workspace)), self.of.data.location]
        words += ["--metric", self.metric, "--json"]
        words += ["--refine"] if self.refine else []
        words += ["--scales", "paper"] if self.multiscale else []
        for other in self.others:
            words += ["--with", str(other.file(workspace))]
        return words

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "step": self.step}

    def values(self, printed: dict[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in printed.items() if k not in ("confusion", "errors_by_size")}
        return {**kept, "train_images": self.of.images}


def training(
    data: DataSet, budget: Budget, seed: int, *, voc: bool, context: bool = False
) -> DetectorTraining:
    """A detector for Table 7 (`voc`) or Tables 8 and 9."""
    recipe, network, settings = RECIPES[budget]
    recipe = "detect-voc" if voc and budget == "full" else recipe
    chosen = (*settings, CONTEXT) if context else settings
    return DetectorTraining(network, recipe, data, budget, seed, chosen)


def table9(data: DataSet, budget: Budget, seed: int) -> Sequence[DetectorTest]:
    """The tests of Table 9's rows, from the baseline to the ensemble.

    The members of the ensemble are of seeds of their own.
    """
    plain = training(data, budget, seed, voc=False)
    members = tuple(
        training(data, budget, seed + 1000 * number, voc=False, context=True)
        for number in range(ENSEMBLE)
    )
    return (
        DetectorTest(plain),
        DetectorTest(plain, refine=True),
        DetectorTest(members[0], refine=True),
        DetectorTest(members[0], refine=True, multiscale=True),
        DetectorTest(members[0], refine=True, multiscale=True, others=members[1:]),
    )
