"""Files are written whole or not at all; failures are one line."""

import json
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


def test_an_error_is_one_line_of_location_message_and_hint():
    assert str(UserError("wrong", "here", "do that")) == "here: wrong; do that"
    assert str(UserError("wrong\n  twice")) == "wrong twice"


def test_nearest_names_close_words_or_some_known_ones():
    assert nearest("batc", ["batch", "seed"]) == "did you mean batch?"
    assert nearest("zzz", ["batch", "seed"]) == "known: batch, seed"
