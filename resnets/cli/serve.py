"""`resnets serve`."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from resnets.support.errors import UserError, nearest

PACKAGES = ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client")
DEFAULT = "cifar-resnet20"
LOGS = ("text", "json", "none")


@dataclass(frozen=True)
class Options:
    """What a user may ask of a server, beside its models."""

    host: str
    port: int
    token_file: Path | None
    samples: Path | None
    allow_host: list[str]
    queue: int
    max_mb: int
    max_megapixels: int
    timeout: float
    runtime: str
    precision: str
    device: str
    log: str


def serve(models: list[str], options: Options) -> None:
    """Serve until a signal; a shipped model if none is named."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"{missing[0]} is not installed", hint="pip install resnets[serve]")
    from resnets.serve import server
    from resnets.serve.limits import Limits

    if options.log not in LOGS:
        raise UserError(f"unknown word {options.log!r}", "--log", nearest(options.log, LOGS))
    if math.isnan(options.timeout):  # which no range excludes
        raise UserError("not a number of seconds", f"--timeout {options.timeout}")
    for name in options.allow_host:
        if not re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", name):
            raise UserError("not the name of a host", f"--allow-host {name}", "give photos.example")
    token = _token(options.token_file)
    finished = server.serve(
        server.ServerOptions(
            models=models or [DEFAULT],
            host=options.host,
            port=options.port,
            token=token,
            runtime=options.runtime,
            precision=options.precision,
            samples=options.samples,
            hosts=options.allow_host,
            log=None if options.log == "none" else sys.stdout,
            log_as_json=options.log == "json",
            limits=Limits(
                bytes=options.max_mb * 1_000_000,
                memory=max(Limits.memory, 4 * options.max_mb * 1_000_000),
                pixels=options.max_megapixels * 1_000_000,
                images=min(Limits.images, options.queue),
                queue=options.queue,
                timeout=options.timeout,
            ),
        ),
        options.device,
        lambda address: _ready(address, not server.is_local(address) and token is None),
    )
    if not finished:
        print("resnets: stopped before all was finished", file=sys.stderr)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(130)  # else Python would wait for threads that decode or compute


def _ready(address: str, open_to_all: bool) -> None:
    print(f"Serving at {address} (Ctrl-C stops)", file=sys.stderr, flush=True)
    if open_to_all:
        print(
            "resnets: anybody who reaches this machine may use it; --token-file asks for a token",
            file=sys.stderr,
            flush=True,
        )


def _token(path: Path | None) -> str | None:
    """The token of a file, or of the environment."""
    where = "RESNETS_TOKEN" if path is None else f"--token-file {path}"
    try:
        given = os.environ.get("RESNETS_TOKEN", "") if path is None else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where) from error
    if path is None and not given:
        return None
    token = given.strip()
    if not token or not token.isascii() or any(c.isspace() for c in token):
        raise UserError("is no single word of ASCII characters", where)
    return token
