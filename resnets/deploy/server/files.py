"""The page, sample images and the description of the API: files known when the server starts."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from jinja2 import Environment

from resnets.data.images import EXTENSIONS
from resnets.deploy.server.problems import Problem
from resnets.support.errors import UserError

TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
MOST_SAMPLES = 24


@dataclass(frozen=True)
class Samples:
    """Images to try: names as they are shown, files by the name in their address."""

    names: Mapping[str, str]
    files: Mapping[str, Path]


def shipped_samples() -> Samples:
    """Ten test images of CIFAR-10."""
    return samples_in(Path(str(resources.files("resnets.deploy.server"))) / "samples")


def samples_in(folder: Path) -> Samples:
    """The first images of a folder, not of those below it.

    Raises:
        UserError: if it is no folder, or has none.
    """
    if not folder.is_dir():
        raise UserError("no such folder", f"--samples {folder}")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not found:
        raise UserError("no images in this folder", f"--samples {folder}")
    chosen = {
        f"{number}{path.suffix.lower()}": path for number, path in enumerate(found[:MOST_SAMPLES])
    }
    return Samples({key: path.stem for key, path in chosen.items()}, chosen)


def add_to(app: FastAPI, samples: Samples) -> None:
    """The routes of files: those that are known from the start, by their keys."""
    page = Path(str(resources.files("resnets.deploy.server"))) / "page"
    known = {path.relative_to(page).as_posix(): path for path in page.rglob("*") if path.is_file()}

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


def _content(path: Path | None, request: Request) -> Response:
    """A file's content, unless the client has it already."""
    if path is None:
        raise Problem(404, "no such file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Problem(404, "this file has gone") from error
    mark = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
    headers = {"ETag": mark, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == mark:
        return Response(status_code=304, headers=headers)
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    return Response(content, headers=headers, media_type=kind or "application/octet-stream")


def docs_page(description: dict[str, Any]) -> str:
    """The API for people."""
    template = (resources.files("resnets.deploy.server") / "docs.html").read_text("utf-8")
    return Environment(autoescape=True).from_string(template).render(api=description)
