"""Tests of classifiers: every image counts once; images are decoded while the network computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data.cifar import ImageArrays
from resnets.data.cifar_classes import with_classes
from resnets.data.images import decode, upright_size
from resnets.data.samples import Samples, random_indices, random_subset
from resnets.evaluation.protocols import (
    Dense,
    Scorer,
    Shape,
    Views,
    average_views,
    network_scorer,
)
from resnets.evaluation.scores import Scores, content_hash
from resnets.support.devices import cores
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.support.names import composed, counted, similar
from resnets.weights.model_file import Model

SINGLE_VIEW = "single view of the original 32x32 image"  # section 4.2
GROUPS_AHEAD = 2
"""Groups of images that are decoded ahead of the network."""

CPU = torch.device("cpu")

Progress = Callable[[int], None]
"""Called with the number of images tested so far."""


def _no_progress(images: int) -> None:
    pass


@dataclass(frozen=True)
class Classifier:
    """What a test needs of a model, whatever its engine.

    Args:
        name: what results call it.
        score: uint8 images to class probabilities.
        classes: class names, in the order of the probabilities.
        class_ids: identifiers of the classes, such as WordNet's, if it has any.
        device: where `score` takes its images.
    """

    name: str
    score: Scorer
    classes: Sequence[str]
    class_ids: Sequence[str] | None = None
    device: torch.device = CPU


def pytorch_classifier(
    model: Model, device: torch.device, views: Views | None = None
) -> Classifier:
    """A model in PyTorch, in float32.

    Args:
        model: its network is on `device`, in channels_last.
        device: where to compute.
        views: the protocol that it is to be tested by, if the images are photographs.
    """
    preprocessing = model.preprocessing if views is None else views.preprocessing
    window = None if views is None else views.window
    score = network_scorer(model.network, preprocessing.normalize(device), device, window)
    return Classifier(model.card["network"], score, model.classes, model.class_ids, device)


def score_photos(
    classifier: Classifier,
    samples: Samples,
    views: Views,
    *,
    batch: int,
    limit: int | None = None,
    world: World | None = None,
    progress: Progress = _no_progress,
) -> Scores | None:
    """Test a classifier on photographs.

    Process r of W tests the images r, r + W, ...: each once, whatever their number. The processes
    exchange nothing until all are done.

    Args:
        classifier: the model.
        samples: the images.
        views: the protocol.
        batch: crops to score at a time, or as many pixels of whole images.
        limit: test at most this many images, drawn at random.
        world: the processes that share the work.
        progress: called with the number of images that this process has tested.

    Returns:
        The scores, in the order of the images; None in processes other than the first.

    Raises:
        UserError: if the classifier does not know the images' classes, or an image cannot be
            read, naming it.
    """
    world, available = world or World(), len(samples)
    samples = random_subset(samples, limit)
    labels = labels_for(samples, classifier.classes, classifier.class_ids)
    own = range(world.rank, len(samples), world.size)
    gathered = world.each(
        lambda: _score_images(classifier, samples, own, views, batch=batch, progress=progress)
    )
    if gathered is None:
        return None
    probabilities = np.empty((len(samples), len(classifier.classes)), np.float32)
    contents = np.empty(len(samples), np.uint64)
    for rank, part in enumerate(gathered):
        probabilities[rank :: world.size], contents[rank :: world.size] = part
    finite = np.isfinite(probabilities).all(1)
    if not finite.all():
        first = samples.name(int(np.flatnonzero(~finite)[0]))
        raise UserError("the network's scores are not finite numbers", first)
    return Scores(
        probabilities=probabilities,
        labels=labels,
        names=tuple(samples.name(index) for index in range(len(samples))),
        contents=contents,
        classes=tuple(classifier.classes),
        protocol=_protocol(views.protocol, len(samples), available, samples.quarantined),
        model=classifier.name,
        class_ids=None if classifier.class_ids is None else tuple(classifier.class_ids),
    )


def score_cifar(
    classifier: Classifier,
    images: ImageArrays,
    *,
    batch: int | None = None,
    limit: int | None = None,
    progress: Progress = _no_progress,
) -> Scores:
    """Test a classifier on CIFAR's test images, or on `limit` of them drawn at random.

    Raises:
        UserError: if it was trained on other classes.
    """
    refuse_other_classes(classifier.name, classifier.classes, images.classes)
    index = random_indices(len(images), limit)
    tested = images.subset(index)
    return Scores(
        probabilities=score_array(classifier.score, tested, batch=batch, progress=progress),
        labels=tested.labels.astype(np.int64),
        names=tuple(f"test/{number:05}" for number in index),
        contents=np.array([content_hash(image.tobytes()) for image in tested.images], np.uint64),
        classes=images.classes,
        protocol=_protocol(SINGLE_VIEW, len(index), len(images)),
        model=classifier.name,
    )


def refuse_other_classes(model: str, known: Sequence[str], shown: Sequence[str]) -> None:
    """Raise `UserError` if a model was trained on other classes than those of CIFAR's images.

    Args:
        model: what the message calls the model.
        known: its classes.
        shown: the classes of the images.
    """
    if list(known) == list(shown):
        return
    names = [with_classes(classes) for classes in (shown, known)]
    other = f"say {names[1]}, or " if names[1] else ""
    raise UserError(
        f"the model was trained on other classes than those of {names[0] or 'the images'}",
        model,
        f"{other}give a folder with photos of its classes",
    )


def score_array(
    score: Scorer, data: ImageArrays, *, batch: int | None = None, progress: Progress = _no_progress
) -> NDArray[np.float32]:
    """Class probabilities (N, classes) of images in memory, each shown once as it is.

    Args:
        score: uint8 images to probabilities.
        data: the images.
        batch: images to score at a time; 500 by default.
        progress: called with the number of images tested.
    """
    batch, parts = batch or 500, []
    for start in range(0, len(data), batch):
        parts.append(score(torch.from_numpy(np.array(data.images[start : start + batch]))))
        progress(min(start + batch, len(data)))
    probabilities: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return probabilities


def _protocol(views: str, images: int, available: int, left_out: int = 0) -> str:
    """The protocol in words, and which images were tested if not all."""
    if left_out:
        views += f"; {left_out:,} in quarantine left out"
    if images == available:
        return views
    return f"{views}; {images:,} of {available:,} images at random"


def labels_for(
    samples: Samples, classes: Sequence[str], class_ids: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """The model's class number of each image.

    The images' classes are looked up among the model's by identifier or by name; the model may
    know more classes than the images show. Classes that are called 0, 1, ... and are as many as the
    model's are indices of its outputs.

    Args:
        samples: the images.
        classes: the model's class names.
        class_ids: identifiers of the model's classes, if it has any.

    Raises:
        UserError: if the model does not know a class.
    """
    known = len(classes)
    if samples.classes is None:
        beyond = np.flatnonzero(samples.labels >= known)
        if len(beyond):
            raise UserError(
                f"{samples.name(int(beyond[0]))} is of class number "
                f"{samples.labels[beyond[0]]}, but the model knows {known} classes",
                samples.location,
                "use a model with these classes, or fine-tune this one (resnets train --help)",
            )
        return samples.labels
    ids = class_ids or ()
    composed_names = [composed(name) for name in classes]
    numbers = {name: number for number, name in enumerate(composed_names)}
    ambiguous = {name for number, name in enumerate(composed_names) if numbers[name] != number}
    numbers |= {name: number for number, name in enumerate(ids)}
    table = np.full(len(samples.classes), -1, np.int64)
    present = [samples.classes[label] for label in np.unique(samples.labels)]
    by_index = {str(number) for number in range(known)} == set(samples.classes)
    if by_index and not numbers.keys() & set(samples.classes):
        return np.array([int(name) for name in samples.classes], np.int64)[samples.labels]
    for name in present:
        if composed(name) in ambiguous and name not in ids:
            raise UserError(
                f"class {name!r} is the name of several of the model's classes",
                samples.location,
                "name its folder by the class's identifier",
            )
        table[samples.classes.index(name)] = numbers.get(composed(name), -1)
    missing = [name for name in present if composed(name) not in numbers]
    if missing:
        more = counted(len(missing) - 1, "other", "others")
        others = f" (nor {'is' if len(missing) == 2 else 'are'} {more})" if len(missing) > 1 else ""
        raise UserError(
            f"class {missing[0]!r} is not among the model's {known} classes{others}",
            samples.location,
            _hint_for(missing, present, classes),
        )
    return table[samples.labels]


def _hint_for(missing: Sequence[str], present: Sequence[str], classes: Sequence[str]) -> str:
    """What to do about classes that a model does not know."""
    if other := similar(missing[0], classes):
        return f"it looks like the model's {other!r}: rename the folder"
    if all(name.isascii() and name.isdigit() for name in present):
        return "if these are indices of the model's outputs, list the images in a labels.tsv"
    these = "this class" if len(present) == 1 else f"these {len(present)} classes"
    return (
        f"use a model with {these}, or fine-tune this one "
        f"on {'it' if len(present) == 1 else 'them'} (resnets train --help)"
    )


def sample_name(samples: Samples, index: int) -> str:
    """An image's name in messages."""
    return f"{samples.location}: {samples.name(index)}"


