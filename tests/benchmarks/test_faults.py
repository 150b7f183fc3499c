"""Campaigns of faults: they repeat themselves, notice what goes wrong, and find nothing wrong."""

import io
import json
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as main
from benchmarks import faults
from benchmarks.faults import image_files, images, kills, tiny
from benchmarks.malformed import many_scans, many_tiles, png
from resnets.support.errors import UserError


def quiet(line):
    pass


def test_malformed_images_do_no_harm():
    outcome = faults.run("images", 90, 7, quiet)
    assert outcome.failures == []
    assert outcome.facts["decoded"] > 10
    refused = sum(n for name, n in outcome.facts.items() if name.startswith("refused"))
    assert outcome.facts["decoded"] + refused == outcome.faults == 90
    assert outcome.line().startswith("images: 90 faults: ")


def test_a_file_is_a_function_of_seed_and_number():
    assert [image_files.make(1, n) for n in range(50)] == [
        image_files.make(1, n) for n in range(50)
    ]
    assert len({image_files.make(s, 3)[1] for s in range(9)}) > 3


def test_the_files_from_which_it_starts_are_whole():
    for name, content in image_files.whole_files().items():
        result = images.examine(content)
        assert "fault" not in result
        unread = name.split()[0] in ("ICO", "TGA", "PCX")
        assert result["outcome"] == ("unsupported" if unread else "decoded"), name


def test_exceptions_and_wrong_images_are_failures(monkeypatch):
    content = image_files.whole_files()["JPEG"]
    monkeypatch.setattr("resnets.data.images._upright_rgb", lambda image: image)
    assert "wrong image" in images.examine(content)["fault"]

    def fail(image):
        raise MemoryError("too much")

    monkeypatch.setattr("resnets.data.images._upright_rgb", fail)
    assert images.examine(content)["fault"] == "MemoryError: too much"
    assert images._failure({"outcome": "decoded", "seconds": 99.0}) == "took 99.0 s"
    held = [{"outcome": "decoded", "held": size} for size in (100, 300)]
    assert images._growth(held) == ["memory grew by 200 MB"]


def test_a_crash_and_a_hang_are_failures(monkeypatch):
    crash = 'print(\'{"outcome": "decoded"}\', flush=True); import os; os.abort()'
    results = list(images.supervise([sys.executable, "-c", crash], 5))
    assert [r["outcome"] for r in results] == ["decoded", "crash"]
    assert "code -6" in results[1]["fault"]
    monkeypatch.setattr(images, "SILENCE", 0.5)
    hang = "import time; time.sleep(60)"
    (result,) = images.supervise([sys.executable, "-c", hang], 5)
    assert result["outcome"] == "hung"


def test_the_command_writes_a_report_and_names_an_unknown_campaign(tmp_path, capsys):
    main.faults("images", count=5, seed=0, out=tmp_path / "report.json")
    (table,) = json.loads((tmp_path / "report.json").read_text())["tables"]
    assert (table["campaign"], table["faults"], table["failures"]) == ("images", 5, [])
    assert "images: 5 faults" in capsys.readouterr().out
    with pytest.raises(UserError, match="one of images"):
        main.faults("imags")


def chunk(name, body):
    checked = name + body
    return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))


def with_chunks(*chunks, late=()):
    """A PNG with further chunks after its header, and others after its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(buffer, "PNG")
    content = buffer.getvalue()
    return content[:33] + b"".join(chunks) + content[33:-12] + b"".join(late) + content[-12:]


TURNED = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
ONCE_FAILED = {
    "orientation after the pixels": with_chunks(late=[TURNED]),
    "two orientations": with_chunks(TURNED, late=[chunk(b"eXIf", b"")]),
    "profile of megabytes": with_chunks(chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(3_000_000)))),
    "text of megabytes": with_chunks(chunk(b"zTXt", b"t\0\0" + zlib.compress(bytes(3_000_000)))),
    "text that is no stream": with_chunks(chunk(b"zTXt", b"t\0\0nothing")),
    "damaged metadata": with_chunks(chunk(b"tIME", bytes(7))[:-1] + b"?"),
    "400 megapixels": png(20_000, 20_000),
    "5,000 scans": many_scans(5000),
    "200,000 tiles": many_tiles(200_000),
}
READ = 6
"""How many of them, from the first, are sound pictures."""


@pytest.mark.parametrize("name", ONCE_FAILED)
def test_what_once_failed_does_no_more(name):
    result = images.examine(ONCE_FAILED[name])
    assert "fault" not in result
    readable = list(ONCE_FAILED).index(name) < READ
    assert result["outcome"] == ("decoded" if readable else "too-large")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_kill_is_of_the_launcher_and_its_workers(tmp_path):
    worker = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    worker += "time.sleep(600)"
    launcher = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {worker!r}], start_new_session=True)"
    )
    started = kills._Started(subprocess.Popen([sys.executable, "-c", launcher]))
    end = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    assert kills._family(started.process.pid) == [started.process.pid, pid]
    started.kill_after(0)
    assert started.process.returncode == -signal.SIGKILL
    while _runs(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def _runs(pid):
    """Whether a process exists and is no zombie, which nobody may collect in a container."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_kills_of_few_trainings_are_by_one_process_and_by_two(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "execute", lambda *arguments, **options: None)
    assert [one.processes for one in tiny.trainings(tmp_path)] == [1, 2, 1, 2, 1, 2]
