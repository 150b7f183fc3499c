"""The limits of a server, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server. Requests beyond them are refused with a problem document.

    Args:
        bytes: of a request body.
        memory: bytes of all request bodies that are held at the same time.
        pixels: of an image, read from its header before it is decoded.
        large_pixels: images with more pixels than this are decoded one at a time.
        images: in a request; should not exceed `queue`.
        queue: accepted images without a result, for each model.
        timeout: seconds until a request has its response.
        client_timeout: seconds for a client to send the headers, to send the body, and to read
            the response (each).
        headers: bytes of the request line and headers.
        connections: open at the same time.
        pipeline: requests that may wait on one connection.
        keep_alive: seconds after which a connection without requests is closed.
        batch: images that the network computes at a time.
        batch_wait: seconds that an idle network waits for images which are being decoded.
    """

    bytes: int = 32_000_000
    memory: int = 512_000_000
    pixels: int = 50_000_000
    large_pixels: int = 8_000_000
    images: int = 64
    queue: int = 256
    timeout: float = 30.0
    client_timeout: float = 15.0
    headers: int = 32_768
    connections: int = 1024
    pipeline: int = 16
    keep_alive: int = 30
    batch: int = 16
    batch_wait: float = 0.004
