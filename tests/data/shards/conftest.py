"""Photographs, shards made of them, and a server."""

import functools
import http.server
import threading

import numpy as np
import pytest
from PIL import Image

from resnets.data import folders
from resnets.data.shards import store, writer
from tests.data.shards.helpers import (
    RecordingHandler,
)


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setattr(store, "_RETRY_PAUSES", ())
    return cache


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Three classes, 40 images to train and 10 to test on, JPEG, PNG, WebP and BMP."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10)):
        for i in range(count):
            folder = root / split / ("ant", "bée", "cat dog")[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            noise = random.integers(0, 256, (24 + i % 3, 30, 3), dtype=np.uint8)
            ending = ("jpg", "JPEG", "png", "webp", "bmp")[i % 5]
            Image.fromarray(noise).save(folder / f"{i}.{ending}")
    return root


@pytest.fixture
def made(photos, tmp_path):
    out = tmp_path / "out"
    writer.write(folders.load(photos), out, images_per_shard=2)
    return out


@pytest.fixture
def serve():
    """Serves a folder; returns its address."""
    servers = []
    RecordingHandler.requests = []

    def start(folder):
        handler = functools.partial(RecordingHandler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
