"""Files are written whole or not at all; failures are one line."""

import errno
import fcntl
import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from resnets.support import files
from resnets.support.errors import UserError, near, nearest


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
    monkeypatch.setenv("HOME", str(tmp_path))
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


def test_without_a_writable_cache_a_temporary_one_serves_and_is_announced_once(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "in the way").touch()
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "in the way"))
    one, other = files.cache_folder("a"), files.cache_folder("b")
    assert one.parent == other.parent
    assert one.parent.is_dir()
    assert not one.is_relative_to(tmp_path)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "in the way" in line
    assert "set RESNETS_CACHE" in line


def test_a_read_only_cache_is_read(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path))
    monkeypatch.setattr(files, "_obstacle", lambda folder: "Read-only file system")
    assert files.cache_folder("weights") == tmp_path / "weights"
    assert not files.cache_folder("weights", "new").is_relative_to(tmp_path)


def test_a_part_of_the_cache_that_another_user_owns_is_replaced_alone(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path))
    monkeypatch.setattr(files, "_obstacle", {tmp_path: "", tmp_path / "weights": "Denied"}.get)
    assert not files.cache_folder("weights", "new").is_relative_to(tmp_path)
    assert files.cache_folder("digests", "new") == tmp_path / "digests" / "new"


def test_a_user_without_home_has_a_temporary_cache_and_no_tilde(monkeypatch):
    def no_home(path):
        return path

    for name in ("RESNETS_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", no_home)
    monkeypatch.setattr("sys.platform", "linux")
    assert files.cache_folder("a").parent.is_dir()
    with pytest.raises(UserError, match="no home folder"):
        files.expand_user("~/photos")


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("home", ["/", "", "absent"])
def test_a_home_that_is_the_root_or_does_not_exist_is_none(
    monkeypatch, tmp_path, capsys, home, platform
):
    monkeypatch.setenv("HOME", str(tmp_path / home) if home == "absent" else home)
    for name in ("RESNETS_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", platform)
    files.temporary_cache.cache_clear()
    assert files.cache_folder("a").parent == files.temporary_folder()
    assert "no home folder); a temporary one is used: set RESNETS_CACHE" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "xdg"))
    if platform != "darwin":  # a folder of its own needs no home
        assert files.cache_folder("a").is_relative_to(tmp_path / "xdg")


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expand_user("~/photos/") == f"{tmp_path}/photos/"
    assert files.expand_user("~") == str(tmp_path)
    assert files.expand_user("a/~/~b") == "a/~/~b"
    assert files.expand_user("~backup") == "~backup"
    monkeypatch.setenv("RESNETS_CACHE", "~/own")
    assert files.cache_folder() == tmp_path / "own"


def refuse(number):
    def call(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return call


def test_what_only_makes_a_file_safer_may_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "chmod", refuse(errno.EPERM))
    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))
    files.write_bytes(tmp_path / "file", b"x")
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    with files.locked(tmp_path / ".lock"):
        files.write_bytes(tmp_path / "file", b"y")
    assert (tmp_path / "file").read_bytes() == b"y"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_sync_that_loses_content_is_an_error(tmp_path, monkeypatch, number):
    files.write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", refuse(number))
    with pytest.raises(UserError, match="cannot write"):
        files.write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_lock_keeps_others_out_and_says_where_it_cannot_be_made(tmp_path):
    with (
        files.locked(tmp_path / ".lock"),
        pytest.raises(UserError, match="in use"),
        files.locked(tmp_path / ".lock", UserError("in use")),
    ):
        pass
    with pytest.raises(UserError, match="cannot write"), files.locked(Path("/proc/.lock")):
        pass


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127])
def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path, name):
    path = tmp_path / name
    files.refuse_unwritable(path)
    files.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/proc/file.csv", "cannot write"),
        ("/dev/null", "a device or a pipe"),
        ("x" * 300, "File name too long; give a shorter name"),
        ("absent/file", "no such folder"),
        (".", "--out .: is a folder"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        files.refuse_unwritable(Path(path), "--out")
    with pytest.raises(UserError):
        files.write_bytes(Path(path), b"x")
    assert list(tmp_path.iterdir()) == []
    assert Path("/dev/null").is_char_device()


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


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("resnet50", ["cifar-resnet20", "plain34"], []),  # alike in the commonest part only
        ("figure6", ["fig6", "fig7"], ["fig6"]),
        ("kera", ["caffe", "keras-h5"], ["keras-h5"]),  # its beginning
        ("batch_size", ["seed", "batch"], ["batch"]),
        ("BATCH", ["seed", "batch"], ["batch"]),
        ("resnet50@mrsa", ["resnet152@msra", "resnet50@msra"], ["resnet50@msra"]),
        ("c", ["cat", "cow"], []),
        ("", ["cat", "cow"], []),
    ],
)
def test_only_near_words_are_suggested(word, known, expected):
    assert near(word, known) == expected


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


def test_a_cache_whose_name_is_not_utf_8_is_not_used(tmp_path, monkeypatch, capsys):
    """OpenVINO could not open its files, and would take them for damaged."""
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "\udcff"))
    files.temporary_cache.cache_clear()
    assert files.cache_folder("a").is_relative_to(files.temporary_folder())
    assert "engines need a name of UTF-8" in capsys.readouterr().err
    files.temporary_cache.cache_clear()
