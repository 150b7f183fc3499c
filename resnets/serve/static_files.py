"""Files that the server reads when it starts: the page, sample images, the API documentation."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response

from resnets.data.images import has_image_ending
from resnets.serve.keys import check_query
from resnets.serve.problems import Problem
from resnets.support.errors import UserError, valid_utf8

_FOLDER = Path(str(resources.files("resnets.serve")))
_SWAGGER = Path(str(resources.files("fastapi_offline"))) / "static"
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
MAX_SAMPLES = 24
MAX_SAMPLE_BYTES = 256_000_000
"""Of all samples together; they stay in memory."""


@dataclass(frozen=True)
class StaticFile:
    """A file in memory.

    Args:
        content: its bytes.
        media_type: such as `text/css`.
        etag: a hash of the content, quoted.
    """

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> StaticFile:
        """Read a file; raises OSError."""
        content = path.read_bytes()
        suffix = path.suffix.lower()
        guess = _TYPES.get(suffix) or mimetypes.guess_type(f"x{suffix}")[0]
        etag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
        return cls(content, guess or "application/octet-stream", etag)


@dataclass(frozen=True)
class SampleImages:
    """Images to try on the page.

    Args:
        names: the displayed name of each key; keys are used in URLs.
        files: the file of each key.
        task: of the models that they are for; empty for all models.
    """

    names: Mapping[str, str]
    files: Mapping[str, StaticFile]
    task: str = ""

    def listed(self, root: str) -> list[dict[str, str]]:
        """Their names, URLs below a path, and task, as JSON."""
        task = {"task": self.task} if self.task else {}
        return [
            {"name": n, "url": f"{root}/samples/{key}", **task} for key, n in self.names.items()
        ]


def samples_in(folder: Path, task: str = "") -> SampleImages:
    """The first images of a folder, without subfolders.

    Args:
        folder: the folder.
        task: of the models that they are for; by default all models.

    Raises:
        UserError: if there is no such folder, or its images are absent, too large or unreadable.
    """
    location = f"--samples {folder}"
    if not folder.is_dir():
        raise UserError("no such folder", location)
    images = sorted(p for p in folder.iterdir() if has_image_ending(p.name) and p.is_file())
    if not images:
        raise UserError("no images in this folder", location)
    paths = {
        f"{number}{path.suffix.lower()}": path for number, path in enumerate(images[:MAX_SAMPLES])
    }
    try:
        if sum(path.stat().st_size for path in paths.values()) > MAX_SAMPLE_BYTES:
            message = f"more than {MAX_SAMPLE_BYTES:,} bytes of images"
            raise UserError(message, location, "scale them down")
        files = {key: StaticFile.read(path) for key, path in paths.items()}
    except OSError as error:
        raise UserError(f"an image cannot be read ({error})", location) from error
    names = {key: valid_utf8(path.stem) for key, path in paths.items()}
    return SampleImages(names, files, task)


def add_routes(app: FastAPI, samples: SampleImages) -> None:
    """Read the page's files, and add the routes of all files."""
    page = _FOLDER / "page"
    files = {
        path.relative_to(page).as_posix(): StaticFile.read(path)
        for path in page.rglob("*")
        if path.is_file()
    }
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        files[name] = StaticFile.read(_SWAGGER / name)
    api = StaticFile.read(_FOLDER / "docs.html")

    @app.get("/v1/samples", tags=["facts"])
    async def list_samples(request: Request) -> dict[str, list[dict[str, str]]]:
        """List sample images; `task` says for which models they are, if not for all."""
        check_query(request)
        return {"samples": samples.listed(request.scope["root_path"])}

    @app.get("/samples/{key}", include_in_schema=False)
    async def sample(key: str, request: Request) -> Response:
        return _response(samples.files.get(key), request)

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return _response(files.get("index.html"), request)

    @app.get("/page/{key:path}", include_in_schema=False)
    async def page_file(key: str, request: Request) -> Response:
        return _response(files.get(key), request)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon(request: Request) -> Response:
        return _response(files.get("icon.svg"), request)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return _response(api, request)


def _response(file: StaticFile | None, request: Request) -> Response:
    """A file's content, or 304 if the client has it already."""
    if file is None:
        raise Problem(404, "no such file")
    headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
