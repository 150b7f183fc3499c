"""The members of uvicorn that `resnets.serve.connections` and `.server` need, by name.

uvicorn does not document them as public. Where one is missing after an upgrade, adapt these two
modules, or lower the bound of uvicorn in pyproject.toml.
"""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tests.serve.test_sockets import Wire

OVERRIDDEN = (
    "connection_made", "connection_lost", "data_received", "on_message_begin",
    "on_headers_complete", "on_body", "on_message_complete", "on_response_complete",
    "send_400_response", "pause_writing", "resume_writing", "timeout_keep_alive_handler",
)  # fmt: skip
USED = (
    "_unset_keepalive_if_required", "connections", "pipeline", "flow", "transport", "cycle",
    "timeout_keep_alive_task", "parser",
)  # fmt: skip
OF_A_REQUEST = ("headers", "url", "scope")
OF_A_CYCLE = (
    "transport", "more_body", "response_started", "response_complete", "disconnected",
    "message_event", "scope",
)  # fmt: skip
OF_A_SERVER = ("startup", "shutdown", "handle_exit", "run", "should_exit", "force_exit")
REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"


async def app(scope, receive, send):
    pass


class Loop:
    """An event loop that runs no task."""

    def create_task(self, coroutine, **options):
        coroutine.close()
        return Mock()


@pytest.fixture
def protocol():
    """uvicorn's protocol during a request whose body has not come yet."""
    config = uvicorn.Config(app, log_config=None)
    made = HttpToolsProtocol(config, ServerState(), {}, _loop=Loop())
    made.connection_made(Wire())
    made.data_received(REQUEST)
    return made


def missing(owner, names):
    absent = [name for name in names if not hasattr(owner, name)]
    return absent and (
        f"uvicorn {uvicorn.__version__} lacks {', '.join(absent)} of {owner!r}: adapt "
        "resnets/serve/connections.py or server.py, or lower the bound in pyproject.toml"
    )


def test_uvicorn_has_every_member_that_connections_override_or_use(protocol):
    assert not missing(HttpToolsProtocol, OVERRIDDEN)
    assert not missing(protocol, USED + OF_A_REQUEST)


def test_requests_of_uvicorn_have_every_member_that_connections_use(protocol):
    assert isinstance(protocol.cycle, RequestResponseCycle)
    assert not missing(protocol.cycle, OF_A_CYCLE)
    assert not missing(FlowControl, ("pause_reading", "resume_reading"))
    assert protocol.cycle.more_body
    protocol.data_received(b"12345")
    assert not protocol.cycle.more_body


def test_the_server_of_uvicorn_has_every_member_that_ours_overrides():
    assert not missing(uvicorn.Server(uvicorn.Config(app)), OF_A_SERVER)


def test_a_missing_member_is_named_in_a_sentence():
    class Newer:
        cycle = None

    assert "lacks flow, transport of" in missing(Newer, ("cycle", "flow", "transport"))


def test_the_installed_uvicorn_is_within_the_bounds_of_the_serve_extra():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (bounds,) = (p for p in project["optional-dependencies"]["serve"] if p.startswith("uvicorn"))
    low, high = re.fullmatch(r"uvicorn>=([\d.]+),<([\d.]+)", bounds).groups()

    def parts(text):
        return [int(part) for part in re.findall(r"\d+", text)][:3]

    assert parts(low) <= parts(version("uvicorn")) < parts(high)
