"""What a server takes at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server; what goes beyond is refused with a problem document.

    Args:
        bytes: of a request's body.
        memory: bytes of all bodies that are held at a time.
        pixels: of an image, by its header, before it is decoded.
        large: pixels from which on images are decoded one after the other, not side by side.
        images: in a request; at most `queue`.
        queue: images that wait or are worked on, for each model; more are refused.
        seconds: until a request has its answer.
        sending: seconds that a client may take for its headers, then for its body, and for
            taking in what it is sent.
        headers: bytes of a request's line and headers.
        connections: that are open at a time.
        pipeline: requests that a connection may send before it has their answers.
        batch: images that the network is given at a time.
        wait: seconds that an idle network waits for images which are still being decoded.
    """

    bytes: int = 32_000_000
    memory: int = 512_000_000
    pixels: int = 50_000_000
    large: int = 8_000_000
    images: int = 64
    queue: int = 256
    seconds: float = 30.0
    sending: float = 15.0
    headers: int = 32_768
    connections: int = 1024
    pipeline: int = 16
    batch: int = 16
    wait: float = 0.004
