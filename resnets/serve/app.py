"""The routes of the server."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from resnets.inference import TOP
from resnets.serve import schemas, static_files
from resnets.serve.bodies import BodyMemory, Reserve, read_image, read_images
from resnets.serve.keys import check_query
from resnets.serve.limits import Limits
from resnets.serve.middleware import Metrics, Middleware, Names, RequestLog
from resnets.serve.problems import CLIENT_CLOSED_REQUEST, Problem, busy
from resnets.serve.served_detector import ServedDetector
from resnets.serve.served_model import ServedModel
from resnets.version import __version__

SCORE, LIMIT = 0.5, 100
"""Minimum score and number of objects by default."""
_ROUTES = {
    ServedModel.task: ("/v1/predict", "classifier"),
    ServedDetector.task: ("/v1/detect", "detector"),
}
"""For each task its route, and what its models are called."""
_DESCRIPTION = """Image classification and object detection with deep residual networks.
Errors are problem documents (RFC 9457)."""


@dataclass
class AppState:
    """The state that all routes share.

    Args:
        models: by name; the first one of each task is its default.
        token: that requests need; None if they need none.
        stopping: whether the server only finishes accepted requests.
    """

    models: dict[str, ServedModel | ServedDetector]
    limits: Limits
    token: str | None = None
    stopping: bool = False
    bodies: BodyMemory = field(init=False)

    def __post_init__(self) -> None:
        decoders = next(iter(self.models.values())).decoders  # shared by all models
        self.bodies = BodyMemory(self.limits, decoders.abandoned_bytes)

    def classifier(self, name: str | None) -> ServedModel:
        """The classifier of this name, by default the first; raises `Problem`."""
        found = self._model(name, ServedModel.task)
        assert isinstance(found, ServedModel)
        return found

    def detector(self, name: str | None) -> ServedDetector:
        """The detector of this name, by default the first; raises `Problem`."""
        found = self._model(name, ServedDetector.task)
        assert isinstance(found, ServedDetector)
        return found

    def is_default(self, model: ServedModel | ServedDetector) -> bool:
        """Whether it is the first of its task."""
        return model is next(one for one in self.models.values() if one.task == model.task)

    def _model(self, name: str | None, task: str) -> ServedModel | ServedDetector:
        """The model of this name, by default the first of a task.

        Raises:
            Problem: 404 if there is none, 400 if it has another task.
        """
        if name is None:
            suited = [one for one in self.models.values() if one.task == task]
            found = (suited or list(self.models.values()))[0]
        elif name in self.models:
            found = self.models[name]
        else:
            known = ", ".join(self.models)
            raise Problem(404, f"no model {name[:100]!r}", f"known: {known}")
        if found.task != task:
            route, kind = _ROUTES[found.task]
            raise Problem(400, f"{found.name} is a {kind}", f"send images to {route}")
        return found

    def check_access(self, request: Request) -> None:
        """Raise `Problem` if the server is stopping (503), or the token is wrong (401)."""
        if self.stopping:
            raise busy("the server is stopping", 5)
        if self.token is not None:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            matches = hmac.compare_digest(token.strip().encode(), self.token.encode())
            if scheme.lower() != "bearer" or not matches:
                raise Problem(
                    401,
                    "a token is required",
                    "send Authorization: Bearer TOKEN",
                    {"WWW-Authenticate": "Bearer"},
                )

    @asynccontextmanager
    async def accept_body(self) -> AsyncIterator[Reserve]:
        """Reserve memory for a request's body; raises `Problem` (504) at the time limit."""
        timeout = self.limits.timeout
        with self.bodies.for_request() as reserve:
            try:
                async with asyncio.timeout(timeout):
                    yield reserve
            except TimeoutError as error:
                raise Problem(504, f"no response within {timeout:g} seconds") from error


