"""A Ray cluster that somebody started, or one of this process on this machine."""

from __future__ import annotations

import os
import socket
from typing import Any

from resnets.support.errors import UserError

ANSWER = 5
"""Seconds in which a cluster, or a job that is to end, answers."""


def connect(address: str | None) -> Any:
    """Enter a cluster; returns the module `ray`, whose `shutdown` leaves it.

    Args:
        address: of the cluster, for example `auto` on one of its machines or `HOST:6379`; if
            None, that in `RAY_ADDRESS`, else the one that `ray start` last started on this machine,
            else a new one of this machine, which ends with the process.

    Raises:
        UserError: if Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed", hint="pip install resnets[ray]") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        _knock(address or os.environ.get("RAY_ADDRESS", ""))
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except UnicodeEncodeError as error:  # it makes a note of the command
        hint = "name the folder instead of the file"
        raise UserError("Ray takes command lines of UTF-8 only", hint=hint) from error
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the Ray cluster does not answer ({error})",
            address or "RAY_ADDRESS",
            "start it with `ray start`, or give another address",
        ) from error
    return ray


def _knock(address: str) -> None:
    """Raise `OSError` soon where nobody is at HOST:PORT; Ray itself takes minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
