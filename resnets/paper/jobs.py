"""The jobs that experiments consist of: commands of this package, and how results are collected."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from resnets.paper.store import Budget, Group, Outcome, Store
from resnets.support.errors import UserError
from resnets.training import recipe_file, run_folder
from resnets.training.recipe import Recipe
from resnets.weights.card import RUN_MODEL

LAST = 5
"""The training error at the end is the mean of this many last log entries."""
ENVIRONMENT = ("hardware", "threads", "python", "system", "packages", "commit")
"""Keys of a command's JSON output that describe the machine and the software."""


@dataclass(frozen=True)
class DataSet:
    """The images of an experiment.

    Args:
        name: `cifar10`, or a name for a set of photographs; part of the group's name.
        location: folder or address; None for CIFAR-10 from the cache.
        fingerprint: identifies the images, so that results on other images are not mistaken.
        images: number of training images.
        size: pixels a side of photographs; None for CIFAR-10.
    """

    name: str
    location: str | None
    fingerprint: str
    images: int
    size: int | None = None

    def options(self) -> list[str]:
        """Command-line options that select these images."""
        return ["--data", self.location] if self.location is not None else []


@dataclass(frozen=True)
class Workspace:
    """The store of results, and the folder with run folders and other files of jobs."""

    store: Store
    runs: Path

    def run_folder(self, key: str) -> Path:
        """The run folder of a training."""
        return self.runs / key

    def file(self, key: str, ending: str) -> Path:
        """A file of a job: `out` and `log` are the standard output and error of its command."""
        return self.runs / f"{key}.{ending}"


