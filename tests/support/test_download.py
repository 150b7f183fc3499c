"""Network failures are a `SourceFailed`, not a traceback."""

import contextlib
import hashlib
import re
import socket
import threading
from pathlib import Path

import pytest

from resnets.support import download, files


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"",
    ],
)
def test_a_host_that_answers_badly_fails_as_a_source(tmp_path, answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(download.SourceFailed):
            download.download(
                f"http://127.0.0.1:{server.getsockname()[1]}/file.tar.gz", tmp_path / "file"
            )
        thread.join()
    assert not list(tmp_path.iterdir())


def test_a_download_that_is_too_slow_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SLOW_AFTER_SECONDS", 0.3)
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
                while not done.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(download.SourceFailed, match="too slow"):
            download.download(
                f"http://127.0.0.1:{server.getsockname()[1]}/file.tar.gz", tmp_path / "file"
            )
        done.set()
        thread.join()


def test_an_unreachable_host_and_a_missing_npm_fail_as_sources(tmp_path, monkeypatch):
    with pytest.raises(download.SourceFailed, match="cannot be reached"):
        download.download("http://127.0.0.1:9/file.tar.gz", tmp_path / "file")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(download.SourceFailed, match="npm is not installed"):
        download.npm_pack("package@1.0.0", tmp_path)


def test_a_whole_file_arrives(tmp_path):
    (tmp_path / "there").write_bytes(b"content")
    path = download.download((tmp_path / "there").as_uri(), tmp_path / "here")
    assert path.read_bytes() == b"content"
    assert files.digest(path) == hashlib.sha256(b"content").hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["there", "here"]


def test_a_file_that_cannot_be_written_fails_as_a_source(tmp_path):
    (tmp_path / "there").write_bytes(b"content")
    with pytest.raises(download.SourceFailed, match="cannot write"):
        download.download((tmp_path / "there").as_uri(), tmp_path / "absent" / "here")


def test_only_one_module_reads_from_the_network():
    package = Path(download.__file__).parents[1]
    request = re.compile(r"urlopen|urllib\.request|build_opener|urlretrieve|import requests|httpx")
    texts = {path.name: path.read_text("utf-8") for path in package.rglob("*.py")}
    readers = [name for name, text in texts.items() if request.search(text)]
    assert readers == ["download.py"]
