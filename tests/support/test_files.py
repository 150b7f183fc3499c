"""Files are written whole or not at all; failures are one line."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from resnets.support import files
from resnets.support.errors import UserError, nearest


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "facts.json"
    files.write_json(path, {"a": 1})

    def breaks(file):
        file.write(b"half of ")
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        files.atomic_write(path, breaks)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "file"
    files.write_bytes(path, b"long content")
    files.write_bytes(path, b"short")
    assert path.read_bytes() == b"short"
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_unwritable_path_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        files.write_bytes(tmp_path / "absent" / "file", b"x")


@pytest.mark.parametrize(
    ("write", "path", "what"),
    [
        (files.write_json, "file/below", "the file .*/file is in the way"),
        (files.write_json, "folder", "the folder .*/folder is in the way"),
        (lambda path, _: files.make_folder(path), "file", "the file .*/file is in the way"),
        (lambda path, _: files.make_folder(path), "file/a/b", "the file .*/file is in the way"),
    ],
)
def test_the_error_names_what_is_in_the_way(tmp_path, write, path, what):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"cannot write: {what}; move it away"):
        write(tmp_path / path, {})
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder"}


def test_the_cache_folder_follows_the_platform_and_the_override(monkeypatch, tmp_path):
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path))
    assert files.cache_folder("a", "b") == tmp_path / "a" / "b"
    monkeypatch.delenv("RESNETS_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder() == tmp_path / "xdg" / "resnets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == Path.home() / ".cache" / "resnets"
    monkeypatch.setattr("sys.platform", "darwin")
    assert files.cache_folder() == Path.home() / "Library" / "Caches" / "resnets"


@pytest.fixture
def large_file(cache, tmp_path, monkeypatch):
    """A file that counts as large and was last modified an hour ago."""
    monkeypatch.setattr(files, "LARGE_FILE_BYTES", 4)
    path = tmp_path / "weights"
    path.write_bytes(b"old content")
    age(path, 3600)
    return path


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


class Counted:
    """A digest that counts how often it is computed."""

    def __init__(self):
        self.calls = 0

    def __call__(self, path):
        self.calls += 1
        return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_digest_of_an_unchanged_file_is_computed_once(large_file):
    compute = Counted()
    found = {files.remembered_digest(large_file, "test", compute) for _ in range(3)}
    assert found == {hashlib.sha256(b"old content").hexdigest()}
    assert compute.calls == 1
    other = Counted()
    files.remembered_digest(large_file, "another kind", other)
    files.remembered_digest(large_file, "test", compute)
    assert (compute.calls, other.calls) == (1, 1)


@pytest.mark.parametrize("change", ["time", "size", "inode"])
def test_a_changed_file_is_hashed_again(large_file, change):
    before = files.file_sha256(large_file)
    assert files.file_sha256(large_file) == before
    facts = large_file.stat()
    if change == "inode":
        new = large_file.with_name("new")
        new.write_bytes(b"new content")
        new.replace(large_file)
    else:
        large_file.write_bytes(b"new content" if change == "time" else b"longer content")
    if change == "time":
        age(large_file, 1800)
    else:
        os.utime(large_file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    expected = hashlib.sha256(large_file.read_bytes()).hexdigest()
    assert files.file_sha256(large_file) == expected != before


def test_a_file_modified_a_moment_ago_is_hashed_each_time(large_file):
    os.utime(large_file)
    compute = Counted()
    for _ in range(2):
        files.remembered_digest(large_file, "test", compute)
    assert compute.calls == 2


def test_without_a_writable_cache_nothing_is_remembered(large_file, monkeypatch):
    (large_file.parent / "in the way").touch()
    monkeypatch.setenv("RESNETS_CACHE", str(large_file.parent / "in the way"))
    compute = Counted()
    for _ in range(2):
        files.remembered_digest(large_file, "test", compute)
    assert compute.calls == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"file": 3}', b"\xff"])
def test_a_damaged_record_of_digests_is_replaced(cache, large_file, content):
    expected = files.file_sha256(large_file)
    (record,) = (cache / "digests").iterdir()
    record.write_bytes(content)
    assert files.file_sha256(large_file) == expected
    assert json.loads(record.read_bytes())["digests"] == {"sha256": expected}


def test_a_file_that_cannot_be_read_has_no_digest(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            files.file_sha256(path)


def test_an_error_is_one_line_of_location_message_and_hint():
    assert str(UserError("wrong", "here", "do that")) == "here: wrong; do that"
    assert str(UserError("wrong\n  twice")) == "wrong twice"


def test_nearest_names_close_words_or_some_known_ones():
    assert nearest("batc", ["batch", "seed"]) == "did you mean batch?"
    assert nearest("zzz", ["batch", "seed"]) == "known: batch, seed"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_is_utf8_with_or_without_a_byte_order_mark(tmp_path, mark):
    path = tmp_path / "text"
    path.write_bytes(mark + "ä\r\nb\rc".encode())
    assert files.read_text(path) == "ä\nb\nc"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_refused_also_where_other_bytes_are_allowed(tmp_path, encoding):
    path = tmp_path / "text"
    path.write_bytes("lr = 1\n".encode(encoding))
    for errors in ("strict", "surrogateescape"):
        with pytest.raises(UserError, match=r"text: is not UTF-8 text .*; save it as UTF-8"):
            files.read_text(path, errors=errors)


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"a\nb\n\xe4\n")
    with pytest.raises(UserError, match="text, line 3: is not UTF-8 text"):
        files.read_text(path)
    assert files.read_text(path, errors="surrogateescape") == "a\nb\n\udce4\n"


def test_text_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UserError, match="absent: no such file; write it"):
        files.read_text(tmp_path / "absent", hint="write it")
    for path in (tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be read"):
            files.read_text(path)