@dataclass(frozen=True)
class Job(ABC):
    """One command, whose result is one file of the store."""

    kind: ClassVar[str]

    @property
    def group(self) -> Group:
        """The group of the result."""
        return self.training.group

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the result in its group."""

    @property
    def key(self) -> str:
        """Path of the result in the store, without ending."""
        return f"{self.group}/{self.name}"

    @property
    @abstractmethod
    def training(self) -> Training:
        """The training that is run or measured."""

    @property
    def prerequisites(self) -> tuple[Job, ...]:
        """Jobs that run first; this one reads their files."""
        return ()

    @abstractmethod
    def arguments(self, workspace: Workspace) -> list[str]:
        """The command line after the program's name."""

    def environment(self, workspace: Workspace) -> dict[str, str]:
        """Environment variables for this command; they override the common ones."""
        return {}

    def fraction_done(self, workspace: Workspace) -> float:
        """How much of an interrupted job is done, from 0 to 1."""
        return 0.0

    def file(self, workspace: Workspace) -> Path | None:
        """The file that other jobs read: a model or scores; None if there is none."""
        return None

    def identity(self) -> dict[str, Any]:
        """Everything that determines the result, as JSON."""
        return self.training.identity()

    def outcome(self, values: dict[str, Any], provenance: dict[str, Any]) -> Outcome:
        """A result of this job."""
        return Outcome(self.group, self.name, self.kind, self.identity(), values, provenance)

    def collect(self, workspace: Workspace) -> Outcome:
        """Read the result after the command has succeeded.

        Raises:
            UserError: if what the command wrote is missing or damaged.
        """
        path = workspace.file(self.key, "out")
        try:
            printed = json.loads(path.read_text(encoding="utf-8"))
            environment = {name: printed.pop(name) for name in ENVIRONMENT if name in printed}
        except (OSError, ValueError, AttributeError) as error:
            message = f"the command of {self.key} printed no result ({error})"
            raise UserError(message, str(path)) from error
        command = " ".join(["resnets", *self.arguments(workspace)])
        return self.outcome(self.values(printed), {"command": command, **environment})

    def values(self, printed: dict[str, Any]) -> dict[str, Any]:
        """The values to keep of the JSON that the command printed."""
        return printed

    def is_finished(self, store: Store) -> bool:
        """Whether the store has the result.

        Raises:
            UserError: if it has the result of another recipe or other images under this name.
        """
        outcome = store.read(self.key)
        if outcome is None:
            return False
        if not _same(outcome.identity, self.identity()):
            raise UserError(
                "is the result of another recipe or of other images",
                str(store.path(self.key)),
                "move it away, or give another --results",
            )
        return True


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether two identities are equal; keys added to recipes since count as their defaults."""
    try:
        recipes = [Recipe.model_validate_json(json.dumps(i["plan"])) for i in (old, new)]
    except (ValueError, KeyError):
        return False
    rest = [{k: v for k, v in identity.items() if k != "plan"} for identity in (old, new)]
    return recipes[0].content_hash() == recipes[1].content_hash() and rest[0] == rest[1]


@dataclass(frozen=True)
class Training(Job):
    """A network trained by a recipe.

    Args:
        recipe: name of a shipped recipe.
        settings: changes to it, as for `--set`.
        variant: name for settings that differ from the budget's; part of the group's name.
        init: a job that makes the model to start from.
    """

    kind = "training"
    network: str
    recipe: str
    data: DataSet
    budget: Budget
    seed: int = 0
    settings: tuple[str, ...] = ()
    variant: str = ""
    init: Deepen | Training | None = None

    @property
    def group(self) -> Group:
        return Group(self.data.name, self.data.size, self.budget, self.variant)

    @property
    def name(self) -> str:
        return f"{self.network}-seed{self.seed}"

    @property
    def training(self) -> Training:
        return self

    @property
    def timed(self) -> Training:
        """The training whose speed stands for this one's; see `speed`."""
        return self

    @property
    def prerequisites(self) -> tuple[Job, ...]:
        return (self.init,) if self.init else ()

    @cached_property
    def plan(self) -> Recipe:
        """The complete recipe; weights to start from are not part of it, but of the identity."""
        keys = [f'network="{self.network}"', f"seed={self.seed}"]
        plan = recipe_file.load(self.recipe, [*self.settings, *keys])
        return plan if self.data.size is None else plan.at_size(self.data.size)

    def options(self) -> list[str]:
        """Command-line arguments for recipe, network, seed and settings."""
        words = [self.recipe, "--network", self.network, "--seed", str(self.seed)]
        return words + [word for setting in self.settings for word in ("--set", setting)]

    def arguments(self, workspace: Workspace) -> list[str]:
        words = ["train", *self.options()]
        words += ["--out", str(workspace.run_folder(self.key)), "--resume", *self.data.options()]
        if self.init is not None:
            words += ["--init", str(self.init.file(workspace))]
        if self.data.size is not None:
            words += ["--image-size", str(self.data.size)]
        return words

    def environment(self, workspace: Workspace) -> dict[str, str]:
        """The number of threads that the run began with, since another changes its bits."""
        began = run_folder.read_environment(workspace.run_folder(self.key))
        return {"OMP_NUM_THREADS": str(began["threads"])} if began else {}

    def file(self, workspace: Workspace) -> Path:
        """The trained network: in the store, else in the run folder."""
        kept = workspace.store.weights(self.key)
        return kept if kept.exists() else workspace.run_folder(self.key) / RUN_MODEL

    def identity(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "budget": self.budget,
            "seed": self.seed,
            "plan": self.plan.model_dump(mode="json"),
            "data": self.data.fingerprint,
            **({"init": self.init.key} if self.init else {}),
        }

    def collect(self, workspace: Workspace) -> Outcome:
        folder = workspace.run_folder(self.key)
        path = folder / "summary.json"
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            values = {
                "iterations": summary["iterations"],
                "measured": summary["measured"],
                **_curves(run_folder.read_metrics(folder)),
            }
            provenance = {k: v for k, v in summary["provenance"].items() if k != "recipe"}
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise UserError(f"is missing or damaged ({error})", str(path)) from error
        if self.seed == 0 and self.budget != "smoke":
            workspace.store.keep_weights(self.key, folder / RUN_MODEL)
        return self.outcome(values, provenance)

    def steps(self) -> int:
        """Iterations of the whole training."""
        return self.plan.in_iterations(self.images).steps

    @property
    def images(self) -> int:
        """Number of training images."""
        return min(self.data.images, self.plan.limit or self.data.images)

    def steps_done(self, workspace: Workspace) -> int:
        """The last iteration in the metrics of the run folder; 0 if there are none."""
        try:
            rows = run_folder.read_metrics(workspace.run_folder(self.key))
        except UserError:
            return 0  # the command of the run prints the error
        return int(rows[-1]["step"]) if rows else 0

    def fraction_done(self, workspace: Workspace) -> float:
        return self.steps_done(workspace) / self.steps()