@dataclass(frozen=True)
class _Decoded:
    """An image: its number, the hash of its file, and its views at every scale."""

    index: int
    content: int
    views: list[Tensor]


def _score_images(
    classifier: Classifier,
    samples: Samples,
    own: Sequence[int],
    views: Views,
    *,
    batch: int,
    progress: Progress,
) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    """Probabilities of the images `own` and hashes of their files, in their order."""
    budget, device = batch * views.preprocessing.size**2, classifier.device
    probabilities = np.empty((len(own), len(classifier.classes)), np.float32)
    contents = np.empty(len(own), np.uint64)
    rows = {index: row for row, index in enumerate(own)}
    done = 0
    pool = ThreadPoolExecutor(max_workers=min(cores(), 16))
    try:
        groups = _groups(samples, own, views, batch, pool)
        for decoded in _decode(samples, groups, views, pool):
            for image in decoded:
                contents[rows[image.index]] = image.content
            for images in _of_equal_shapes(decoded):
                scales = [torch.stack(s) for s in zip(*(i.views for i in images), strict=True)]
                found = average_views(
                    classifier.score, scales, flips=views.flips, budget=budget, device=device
                )
                probabilities[[rows[image.index] for image in images]] = found.cpu().numpy()
            done += len(decoded)
            progress(done)
    finally:
        pool.shutdown(cancel_futures=True)
    return probabilities, contents


