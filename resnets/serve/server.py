"""The server process: opens models, listens on a port, stops gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import IO
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from resnets.inference.image_inputs import SAMPLES
from resnets.inference.object_detector import ObjectDetector, is_detector, open_detector
from resnets.inference.predictor import Predictor, open_predictor
from resnets.serve import static_files
from resnets.serve.app import AppState, create_app
from resnets.serve.connections import LimitedProtocol, limited_protocol
from resnets.serve.decoding import DecoderPool
from resnets.serve.limits import Limits
from resnets.serve.middleware import Metrics, Names, RequestLog, rejection_recorder
from resnets.serve.served_detector import ServedDetector
from resnets.serve.served_model import ServedModel
from resnets.support.errors import UserError

STOP_GRACE = 5.0
"""Seconds that a stop may take beyond `Limits.timeout`."""


@dataclass(frozen=True)
class ServerOptions:
    """Options of a server.

    Args:
        models: names of models, each optionally with its own name in front: `NAME=MODEL`.
            NAME has no slash, so that paths may contain an equals sign.
        host: address to listen on.
        port: 0 for any free port.
        token: that requests need; None if they need none.
        runtime, precision: as for `open_predictor`; `auto` is never int8.
        samples: folder of images to try on the page; by default images of
            CIFAR-10, for classifiers only.
        hosts: allowed `Host` names, in addition to the address and `localhost`. Without them, a
            server on a loopback address allows only those two, any other server allows all names.
        origins: whose pages may send requests, such as `https://photos.example`; `*` for all.
        root_path: path below which a proxy offers the server, such as `/photos`; may be empty.
        log: where requests are logged; None for no log.
        log_as_json: whether lines of the log are JSON.
        limits: of requests.
    """

    models: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    runtime: str = "auto"
    precision: str = "auto"
    samples: Path | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    root_path: str = ""
    log: IO[str] | None = None
    log_as_json: bool = True
    limits: Limits = field(default_factory=Limits)


def serve(options: ServerOptions, device: str, on_ready: Callable[[str], None]) -> bool:
    """Serve until SIGINT or SIGTERM, then finish the accepted requests.

    Args:
        options: of the server.
        device: for models with the PyTorch engine: `auto`, `cpu`, `cuda`, ...
        on_ready: called with the server's URL once it accepts requests.

    Returns:
        Whether all accepted requests were finished. They were not if a second signal came, or a
        client did not read its response in time; threads may then still be working.

    Raises:
        UserError: if a model cannot be opened, or the address cannot be used.
    """
    metrics = Metrics()
    if options.samples is None:  # small pictures of one object each
        samples = static_files.samples_in(SAMPLES, ServedModel.task)
    else:
        samples = static_files.samples_in(options.samples)
    limits = _fit_to_system(options.limits)
    log = RequestLog(options.log, options.log_as_json)
    with _bind(options.host, options.port) as listener, contextlib.ExitStack() as stack:
        decoders = DecoderPool(limits)
        stack.callback(decoders.close)
        models: list[ServedModel | ServedDetector] = []
        for name, opened in _open_models(options, device):
            models.append(
                ServedModel(name, opened, limits, metrics, decoders)
                if isinstance(opened, Predictor)
                else ServedDetector(name, opened, limits, metrics, decoders)
            )
            stack.callback(models[-1].close)
        app = create_app(
            models,
            limits=limits,
            metrics=metrics,
            samples=samples,
            token=options.token,
            log=log,
            names=_names(listener, options),
        )
        for model in models:
            model.warm_up()
        for library in ("uvicorn.error", "python_multipart"):  # requests have their own log
            logging.getLogger(library).setLevel(logging.CRITICAL)
        protocol = limited_protocol(limits, rejection_recorder(metrics, log))
        config = _uvicorn_config(app, protocol, limits)
        server = _Server(config, app.state.shared, lambda: on_ready(_url(listener)))
        try:
            listener.listen(limits.connections)  # uvloop would not report a failure
        except OSError as error:  # another process has begun to listen here
            raise _cannot_listen(error, options.host, options.port) from error
        server.run([listener])
        return not server.force_exit


def _uvicorn_config(
    app: FastAPI, protocol: type[LimitedProtocol], limits: Limits
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=limits.connections,
        timeout_keep_alive=limits.keep_alive,
    )


class _Server(uvicorn.Server):
    """uvicorn's server, with a stop that has a time limit and counts as a success."""

    def __init__(
        self, config: uvicorn.Config, state: AppState, on_started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._state, self._on_started = state, on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish accepted requests, until the time limit or a second signal."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._state.limits.timeout + STOP_GRACE
        shutdown = asyncio.create_task(super().shutdown(sockets))
        while not (await asyncio.wait([shutdown], timeout=0.1))[0]:
            self.force_exit = self.force_exit or clock() > until
            if self.force_exit:
                return  # the other tasks are cancelled with the event loop
        await shutdown

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """At the first signal finish accepted requests; at the second one end at once."""
        # uvicorn would raise the signal once more at the end; here the end is a success.
        self.force_exit = self.should_exit
        self.should_exit = self._state.stopping = True


def _open_models(
    options: ServerOptions, device: str
) -> Iterator[tuple[str, Predictor | ObjectDetector]]:
    """Open the models, each with the name that requests use."""
    models: dict[str, str] = {}
    for argument in options.models:
        name, equals, model = argument.partition("=")
        if not equals or "/" in name or os.sep in name:
            name = Path(argument).name.removesuffix(".safetensors") or argument
            model = argument
            if equals and not Path(argument).exists():
                hint = "give one without: NAME=MODEL"
                raise UserError("no such file, and a model's name has no slash", argument, hint)
        if not name or name in models:
            message = f"two models called {name!r}" if name else "a model without a name"
            raise UserError(message, argument, "give each a name: NAME=MODEL")
        if not name.isprintable():  # requests, logs and metrics could not name it
            raise UserError(f"not the name of a model: {name!r}", argument, "give one: NAME=MODEL")
        models[name] = model
    for name, model in models.items():
        chosen = (model, options.runtime, options.precision, device)
        if is_detector(model):
            yield name, open_detector(*chosen)
        else:
            # Not int8 unless requested, so that predictions agree with the page's explanations.
            yield name, open_predictor(*chosen, allow_int8=False)


def _fit_to_system(limits: Limits) -> Limits:
    """Reduce the connections to the number of file descriptors that the system allows."""
    try:
        import resource
    except ImportError:  # Windows
        return limits
    spare = 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * limits.connections + spare  # some linger while they are closed
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return replace(limits, connections=max(16, min(limits.connections, (soft - spare) // 2)))
    return limits


def _names(listener: socket.socket, options: ServerOptions) -> Names:
    """The names of the server; without a `Host` it is clear who is meant if it has only one."""
    return Names(
        _allowed_hosts(listener, options),
        options.origins,
        options.root_path,
        host_required=not is_local(_url(listener)) and len(options.hosts) > 1,
    )


def _allowed_hosts(listener: socket.socket, options: ServerOptions) -> frozenset[str] | None:
    """The allowed `Host` names; None for all.

    A loopback server allows few: a web page could let its own host name point to this machine, and
    make the browser send requests to the server (DNS rebinding).
    """
    if not is_local(_url(listener)) and not options.hosts:
        return None
    address = listener.getsockname()[0]
    own = f"[{address}]" if ":" in address else address
    names = ("localhost", "127.0.0.1", "[::1]", own, options.host, *options.hosts)
    return frozenset(name.lower() for name in names)


def is_local(url: str) -> bool:
    """Whether only this machine can reach a URL such as `http://127.0.0.1:8000`."""
    host = urlsplit(url).hostname or ""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _bind(host: str, port: int) -> socket.socket:
    """Bind a socket before models are loaded, so that a used port is reported at once.

    It does not listen yet: clients are refused until the models are loaded.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        raise _cannot_listen(error, host, port) from error
    return listener


def _cannot_listen(error: Exception, host: str, port: int) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    hint = "choose another --host or --port"
    return UserError(f"cannot listen on this address ({reason})", f"{host}:{port}", hint)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
