"""The images of a folder that are most similar to others, by the cosine of pooled features.

A folder's features are kept in the cache: only those of new or changed images are computed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from resnets.data.folders import image_files
from resnets.inference.openvino_model import GRAPH_VERSION
from resnets.inference.predictions import DIGITS, Prediction
from resnets.inference.predictor import Predictor
from resnets.support import tensor_files
from resnets.support.errors import UserError, valid_utf8
from resnets.support.files import cache_folder, existing_folder, remember

FORMAT = 2
_FileState = tuple[int, int]
"""Size and time of change of a file; features are computed again if one of them differs."""
_Entry = tuple[_FileState, Tensor]
"""State of an image's file, and its features."""


@dataclass(frozen=True)
class Neighbour:
    """An image of a folder that is similar to another image.

    Args:
        image: its file.
        label: name of the folder that contains it; empty for the searched folder itself.
        similarity: cosine of the angle between the two pooled features; 1 is identical.
    """

    image: str
    label: str
    similarity: float

    def as_dict(self) -> dict[str, Any]:
        """The neighbour as JSON."""
        similarity = round(self.similarity, DIGITS)
        return {
            "image": valid_utf8(self.image),
            "class": valid_utf8(self.label),
            "similarity": similarity,
        }


@dataclass(frozen=True)
class Nearest:
    """The most similar images of a folder.

    Args:
        neighbours: the most similar first.
        itself: whether the image lies in the folder; it is then left out of its neighbours.
    """

    neighbours: list[Neighbour]
    itself: bool


@dataclass(frozen=True)
class FolderIndex:
    """The features of a folder's images.

    Args:
        folder: the folder.
        names: the images below it.
        files: device and inode of each image's file, by which an image is recognized as itself.
        features: float32 (N, channels), each of length 1.
        computed: how many of them were not in the cache.
        unreadable: images that are left out, with their errors.
    """

    folder: Path
    names: list[str]
    files: list[tuple[int, int]]
    features: Tensor
    computed: int
    unreadable: dict[str, str]


def index_folder(
    predictor: Predictor,
    folder: Path,
    batch: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FolderIndex:
    """Compute the features of all images of a folder and its subfolders.

    Features are kept in the cache even if the call is interrupted. Images that cannot be read are
    tried again by the next call, as a disk or network may have failed.

    Args:
        predictor: computes the features.
        folder: with images in any layout.
        batch: images that the network computes at a time.
        progress: called after each image with the number done and the number to compute.

    Raises:
        UserError: if the network has no pooled features, there is no such folder, or it has no
            readable images.
    """
    predictor.require_features("--nearest")
    existing_folder(folder)
    files = dict(_image_files(folder))
    # Copying tools preserve the date of a file's content; the other date shows the copying.
    states = {n: (one.st_size, max(one.st_mtime_ns, one.st_ctime_ns)) for n, one in files.items()}
    store = _store(predictor, folder)
    known = {n: e for n, e in _read(store).items() if n in states and e[0] == states[n]}
    todo = [name for name in states if name not in known]
    unreadable: dict[str, str] = {}
    done = 0
    try:
        paths = [str(folder / name) for name in todo]
        predictions = predictor.iter_predictions(paths, 1, batch=batch, embeddings=True)
        for name, prediction in zip(todo, predictions, strict=True):
            if prediction.error is not None:
                unreadable[name] = prediction.error
            else:
                known[name] = states[name], _unit_features(prediction)
            done += 1
            progress(done, len(todo))
    finally:
        if done > len(unreadable):
            _write(store, known)
    features = {name: known[name][1] for name in states if name in known}
    if not features:
        raise UserError("no readable images in this folder", str(folder))
    return FolderIndex(
        folder=folder,
        names=list(features),
        files=[(files[name].st_dev, files[name].st_ino) for name in features],
        features=torch.stack(list(features.values())),
        computed=len(todo) - len(unreadable),
        unreadable=unreadable,
    )


def _unit_features(prediction: Prediction) -> Tensor:
    """The pooled features of an image, scaled to length 1."""
    return F.normalize(torch.tensor(prediction.embedding), dim=0)


def nearest(
    predictor: Predictor, index: FolderIndex, images: Sequence[str], count: int = 5
) -> dict[str, Nearest]:
    """Find the images of an index most similar to each of some image files.

    Args:
        predictor: with which the index was computed.
        index: of a folder.
        images: files; one that lies in the folder is not its own neighbour.
        count: neighbours of each image, at most.

    Returns:
        The neighbours by image; images that cannot be read are left out.
    """
    similar = {}
    for prediction in predictor.iter_predictions(images, 1, embeddings=True):
        if prediction.error is not None:
            continue
        status = os.stat(prediction.image)  # noqa: PTH116 (a string)
        own = [n for n, file in enumerate(index.files) if file == (status.st_dev, status.st_ino)]
        similarities = index.features @ _unit_features(prediction)
        similarities[own] = -torch.inf
        best, order = similarities.topk(min(count, len(similarities) - len(own)))
        neighbours = [
            _neighbour(index, number, similarity)
            for number, similarity in zip(order.tolist(), best.tolist(), strict=True)
        ]
        similar[prediction.image] = Nearest(neighbours, itself=bool(own))
    return similar


def _neighbour(index: FolderIndex, number: int, similarity: float) -> Neighbour:
    path = Path(index.names[number])
    return Neighbour(str(index.folder / path), path.parent.name, similarity)


def _image_files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The image files of a folder and its subfolders, with their status."""
    for name in image_files(folder):
        with suppress(FileNotFoundError):  # removed in the meantime
            yield name, (folder / name).stat()


def _store(predictor: Predictor, folder: Path) -> Path:
    """The file in the cache for a folder's features by one network in one engine."""
    key = json.dumps([FORMAT, GRAPH_VERSION, predictor.digest, predictor.runtime.name])
    text = key.encode() + os.fsencode(folder.resolve())
    return cache_folder("neighbours", f"{hashlib.sha256(text).hexdigest()[:32]}.safetensors")


def _read(store: Path) -> dict[str, _Entry]:
    """The features in the cache by image; none if the file is absent or damaged."""
    try:
        with tensor_files.open_file(store, "pt") as file:
            rows = json.loads(file.metadata()["files"])
            features = file.get_tensor("features").clone()
        return {
            name: ((size, time), row)
            for (name, size, time), row in zip(rows, features, strict=True)
        }
    except (OSError, SafetensorError, ValueError, LookupError, TypeError):
        return {}


def _write(store: Path, known: dict[str, _Entry]) -> None:
    rows = [(name, *state) for name, (state, _) in known.items()]
    features = torch.stack([row for _, row in known.values()])
    remember(store, save({"features": features}, {"files": json.dumps(rows)}))
