"""The server as a process: models opened, a port, a graceful stop."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

import torch
import uvicorn

from resnets.deploy.opening import device_for, open_predictor
from resnets.deploy.server import files
from resnets.deploy.server.app import State, create_app
from resnets.deploy.server.limits import Limits
from resnets.deploy.server.log import Log
from resnets.deploy.server.metrics import Metrics
from resnets.deploy.server.protocol import bounded
from resnets.deploy.server.served import Served
from resnets.support.errors import UserError


@dataclass(frozen=True)
class Options:
    """How to serve.

    Args:
        models: names of models, each perhaps with a name of its own in front: `NAME=MODEL`.
        port: 0 for any that is free.
        token: that requests must carry; none for no such check.
        samples: folder of images to try; CIFAR-10's by default.
    """

    models: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    runtime: str = "auto"
    precision: str = "auto"
    samples: Path | None = None
    log: IO[str] | None = None
    log_as_json: bool = True
    limits: Limits = field(default_factory=Limits)


def serve(options: Options, device: torch.device | None, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then finish what was taken.

    Args:
        ready: is told the address once requests are taken.

    Raises:
        UserError: if a model cannot be opened, or the address cannot be had.
    """
    metrics = Metrics()
    samples = files.samples_in(options.samples) if options.samples else files.shipped_samples()
    with _listening(options.host, options.port) as listener:
        models = _open(options, device, metrics)
        app = create_app(
            models, options.limits, metrics, samples, options.token,
            Log(options.log, options.log_as_json),
        )  # fmt: skip
        for model in models:
            model.warm_up()
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # requests have their own log
        config = uvicorn.Config(
            app,
            http=bounded(options.limits),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=round(options.limits.seconds) + 5,
        )
        _Server(config, app.state.shared, lambda: ready(_address(listener))).run([listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, shared: State, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._shared, self._started = shared, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal: take nothing new, finish the rest. The second: end."""
        # uvicorn would raise the signal once more at the end; here the end is a success.
        self.force_exit = self.should_exit
        self.should_exit = self._shared.stopping = True


def _open(options: Options, device: torch.device | None, metrics: Metrics) -> list[Served]:
    named: dict[str, str] = {}
    for word in options.models:
        name, mark, model = word.partition("=")
        if not mark:
            name, model = Path(word).name.removesuffix(".safetensors") or word, word
        if not name or name in named:
            raise UserError(
                f"two models called {name!r}" if name else "a model without a name",
                word,
                "give each a name: NAME=MODEL",
            )
        named[name] = model
    return [
        Served(
            name,
            open_predictor(
                model, options.runtime, options.precision, device or device_for(model, "auto")
            ),
            options.limits,
            metrics,
        )
        for name, model in named.items()
    ]


def _listening(host: str, port: int) -> socket.socket:
    """A socket bound before models are loaded, so that a taken port is told at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen there ({reason})", f"{host}:{port}", "choose another --host or --port"
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
