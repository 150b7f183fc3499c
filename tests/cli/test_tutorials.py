"""Every command and every Python block of the tutorials runs, at a tiny size.

A comment `<!-- in tests: ... -->` before a block has lines `OLD -> NEW`, which replace text of the
block; or it says `not run, REASON`, or `other numbers`. The output on the page is of a real run.
That of Python blocks is compared where there is no such comment.
"""

import contextlib
import io
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from resnets.data.preprocessing import Preprocessing
from resnets.models import zoo
from resnets.paper import runner, speed
from resnets.weights import model_file
from tests.conftest import draw_photos
from tests.detection.files import coco_folder
from tests.detection.shapes import settings
from tests.paper.conftest import InProcess

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(
    r"(?:<!-- in tests:(?P<tests>.*?)-->\n)?```(?P<language>console|python)\n(?P<code>.*?)```"
    r"(?:\n\n```text\n(?P<shown>.*?)```)?",
    re.DOTALL,
)
NEEDED = {"boxes.md": ("fastapi", "uvicorn"), "deploy.md": ("nncf", "fastapi", "uvicorn")}
"""Optional packages of pages."""
NAMES = sorted(path.name for path in (DOCS / "tutorials").glob("*.md"))


def found_blocks(page):
    """Language, code as on the page, code to run (None: not run), and the output shown."""
    for match in BLOCK.finditer(page.read_text("utf-8")):
        code, run = match["code"], match["code"]
        change = (match["tests"] or "").strip()
        if change.startswith("not run,"):
            run = None
        elif change == "other numbers":
            match = {**match.groupdict(), "shown": None}
        elif change:
            for line in change.splitlines():
                old, new = line.split(" -> ")
                assert old in run, f"{page.name}: nothing to replace: {old}"
                run = run.replace(old, new)
        yield match["language"], code, run, match["shown"]


@pytest.mark.parametrize("name", NAMES)
def test_the_chinese_tutorial_has_the_same_code(name):
    def code(page):
        return [code for _, code, _, _ in found_blocks(page)]

    assert code(DOCS / "zh" / "tutorials" / name) == code(DOCS / "tutorials" / name)


@pytest.fixture
def server():
    """Starts `resnets serve ...` as a process, which ends with the test."""
    started = []

    def start(words, port):
        process = subprocess.Popen(
            [sys.executable, "-m", "resnets", *words], stderr=subprocess.PIPE
        )
        started.append(process)
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/"):
                return
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        raise AssertionError("the server did not start")

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def workspace(tmp_path, monkeypatch, real_shape, cache):
    """A folder with what the tutorials' readers have, and a model to start from."""
    draw_photos(tmp_path / "photos", {"ants": 14, "bees": 14, "wasps": 14})
    coco_folder(tmp_path / "raccoon", train=4, val=2)
    small = save_start(tmp_path / "start.safetensors")
    lines = [
        f'dataset = "boxes"\ninit = "{small}"\nbatch_norm = "frozen"\niterations = 2\nbatch = 2',
        'test_every = 2\nlog_every = 1\n[schedule]\nkind = "cosine"\nlr = 0.02\n[detection]',
        *(
            f"{key} = {json_or_toml(value)}"
            for key, value in settings().model_dump(mode="json").items()
        ),
    ]
    (tmp_path / "tiny.toml").write_text("\n".join(lines))
    monkeypatch.setattr(runner, "LocalPool", lambda gpus, idle: InProcess(monkeypatch))
    monkeypatch.setattr(speed, "cost", lambda *plan: 1e9)  # to count it takes seconds
    monkeypatch.setattr(speed, "measure", lambda plans, layout: dict.fromkeys(plans, 500.0))
    return tmp_path


def save_start(path):
    torch.manual_seed(0)
    card = model_file.make_card("cifar-resnet8", ["a", "b"], {}, [])
    preprocessing = Preprocessing(32, 36, mean=torch.full((3, 1, 1), 0.45))
    model_file.save(path, zoo.build("cifar-resnet8", 2).state_dict(), preprocessing, card)
    return path


def json_or_toml(value):
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_tutorial_runs(name, resnets, workspace, server):
    for package in NEEDED.get(name, ()):
        pytest.importorskip(package)
    if name == "deploy.md":
        train = next(found_blocks(DOCS / "tutorials" / "photos.md"))  # its first command: doctor
        assert train[2].startswith("$ resnets doctor")
        (command,) = [
            run for _, _, run, _ in found_blocks(DOCS / "tutorials" / "photos.md")
            if run and run.startswith("$ resnets train")
        ]  # fmt: skip
        run_console(command, resnets, server)
    names: dict[str, object] = {}
    port = str(free_port())
    for language, code, run, shown in found_blocks(DOCS / "tutorials" / name):
        if run is None:
            continue
        if language == "console":
            run_console(run.replace("8000", port), resnets, server)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(run, name, "exec"), names)
        if shown and run == code:
            assert printed.getvalue() == shown


def run_console(code, resnets, server):
    """Run the commands of a block; each must succeed."""
    for line in code.splitlines():
        assert line.startswith("$ "), line
        words = shlex.split(line.removeprefix("$ "))
        if words[:2] == ["resnets", "serve"]:
            server(words[1:], words[words.index("--port") + 1])
        elif words[0] == "resnets":
            code, out, err = resnets(*words[1:])
            assert code == 0, f"{line}\n{out}\n{err}"
        elif words[0] == "pip":
            assert words[1:3] == ["install", ".[export,serve]"]  # the names of extras
        elif shutil.which(words[0]):
            done = subprocess.run(
                ["bash", "-c", line.removeprefix("$ ")], capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            assert '"status": 4' not in done.stdout  # a problem document
