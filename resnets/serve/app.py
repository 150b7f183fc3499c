"""The routes of the server."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from resnets.serve import bodies, schemas, static_files
from resnets.serve.limits import Limits
from resnets.serve.log import Log
from resnets.serve.metrics import Metrics
from resnets.serve.middleware import Outside
from resnets.serve.problems import GONE, Problem, busy
from resnets.serve.served_model import Served
from resnets.version import __version__

ABOUT = "Classifies images with deep residual networks. Errors are problem documents (RFC 9457)."


@dataclass
class State:
    """What the routes share.

    Args:
        models: the first answers where a request names none.
        stopping: the server finishes what it took, and takes nothing new.
    """

    models: dict[str, Served]
    limits: Limits
    metrics: Metrics
    token: str | None = None
    stopping: bool = False
    bodies: bodies.Bodies = field(init=False)

    def __post_init__(self) -> None:
        decoders = self.model(None).decoders  # shared by all
        self.bodies = bodies.Bodies(self.limits, decoders.left)

    def model(self, name: str | None) -> Served:
        """A model by its name; raises `Problem`."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(self.models)
            raise Problem(404, f"no model {name[:100]!r}", f"known: {known}")
        return self.models[name]

    def admit(self, request: Request) -> None:
        """Raise `Problem` if a request may not be worked on."""
        if self.stopping:
            raise busy("the server is stopping", 5)
        if self.token is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode(), self.token.encode())
            if scheme.lower() != "bearer" or not right:
                raise Problem(
                    401, "a token is needed", "send Authorization: Bearer TOKEN",
                    {"WWW-Authenticate": "Bearer"},
                )  # fmt: skip


