"""What a server takes at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server; what goes beyond is refused with a problem document.

    Args:
        bytes: of a request's body.
        pixels: of an image, by its header, before it is decoded.
        images: in a request.
        queue: images that wait or are worked on, for each model; more are refused.
        seconds: until a request has its answer.
        sending: seconds that a client may take for its headers, and then for its body.
        headers: bytes of a request's line and headers.
        batch: images that the network is given at a time.
        wait: seconds that an idle network waits for images which are still being decoded.
    """

    bytes: int = 32_000_000
    pixels: int = 50_000_000
    images: int = 64
    queue: int = 256
    seconds: float = 30.0
    sending: float = 15.0
    headers: int = 32_768
    batch: int = 16
    wait: float = 0.004