def create_app(
    models: Sequence[ServedModel | ServedDetector],
    *,
    limits: Limits,
    metrics: Metrics,
    samples: static_files.SampleImages,
    token: str | None = None,
    log: RequestLog | None = None,
    names: Names | None = None,
) -> FastAPI:
    """The server's application; `app.state.shared` is its `AppState`.

    Args:
        models: the first one of each task is its default.
        token: that requests need; None if they need none.
        log: of requests; None for no log.
        names: under which the server may be called; by default any, below no path.
    """
    state = AppState({model.name: model for model in models}, limits, token)
    app = FastAPI(
        title="resnets",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would lead from https to http behind a proxy
    )
    app.state.shared = state
    names = names or Names()
    if names.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(names.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-Request-Id"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.add_middleware(Middleware, metrics=metrics, log=log or RequestLog(None), names=names)
    _add_error_handlers(app)
    _add_prediction_routes(app, state)
    _add_explanation_route(app, state)
    _add_detection_route(app, state)
    _add_model_list(app, state)
    _add_operation_routes(app, state, metrics)
    static_files.add_routes(app, samples)
    if token is not None:
        _describe_token(app)
    return app


def _describe_token(app: FastAPI) -> None:
    """Say in the OpenAPI schema that requests need a token, so that `/docs` can send it."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        schema = describe()
        schemes = schema["components"].setdefault("securitySchemes", {})
        schemes["token"] = {"type": "http", "scheme": "bearer"}
        schema["security"] = [{"token": []}]
        return schema

    app.openapi = described  # type: ignore[method-assign]


def _add_error_handlers(app: FastAPI) -> None:
    """Turn every error into a problem document."""

    def request_id(request: Request) -> str:
        return str(request.scope.get("id", ""))

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return error.response(request_id(request))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name, detail, hint = str(first["loc"][-1]), first["msg"], ""
        if first["type"] == schemas.BAD_NUMBER:
            detail, hint = f"{detail}, not {str(first['input'])[:100]!r}", first["ctx"]["hint"]
        return Problem(400, f"{name}: {detail}", hint).response(request_id(request))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        headers, hint = dict(error.headers or {}), ""
        if error.status_code == 404:
            slash = request.url.path.endswith("/")
            hint = "leave out the slash at the end" if slash else "see /docs"
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"
        problem = Problem(error.status_code, str(error.detail), hint, headers)
        return problem.response(request_id(request))


def _add_prediction_routes(app: FastAPI, state: AppState) -> None:
    limits = state.limits

    @app.post(
        "/v1/predict",
        responses=schemas.PREDICT_PROBLEMS,
        openapi_extra=schemas.IMAGE_BODY,
        tags=["answers"],
    )
    async def predict(
        request: Request, model: schemas.ModelName = None, top: schemas.Top = TOP
    ) -> schemas.Prediction:
        """Predict the most probable classes of an image."""
        start = time.perf_counter()
        state.check_access(request)
        check_query(request, "model", "top")
        served = state.classifier(model)
        served.batcher.check_room(1)  # before the body is read
        async with state.accept_body() as reserve:
            content = await read_image(request, limits, reserve)
            with served.batcher.accept(1) as accepted:
                async with _cancelled_on_disconnect(request):
                    image, result = await served.predict(content, accepted)
        answer = {
            "model": served.name,
            "top": served.top(result.output, top),
            "image": image.properties,
            "milliseconds": {
                "decode": _milliseconds(image.seconds),
                "queue": _milliseconds(result.queue_seconds),
                "network": _milliseconds(result.network_seconds),
                "total": _milliseconds(time.perf_counter() - start),
            },
            "batch": result.batch,
        }
        return schemas.Prediction.model_validate(answer)

    @app.post(
        "/v1/predict/batch",
        responses=schemas.PREDICT_PROBLEMS,
        openapi_extra=schemas.IMAGES_BODY,
        response_model_exclude_none=True,  # optional keys of problem documents
        tags=["answers"],
    )
    async def predict_batch(
        request: Request, model: schemas.ModelName = None, top: schemas.Top = TOP
    ) -> schemas.Predictions:
        """Predict the classes of several images; unreadable ones do not stop the others."""
        start = time.perf_counter()
        state.check_access(request)
        check_query(request, "model", "top")
        served = state.classifier(model)
        served.batcher.check_room(1)
        async with state.accept_body() as reserve:
            contents = await read_images(request, limits, reserve)
            with served.batcher.accept(len(contents)) as accepted:
                async with _cancelled_on_disconnect(request):
                    results = await asyncio.gather(
                        *(served.predict(content, accepted) for content in contents),
                        return_exceptions=True,
                    )
        answers: list[dict[str, Any]] = []
        for result in results:
            if isinstance(result, Problem):
                answers.append({"problem": result.as_dict()})
            elif isinstance(result, BaseException):
                raise result
            else:
                image, computed = result
                answers.append({"top": served.top(computed.output, top), "image": image.properties})
        total = _milliseconds(time.perf_counter() - start)
        response = {"model": served.name, "answers": answers, "milliseconds": {"total": total}}
        return schemas.Predictions.model_validate(response)


def _add_explanation_route(app: FastAPI, state: AppState) -> None:
    @app.post(
        "/v1/explain",
        responses=schemas.EXPLAIN_PROBLEMS,
        openapi_extra=schemas.IMAGE_BODY,
        tags=["answers"],
    )
    async def explain(
        request: Request,
        model: schemas.ModelName = None,
        class_: schemas.ClassName = None,
        top: schemas.Top = TOP,
    ) -> schemas.Explanation:
        """Map the evidence for a class in an image, for each stage of the network."""
        start = time.perf_counter()
        state.check_access(request)
        check_query(request, "model", "class", "top")
        served = state.classifier(model)
        index = None if class_ is None else served.find_class(class_)
        served.check_explanations()
        async with state.accept_body() as reserve:
            content = await read_image(request, state.limits, reserve)
            with served.accept_explanation():
                async with _cancelled_on_disconnect(request):
                    image = await served.decode(content)
                    decoded = time.perf_counter()
                    explanation = await served.explain(image, index)
        now = time.perf_counter()
        answer = {
            "model": served.name,
            "class": served.classes[explanation.index],
            "index": explanation.index,
            "probability": round(float(explanation.probabilities[explanation.index]), 6),
            "top": served.top(explanation.logits.numpy(), top),
            "crop": image.crop,
            "image": image.properties,
            "stages": [schemas.StageMap.of(stage) for stage in explanation.stages],
            "milliseconds": {
                "decode": _milliseconds(image.seconds),
                "explain": _milliseconds(now - decoded),
                "total": _milliseconds(now - start),
            },
        }
        return schemas.Explanation.model_validate(answer)


def _add_detection_route(app: FastAPI, state: AppState) -> None:
    @app.post(
        "/v1/detect",
        responses=schemas.PREDICT_PROBLEMS,
        openapi_extra=schemas.IMAGE_BODY,
        response_model_exclude_none=True,
        tags=["answers"],
    )
    async def detect(
        request: Request,
        model: schemas.ModelName = None,
        score: schemas.Score = SCORE,
        limit: schemas.Limit = LIMIT,
    ) -> schemas.DetectedObjects:
        """Find the objects in an image."""
        start = time.perf_counter()
        state.check_access(request)
        check_query(request, "model", "score", "limit")
        served = state.detector(model)
        served.batcher.check_room(1)
        async with state.accept_body() as reserve:
            content = await read_image(request, state.limits, reserve)
            with served.batcher.accept(1) as accepted:
                async with _cancelled_on_disconnect(request):
                    image, result = await served.detect(content, accepted)
        answer = {
            "model": served.name,
            "objects": served.objects(image, result.output, score, limit),
            "image": image.properties,
            "milliseconds": {
                "decode": _milliseconds(image.seconds),
                "queue": _milliseconds(result.queue_seconds),
                "network": _milliseconds(result.network_seconds),
                "total": _milliseconds(time.perf_counter() - start),
            },
        }
        return schemas.DetectedObjects.model_validate(answer)


def _add_model_list(app: FastAPI, state: AppState) -> None:
    @app.get("/v1/models", responses=schemas.MODELS_PROBLEMS, tags=["facts"])
    async def models(request: Request) -> schemas.Models:
        """List the models, and the limits of a request."""
        state.check_access(request)
        check_query(request)
        listed = [
            {**served.description, "default": state.is_default(served)}
            for served in state.models.values()
        ]
        bounds = {key: getattr(state.limits, key) for key in ("bytes", "pixels", "images")}
        return schemas.Models.model_validate({"models": listed, "limits": bounds})


def _add_operation_routes(app: FastAPI, state: AppState, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """Check that the process runs."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operation"])
    async def readyz() -> dict[str, str]:
        """Check that the server accepts requests: models are loaded, and it is not stopping."""
        if state.stopping:
            raise busy("the server is stopping", 5)
        return {"status": "ok"}

    @app.get("/metrics", tags=["operation"])
    async def metrics_text() -> Response:
        """Return metrics for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


@asynccontextmanager
async def _cancelled_on_disconnect(request: Request) -> AsyncIterator[None]:
    """Cancel what runs inside when the client disconnects; raises `Problem` (499) then."""
    task, disconnected = asyncio.current_task(), False
    assert task is not None

    async def watch() -> None:
        nonlocal disconnected
        while (await request.receive())["type"] != "http.disconnect":
            pass
        disconnected = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError as error:
        if not disconnected:
            raise
        task.uncancel()
        raise Problem(CLIENT_CLOSED_REQUEST, "the client has disconnected") from error
    finally:
        watcher.cancel()


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)