def _groups(
    samples: Samples, own: Sequence[int], views: Views, batch: int, pool: ThreadPoolExecutor
) -> list[list[int]]:
    """Images to test together: at most `batch`, of the same size where views are whole images.

    The sizes come from the files' headers. They only serve to plan: `_of_equal_shapes` decides.
    """
    if not isinstance(views, Dense):
        return [list(own[start : start + batch]) for start in range(0, len(own), batch)]

    def size(index: int) -> tuple[int, int]:
        return upright_size(samples.read(index), sample_name(samples, index))

    by_shape: dict[tuple[Shape, ...], list[int]] = {}
    for index, (width, height) in zip(own, pool.map(size, own), strict=True):
        by_shape.setdefault(views.shapes(width, height), []).append(index)
    return [
        group[start : start + batch]
        for group in by_shape.values()
        for start in range(0, len(group), batch)
    ]


def _decode(
    samples: Samples, groups: list[list[int]], views: Views, pool: ThreadPoolExecutor
) -> Iterator[list[_Decoded]]:
    """The images of each group, in turn, while the next groups are being decoded."""

    def load(index: int) -> _Decoded:
        name, content = sample_name(samples, index), samples.read(index)
        image = decode(content, name)
        try:
            return _Decoded(index, content_hash(content), views.apply(image))
        except UserError as error:
            raise UserError(error.message, name, error.hint) from error

    waiting: deque[list[Future[_Decoded]]] = deque()
    for group in groups:
        waiting.append([pool.submit(load, index) for index in group])
        if len(waiting) > GROUPS_AHEAD:
            yield [future.result() for future in waiting.popleft()]
    while waiting:
        yield [future.result() for future in waiting.popleft()]


def _of_equal_shapes(images: list[_Decoded]) -> list[list[_Decoded]]:
    """The images, grouped by the shapes of their views."""
    groups: dict[tuple[torch.Size, ...], list[_Decoded]] = {}
    for image in images:
        groups.setdefault(tuple(views.shape for views in image.views), []).append(image)
    return list(groups.values())