def _curves(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Training and test curves, and the training error and loss at the end."""
    logged = [row for row in rows if "train_loss" in row]
    trained = [row for row in logged if "train_error" in row]  # not all stages measure it
    tested = [row for row in rows if "test_error" in row]

    def curve(rows: Sequence[dict[str, Any]], key: str) -> list[list[float]]:
        return [[row["step"], row[key]] for row in rows]

    last = trained[-LAST:]
    return {
        "train_error": round(sum(row["train_error"] for row in last) / len(last), 3),
        "train_loss": round(sum(row["train_loss"] for row in last) / len(last), 5),
        "train_curve": curve(trained, "train_error"),
        "test_curve": curve(tested, "test_error"),
        "loss_curve": curve(logged, "train_loss"),
        "rate_curve": curve(logged, "learning_rate"),
    }


@dataclass(frozen=True)
class NetworkJob(Job):
    """A job that reads the model of a training."""

    of: Training

    @property
    def name(self) -> str:
        return f"{self.of.name}.{self.kind}"

    @property
    def training(self) -> Training:
        return self.of

    @property
    def prerequisites(self) -> tuple[Job, ...]:
        return (self.of,)


@dataclass(frozen=True)
class Evaluation(NetworkJob):
    """A test of a trained network on photographs by one of the paper's protocols."""

    kind = "test"
    views: str = "ten-crop"

    @property
    def name(self) -> str:
        return f"{self.of.name}.{self.views}"

    def arguments(self, workspace: Workspace) -> list[str]:
        assert self.of.data.location is not None
        return [
            "eval", str(self.of.file(workspace)), self.of.data.location, "--views",
            self.views, "--save-scores", str(self.file(workspace)), "--json",
        ]  # fmt: skip

    def file(self, workspace: Workspace) -> Path:
        return workspace.file(self.key, "scores")

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "views": self.views}


@dataclass(frozen=True)
class LocalizationTest(NetworkJob):
    """A test of a trained localizer (Table 13)."""

    kind = "localization"
    views: str = "center"

    @property
    def name(self) -> str:
        return f"{self.of.name}.{self.views}"

    def arguments(self, workspace: Workspace) -> list[str]:
        assert self.of.data.location is not None
        words = ["eval", str(self.of.file(workspace)), self.of.data.location]
        return [*words, "--views", self.views, "--json"]

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "views": self.views}


@dataclass(frozen=True)
class Ensemble(Job):
    """The mean prediction of several tested networks (Table 5)."""

    kind = "ensemble"
    tests: tuple[Evaluation, ...]

    @property
    def training(self) -> Training:
        return self.tests[0].of

    @property
    def name(self) -> str:
        return f"ensemble-seed{self.training.seed}.{self.tests[0].views}"

    @property
    def prerequisites(self) -> tuple[Job, ...]:
        return self.tests

    def arguments(self, workspace: Workspace) -> list[str]:
        return ["ensemble", *(str(test.file(workspace)) for test in self.tests), "--json"]

    def identity(self) -> dict[str, Any]:
        networks = [test.of.network for test in self.tests]
        return {**super().identity(), "network": "ensemble", "networks": networks}


@dataclass(frozen=True)
class Responses(NetworkJob):
    """Standard deviations of the layers' responses (Figure 7)."""

    kind = "responses"

    def arguments(self, workspace: Workspace) -> list[str]:
        return ["responses", str(self.of.file(workspace)), "--json", *self.of.data.options()]

    def values(self, printed: dict[str, Any]) -> dict[str, Any]:
        (model,) = printed["models"]
        return {
            "statistics": printed["statistics"],
            "images": model["images"],
            "responses": model["layers"],
        }


@dataclass(frozen=True)
class Signals(NetworkJob):
    """Signals and gradients through the layers after some iterations of a training."""

    kind = "signals"
    steps: tuple[int, ...] = (0,)

    @property
    def prerequisites(self) -> tuple[Job, ...]:
        return ()  # the command trains the first iterations itself

    def arguments(self, workspace: Workspace) -> list[str]:
        steps = ",".join(map(str, self.steps))
        words = ["signals", *self.of.options(), "--steps", steps, "--json"]
        return words + self.of.data.options()

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "steps": list(self.steps)}


@dataclass(frozen=True)
class Deepen(NetworkJob):
    """A deeper network with the same outputs, made from a trained one (section 1).

    Args:
        to: name of the deeper network.
    """

    kind = "deepened"
    to: str = ""

    @property
    def group(self) -> Group:
        return replace(self.of.group, variant="deepened")

    @property
    def name(self) -> str:
        return f"{self.to}-seed{self.of.seed}.start"

    def arguments(self, workspace: Workspace) -> list[str]:
        words = ["deepen", str(self.of.file(workspace)), "--to", self.to, "--json"]
        return [*words, "--out", str(self.file(workspace)), *self.of.data.options()]

    def file(self, workspace: Workspace) -> Path:
        return workspace.file(self.key, "safetensors")

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "network": self.to, "from": self.of.network}
