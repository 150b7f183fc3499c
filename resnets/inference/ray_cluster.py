"""Answers from the machines of a Ray cluster, by Ray Data; all of them see the image files.

Names go out in parts, answers come back and are written here: so an output is the same as one
machine's, and is gone on with in the same way.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnets.inference import export_folder, predictions
from resnets.inference.predictions import Answer, Identity
from resnets.inference.predictor import Predictor, check_words, device_for, open_predictor
from resnets.support import ray_cluster
from resnets.support.errors import UserError

DEVICES = ("auto", "cpu", "cuda")
PART = 256
"""Most images that a machine gets at a time; so many for each worker are lost by a stop."""


@dataclass(frozen=True)
class Asked:
    """What the machines are asked for.

    Args:
        model: as `open_predictor` takes it; a path leads to the same on all machines.
        runtime: likewise.
        precision: likewise.
        device: `auto`, `cpu` or `cuda`: a GPU for each worker, where machines have some.
        top: how many classes to name.
        batch: images that a network is given at a time.
        embeddings: give the pooled features too.
    """

    model: str
    runtime: str
    precision: str
    device: str
    top: int
    batch: int
    embeddings: bool


class Cluster:
    """A cluster that answers; `close` leaves it.

    Args:
        address: as `ray_cluster.connect` takes it.

    Raises:
        UserError: if Ray is missing, the cluster does not answer, no machine has room, or the
            model cannot be opened there.
    """

    def __init__(self, address: str | None, asked: Asked) -> None:
        check_words(asked.model, asked.runtime, asked.precision)
        if asked.device not in DEVICES:
            hint = f"known: {', '.join(DEVICES)}"
            raise UserError(f"unknown device {asked.device!r} of a cluster", "--device", hint)
        self._ray = ray_cluster.connect(address)
        self._folder = os.getcwd()  # noqa: PTH109 (a string that travels)
        try:
            self._room, self._workers = _room(self._ray.nodes(), asked)
            device = "cuda" if self._room["num_gpus"] else "cpu"
            self._asked = Asked(**{**vars(asked), "device": device})
            task = self._ray.remote(_identity).options(**self._room, max_retries=0)
            self.identity: Identity = self._got(task.remote(self._asked, self._folder))
        except BaseException:
            self.close()
            raise

    def _got(self, task: Any) -> Identity:
        try:
            return Identity(*self._ray.get(task))
        except self._ray.exceptions.RayError as error:
            raise _told(error) from error

    def answers(self, images: Sequence[str]) -> Iterator[Answer]:
        """An answer for each image, in the order in which they come.

        Machines that are lost meanwhile are made up for by the others.

        Raises:
            UserError: if a machine has other weights or another engine, or cannot go on.
        """
        if not images:
            return
        from ray import data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        data.DataContext.get_current().enable_progress_bars = False
        size = max(1, min(PART, -(-len(images) // (8 * self._workers))))
        parts = [
            # As JSON: names need not be UTF-8, which Arrow's strings are.
            {"names": json.dumps(images[start : start + size])}
            for start in range(0, len(images), size)
        ]
        found = data.from_items(parts, override_num_blocks=len(parts)).map(
            _Worker,
            fn_constructor_args=(self._asked, self._folder, self.identity),
            compute=data.ActorPoolStrategy(min_size=1, max_size=self._workers),
            **self._room,
        )
        try:
            for row in found.iter_rows():
                yield from _unpacked(row["answers"], row["embeddings"])
        except self._ray.exceptions.RayError as error:
            raise _told(error) from error

    def close(self) -> None:
        """Leave the cluster; what runs there for us ends."""
        self._ray.shutdown()


def _room(nodes: list[dict[str, Any]], asked: Asked) -> tuple[dict[str, int], int]:
    """CPUs and GPUs for each worker, and how many workers the machines have room for."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    machines = [has for has in alive if has.get("CPU", 0) >= 1]
    with_gpu = [has for has in machines if has.get("GPU", 0) >= 1]
    on_cpu = asked.runtime == "openvino" or export_folder.is_export(asked.model)
    if asked.device == "cuda" or (asked.device == "auto" and with_gpu and not on_cpu):
        if not with_gpu:
            raise UserError("no machine of the cluster has a GPU", "--device cuda")
        cpus = min(16, *(max(1, int(has["CPU"] // has["GPU"])) for has in with_gpu))
        workers = sum(int(min(has["GPU"], has["CPU"] // cpus)) for has in with_gpu)
        return {"num_cpus": cpus, "num_gpus": 1}, workers
    if not machines:
        raise UserError("no machine of the cluster has a CPU to give")
    cpus = min(4, *(int(has["CPU"]) for has in machines))
    return {"num_cpus": cpus, "num_gpus": 0}, sum(int(has["CPU"] // cpus) for has in machines)


def _told(error: BaseException) -> UserError:
    """What a machine told, or how Ray calls it."""
    link: BaseException | None = error
    while link is not None:
        cause = getattr(link, "cause", None)  # Ray's own attribute; what is raised adds a traceback
        if isinstance(cause, UserError):
            return cause
        link = link.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return UserError(
        f"the cluster could not go on ({lines[-1] if lines else type(error).__name__})",
        hint="all machines need the same Python and packages, and a disk that they share; "
        "what was answered is kept",
    )


def _opened(asked: Asked, folder: str) -> Predictor:
    """The model, on a machine of the cluster."""
    try:
        os.chdir(folder)  # so that names lead where they led when the command was given
    except OSError as error:
        raise UserError(
            f"a machine of the cluster has no such folder ({error})", folder, "share it"
        ) from error
    device = device_for(asked.model, asked.runtime, asked.device)
    return open_predictor(asked.model, asked.runtime, asked.precision, device, asked.embeddings)


def _identity(asked: Asked, folder: str) -> tuple[Any, ...]:
    predictor = _opened(asked, folder)
    if asked.embeddings:
        predictions.refuse_without_features(predictor)
    return tuple(predictions.identity(predictor))


class _Worker:
    """Lives on a machine with the model open."""

    def __init__(self, asked: Asked, folder: str, expected: Identity) -> None:
        self._asked, self._predictor = asked, _opened(asked, folder)
        found = predictions.identity(self._predictor)
        if found != tuple(expected):
            raise UserError(
                f"machines of the cluster differ: {found.runtime}, weights {found.weights[:12]} "
                f"beside {expected.runtime}, weights {expected.weights[:12]}",
                asked.model,
                "say --runtime and --precision, and share the model file",
            )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        asked = self._asked
        names = json.loads(row["names"])
        found = list(
            predictions.answers(self._predictor, names, asked.top, asked.batch, asked.embeddings)
        )
        rows = [answer.as_dict() for answer in found]
        features = [row.pop("embedding") for row in rows if "embedding" in row]
        return {
            "answers": json.dumps(rows),
            "embeddings": np.asarray(features, np.float32).tobytes(),
        }


def _unpacked(answers: str, embeddings: bytes) -> Iterator[Answer]:
    rows = json.loads(answers)
    good = sum("top" in row for row in rows)
    features = iter(np.frombuffer(embeddings, np.float32).reshape(good, -1) if good else ())
    for row in rows:
        if "error" in row:
            yield Answer(row["image"], error=row["error"])
            continue
        pairs = row["top"]
        yield Answer(
            row["image"],
            tuple(pair["class"] for pair in pairs),
            tuple(pair["probability"] for pair in pairs),
            tuple(next(features).tolist()) if embeddings else None,
        )
