"""`resnets serve`: models over HTTP, with a page."""

from __future__ import annotations

import codecs
import contextlib
import math
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from resnets.cli import output
from resnets.cli.options import DeviceOption, PrecisionOption, RuntimeOption
from resnets.serve.limits import Limits
from resnets.support.errors import UserError, nearest

PACKAGES = (
    "fastapi", "fastapi_offline", "uvicorn", "httptools", "python_multipart", "prometheus_client",
)  # fmt: skip
DEFAULT = "cifar-resnet20"
_HOST = r"[a-z0-9_.-]+|\[[0-9a-f:.]+\]"
_TOKEN_BYTES = 4096
LOGS = ("text", "json", "none")


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="By default cifar-resnet20.", metavar="[NAME=]MODEL...", hidden=True),
    ] = None,
    host: Annotated[
        str, typer.Option(help="0.0.0.0: all addresses.", metavar="ADDRESS")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0: any free port.", metavar="N")
    ] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A token that requests need (or $RESNETS_TOKEN).", metavar="FILE"),
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Images to try on the page.", metavar="FOLDER")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="The server's name behind a proxy; repeatable.", metavar="NAME"),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="A site whose pages may send requests; repeatable.", metavar="ORIGIN"),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="URL path under which a proxy offers the server.", metavar="PATH")
    ] = "",
    queue: Annotated[
        int, typer.Option(min=1, help="Images that may wait.", metavar="N")
    ] = Limits.queue,
    max_mb: Annotated[
        int, typer.Option(min=1, max=1024, help="Largest request body.", metavar="N")
    ] = Limits.bytes // 1_000_000,
    max_megapixels: Annotated[
        int, typer.Option(min=1, max=100, help="Largest image.", metavar="N")
    ] = Limits.pixels // 1_000_000,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Response limit.", metavar="SECONDS")
    ] = Limits.timeout,
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    log: Annotated[
        str, typer.Option(help="Request log: text, json or none.", metavar="FORMAT")
    ] = "text",
) -> None:
    """Serve models, by default cifar-resnet20, over HTTP, with a page.
    Ctrl-C finishes accepted requests."""
    _check(log, timeout, allow_host or [], allow_origin or [])
    from resnets.serve import server

    token = _token(token_file)
    options = server.ServerOptions(
        models=models or [DEFAULT],
        host=host,
        port=port,
        token=token,
        runtime=runtime,
        precision=precision,
        samples=samples,
        hosts=allow_host or [],
        origins=[origin.lower() for origin in allow_origin or []],  # as browsers write them
        root_path=_root_path(root_path),
        log=None if log == "none" else sys.stdout,
        log_as_json=log == "json",
        limits=Limits(
            bytes=max_mb * 1_000_000,
            memory=max(Limits.memory, 4 * max_mb * 1_000_000),
            pixels=max_megapixels * 1_000_000,
            images=min(Limits.images, queue),
            queue=queue,
            timeout=timeout,
        ),
    )
    with output.expendable():  # a server does not end because nobody reads its log
        finished = server.serve(
            options,
            device,
            lambda address: _ready(address, not server.is_local(address) and token is None),
        )
    if not finished:
        print("resnets: stopped before all requests were finished", file=sys.stderr)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(130)  # else Python would wait for threads that decode or compute


def _check(log: str, timeout: float, hosts: list[str], origins: list[str]) -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"{missing[0]} is not installed", hint="pip install resnets[serve]")
    if log not in LOGS:
        raise UserError(f"unknown format {log!r}", "--log", nearest(log, LOGS))
    if math.isnan(timeout):  # which no range excludes
        raise UserError("not a number of seconds", f"--timeout {timeout}")
    for name in hosts:
        if not re.fullmatch(_HOST, name, re.IGNORECASE):
            raise UserError("not a host name", f"--allow-host {name}", "give photos.example")
    for origin in origins:
        if origin != "*" and not re.fullmatch(rf"https?://({_HOST})(:\d+)?", origin, re.IGNORECASE):
            hint = "give https://photos.example without a path, or * for all"
            raise UserError("not a site's origin", f"--allow-origin {origin}", hint)


def _root_path(path: str) -> str:
    """A path such as `/photos/models`, or nothing."""
    path = path.rstrip("/")
    if path and not re.fullmatch(r"(/[\w.~-]+)+", path, re.ASCII):
        raise UserError("not a URL path", f"--root-path {path}", "give /photos")
    return path


def _ready(address: str, open_to_all: bool) -> None:
    print(f"Serving at {address} (Ctrl-C stops)", file=sys.stderr, flush=True)
    if open_to_all:
        print(
            "resnets: open to all who can reach this machine; require a token with --token-file",
            file=sys.stderr,
            flush=True,
        )


def _token(path: Path | None) -> str | None:
    """The token of a file, or of the environment."""
    where = "RESNETS_TOKEN" if path is None else f"--token-file {path}"
    try:
        if path is None:
            content = os.environ.get("RESNETS_TOKEN", "").encode("utf-8", "surrogateescape")
        else:
            with path.open("rb") as file:
                content = file.read(_TOKEN_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})", where) from error
    if path is None and not content:
        return None
    token = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").strip()
    if not token:
        raise UserError("is empty", where, "write a token into it: one word")
    if not re.fullmatch(rf"[!-~]{{1,{_TOKEN_BYTES}}}", token):
        raise UserError("must be one word of ASCII characters", where)
    return token
