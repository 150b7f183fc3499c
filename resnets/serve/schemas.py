"""The JSON of requests and answers, as the OpenAPI description tells it."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, Field

from resnets.analysis import activation_maps
from resnets.serve.batching import rank
from resnets.serve.decoding import Picture
from resnets.serve.problems import TYPE
from resnets.serve.served_model import Served

Top = Annotated[int, Query(ge=1, le=1000, description="Classes to name.")]
Class = Annotated[
    int | None, Query(alias="class", ge=0, description="The class to explain, by number.")
]
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_REFUSALS = {
    400: "malformed", 401: "no token", 403: "a page of another site sent this",
    404: "no such model or class", 408: "too slow a body",
    409: "no weights beside the model that could explain", 413: "too many bytes or images",
    415: "no type of content that is taken", 421: "not a name of this server",
    422: "the image cannot be read, or has too many pixels", 500: "the server failed",
    503: "too much to do, or stopping", 504: "not done in time",
}  # fmt: skip


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route may refuse."""
    content = {TYPE: {"schema": {"type": "object"}}}
    return {status: {"description": _REFUSALS[status], "content": content} for status in statuses}


EXPLAINING = problems(*_REFUSALS)
ANSWERING = problems(*(status for status in _REFUSALS if status != 409))
LISTING = problems(401, 421, 503)


def _body(form: dict[str, Any], json: dict[str, Any], raw: bool) -> dict[str, Any]:
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": {"type": "object", "properties": form}},
        "application/json": {"schema": {"type": "object", "properties": json}},
    }
    if raw:
        content |= {"image/*": _BYTES, "application/octet-stream": _BYTES}
    return {"requestBody": {"required": True, "content": content}}


ONE = _body({"image": _BYTES["schema"]}, {"image": _BASE64}, raw=True)
SEVERAL = _body(
    {"image": {"type": "array", "items": _BYTES["schema"]}},
    {"images": {"type": "array", "items": _BASE64}},
    raw=False,
)


class Named(BaseModel):
    """A class with its probability."""

    class_: str = Field(alias="class")
    index: int
    probability: float


class Image(BaseModel):
    """The upright image."""

    width: int
    height: int
    format: str


class Answer(BaseModel):
    """What is on an image."""

    top: list[Named]
    image: Image


class Refusal(BaseModel):
    """Why an image has no answer."""

    problem: dict[str, Any]


class Prediction(Answer):
    """What is on an image, and how long that took."""

    model: str
    milliseconds: dict[str, float]
    batch: int


class Predictions(BaseModel):
    """What is on several images, in their order."""

    model: str
    answers: list[Answer | Refusal]
    milliseconds: dict[str, float]


class StageMap(BaseModel):
    """Where a stage has its reasons, and what it answers."""

    stage: str
    method: str
    height: int
    width: int
    values: list[float]
    channels: int
    mean: float
    deviation: float
    active: float


class Explanation(BaseModel):
    """Why a network answers so."""

    model: str
    class_: str = Field(alias="class")
    index: int
    probability: float
    top: list[Named]
    crop: dict[str, float]
    image: Image
    stages: list[StageMap]
    milliseconds: dict[str, float]


class Stage(BaseModel):
    """A stage of a network."""

    stage: str
    blocks: int
    block: str
    shortcut: str
    channels: int
    height: int
    width: int


class Model(BaseModel):
    """A model that is served."""

    name: str
    network: str
    default: bool
    runtime: str
    classes: list[str]
    size: int
    layers: int
    parameters: int
    explains: bool
    measured: list[dict[str, Any]]
    stages: list[Stage]


class Models(BaseModel):
    """What is served, and how much a request may hold."""

    models: list[Model]
    limits: dict[str, int]


def explanation(
    served: Served,
    picture: Picture,
    found: activation_maps.Explanation,
    top: int,
    start: float,
    before: float,
) -> Explanation:
    """An explanation as JSON."""
    now = time.perf_counter()
    facts = {
        "model": served.name,
        "class": served.predictor.classes[found.index],
        "index": found.index,
        "probability": round(float(found.probabilities[found.index]), 6),
        "top": served.top(rank(found.logits[None])[0], top),
        "crop": picture.crop,
        "image": picture.facts,
        "stages": [_stage(stage) for stage in found.stages],
        "milliseconds": {
            "decode": round(1000 * picture.seconds, 2),
            "explain": round(1000 * (now - before), 2),
            "total": round(1000 * (now - start), 2),
        },
    }
    return Explanation.model_validate(facts)


def _stage(stage: activation_maps.StageMap) -> StageMap:
    height, width = stage.values.shape
    return StageMap(
        stage=stage.stage,
        method=stage.method,
        height=height,
        width=width,
        values=[round(value, 3) for value in stage.values.flatten().tolist()],
        channels=stage.channels,
        mean=round(stage.mean, 4),
        deviation=round(stage.deviation, 4),
        active=round(stage.active, 4),
    )
