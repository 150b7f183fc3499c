"""Predictions by the machines of a Ray cluster, through Ray Data; all machines see the image files.

Names of files are sent in parts, predictions come back and are written by the caller: the output
is the same as one machine's, and is resumed in the same way.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np

from resnets.inference import TOP, export_folder
from resnets.inference.engine_choice import check_engine
from resnets.inference.predictions import ClassProbability, Prediction
from resnets.inference.predictor import Identity, Predictor, open_predictor
from resnets.support import ray_cluster
from resnets.support.errors import UserError

DEVICES = ("auto", "cpu", "cuda")
PART = 256
"""Most images that a worker gets at a time; a stop loses what it has computed of them."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """How the machines compute predictions.

    Args:
        model: as for `open_predictor`; a path must lead to the same model on all machines.
        runtime: as for `open_predictor`.
        precision: as for `open_predictor`.
        device: `auto`, `cpu` or `cuda`: one GPU for each worker, where machines have some.
        top: number of classes in each prediction.
        batch: images that a network computes at a time.
        embeddings: whether predictions hold the pooled features.
    """

    model: str
    runtime: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    top: int = TOP
    batch: int = 16
    embeddings: bool = False


class Cluster:
    """A connection to a Ray cluster that predicts; `close` ends it.

    Args:
        address: as for `ray_cluster.connect`.
        options: for all machines.

    Raises:
        UserError: if Ray is not installed, the cluster does not respond, no machine has free
            resources, or the model cannot be opened there.
    """

    def __init__(self, address: str | None, options: ClusterOptions) -> None:
        check_engine(options.model, options.runtime, options.precision)
        if options.device not in DEVICES:
            hint = f"known: {', '.join(DEVICES)}"
            raise UserError(f"unknown device {options.device!r} of a cluster", "--device", hint)
        self._ray = ray_cluster.connect(address)
        self._folder = os.getcwd()  # noqa: PTH109 (a string, to be sent)
        try:
            self._resources, self._workers = _worker_resources(self._ray.nodes(), options)
            device = "cuda" if self._resources["num_gpus"] else "cpu"
            self._options = replace(options, device=device)
            task = self._ray.remote(_identity).options(**self._resources, max_retries=0)
            self.identity: Identity = self._result(task.remote(self._options, self._folder))
        except BaseException:
            self.close()
            raise

    def _result(self, task: Any) -> Identity:
        try:
            return Identity(*self._ray.get(task))
        except self._ray.exceptions.RayError as error:
            raise _user_error(error) from error

    def iter_predictions(self, images: Sequence[str]) -> Iterator[Prediction]:
        """Yield a prediction for each image file, in the order in which they are computed.

        The work of machines that are lost is repeated by the others.

        Raises:
            UserError: if a machine has other weights or another engine, or the cluster fails.
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
        rows = data.from_items(parts, override_num_blocks=len(parts)).map(
            _Worker,
            fn_constructor_args=(self._options, self._folder, self.identity),
            compute=data.ActorPoolStrategy(min_size=1, max_size=self._workers),
            **self._resources,
        )
        try:
            for row in rows.iter_rows():
                yield from _unpacked(row["predictions"], row["embeddings"])
        except self._ray.exceptions.RayError as error:
            raise _user_error(error) from error

    def close(self) -> None:
        """Leave the cluster; this program's work there ends."""
        self._ray.shutdown()


def _worker_resources(
    nodes: list[dict[str, Any]], options: ClusterOptions
) -> tuple[dict[str, int], int]:
    """CPUs and GPUs of each worker, and how many such workers the machines can run."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    machines = [has for has in alive if has.get("CPU", 0) >= 1]
    with_gpu = [has for has in machines if has.get("GPU", 0) >= 1]
    on_cpu = options.runtime == "openvino" or export_folder.is_export(options.model)
    if options.device == "cuda" or (options.device == "auto" and with_gpu and not on_cpu):
        if not with_gpu:
            raise UserError("no machine of the cluster has a GPU", "--device cuda")
        cpus = min(16, *(max(1, int(has["CPU"] // has["GPU"])) for has in with_gpu))
        workers = sum(int(min(has["GPU"], has["CPU"] // cpus)) for has in with_gpu)
        return {"num_cpus": cpus, "num_gpus": 1}, workers
    if not machines:
        raise UserError("no machine of the cluster has a free CPU")
    cpus = min(4, *(int(has["CPU"]) for has in machines))
    return {"num_cpus": cpus, "num_gpus": 0}, sum(int(has["CPU"] // cpus) for has in machines)


def _user_error(error: BaseException) -> UserError:
    """The `UserError` that a machine raised; for other errors, one with Ray's message."""
    link: BaseException | None = error
    while link is not None:
        cause = getattr(link, "cause", None)  # Ray's own attribute; what is raised adds a traceback
        if isinstance(cause, UserError):
            return cause
        link = link.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return UserError(
        f"the cluster failed ({lines[-1] if lines else type(error).__name__})",
        hint="all machines need the same Python and packages, and a shared disk; "
        "finished predictions are kept",
    )


def _open_on_machine(options: ClusterOptions, folder: str) -> Predictor:
    """Open the model on a machine of the cluster, in the folder of the command."""
    try:
        os.chdir(folder)  # so that relative paths lead to the same files
    except OSError as error:
        raise UserError(
            f"a machine of the cluster has no such folder ({error})", folder, "share it"
        ) from error
    return open_predictor(
        options.model, options.runtime, options.precision, options.device,
        allow_int8=not options.embeddings,
    )  # fmt: skip


def _identity(options: ClusterOptions, folder: str) -> tuple[Any, ...]:
    predictor = _open_on_machine(options, folder)
    if options.embeddings:
        predictor.require_features()
    return tuple(predictor.identity)


class _Worker:
    """Predicts on one machine, with the model open."""

    def __init__(self, options: ClusterOptions, folder: str, expected: Identity) -> None:
        self._options, self._predictor = options, _open_on_machine(options, folder)
        own = self._predictor.identity
        if own != tuple(expected):
            raise UserError(
                f"machines of the cluster differ: {own.runtime}, weights {own.weights[:12]} "
                f"and {expected.runtime}, weights {expected.weights[:12]}",
                options.model,
                "give --runtime and --precision, and share the model file",
            )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        options = self._options
        predictions = list(
            self._predictor.iter_predictions(
                json.loads(row["names"]), options.top, batch=options.batch,
                embeddings=options.embeddings,
            )
        )  # fmt: skip
        features = [one.embedding for one in predictions if one.embedding is not None]
        rows = [
            [one.image, [astuple(entry) for entry in one.top], one.error] for one in predictions
        ]
        return {
            "predictions": json.dumps(rows),
            "embeddings": np.asarray(features, np.float32).tobytes(),
        }


def _unpacked(predictions: str, embeddings: bytes) -> Iterator[Prediction]:
    """Predictions as they were before they were sent as JSON and float32 numbers."""
    rows = json.loads(predictions)
    readable = sum(error is None for _, _, error in rows)
    features = iter(np.frombuffer(embeddings, np.float32).reshape(readable, -1) if readable else ())
    for image, top, error in rows:
        if error is not None:
            yield Prediction(image, error=error)
        else:
            embedding = tuple(next(features).tolist()) if embeddings else None
            yield Prediction(image, [ClassProbability(*entry) for entry in top], embedding)
