"""What experiments are made of: commands of this package, and how their results are collected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from resnets.paper.store import Outcome, Store
from resnets.support.errors import UserError
from resnets.training import recipe_file, run_folder
from resnets.training.recipe import Recipe

Budget = Literal["full", "short", "smoke"]
LAST = 5
"""Readings of the training error whose mean is the error at the end."""


@dataclass(frozen=True)
class DataSet:
    """The images of an experiment.

    Args:
        name: how groups of results are called, `cifar10` or a folder's name.
        place: where the user has it; None for CIFAR-10 from the cache.
        fingerprint: which images these are, so that results of others are not taken for theirs.
        images: number of training images.
        size: pixels a side of photographs; None for CIFAR-10.
    """

    name: str
    place: str | None
    fingerprint: str
    images: int
    size: int | None = None

    @property
    def group(self) -> str:
        """First part of the names of results on these images."""
        return self.name if self.size is None else f"{self.name}-{self.size}"


@dataclass(frozen=True)
class Place:
    """Where results and run folders are."""

    store: Store
    runs: Path

    def run(self, key: str) -> Path:
        """The run folder of a training."""
        return self.runs / key

    def output(self, key: str) -> Path:
        """What a job's command prints."""
        return self.runs / f"{key}.out"

    def log(self, key: str) -> Path:
        """What it tells beside that."""
        return self.runs / f"{key}.log"

    def model(self, key: str) -> Path:
        """The trained network: beside its result, or in the run folder."""
        kept = self.store.weights(key)
        return kept if kept.exists() else self.run(key) / "model.safetensors"


@dataclass(frozen=True)
class Job:
    """One command, whose result is one file of the store."""

    kind: ClassVar[str]

    @property
    def key(self) -> str:
        """Name of the result."""
        raise NotImplementedError

    @property
    def training(self) -> Training:
        """The training that it is about."""
        raise NotImplementedError

    @property
    def needs(self) -> tuple[Job, ...]:
        """Jobs that come first; their models and files are read."""
        return ()

    def arguments(self, place: Place) -> list[str]:
        """The command, without the program's name."""
        raise NotImplementedError

    def environment(self, place: Place) -> dict[str, str]:
        """Variables that its command must have, whatever others have."""
        return {}

    def share(self, place: Place) -> float:
        """How much of it is done already, from 0 to 1."""
        return 0.0

    def leaves(self, place: Place) -> list[Path]:
        """Files that other jobs read."""
        return []

    def collect(self, place: Place) -> Outcome:
        """The result, after the command has succeeded.

        Raises:
            UserError: if what the command left is not whole.
        """
        path = place.output(self.key)
        try:
            printed = json.loads(path.read_text(encoding="utf-8"))
            environment = {name: printed.pop(name) for name in ENVIRONMENT if name in printed}
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.key}: its command left no result ({error})", str(path)
            ) from error
        provenance = {"command": " ".join(["resnets", *self.arguments(place)]), **environment}
        return Outcome(self.key, self.kind, self.identity(), printed, provenance)

    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON."""
        return self.training.identity()

    def finished(self, place: Place) -> bool:
        """Whether the store has the result.

        Raises:
            UserError: if it has that of another job under this name.
        """
        outcome = place.store.read(self.key)
        if outcome is None:
            return False
        if not _same(outcome.identity, self.identity()):
            raise UserError(
                "is the result of another recipe or of other images",
                str(place.store.path(self.key)),
                "move it away, or give another --results",
            )
        return True


ENVIRONMENT = ("hardware", "threads", "python", "system", "packages", "commit")
"""What commands print of the machine that they ran on."""


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether two jobs are the same; a recipe may have got keys since, with their defaults."""
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
        recipe: the shipped recipe, and `settings` that change it.
        variant: ending of the group's name where the settings are not the budget's own.
        init: a job whose output is the model to start from.
    """

    kind = "training"
    network: str
    recipe: str
    data: DataSet
    budget: Budget
    seed: int = 0
    settings: tuple[str, ...] = ()
    variant: str = ""
    init: Deepen | None = None

    @property
    def group(self) -> str:
        """The trainings that this one is compared with."""
        return f"{self.data.group}-{self.budget}{self.variant}"

    @property
    def key(self) -> str:
        return f"{self.group}/{self.network}-seed{self.seed}"

    @property
    def training(self) -> Training:
        return self

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.init,) if self.init else ()

    @cached_property
    def plan(self) -> Recipe:
        """The recipe as it is asked for; the weights it starts from are known by their job."""
        keys = [f'network="{self.network}"', f"seed={self.seed}"]
        plan = recipe_file.load(self.recipe, [*self.settings, *keys])
        return plan if self.data.size is None else plan.at_size(self.data.size)

    def arguments(self, place: Place) -> list[str]:
        words = ["train", self.recipe, "--network", self.network, "--seed", str(self.seed)]
        words += ["--out", str(place.run(self.key)), "--resume"]
        words += [word for setting in self.settings for word in ("--set", setting)]
        if self.init is not None:
            words += ["--init", str(self.init.deeper(place))]
        if self.data.place is not None:
            words += ["--data", self.data.place]
        if self.data.size is not None:
            words += ["--image-size", str(self.data.size)]
        return words

    def environment(self, place: Place) -> dict[str, str]:
        """As many threads as the run began with: with others its bits would differ."""
        folder = place.run(self.key)
        try:
            threads = run_folder.read_environment(folder)["threads"]
        except UserError:
            return {}  # a new run, or one that will say itself what is wrong
        return {"OMP_NUM_THREADS": str(threads)}

    def leaves(self, place: Place) -> list[Path]:
        return [place.model(self.key)]

    def identity(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "budget": self.budget,
            "seed": self.seed,
            "plan": self.plan.model_dump(mode="json"),
            "data": self.data.fingerprint,
            **({"init": self.init.key} if self.init else {}),
        }

    def collect(self, place: Place) -> Outcome:
        folder = place.run(self.key)
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
            place.store.keep_weights(self.key, folder / "model.safetensors")
        return Outcome(self.key, self.kind, self.identity(), values, provenance)

    def steps(self) -> int:
        """Iterations of the whole training."""
        images = min(self.data.images, self.plan.limit or self.data.images)
        return self.plan.in_iterations(images).steps

    def reached(self, place: Place) -> int:
        """Iterations that its metrics tell of."""
        try:
            rows = run_folder.read_metrics(place.run(self.key))
        except UserError:
            return 0  # the run itself will say what is wrong
        return int(rows[-1]["step"]) if rows else 0

    def share(self, place: Place) -> float:
        return self.reached(place) / self.steps()


def _curves(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Training and test curves, and the training error and loss at the end."""
    trained = [row for row in rows if "train_error" in row]
    tested = [row for row in rows if "test_error" in row]

    def curve(of: Sequence[dict[str, Any]], key: str) -> list[list[float]]:
        return [[row["step"], row[key]] for row in of]

    last = trained[-LAST:]
    return {
        "train_error": round(sum(row["train_error"] for row in last) / len(last), 3),
        "train_loss": round(sum(row["train_loss"] for row in last) / len(last), 5),
        "train_curve": curve(trained, "train_error"),
        "test_curve": curve(tested, "test_error"),
        "loss_curve": curve(trained, "train_loss"),
        "rate_curve": curve(trained, "learning_rate"),
    }


