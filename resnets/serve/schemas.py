"""The JSON of requests and responses, as the OpenAPI description shows it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from resnets.analysis import activation_maps
from resnets.serve.problems import MEDIA_TYPE, ProblemDocument


def _whole(low: int, high: int) -> BeforeValidator:
    """A whole number of the query in decimal digits: Python would also read 1_0, +1 and Arabic."""

    def read(text: object) -> int:
        if re.fullmatch("[0-9]{1,9}", str(text)) and low <= int(str(text)) <= high:
            return int(str(text))
        raise _bad_number(f"a whole number from {low:,} to {high:,}", "digits only")

    return BeforeValidator(read)


def _share(text: object) -> float:
    """A number of the query from 0 to 1, such as 0.5 or 1e-05."""
    if re.fullmatch(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]-?[0-9]{1,3})?", str(text)):
        number = float(str(text))
        if 0 <= number <= 1:
            return number
    raise _bad_number("a number from 0 to 1", "such as 0.5")


def _bad_number(wanted: str, hint: str) -> PydanticCustomError:
    return PydanticCustomError(BAD_NUMBER, "must be {wanted}", {"wanted": wanted, "hint": hint})


BAD_NUMBER = "bad_number"
"""Pydantic's name of an error of a number of the query; its context has a `hint`."""
ModelName = Annotated[str | None, Query(description="A name of /v1/models; the first by default.")]
Top = Annotated[
    int, Query(ge=1, le=1000, description="How many classes to return."), _whole(1, 1000)
]
ClassName = Annotated[
    str | None,
    Query(alias="class", description="Index or name of the class to explain; the best by default."),
]
Score = Annotated[
    float, Query(ge=0, le=1, description="Minimum score of an object."), BeforeValidator(_share)
]
Limit = Annotated[
    int, Query(ge=1, le=1000, description="How many objects to return."), _whole(1, 1000)
]
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_PROBLEMS = {
    400: "malformed request, or a model of another task",
    401: "the token is missing or wrong",
    403: "sent by a page of another site",
    404: "no such model or class",
    408: "the body came too slowly",
    409: "the model has no weights file for explanations",
    413: "too many bytes or images",
    415: "unsupported content type or encoding",
    421: "the Host header is none of the server's names",
    422: "the image cannot be read, or has too many pixels",
    500: "the server failed",
    503: "the server is busy or stopping",
    504: "no response within the time limit",
}


def _problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI descriptions of a route's error responses."""
    schema = {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}
    content = {MEDIA_TYPE: {"schema": schema}}
    return {status: {"description": _PROBLEMS[status], "content": content} for status in statuses}


EXPLAIN_PROBLEMS = _problem_responses(*_PROBLEMS)
PREDICT_PROBLEMS = _problem_responses(*(status for status in _PROBLEMS if status != 409))
MODELS_PROBLEMS = _problem_responses(401, 421, 503)


def _body(form: dict[str, Any], json: dict[str, Any], raw: bool) -> dict[str, Any]:
    content: dict[str, Any] = {
        kind: {
            "schema": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        }
        for kind, properties in (("multipart/form-data", form), ("application/json", json))
    }
    if raw:
        content |= {"image/*": _BYTES, "application/octet-stream": _BYTES}
    return {"requestBody": {"required": True, "content": content}}


IMAGE_BODY = _body({"image": _BYTES["schema"]}, {"image": _BASE64}, raw=True)
IMAGES_BODY = _body(
    {"image": {"type": "array", "items": _BYTES["schema"]}},
    {"images": {"type": "array", "items": _BASE64}},
    raw=False,
)


class ClassProbability(BaseModel):
    """A class and its probability."""

    class_: str = Field(alias="class")
    index: int
    probability: float


class Image(BaseModel):
    """Size in pixels and format of an upright image."""

    width: int
    height: int
    format: str


class ImagePrediction(BaseModel):
    """The most probable classes of an image."""

    top: list[ClassProbability]
    image: Image


class ImageProblem(BaseModel):
    """The reason why an image has no prediction."""

    problem: ProblemDocument


class Prediction(ImagePrediction):
    """The response for one image."""

    model: str
    milliseconds: dict[str, float]
    batch: int


class Predictions(BaseModel):
    """The response for several images, in their order."""

    model: str
    answers: list[ImagePrediction | ImageProblem]
    milliseconds: dict[str, float]


class DetectedObject(BaseModel):
    """An object in an image; `box` is left, top, right and bottom in its pixels.

    `polygons`, of detectors of masks, are the outlines of its shape as x, y, x, y, ..., the largest
    first; a pixel inside an even number of them, as in a hole, is not of the object.
    """

    category: str
    index: int
    score: float
    box: list[float]
    polygons: list[list[float]] | None = None


class DetectedObjects(BaseModel):
    """The objects in an image, best first."""

    model: str
    objects: list[DetectedObject]
    image: Image
    milliseconds: dict[str, float]


class StageMap(BaseModel):
    """A map of the evidence for a class, and statistics of the stage's output."""

    stage: str
    method: str
    height: int
    width: int
    values: list[float]
    channels: int
    mean: float
    deviation: float
    active: float

    @classmethod
    def of(cls, stage: activation_maps.StageMap) -> StageMap:
        """The same as JSON, rounded."""
        height, width = stage.values.shape
        return cls(
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


class Explanation(BaseModel):
    """The evidence for a class in an image, for each stage of the network."""

    model: str
    class_: str = Field(alias="class")
    index: int
    probability: float
    top: list[ClassProbability]
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
    """A model of the server."""

    name: str
    task: str
    network: str
    default: bool
    runtime: str
    classes: list[str]
    size: int
    layers: int
    parameters: int | None
    explains: bool
    measured: list[dict[str, Any]]
    stages: list[Stage]


class Models(BaseModel):
    """The models of the server, and the limits of a request."""

    models: list[Model]
    limits: dict[str, int]
