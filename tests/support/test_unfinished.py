"""Unfinished files and folders: those of killed processes are removed, those of others stay."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resnets.support import files, unfinished

FILE = "from resnets.support.files import atomic_write as write; write(Path('curve.png'), wait)"
FOLDER = """
from resnets.support import unfinished
with unfinished.folder(Path('export')) as folder:
    (folder / 'model.xml').write_text('half')
    wait()
"""
WAIT = """
import sys
from pathlib import Path
def wait(*_):
    print('begun', flush=True)
    sys.stdin.read()
"""


def begin(folder, script):
    """A process that writes and waits; it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT + script],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout.readline() == "begun\n"
    return process


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def unfinished_in(folder):
    return [name for name in names_in(folder) if name.endswith(unfinished.ENDING)]


@pytest.mark.parametrize("script", [FILE, FOLDER], ids=["file", "folder"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, script):
    killed, living = begin(tmp_path, script), begin(tmp_path, script)
    assert len(unfinished_in(tmp_path)) == 2
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert len(unfinished_in(tmp_path)) == 2
    files.write_bytes(tmp_path / "other", b"x")
    assert len(unfinished_in(tmp_path)) == 1
    living.communicate("", timeout=60)
    assert living.returncode == 0
    assert not unfinished_in(tmp_path)


def test_only_our_names_are_removed(tmp_path):
    kept = [".curve.png.abcdefgh", ".bashrc.20240101", "x" + unfinished.ENDING, ".other"]
    for name in kept:
        (tmp_path / name).write_text("precious")
    (tmp_path / f".curve.png.abcdefgh{unfinished.ENDING}").write_text("left")
    files.write_bytes(tmp_path / "curve.png", b"x")
    assert sorted(names_in(tmp_path)) == sorted([*kept, "curve.png"])


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(unfinished.fcntl, "flock", no_locks)
    left = tmp_path / f".curve.png.abcdefgh{unfinished.ENDING}"
    left.write_text("of another machine, perhaps")
    files.write_bytes(tmp_path / "curve.png", b"whole")
    assert left.exists()
    assert (tmp_path / "curve.png").read_bytes() == b"whole"


def test_a_file_is_never_taken_for_a_leftover_while_it_is_new(tmp_path):
    """Others look for leftovers all the time; every write succeeds."""
    stop = threading.Event()

    def remove():
        while not stop.is_set():
            unfinished.remove_leftovers.__wrapped__(tmp_path)

    threads = [threading.Thread(target=remove) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(150):
            files.write_bytes(tmp_path / "file", b"%d" % number)
            assert (tmp_path / "file").read_bytes() == b"%d" % number
            with unfinished.folder(tmp_path / "folder") as folder:
                (folder / "inside").touch()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert names_in(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.atomic_write(tmp_path / "file", interrupt)
    with pytest.raises(KeyboardInterrupt), unfinished.folder(tmp_path / "folder"):
        raise KeyboardInterrupt
    assert not names_in(tmp_path)
