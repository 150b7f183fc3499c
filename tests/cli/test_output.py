"""Output that goes away, what the system refuses, and arguments before they are parsed."""

import contextlib
import errno
import io
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from resnets import __main__ as entry
from resnets.cli import main as cli
from resnets.cli import output
from resnets.cli.options import command_line
from resnets.support.errors import UserError, system_error

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "resnets"]
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def one_line(error):
    (line,) = error.strip().splitlines()
    assert line.startswith("resnets: ")
    return line


class Broken(io.StringIO):
    """A terminal or pipe that nobody holds any more."""

    def write(self, text):
        raise OSError(errno.EIO, "Input/output error")


def test_a_training_does_not_need_its_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken())
    with output.watched():
        with output.expendable():
            print("to nobody", flush=True)
        with pytest.raises(output.OutputLost):
            print("to nobody")


def test_messages_of_signal_handlers_are_dropped_in_the_middle_of_another(monkeypatch):
    class Busy(io.StringIO):
        def write(self, text):
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    monkeypatch.setattr(sys, "stdout", Busy())
    with output.watched(), output.expendable():
        print("stopping")


@full
def test_a_full_device_is_one_line():
    with Path("/dev/full").open("w") as device:
        done = subprocess.run([*COMMAND, "info"], stdout=device, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert one_line(done.stderr) == "resnets: cannot print: No space left on device"


def test_a_closed_pipe_ends_silently():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*COMMAND, "info"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(("closed", "code"), [(">&-", 2), (">&- 2>&- <&-", 2), ("2>&- <&-", 0)])
def test_a_closed_output_is_a_lost_answer(closed, code):
    line = f'exec "$0" -m resnets info {closed}'
    done = subprocess.run(["sh", "-c", line, sys.executable], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr in ("", "resnets: cannot print: Bad file descriptor\n")
    assert bool(done.stderr) == (closed == ">&-")


def test_an_answer_is_lost_whatever_the_exit_code_and_a_training_goes_on(monkeypatch, capsys):
    program = command_line("")

    @program.command("answer")
    def answer(code: int, work: bool = False):
        with output.expendable() if work else contextlib.nullcontext():
            print("an answer")
        sys.exit(code)

    program.command("other")(lambda: None)
    for words, closed, code in (
        (["0"], True, 2), (["1"], True, 2), (["1"], False, 1), (["0", "--work"], True, 0),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["program", "answer", *words])
            if closed:
                patch.setattr(sys, "stdout", None)
            try:
                cli.run(program, "program")
                ended = 0
            except SystemExit as stop:
                ended = stop.code
        assert ended == code, words
        assert ("cannot print: Bad file descriptor" in capsys.readouterr().err) == (code == 2)


def test_an_answer_in_the_buffer_is_lost_whatever_the_exit_code(monkeypatch, capsys):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    program = command_line("")
    program.command("answer")(lambda: (print("an answer"), sys.exit(1)))
    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(SystemExit) as stop:
        cli.run(program, "program")
    assert stop.value.code == 2
    assert "No space left" in capsys.readouterr().err


ENTRIES = (["-m", "resnets"], ["-c", "from resnets.__main__ import main; main()"])


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    "interrupted",
    [
        "raise KeyboardInterrupt",
        # as an extension module in C++ does
        "try:\n    raise KeyboardInterrupt\n"
        "except BaseException as e:\n    raise ImportError('initialization failed') from e",
    ],
)
def test_ctrl_c_during_the_imports_is_silent(tmp_path, entry, interrupted):
    (tmp_path / "typer.py").write_text(interrupted)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, *entry, "info"], env=environment, cwd=tmp_path,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_import_that_fails_is_no_interruption(monkeypatch):
    def fail():
        raise ImportError("no such module")

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(ImportError, match="no such module"):
        entry.main()


def test_the_script_has_the_guarded_entry():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"resnets": "resnets.__main__:main"}


def test_names_are_utf8_whatever_the_locale(tmp_path):
    (tmp_path / "ä").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "ä" / "ö.png")
    locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [*COMMAND, "doctor", str(tmp_path), "--html", str(tmp_path / "ü.html")],
        env={**os.environ, **locale}, capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "ä" in (tmp_path / "ü.html").read_text(encoding="utf-8")


def test_without_utf8_characters_are_escaped():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([*COMMAND, "info", "nü"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "'n\\xfc'" in one_line(done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "{}", "a.png"),
        ("train", "{}.toml"),
        ("train", "cifar10-smoke", "--out", "{}"),
        ("eval", "cifar-resnet20", "{}"),
        ("eval", "cifar-resnet20", "--save-scores", "{}"),
        ("export", "{}", "--to", "onnx"),
        ("doctor", "{}"),
        ("deepen", "{}", "--to", "56"),
        ("paper", "report", "--results", "{}"),
    ],
)
def test_a_name_too_long_is_one_line(resnets, real_shape, tmp_path, arguments):
    name = "x" * 300
    code, _, err = resnets(*(word.format(name) for word in arguments))
    assert code == 2
    assert name in one_line(err)
    assert list(tmp_path.iterdir()) == []


def test_what_the_system_refuses_is_a_users_error_and_a_fault_of_the_program_is_not():
    error = system_error(PermissionError(errno.EACCES, "Permission denied", "locked/file"))
    assert str(error) == "locked/file: Permission denied"
    for fault in (
        OSError("cannot identify image file"),
        FileNotFoundError(errno.ENOENT, "No such file", str(Path(cli.__file__).with_name("x"))),
    ):
        with pytest.raises(OSError, match=r"identify|No such"):
            system_error(fault)


def test_the_system_s_refusal_ends_a_verb_in_one_line(resnets, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", "locked/file")

    monkeypatch.setattr("resnets.training.run_folder.read_recipe", refuse)
    code, _, err = resnets("resume", "run")
    assert (code, one_line(err)) == (2, "resnets: locked/file: Permission denied")


def test_a_tilde_is_the_home_folder_in_every_argument(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for word, expanded in {
        "~/x": "/home/me/x",
        "--data=~/x": "--data=/home/me/x",
        "photos=~/m": "photos=/home/me/m",
        "init=~": "init=/home/me",
        "a~/x": "a~/x",
        "~backup": "~backup",
        "./~/x": "./~/x",
    }.items():
        assert cli._expanded(word) == expanded
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UserError, match="no home folder"):
        cli._expanded("--out=~/x")


@pytest.mark.parametrize("verb", ["--version", *(name for _, name, _ in cli.VERBS), "paper list"])
def test_a_deleted_folder_is_one_line(resnets, tmp_path, monkeypatch, verb):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, out, err = resnets(*verb.split())
    assert (code, out) == (2, "")
    assert one_line(err) == "resnets: the current folder no longer exists; cd to another one"


def test_the_deleted_folder_is_seen_before_pytorch_is_imported(tmp_path):
    """Whose libraries could not be loaded there: that would end the process with their message."""
    code = "import os, sys\nfrom resnets.__main__ import main\nos.rmdir(os.getcwd())\ntry: main()\n"
    code += "finally: print('torch' in sys.modules)"
    gone = tmp_path / "gone"
    gone.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", code, "info"], cwd=gone, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (2, "False\n")


def test_help_is_a_verb(resnets):
    assert resnets("help", "info") == resnets("info", "--help")
    assert resnets("help")[0] == 0


def test_devices_are_not_replaced_by_files(resnets):
    code, _, err = resnets("eval", "cifar-resnet20", "--save-scores", "/dev/null")
    assert code == 2
    assert "a device or a pipe" in one_line(err)
