"""Images from standard input and the web, within limits of size, time and redirects."""

import io
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from resnets.data import images
from resnets.data.images import ImageError
from resnets.inference import image_sources, web_images
from resnets.inference.image_inputs import find_images, normalized, open_image
from resnets.inference.image_sources import open_source
from resnets.support.errors import UserError


def png(size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return file.getvalue()


class Site(BaseHTTPRequestHandler):
    """A site with an image, and with everything that can go wrong."""

    seen = []  # noqa: RUF012 (one server)

    answers = {  # noqa: RUF012
        "file": (302, b"", {"Location": "file:///etc/hosts"}),
        "ftp": (302, b"", {"Location": "ftp://127.0.0.1/a.png"}),
        "nowhere": (302, b"", {}),
        "absent": (404, b"", {}),
        "page": (200, b"<html>", {}),
        "large": (200, b"x" * 2000, {}),
    }

    def do_GET(self):
        self.seen.append((self.path, self.headers["User-Agent"]))
        name = self.path.partition("?")[0].strip("/")
        if name.startswith("hop"):
            hops = int(name[3:])
            self.reply(302, Location=f"/hop{hops - 1}" if hops else "/cat.png")
        elif name == "short":
            self.reply(200, png()[:50], length=9999)
        elif name == "slow":
            self.reply(200, b"", length=100)
            for _ in range(40):  # some bytes now and then: no read waits for long
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        else:
            status, content, headers = self.answers.get(name, (200, png(), {}))
            self.reply(status, content, **headers)

    def reply(self, status, content=b"", length=None, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize(
    "path", ["cat.png", "a b/caf\u00e9.png?x=[1]&y=%20#part", "hop4", "?//../a"]
)
def test_images_come_from_urls(site, path):
    name = f"{site}/{path}"
    assert find_images([name], remote=True) == [name]
    assert open_image(open_source(name)).size == (40, 30)
    assert Site.seen[-1][1].startswith("resnets/")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("absent", "answered 404 Not Found"),
        ("hop7", "its redirects lead to no file"),
        ("nowhere", "its redirects lead to no file"),
        ("file", "its redirects lead to no file"),
        ("ftp", "leads to ftp://"),
        ("page", "not an image"),
        ("short", "broke off after 50 of 9,999 bytes"),
        ("large", "more than 1,000 bytes"),
        ("cat.png", "too large"),
        ("slow", "within 0.3 seconds|too slow"),
    ],
)
def test_what_is_no_image_within_the_limits_is_an_error(site, monkeypatch, path, words):
    if path == "large":
        monkeypatch.setattr(image_sources, "MAX_BYTES", 1000)
    if path == "cat.png":
        monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    if path == "slow":
        monkeypatch.setattr(web_images, "SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(ImageError, match=words) as caught:
        open_image(open_source(f"{site}/{path}"))
    assert f"{site}/{path}" in str(caught.value)
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/a.png", "cannot be reached"),
        ("http://", "not the URL of a host"),
        ("https://me:secret@127.0.0.1/a.png", "without a password"),
        ("http://127.0.0.1:port/a.png", "the download failed"),
        ("http://\udcff/a.png", "the download failed"),
        ("http://127.0.0.1:9/\udcff", "the download failed"),
    ],
)
def test_malformed_urls_are_errors(url, words):
    with pytest.raises(ImageError, match=words):
        open_source(url).read()


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://x/a.png", "s3://photos/a.png"])
def test_other_schemes_are_refused_before_anything_is_opened(url):
    with pytest.raises(UserError, match="give http:// or https://"):
        open_source(url)


def test_urls_are_images_only_where_they_can_be():
    with pytest.raises(UserError, match="is a URL, not a file"):
        find_images(["a.png", "https://x.example/a.png"])
    urls = ["https://x.example/a//b.png", "https://x.example/a/b.png", "https://x.example/*.png?"]
    assert find_images([*urls, "-", urls[0], "-"], remote=True) == [*urls, "-"]
    assert [normalized(url) for url in urls] == urls
    assert find_images(["-"]) == ["-"]  # a file of this name


def given(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_is_an_image(monkeypatch):
    given(monkeypatch, png())
    source = open_source("-")
    assert [open_image(source).size for _ in range(2)] == [(40, 30)] * 2


def test_standard_input_has_limits(monkeypatch):
    monkeypatch.setattr(image_sources, "MAX_BYTES", 10)
    given(monkeypatch, png())
    with pytest.raises(UserError, match="-: more than 10 bytes; give the file"):
        open_source("-")
    given(monkeypatch, b"")
    sys.stdin.isatty = lambda: True
    with pytest.raises(UserError, match="is a terminal; pipe an image"):
        open_source("-")
    monkeypatch.setattr(sys, "stdin", None)  # as of a service
    with pytest.raises(UserError, match="is closed"):
        open_source("-")
    given(monkeypatch, b"")
    with pytest.raises(ImageError, match="the file is empty"):
        open_image(open_source("-"))
