"""The list of verbs; a mistake of the user is one line on stderr and exit code 2."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]

from resnets.cli import output, paper
from resnets.cli.convert import convert
from resnets.cli.convert_boxes import convert_boxes
from resnets.cli.deepen import deepen
from resnets.cli.detect import detect
from resnets.cli.doctor import doctor
from resnets.cli.ensemble import ensemble
from resnets.cli.evaluate import evaluate
from resnets.cli.explain import explain
from resnets.cli.export import export
from resnets.cli.info import info
from resnets.cli.options import Verbs, command_line, example
from resnets.cli.predict import predict
from resnets.cli.quantize import quantize
from resnets.cli.responses import responses
from resnets.cli.serve import serve
from resnets.cli.shards import shards
from resnets.cli.signals import signals
from resnets.cli.train import resume, train
from resnets.support.errors import UserError, nearest, system_error
from resnets.support.files import expand_user

app = command_line(
    "Deep residual networks, their plain twins, and the paper's experiments.",
    Verbs,
)
UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""The parser's own error; typer does not export it."""

VERBS = (
    (info, "info", "resnets info cifar-resnet110"),
    (train, "train", "resnets train finetune --data photos/"),
    (resume, "resume", "resnets resume runs/cifar10-fast-cifar-resnet20-seed0"),
    (evaluate, "eval", "resnets eval resnet50.safetensors photos --views ten-crop"),
    (ensemble, "ensemble", "resnets ensemble resnet50.scores resnet101.scores"),
    (predict, "predict", "resnets predict resnet50@msra photos/ --out answers.jsonl"),
    (detect, "detect", "resnets detect runs/raccoons photos/ --out boxes.json --draw pictures"),
    (explain, "explain", "resnets explain resnet50@msra photo.jpg --out why"),
    (serve, "serve", "resnets serve photos=resnet50@msra cifar=cifar-resnet20"),
    (export, "export", "resnets export cifar-resnet20 --to onnx --out cifar-onnx"),
    (
        quantize,
        "quantize",
        "resnets quantize runs/finetune-resnet50@msra-seed0 --calibrate photos",
    ),
    (convert, "convert", "resnets convert resnet50.pth mine.safetensors"),
    (
        convert_boxes,
        "convert-boxes",
        "resnets convert-boxes VOCdevkit/VOC2007 coco2007 --format coco",
    ),
    (doctor, "doctor", "resnets doctor photos --quarantine photos/.quarantine"),
    (shards, "shards", "resnets shards photos shards --resize 256"),
    (responses, "responses", "resnets responses cifar-resnet20 runs/plain20 --plot figure7.png"),
    (signals, "signals", "resnets signals cifar10-short --network cifar-plain56"),
    (deepen, "deepen", "resnets deepen cifar-resnet20 --to 56 --out deep.safetensors"),
)
for function, name, line in VERBS:
    app.command(name, epilog=example(line))(function)
