"""The images of a folder that a network finds most alike: cosine similarity of pooled features.

A folder's features are kept in the cache, so that only new or changed images are computed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from resnets.data.folders import walk
from resnets.inference import predictions
from resnets.inference.predictions import Answer
from resnets.inference.predictor import GRAPH, Predictor
from resnets.support.errors import UserError
from resnets.support.files import cache_folder, make_folder, write_bytes

FORMAT = 2
State = tuple[int, int]
"""Size and time of change of a file: who keeps both keeps its features."""
Bar = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Neighbour:
    """An image that a network finds like another.

    Args:
        image: its file.
        label: the name of the folder that it lies in; empty for the folder searched itself.
        similarity: cosine of the angle between the two pooled features; 1 is the same.
    """

    image: str
    label: str
    similarity: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "image": self.image,
            "class": self.label,
            "similarity": round(self.similarity, 5),
        }


@dataclass(frozen=True)
class Index:
    """The features of a folder's images.

    Args:
        folder: the folder.
        names: the images below it.
        files: device and number of each one's file, by which an image knows itself.
        features: float32 (N, channels), each of length 1.
        computed: how many of them were not in the cache.
        unreadable: images that are left out, with the reason.
    """

    folder: Path
    names: list[str]
    files: list[tuple[int, int]]
    features: Tensor
    computed: int
    unreadable: dict[str, str]


@dataclass(frozen=True)
class Nearest:
    """What was found for an image.

    Args:
        neighbours: the most alike first.
        itself: whether the image lies in the folder; it is no neighbour of its own.
    """

    neighbours: list[Neighbour]
    itself: bool


def index_folder(
    predictor: Predictor,
    folder: Path,
    batch: int = 16,
    bar: Bar = lambda images: nullcontext(lambda done: None),
) -> Index:
    """The features of every image of a folder and all below it.

    What is computed is kept even if the work is stopped; images that cannot be read are tried
    again by the next call, as the reason may be the disk's or the network's.

    Args:
        predictor: gives the features.
        folder: with images in any layout.
        batch: images that the network is given at a time.
        bar: given how many images are to be computed; what it gives is told how many are done.

    Raises:
        UserError: if the network has no features, there is no such folder, or it has no
            readable images.
    """
    predictions.refuse_without_features(predictor, "--nearest")
    refuse_absent(folder)
    found = dict(_below(folder))
    states = {name: (about.st_size, about.st_mtime_ns) for name, about in found.items()}
    store = _store(predictor, folder)
    known = {n: e for n, e in _read(store).items() if n in states and e[0] == states[n]}
    todo = [name for name in states if name not in known]
    unreadable: dict[str, str] = {}
    done = 0
    try:
        paths = [str(folder / name) for name in todo]
        answers = predictions.answers(predictor, paths, 1, batch, embeddings=True)
        with bar(len(todo)) as progress:
            for name, answer in zip(todo, answers, strict=True):
                if answer.error is not None:
                    unreadable[name] = answer.error
                else:
                    known[name] = states[name], _features(answer)
                progress(done := done + 1)
    finally:
        if done > len(unreadable):
            _write(store, known)
    features = {name: known[name][1] for name in states if name in known}
    if not features:
        raise UserError("no readable images in this folder", str(folder))
    return Index(
        folder,
        list(features),
        [(found[name].st_dev, found[name].st_ino) for name in features],
        torch.stack(list(features.values())),
        len(todo) - len(unreadable),
        unreadable,
    )


def refuse_absent(folder: Path) -> None:
    """Raise `UserError` if there is no such folder."""
    if not folder.is_dir():
        raise UserError("no such folder", str(folder))


def _features(answer: Answer) -> Tensor:
    """The features, of length 1, of an image that could be read."""
    return F.normalize(torch.tensor(answer.embedding), dim=0)


def nearest(
    predictor: Predictor, index: Index, images: Sequence[str], count: int = 5, batch: int = 16
) -> dict[str, Nearest]:
    """The images of an index most like each of some; those that cannot be read are left out.

    Args:
        predictor: the one that the index was made with.
        images: files; one that lies in the folder is not its own neighbour.
        count: neighbours of each, at most.
    """
    found = {}
    for answer in predictions.answers(predictor, images, 1, batch, embeddings=True):
        if answer.error is not None:
            continue
        about = os.stat(answer.image)  # noqa: PTH116 (a string)
        me = [n for n, file in enumerate(index.files) if file == (about.st_dev, about.st_ino)]
        similar = index.features @ _features(answer)
        similar[me] = -torch.inf
        best, which = similar.topk(min(count, len(similar) - len(me)))
        found[answer.image] = Nearest(
            [
                _neighbour(index, number, similarity)
                for number, similarity in zip(which.tolist(), best.tolist(), strict=True)
            ],
            bool(me),
        )
    return found


def _neighbour(index: Index, number: int, similarity: float) -> Neighbour:
    path = Path(index.names[number])
    return Neighbour(str(index.folder / path), path.parent.name, similarity)


def _below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for _, _, files in walk(folder):
        for name in files:
            with suppress(FileNotFoundError):  # removed while we look
                yield name, (folder / name).stat()


Entry = tuple[State, Tensor]
"""State of a file, and its features."""


def _store(predictor: Predictor, folder: Path) -> Path:
    """The file that keeps a folder's features by one network in one engine."""
    key = json.dumps([FORMAT, GRAPH, predictor.digest, predictor.runtime.name])
    text = key.encode() + os.fsencode(folder.resolve())
    return cache_folder("neighbours", f"{hashlib.sha256(text).hexdigest()[:32]}.safetensors")


def _read(store: Path) -> dict[str, Entry]:
    """What is kept; nothing if that is damaged."""
    try:
        with safe_open(store, "pt") as file:
            rows = json.loads(file.metadata()["files"])
            features = file.get_tensor("features").clone()
        return {
            name: ((size, time), row)
            for (name, size, time), row in zip(rows, features, strict=True)
        }
    except (OSError, SafetensorError, ValueError, LookupError, TypeError):
        return {}


def _write(store: Path, known: dict[str, Entry]) -> None:
    rows = [(name, *state) for name, (state, _) in known.items()]
    features = torch.stack([row for _, row in known.values()])
    make_folder(store.parent)
    write_bytes(store, save({"features": features}, {"files": json.dumps(rows)}))
