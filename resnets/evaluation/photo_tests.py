"""Tests of models on photographs: decoded while the network computes, every image once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data.cifar10 import CLASSES, Images
from resnets.data.images import decode, upright_size
from resnets.data.samples import Samples, random_indices, random_subset
from resnets.evaluation.protocols import Dense, Shape, Views, score
from resnets.evaluation.results import SINGLE_VIEW, probabilities
from resnets.evaluation.scores import Scores, content_hash
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.weights.model_file import Model

AHEAD = 2
"""Groups of images that are decoded before the network wants them."""

Loaded = list[tuple[int, int, list[Tensor]]]
"""An image's number, the hash of its content, its pictures."""
Rows = tuple[NDArray[np.float32], NDArray[np.uint64]]
"""Probabilities and hashes of images' contents."""


def run_test(
    model: Model,
    samples: Samples,
    views: Views,
    device: torch.device,
    batch: int,
    limit: int | None = None,
    we: World | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Scores | None:
    """Test a model on photographs, in float32.

    Process r of W tests the images r, r + W, ...: none twice, whatever their number. Nothing
    is exchanged until all are done.

    Args:
        model: its network on `device`, in channels_last; its mode is restored.
        samples: the images.
        views: how they are shown.
        device: where to compute.
        batch: crops that the network is given at a time, or as many pixels of whole images.
        limit: test only so many images, drawn at random.
        we: the processes that share the work.
        progress: told the number of images done by this process.

    Returns:
        The scores, in the order of the images; None in processes other than the first.

    Raises:
        UserError: if the images' classes are not the model's, or an image cannot be read,
            naming it.
    """
    we, whole = we or World(), len(samples)
    samples = random_subset(samples, limit)
    labels = labels_for(samples, model)
    mine = range(we.rank, len(samples), we.size)
    gathered = we.each(lambda: _rows(model, samples, mine, views, device, batch, progress))
    if gathered is None:
        return None
    chances = np.empty((len(samples), len(model.classes)), np.float32)
    contents = np.empty(len(samples), np.uint64)
    for rank, part in enumerate(gathered):
        chances[rank :: we.size], contents[rank :: we.size] = part
    if not np.isfinite(chances).all():
        first = samples.name(int(np.flatnonzero(~np.isfinite(chances).all(1))[0]))
        raise UserError("the network's scores are not finite numbers", first)
    names = tuple(samples.name(index) for index in range(len(samples)))
    ids = model.class_ids
    return Scores(
        chances,
        labels,
        names,
        contents,
        tuple(model.classes),
        _told(views.protocol, len(samples), whole, samples.quarantined),
        model.card["network"],
        None if ids is None else tuple(ids),
    )


def run_cifar10(
    model: Model,
    images: Images,
    device: torch.device,
    limit: int | None = None,
    batch: int | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Scores:
    """Test a model on CIFAR-10's test images, or on `limit` of them drawn at random.

    Raises:
        UserError: if the model was trained on other classes.
    """
    if model.classes != list(CLASSES):
        raise UserError(
            "the model was trained on other classes than CIFAR-10's",
            model.card["network"],
            "give a folder with photos of its classes",
        )
    whole = len(images)
    index = random_indices(whole, limit)
    normalize, classes = model.normalize(device), len(model.classes)
    images = images.subset(index)
    chances = probabilities(
        model.network, images, normalize, device, classes, batch or 500, progress
    )
    names = tuple(f"test/{number:05}" for number in index)
    labels = images.labels.astype(np.int64)
    contents = np.array([content_hash(image.tobytes()) for image in images.images], np.uint64)
    protocol = _told(SINGLE_VIEW, len(index), whole)
    return Scores(chances, labels, names, contents, CLASSES, protocol, model.card["network"])


def _told(protocol: str, images: int, whole: int, left_out: int = 0) -> str:
    if left_out:
        protocol += f"; {left_out:,} in quarantine left out"
    return protocol if images == whole else f"{protocol}; {images:,} of {whole:,} images at random"


def labels_for(samples: Samples, model: Model) -> NDArray[np.int64]:
    """Which of a model's outputs is right for each image.

    Class folders are found among the model's classes by identifier or by name; the model may
    know more classes than the images show.

    Raises:
        UserError: if a class is none of the model's.
    """
    known = len(model.classes)
    if samples.classes is None:
        beyond = np.flatnonzero(samples.labels >= known)
        if len(beyond):
            raise UserError(
                f"{samples.name(int(beyond[0]))} is of class number "
                f"{samples.labels[beyond[0]]}, but the model knows {known} classes",
                samples.location,
                "take a model of these classes, or fine-tune this one (resnets train --help)",
            )
        return samples.labels
    numbers = {name: number for number, name in enumerate(model.classes)}
    twice = {name for number, name in enumerate(model.classes) if numbers[name] != number}
    numbers |= {name: number for number, name in enumerate(model.class_ids or ())}
    table = np.full(len(samples.classes), -1, np.int64)
    shown = [samples.classes[label] for label in np.unique(samples.labels)]
    for name in shown:
        if name in twice and name not in (model.class_ids or ()):
            raise UserError(
                f"class {name!r} is the name of several of the model's",
                samples.location,
                "name its folder by the class's identifier",
            )
        table[samples.classes.index(name)] = numbers.get(name, -1)
    missing = [name for name in shown if name not in numbers]
    if missing:
        others = f" (nor are {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise UserError(
            f"class {missing[0]!r} is not among the model's {known} classes{others}",
            samples.location,
            f"take a model of these {len(shown)} classes, or fine-tune this one on them "
            "(resnets train --help)",
        )
    return table[samples.labels]


@torch.no_grad()
def _rows(
    model: Model,
    samples: Samples,
    mine: Sequence[int],
    views: Views,
    device: torch.device,
    batch: int,
    progress: Callable[[int], None],
) -> Rows:
    """Probabilities of the images `mine` and hashes of their contents, in their order."""
    normalize, budget = views.look.normalize(device), batch * views.look.size**2
    chances = np.empty((len(mine), len(model.classes)), np.float32)
    contents = np.empty(len(mine), np.uint64)
    place = {index: row for row, index in enumerate(mine)}
    done = 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool = ThreadPoolExecutor(max_workers=min(cores or 1, 16))
    was_training = model.network.training
    model.network.eval()
    try:
        groups = _groups(samples, mine, views, batch, pool)
        for loaded in _decoded(samples, groups, views, pool):
            for index, content, _ in loaded:
                contents[place[index]] = content
            for indices, scales in _alike(loaded):
                found = score(views, model.network, normalize, device, scales, budget)
                chances[[place[i] for i in indices]] = found.cpu().numpy()
            done += len(loaded)
            progress(done)
    finally:
        pool.shutdown(cancel_futures=True)
        model.network.train(was_training)
    return chances, contents


def _groups(
    samples: Samples, mine: Sequence[int], views: Views, batch: int, pool: ThreadPoolExecutor
) -> list[list[int]]:
    """Images to test together: at most `batch`, of the same size where pictures are whole images.

    The sizes are read from the files' headers, which is a plan only: see `_alike`.
    """
    if not isinstance(views, Dense):
        return [list(mine[start : start + batch]) for start in range(0, len(mine), batch)]
    alike: dict[tuple[Shape, ...], list[int]] = {}
    sizes = pool.map(lambda index: upright_size(samples.read(index), named(samples, index)), mine)
    for index, (width, height) in zip(mine, sizes, strict=True):
        alike.setdefault(views.shapes(width, height), []).append(index)
    return [
        group[start : start + batch]
        for group in alike.values()
        for start in range(0, len(group), batch)
    ]


def named(samples: Samples, index: int) -> str:
    """An image's name in messages."""
    return f"{samples.location}: {samples.name(index)}"


def _decoded(
    samples: Samples, groups: list[list[int]], views: Views, pool: ThreadPoolExecutor
) -> Iterator[Loaded]:
    """The pictures of each group, those of the next ones being decoded meanwhile."""

    def load(index: int) -> tuple[int, int, list[Tensor]]:
        name, content = named(samples, index), samples.read(index)
        image = decode(content, name)
        try:
            return index, content_hash(content), views.pictures(image)
        except UserError as error:
            raise UserError(error.message, name, error.hint) from error

    waiting: deque[list[Future[tuple[int, int, list[Tensor]]]]] = deque()
    for group in groups:
        waiting.append([pool.submit(load, index) for index in group])
        if len(waiting) > AHEAD:
            yield [future.result() for future in waiting.popleft()]
    while waiting:
        yield [future.result() for future in waiting.popleft()]


def _alike(loaded: Loaded) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Images whose pictures have the same sizes: their numbers, and the pictures of each scale."""
    alike: dict[tuple[torch.Size, ...], list[tuple[int, list[Tensor]]]] = {}
    for index, _, scales in loaded:
        alike.setdefault(tuple(pictures.shape for pictures in scales), []).append((index, scales))
    for members in alike.values():
        every = zip(*(scales for _, scales in members), strict=True)
        yield [index for index, _ in members], [torch.stack(list(scale)) for scale in every]