def create_app(
    models: Sequence[Served],
    limits: Limits,
    metrics: Metrics,
    samples: static_files.Samples,
    token: str | None = None,
    log: Log | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """The server's application; `app.state.shared` is its `State`.

    Args:
        models: the first answers where a request names none.
        hosts: names by which requests may call the server; any if None.
    """
    shared = State({model.name: model for model in models}, limits, metrics, token)

    app = FastAPI(
        title="resnets", version=__version__, description=ABOUT,
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.shared = shared
    app.add_middleware(Outside, metrics=metrics, log=log or Log(None), hosts=hosts)
    _add_problems(app)
    _add_answers(app, shared)
    _add_facts(app, shared)
    static_files.add_to(app, samples)
    return app


def _add_problems(app: FastAPI) -> None:
    """Every error is a problem document."""

    def instance(request: Request) -> str:
        return str(request.scope.get("id", ""))

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return error.response(instance(request))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Problem(400, f"{where}: {first['msg']}").response(instance(request))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        hint = "see /docs" if error.status_code == 404 else ""
        return Problem(error.status_code, str(error.detail), hint, headers).response(
            instance(request)
        )


def _add_answers(app: FastAPI, shared: State) -> None:
    limits = shared.limits
    answering, explaining = schemas.ANSWERING, schemas.EXPLAINING

    @app.post("/v1/predict", responses=answering, openapi_extra=schemas.ONE, tags=["answers"])
    async def predict(
        request: Request, model: str | None = None, top: schemas.Top = 5
    ) -> schemas.Prediction:
        """Name what is on an image."""
        start = time.perf_counter()
        shared.admit(request)
        served = shared.model(model)
        served.batcher.check(1)  # before the body is read
        with shared.bodies.hold() as more:
            async with _in_time(limits):
                content = await bodies.read_one(request, limits, more)
                with served.batcher.take(1) as ticket:
                    async with _while_wanted(request):
                        picture, found = await served.answer(content, ticket)
        facts = {
            "model": served.name,
            "top": served.top(found.ranking, top),
            "image": picture.facts,
            "milliseconds": {
                "decode": _ms(picture.seconds),
                "queue": _ms(found.queued),
                "network": _ms(found.computed),
                "total": _ms(time.perf_counter() - start),
            },
            "batch": found.batch,
        }
        return schemas.Prediction.model_validate(facts)

    @app.post(
        "/v1/predict/batch", responses=answering, openapi_extra=schemas.SEVERAL, tags=["answers"]
    )
    async def predict_batch(
        request: Request, model: str | None = None, top: schemas.Top = 5
    ) -> schemas.Predictions:
        """Name what is on several images; one that cannot be read does not stop the rest."""
        start = time.perf_counter()
        shared.admit(request)
        served = shared.model(model)
        served.batcher.check(1)
        with shared.bodies.hold() as more:
            async with _in_time(limits):
                contents = await bodies.read_several(request, limits, more)
                with served.batcher.take(len(contents)) as ticket:
                    async with _while_wanted(request):
                        found = await asyncio.gather(
                            *(served.answer(content, ticket) for content in contents),
                            return_exceptions=True,
                        )
        answers: list[schemas.Answer | schemas.Refusal] = []
        for one in found:
            if isinstance(one, Problem):
                answers.append(schemas.Refusal(problem=one.as_dict()))
            elif isinstance(one, BaseException):
                raise one
            else:
                picture, answered = one
                facts = {"top": served.top(answered.ranking, top), "image": picture.facts}
                answers.append(schemas.Answer.model_validate(facts))
        total = {"total": _ms(time.perf_counter() - start)}
        return schemas.Predictions(model=served.name, answers=answers, milliseconds=total)

    @app.post("/v1/explain", responses=explaining, openapi_extra=schemas.ONE, tags=["answers"])
    async def explain(
        request: Request,
        model: str | None = None,
        class_: schemas.Class = None,
        top: schemas.Top = 5,
    ) -> schemas.Explanation:
        """Show where on an image the evidence for a class lies, for each stage of the network."""
        start = time.perf_counter()
        shared.admit(request)
        served = shared.model(model)
        served.check_explaining()
        with shared.bodies.hold() as more:
            async with _in_time(limits):
                content = await bodies.read_one(request, limits, more)
                with served.explaining():
                    async with _while_wanted(request):
                        picture = await served.picture(content)
                        before = time.perf_counter()
                        found = await served.explain(picture, class_)
        return schemas.explanation(served, picture, found, top, start, before)


def _add_facts(app: FastAPI, shared: State) -> None:
    @app.get("/v1/models", responses=schemas.LISTING, tags=["facts"])
    async def models(request: Request) -> schemas.Models:
        """What is served."""
        shared.admit(request)
        listed = [
            {**served.description, "default": number == 0}
            for number, served in enumerate(shared.models.values())
        ]
        bounds = {key: getattr(shared.limits, key) for key in ("bytes", "pixels", "images")}
        return schemas.Models.model_validate({"models": listed, "limits": bounds})

    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operation"])
    async def readyz() -> dict[str, str]:
        """Models are loaded, and the server is not stopping."""
        if shared.stopping:
            raise busy("the server is stopping", 5)
        return {"status": "ok"}

    @app.get("/metrics", tags=["operation"])
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(shared.metrics.text(), media_type="text/plain; version=0.0.4")


@asynccontextmanager
async def _in_time(limits: Limits) -> AsyncIterator[None]:
    """Whatever takes longer than the limit ends as a `Problem`."""
    try:
        async with asyncio.timeout(limits.seconds):
            yield
    except TimeoutError as error:
        raise Problem(504, f"no answer within {limits.seconds:g} seconds") from error


@asynccontextmanager
async def _while_wanted(request: Request) -> AsyncIterator[None]:
    """What the client does not wait for any more ends as a `Problem` that nobody sees."""
    task, gone = asyncio.current_task(), False
    assert task is not None

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError as error:
        if not gone:
            raise
        task.uncancel()
        raise Problem(GONE, "the client has gone") from error
    finally:
        watcher.cancel()


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