app.add_typer(paper.verbs, name="paper")


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Print versions and the CPU.")] = False,
) -> None:
    if version:
        from resnets.doctor.system import versions
        from resnets.support.devices import cpu_name
        from resnets.version import __version__

        found = versions()
        packages = ", ".join(f"{name} {found[name]}" for name in ("torch", "openvino"))
        print(f"resnets {__version__}")
        print(f"Python {platform.python_version()}, {packages}; {cpu_name()}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    if "_RESNETS_COMPLETE" in os.environ:  # a shell asks how a line goes on
        completion_init()
        app(prog_name="resnets")
    if sys.getfilesystemencoding() != "utf-8":  # names of files are UTF-8 in everything we write
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    run(app, "resnets")


def run(program: typer.Typer, name: str) -> None:
    """Run a command line: a user's mistake is one line on stderr and exit code 2."""
    with output.watched():
        _run(program, name)


def _run(program: typer.Typer, name: str) -> None:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its cache is not the user's concern
    try:
        _refuse_deleted_folder()
        code = _call(program, name)
        sys.stdout.flush()  # answers may be lost until here, whatever the exit code
    except UserError as error:
        _fail(error)
    except UsageError as error:
        _fail(_explained(error, name))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except output.OutputLost as lost:
        if lost.errno == errno.EPIPE:  # silently, as programs in a pipe do
            sys.exit(128 + signal.SIGPIPE)
        _fail(UserError(f"cannot print: {lost.strerror}"))
    except OSError as error:
        _fail(system_error(error))
    else:
        if code:
            sys.exit(code)


def _refuse_deleted_folder() -> None:
    """Raise `UserError` in a folder that was deleted: libraries of PyTorch could not be loaded."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the current folder no longer exists", hint="cd to another one") from error


def _call(program: typer.Typer, name: str) -> str | int | None:
    """Call the verb that the arguments name; returns its exit code."""
    words = [_expanded(word) for word in sys.argv[1:]]
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    command = typer.main.get_command(program)
    try:
        with command.make_context(name, words) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    except SystemExit as stop:
        return stop.code
    return 0


def _expanded(word: str) -> str:
    """An argument with `~` as the home folder, also after `--option=`, where shells leave it."""
    match = re.fullmatch(r"((?:--)?[\w.-]+=)?(~(?:/.*)?)", word, re.DOTALL)
    return word if match is None else (match[1] or "") + expand_user(match[2])


def _fail(error: UserError) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        with contextlib.suppress(output.OutputLost):
            print(f"resnets: {error}", file=sys.stderr)
    sys.exit(2)


def _explained(error: Any, name: str) -> UserError:
    """What the parser of program `name` refused, with the nearest option or verb."""
    context, kind = error.ctx, type(error).__name__
    command = context.command_path if context else name
    verb = command.removeprefix(name).strip()
    see = f"see: {command} --help" if context else ""  # without context the verb is unknown
    message = error.format_message().strip().rstrip(".")
    if kind == "NoArgsIsHelpError":
        print(context.get_help(), file=sys.stderr)
        sys.exit(2)
    if kind == "NoSuchOption":
        names = [name.lstrip("-") for name in _options(context)]
        hint = nearest(error.option_name.lstrip("-"), names, 1)
        if hint.startswith("did you mean"):
            see = f"{hint.replace('mean ', 'mean --')} (all: {command} --help)"
        return UserError(f"unknown option {error.option_name}", verb, see)
    if match := re.match("No such command ['\"](.*?)['\"]", message):
        hint = nearest(match[1], context.command.commands, 1)
        return UserError(f"unknown verb {match[1]!r}", verb, hint)
    if kind == "MissingParameter":
        message = f"missing {_name(error.param)}"
    elif (counted := _numbers_of(error, message)) is not None:
        option, count = counted
        message = f"{option} needs {count} numbers, such as {option} {' '.join(['0.5'] * count)}"
    elif kind == "BadParameter" and error.param is not None:
        reason = error.message.rstrip(".")
        for jargon, plain in _PLAIN:
            reason = reason.replace(jargon, plain)
        message = f"{_name(error.param)} {reason.partition(', unable')[0]}"
    else:
        message = message[:1].lower() + message[1:]
    return UserError(message, verb, see)


def _numbers_of(error: Any, message: str) -> tuple[str, int] | None:
    """The option that takes several numbers and did not get them, and how many; None if none."""
    if match := re.fullmatch(r"[Oo]ption '(.+)' requires (\d+) arguments", message):
        return match[1], int(match[2])
    parameter = getattr(error, "param", None)
    if parameter is None or parameter.nargs < 2:
        return None
    return _name(parameter), parameter.nargs


_PLAIN = (
    ("Input should be", "must be"),
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
)
"""Words of the parser, and plain ones."""


def _name(parameter: Any) -> str:
    """An argument or option as the help shows it."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper()).strip("[]").removesuffix("...")
    return str(max(parameter.opts, key=len))


def _options(context: Any) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        if parameter.param_type_name == "option":
            yield from (name for name in parameter.opts if name.startswith("--"))
