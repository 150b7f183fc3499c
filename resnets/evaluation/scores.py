"""Score files: a model's class probabilities for every image of a test, and ensembles of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from resnets.evaluation.results import Result, measure
from resnets.support import tensor_files
from resnets.support.errors import UserError
from resnets.support.files import write_bytes

FORMAT = "resnets-scores-2"


@dataclass(frozen=True)
class Scores:
    """A model's class probabilities for the images of a test.

    Args:
        probabilities: float32 (N, classes).
        labels: int64 (N,), the true classes, as columns of `probabilities`.
        names: the images' names, unique.
        contents: uint64 (N,), `content_hash` of each image's file.
        classes: class names.
        protocol: how the images were shown.
        model: the model's name.
        class_ids: identifiers of the classes, such as WordNet's, if the model has any.
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    contents: NDArray[np.uint64]
    classes: tuple[str, ...]
    protocol: str
    model: str
    class_ids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def result(self) -> Result:
        """The errors."""
        return measure(self.probabilities, self.labels, self.protocol)

    def images_hash(self) -> str:
        """SHA-256 of the images' names, labels and contents, independent of their order."""
        rows = zip(self.names, self.labels.tolist(), self.contents.tolist(), strict=True)
        lines = sorted(f"{name}\0{label}\0{content}" for name, label, content in rows)
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def content_hash(content: bytes) -> int:
    """The first eight bytes of the SHA-256 of an image, as a number."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little")


def save(path: Path, scores: Scores) -> None:
    """Write a score file atomically: safetensors with JSON metadata.

    Raises:
        UserError: if it cannot be written; nothing is then left behind.
    """
    names = "\0".join(scores.names).encode("utf-8", "surrogateescape")
    tensors: dict[str, NDArray[Any]] = {
        "probabilities": np.ascontiguousarray(scores.probabilities, np.float32),
        "labels": np.ascontiguousarray(scores.labels, np.int64),
        "names": np.frombuffer(names, np.uint8),
        "contents": np.ascontiguousarray(scores.contents, np.uint64),
    }
    facts = {
        "format": FORMAT,
        "model": scores.model,
        "protocol": scores.protocol,
        "images": len(scores),
        "images_hash": scores.images_hash(),
        "classes": scores.classes,
        "class_ids": scores.class_ids,
    }
    write_bytes(path, safetensors.numpy.save(tensors, {"scores": json.dumps(facts)}))


def load(path: Path) -> Scores:
    """Read a score file.

    Raises:
        UserError: if it is missing, truncated, damaged, or no score file.
    """
    if not path.is_file():
        raise UserError(
            "no such score file", str(path), "write one with: resnets eval --save-scores"
        )
    try:
        with tensor_files.open_file(path, "np") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"not a readable score file ({error})", str(path)) from error
    try:
        facts = json.loads(metadata["scores"])
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']!r} is not {FORMAT!r}")
        names = tensors["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
        ids = facts["class_ids"]
        scores = Scores(
            probabilities=tensors["probabilities"],
            labels=tensors["labels"],
            names=tuple(names),
            contents=tensors["contents"],
            classes=tuple(facts["classes"]),
            protocol=str(facts["protocol"]),
            model=str(facts["model"]),
            class_ids=None if ids is None else tuple(ids),
        )
        _check(scores, facts)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"not a score file of this program ({reason})", str(path)) from error
    return scores


def _check(scores: Scores, facts: dict[str, object]) -> None:
    """Raise `ValueError` if a file's parts contradict each other."""
    probabilities, labels = scores.probabilities, scores.labels
    if probabilities.dtype != np.float32 or labels.dtype != np.int64:
        raise ValueError(f"numbers of type {probabilities.dtype} and {labels.dtype}")
    images, classes = len(scores.names), len(scores.classes)
    if scores.contents.dtype != np.uint64 or scores.contents.shape != (images,):
        raise ValueError("its images have no hashes")
    if probabilities.shape != (images, classes) or labels.shape != (images,):
        raise ValueError(f"{images} names, {classes} classes, but scores of {probabilities.shape}")
    if scores.class_ids is not None and len(scores.class_ids) != classes:
        raise ValueError(f"{len(scores.class_ids)} identifiers for {classes} classes")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError("labels of other classes")
    if not np.allclose(probabilities.sum(1), 1, atol=1e-3) or probabilities.min() < 0:
        raise ValueError("its scores are not probabilities")
    if facts["images_hash"] != scores.images_hash():
        raise ValueError("its images or labels were altered")


def combine(members: list[Scores], files: list[str]) -> Scores:
    """An ensemble: the mean of several models' probabilities for the same images.

    Args:
        members: one or more; their images may be in different orders.
        files: each member's name in messages.

    Raises:
        UserError: if images, labels or classes differ.
    """
    first, total = members[0], members[0].probabilities.astype(np.float64)
    for other, file in zip(members[1:], files[1:], strict=True):
        _refuse_other_classes(first, other, files[0], file)
        total += other.probabilities[_rows(first, other, files[0], file)]
    if len(members) == 1:
        return first
    protocols = list(dict.fromkeys(member.protocol for member in members))
    return replace(
        first,
        probabilities=(total / len(members)).astype(np.float32),
        protocol=f"mean of {len(members)} models' probabilities; {'; '.join(protocols)}",
        model=" + ".join(member.model for member in members),
    )


def _refuse_other_classes(first: Scores, other: Scores, first_file: str, file: str) -> None:
    """Raise `UserError` if two models have different classes."""
    if len(first.classes) != len(other.classes):
        raise UserError(
            f"has {len(other.classes)} classes, not {len(first.classes)} like {first_file}", file
        )
    # One model may name its classes by identifier where the other names them in words.
    if {first.classes, first.class_ids} & {other.classes, other.class_ids} - {None}:
        return
    pairs = zip(first.classes, other.classes, strict=True)
    number, (ours, theirs) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
    raise UserError(f"class {number} is {theirs!r}, not {ours!r} like in {first_file}", file)


def _rows(first: Scores, other: Scores, first_file: str, file: str) -> NDArray[np.int64]:
    """The row of `other` for each image of `first`; raises `UserError` if the images differ."""
    hint = "combine tests of the same images"
    if len(first) != len(other):
        raise UserError(
            f"has {len(other):,} images, not {len(first):,} like {first_file}", file, hint
        )
    row_of = {name: row for row, name in enumerate(other.names)}
    rows = np.array([row_of.get(name, -1) for name in first.names], np.int64)
    if (rows < 0).any():
        name = first.names[int(np.flatnonzero(rows < 0)[0])]
        raise UserError(f"has other images than {first_file}: {name} is missing", file, hint)
    changed = np.flatnonzero(other.contents[rows] != first.contents)
    if len(changed):
        raise UserError(
            f"has other images than {first_file}: {len(changed):,} with the same names differ, "
            f"the first is {first.names[changed[0]]}",
            file,
            hint,
        )
    wrong = np.flatnonzero(other.labels[rows] != first.labels)
    if len(wrong):
        raise UserError(
            f"labels {first.names[wrong[0]]} as class {other.labels[rows][wrong[0]]}, "
            f"not {first.labels[wrong[0]]} like {first_file}",
            file,
        )
    return rows
