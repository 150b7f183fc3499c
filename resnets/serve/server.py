"""The server as a process: models opened, a port, a graceful stop."""

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

from resnets.inference.predictor import Predictor, device_for, open_predictor
from resnets.serve import static_files
from resnets.serve.app import State, create_app
from resnets.serve.connections import bounded
from resnets.serve.decoding import Decoders
from resnets.serve.limits import Limits
from resnets.serve.log import Log
from resnets.serve.metrics import Metrics
from resnets.serve.middleware import refusals
from resnets.serve.served_model import Served
from resnets.support.errors import UserError

GRACE = 5.0
"""Seconds that a stop takes at most beyond the limit for an answer."""


@dataclass(frozen=True)
class Options:
    """How to serve.

    Args:
        models: names of models, each perhaps with a name of its own in front: `NAME=MODEL`.
            A name has no slash, so that paths may have an equals sign.
        port: 0 for any that is free.
        token: that requests must carry; none for no such check.
        samples: folder of images to try; CIFAR-10's by default.
        hosts: names by which requests may call the server, beside its address and `localhost`.
            With none, a server for this machine alone takes only those two, any other takes all.
    """

    models: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    runtime: str = "auto"
    precision: str = "auto"
    samples: Path | None = None
    hosts: Sequence[str] = ()
    log: IO[str] | None = None
    log_as_json: bool = True
    limits: Limits = field(default_factory=Limits)


def serve(options: Options, device: str, ready: Callable[[str], None]) -> bool:
    """Serve until SIGINT or SIGTERM, then finish what was taken.

    Args:
        ready: is told the address once requests are taken.

    Returns:
        Whether all was finished; not if a second signal came, or some client did not take its
        answer in time. Threads may then still be at work.

    Raises:
        UserError: if a model cannot be opened, or the address cannot be had.
    """
    metrics = Metrics()
    samples = (
        static_files.samples_in(options.samples)
        if options.samples
        else static_files.shipped_samples()
    )
    limits = _possible(options.limits)
    log = Log(options.log, options.log_as_json)
    with _listening(options.host, options.port) as listener, contextlib.ExitStack() as stack:
        decoders = Decoders(limits)
        stack.callback(decoders.close)
        models = []
        for name, predictor in _open(options, device):
            models.append(Served(name, predictor, limits, metrics, decoders))
            stack.callback(models[-1].close)
        app = create_app(
            models, limits, metrics, samples, options.token, log, _hosts(listener, options)
        )
        for model in models:
            model.warm_up()
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # requests have their own log
        config = uvicorn.Config(
            app,
            http=bounded(limits, refusals(metrics, log)),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=limits.connections,
            timeout_keep_alive=30,
        )
        server = _Server(config, app.state.shared, lambda: ready(_address(listener)))
        try:
            listener.listen(limits.connections)  # uvloop would not tell of a failure
        except OSError as error:  # another process listens there, since a moment ago
            raise _cannot_listen(error, options.host, options.port) from error
        server.run([listener])
        return not server.force_exit


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, shared: State, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._shared, self._started = shared, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was taken, until it takes too long or a second signal comes."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._shared.limits.seconds + GRACE
        finishing = asyncio.create_task(super().shutdown(sockets))
        while not (await asyncio.wait([finishing], timeout=0.1))[0]:
            self.force_exit = self.force_exit or clock() > until
            if self.force_exit:
                return  # what is left is cancelled with the loop
        await finishing

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal: take nothing new, finish the rest. The second: end."""
        # uvicorn would raise the signal once more at the end; here the end is a success.
        self.force_exit = self.should_exit
        self.should_exit = self._shared.stopping = True


def _open(options: Options, device: str) -> Iterator[tuple[str, Predictor]]:
    """The models with the names that requests call them by."""
    named: dict[str, str] = {}
    for word in options.models:
        name, mark, model = word.partition("=")
        if not mark or "/" in name or os.sep in name:
            name, model = Path(word).name.removesuffix(".safetensors") or word, word
        if not name or name in named:
            raise UserError(
                f"two models called {name!r}" if name else "a model without a name",
                word,
                "give each a name: NAME=MODEL",
            )
        named[name] = model
    for name, model in named.items():
        place = device_for(model, options.runtime, device)
        # In float unless asked otherwise, like the explanations on the page.
        yield (
            name,
            open_predictor(model, options.runtime, options.precision, place, allow_int8=False),
        )


def _possible(limits: Limits) -> Limits:
    """The limits that this system allows: each connection takes a descriptor."""
    try:
        import resource
    except ImportError:  # Windows
        return limits
    spare = 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.connections + spare  # some linger while they are closed
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return replace(limits, connections=max(16, min(limits.connections, (soft - spare) // 2)))
    return limits


def _hosts(listener: socket.socket, options: Options) -> frozenset[str] | None:
    """The names that requests must use: a server for this machine alone has few.

    Else a page could give its own name this machine's address, and have browsers ask us.
    """
    if not is_local(_address(listener)) and not options.hosts:
        return None
    address = listener.getsockname()[0]
    own = f"[{address}]" if ":" in address else address
    names = ("localhost", "127.0.0.1", "[::1]", own, options.host, *options.hosts)
    return frozenset(name.lower() for name in names)


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address such as `http://127.0.0.1:8000`."""
    host = urlsplit(address).hostname or ""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _listening(host: str, port: int) -> socket.socket:
    """A socket bound before models are loaded, so that a taken port is told at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Not yet listening: clients are refused until the models are there.
    except (OSError, OverflowError, UnicodeError) as error:
        raise _cannot_listen(error, host, port) from error
    return listener


def _cannot_listen(error: Exception, host: str, port: int) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    hint = "choose another --host or --port"
    return UserError(f"cannot listen there ({reason})", f"{host}:{port}", hint)


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
