"""The page, sample images and the description of the API: files read when the server starts."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment

from resnets.data.images import EXTENSIONS
from resnets.serve.problems import Problem
from resnets.support.errors import UserError

TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
MOST_SAMPLES = 24
MOST_BYTES = 256_000_000
"""Of all samples, which stay in memory."""


@dataclass(frozen=True)
class File:
    """A file in memory.

    Args:
        kind: its media type.
        mark: what changes with its content.
    """

    content: bytes
    kind: str
    mark: str


def read(path: Path) -> File:
    """A file as it is now; raises OSError."""
    content = path.read_bytes()
    suffix = path.suffix.lower()
    kind = TYPES.get(suffix) or mimetypes.guess_type(f"x{suffix}")[0] or "application/octet-stream"
    return File(content, kind, f'"{hashlib.sha256(content).hexdigest()[:24]}"')


@dataclass(frozen=True)
class Samples:
    """Images to try: names as they are shown, files by the name in their address."""

    names: Mapping[str, str]
    files: Mapping[str, File]


def shipped_samples() -> Samples:
    """Ten test images of CIFAR-10."""
    return samples_in(Path(str(resources.files("resnets.serve"))) / "samples")


def samples_in(folder: Path) -> Samples:
    """The first images of a folder, not of those below it.

    Raises:
        UserError: if it is no folder, has none, or they are too large or cannot be read.
    """
    where = f"--samples {folder}"
    if not folder.is_dir():
        raise UserError("no such folder", where)
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not found:
        raise UserError("no images in this folder", where)
    chosen = {
        f"{number}{path.suffix.lower()}": path for number, path in enumerate(found[:MOST_SAMPLES])
    }
    try:
        if sum(path.stat().st_size for path in chosen.values()) > MOST_BYTES:
            raise UserError(f"more than {MOST_BYTES:,} bytes of images", where, "scale them down")
        contents = {key: read(path) for key, path in chosen.items()}
    except OSError as error:
        raise UserError(f"an image cannot be read ({error})", where) from error
    return Samples({key: path.stem for key, path in chosen.items()}, contents)


def add_to(app: FastAPI, samples: Samples) -> None:
    """The routes of files: those that are read now, by their keys."""
    here = Path(str(resources.files("resnets.serve")))
    paths = [path for path in (here / "page").rglob("*") if path.is_file()]
    known = {path.relative_to(here / "page").as_posix(): read(path) for path in paths}
    template = Environment(autoescape=True).from_string((here / "docs.html").read_text("utf-8"))

    @app.get("/v1/samples", tags=["facts"])
    async def listed() -> dict[str, list[dict[str, str]]]:
        """Images to try."""
        named = samples.names.items()
        return {"samples": [{"name": name, "url": f"/samples/{key}"} for key, name in named]}

    @app.get("/samples/{key}", include_in_schema=False)
    async def sample(key: str, request: Request) -> Response:
        return _content(samples.files.get(key), request)

    @app.get("/", include_in_schema=False)
    async def start(request: Request) -> Response:
        return _content(known.get("index.html"), request)

    @app.get("/page/{key:path}", include_in_schema=False)
    async def part(key: str, request: Request) -> Response:
        return _content(known.get(key), request)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon(request: Request) -> Response:
        return _content(known.get("icon.svg"), request)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """The API for people."""
        return HTMLResponse(template.render(api=app.openapi()))


def _content(file: File | None, request: Request) -> Response:
    """A file's content, unless the client has it already."""
    if file is None:
        raise Problem(404, "no such file")
    headers = {"ETag": file.mark, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.mark:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.kind)
