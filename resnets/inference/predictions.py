"""Predictions: the most probable classes of images, as data, JSON, text and HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.inference import TOP
from resnets.support.errors import UserError, valid_utf8
from resnets.weights.card import check_outputs

DIGITS = 5
"""Digits after the decimal point of probabilities in files and JSON."""


@dataclass(frozen=True)
class ClassProbability:
    """A class and its probability.

    Args:
        name: of the class.
        probability: in [0, 1].
        index: of its logit, from 0.
        id: identifier of the class, such as WordNet's `n02123045`; None if the model has none.
    """

    name: str
    probability: float
    index: int
    id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Name and rounded probability as JSON."""
        return {"class": valid_utf8(self.name), "probability": round(self.probability, DIGITS)}

    def __str__(self) -> str:
        """Such as `horse 99.9 %`."""
        return f"{self.name} {100 * self.probability:.1f} %"


@dataclass(frozen=True, repr=False)
class Prediction:
    """A model's prediction for one image, or the reason why there is none.

    Args:
        image: its file as it was named, or `images[0]` for the first image without a file.
        top: the most probable classes, best first; empty where there is an error.
        embedding: the pooled features, if they were requested.
        error: why the image could not be read.
    """

    image: str
    top: list[ClassProbability] = field(default_factory=list)
    embedding: tuple[float, ...] | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The prediction as JSON."""
        if self.error is not None:
            return {"image": valid_utf8(self.image), "error": valid_utf8(self.error)}
        facts = {"image": valid_utf8(self.image), "top": [entry.as_dict() for entry in self.top]}
        return facts if self.embedding is None else {**facts, "embedding": list(self.embedding)}

    def __repr__(self) -> str:
        """Such as `<Prediction of a.jpg: horse 99.9 %, deer 0.1 %>`."""
        text = ", ".join(map(str, self.top[:TOP])) if self.error is None else self.error
        return f"<Prediction of {self.image}: {text}>"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        title = f"<b>{html.escape(valid_utf8(self.image))}</b>"
        if self.error is not None:
            return f"<div>{title}: {html.escape(valid_utf8(self.error))}</div>"
        return f"<div>{title}{html_table(self.top)}</div>"


def html_table(top: Sequence[ClassProbability]) -> str:
    """Classes with bars of their probabilities, as an HTML table."""
    rows = "".join(
        f'<tr><td style="text-align:left">{html.escape(valid_utf8(entry.name))}</td>'
        f"<td>{100 * entry.probability:.2f} %</td>"
        f'<td><div style="background:#4c78a8;height:.7em;width:{10 * entry.probability:.2f}em">'
        "</div></td></tr>"
        for entry in top
    )
    return f"<table>{rows}</table>"


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (N, classes) of logits (N, classes)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(1, keepdims=True)
    return probabilities


def top_classes(
    logits: NDArray[np.float32],
    count: int,
    names: Sequence[str],
    ids: Sequence[str] | None = None,
) -> list[list[ClassProbability]]:
    """The most probable classes of each image, best first; of equal ones the first.

    Args:
        logits: (N, classes).
        count: of classes at most.
        names: of all classes.
        ids: of all classes, if they have some.
    """
    try:
        check_outputs(logits.shape[1], names)
    except ValueError as error:  # an export whose file was replaced
        raise UserError(str(error)) from error
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    best = np.take_along_axis(probabilities, order, 1)
    return [
        [
            ClassProbability(names[index], probability, index, ids[index] if ids else None)
            for index, probability in zip(indices, row, strict=True)
        ]
        for indices, row in zip(order.tolist(), best.tolist(), strict=True)
    ]
