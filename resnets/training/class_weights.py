"""Weights of classes in the loss, for training images of which some classes have few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.support.errors import UserError, nearest


def class_weights(
    chosen: Literal["balanced"] | Mapping[str, float] | None,
    classes: Sequence[str],
    labels: NDArray[Any],
) -> Tensor | None:
    """The weight of each class in the loss, float32 (classes,); None if all images count the same.

    `balanced` is scikit-learn's: n / (k n_c), for n_c of n training images and k classes. All
    classes then add as much to the loss, and the mean weight of an image is 1. The loss of a batch
    is the sum of its images' weighted losses divided by their number, not by the sum of their
    weights: an image counts the same whatever batch, process or micro-batch it is in.

    Args:
        chosen: `balanced`; or a table, whose weights are used as they are.
        classes: class names, in the order of the labels.
        labels: the class of each training image. A class without images does not count in
            `balanced`; its weight is 1.

    Raises:
        UserError: if the table names a class that is not among `classes`.
    """
    if chosen is None:
        return None
    if chosen == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        present = np.count_nonzero(counts)
        weights = np.where(counts, len(labels) / (present * np.maximum(counts, 1)), 1.0)
        return torch.from_numpy(weights).float()
    for name in chosen:
        if name not in classes:
            raise UserError(
                f"the training images have no class {name!r}", "class_weights",
                nearest(name, classes),
            )  # fmt: skip
    return torch.tensor([chosen.get(name, 1.0) for name in classes], dtype=torch.float32)
