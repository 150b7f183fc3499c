"""Connection to a Ray cluster, or to a new one on this machine."""

from __future__ import annotations

import os
import socket
from typing import Any

from resnets.support.errors import UserError

ANSWER = 5
"""Seconds to wait for an answer of a cluster, or for a job that is being stopped."""


def connect(address: str | None) -> Any:
    """Connect to a cluster; returns the module `ray`, whose `shutdown` disconnects.

    Args:
        address: of the cluster, for example `auto` on one of its machines or `HOST:6379`. If
            None: `RAY_ADDRESS`, else the cluster that `ray start` last started on this machine,
            else a new cluster on this machine, which ends with the process.

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
    except UnicodeEncodeError as error:  # Ray records the command line
        hint = "give the folder instead of the file"
        raise UserError("Ray accepts only command lines in UTF-8", hint=hint) from error
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the Ray cluster does not answer ({error})",
            address or "RAY_ADDRESS",
            "start it with `ray start`, or give another address",
        ) from error
    return ray


def _knock(address: str) -> None:
    """Raise `OSError` within seconds if HOST:PORT does not answer; Ray itself takes minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