@dataclass(frozen=True)
class Of(Job):
    """A job about a trained network."""

    of: Training

    @property
    def training(self) -> Training:
        return self.of

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.of,)


@dataclass(frozen=True)
class Evaluation(Of):
    """A test of a trained network on photographs by one of the paper's protocols."""

    kind = "test"
    views: str = "ten-crop"

    @property
    def key(self) -> str:
        return f"{self.of.key}.{self.views}"

    def scores(self, place: Place) -> Path:
        """Every image's scores."""
        return place.runs / f"{self.key}.scores"

    def arguments(self, place: Place) -> list[str]:
        assert self.of.data.place is not None
        return [
            "eval", str(place.model(self.of.key)), self.of.data.place, "--views", self.views,
            "--save-scores", str(self.scores(place)), "--json",
        ]  # fmt: skip

    def leaves(self, place: Place) -> list[Path]:
        return [self.scores(place)]

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "views": self.views}


@dataclass(frozen=True)
class Ensemble(Job):
    """Several tested networks as one (Table 5)."""

    kind = "ensemble"
    tests: tuple[Evaluation, ...]

    @property
    def training(self) -> Training:
        return self.tests[0].of

    @property
    def key(self) -> str:
        first = self.tests[0]
        return f"{first.of.group}/ensemble-seed{first.of.seed}.{first.views}"

    @property
    def needs(self) -> tuple[Job, ...]:
        return self.tests

    def arguments(self, place: Place) -> list[str]:
        return ["ensemble", *(str(test.scores(place)) for test in self.tests), "--json"]

    def identity(self) -> dict[str, Any]:
        networks = [test.of.network for test in self.tests]
        return {**super().identity(), "network": "ensemble", "networks": networks}


@dataclass(frozen=True)
class Responses(Of):
    """Standard deviations of the layers' responses (Figure 7)."""

    kind = "responses"

    @property
    def key(self) -> str:
        return f"{self.of.key}.responses"

    def arguments(self, place: Place) -> list[str]:
        words = ["responses", str(place.model(self.of.key)), "--json"]
        return words + (["--data", self.of.data.place] if self.of.data.place else [])

    def collect(self, place: Place) -> Outcome:
        outcome = super().collect(place)
        (model,) = outcome.values["models"]
        return replace(
            outcome,
            values={
                "statistics": outcome.values["statistics"],
                "images": model["images"],
                "responses": model["layers"],
            },
        )


@dataclass(frozen=True)
class Signals(Of):
    """Signals and gradients through the layers, at the start of a training and in its course."""

    kind = "signals"
    steps: tuple[int, ...] = (0,)

    @property
    def key(self) -> str:
        return f"{self.of.key}.signals"

    @property
    def needs(self) -> tuple[Job, ...]:
        return ()  # it takes the training's first steps itself

    def arguments(self, place: Place) -> list[str]:
        training = self.of.arguments(place)[:6]
        words = ["signals", *training[1:], "--steps", ",".join(map(str, self.steps)), "--json"]
        words += [word for setting in self.of.settings for word in ("--set", setting)]
        return words + (["--data", self.of.data.place] if self.of.data.place else [])

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "steps": list(self.steps)}


@dataclass(frozen=True)
class Deepen(Of):
    """A deeper network with the same outputs, made from a trained one (the introduction)."""

    kind = "deepened"
    to: str = ""

    @property
    def key(self) -> str:
        return f"{self.of.group}-deepened/{self.to}-seed{self.of.seed}.start"

    def deeper(self, place: Place) -> Path:
        """The model file of the deeper network."""
        return place.runs / f"{self.key}.safetensors"

    def arguments(self, place: Place) -> list[str]:
        words = ["deepen", str(place.model(self.of.key)), "--to", self.to, "--json"]
        words += ["--out", str(self.deeper(place))]
        return words + (["--data", self.of.data.place] if self.of.data.place else [])

    def leaves(self, place: Place) -> list[Path]:
        return [self.deeper(place)]

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "network": self.to, "from": self.of.network}
