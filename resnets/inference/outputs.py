"""Files of answers: JSON lines, CSV or Parquet; a writing that was cut off goes on."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from filelock import FileLock, Timeout

from resnets.inference.image_files import plain
from resnets.inference.predictions import Answer
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, make_folder, write_json, writing

ROWS_A_PART = 10_000
"""Answers in one file of a Parquet folder."""


class Output(Protocol):
    """A file of answers."""

    def holds(self, image: str) -> bool:
        """Whether the image has its answer already."""

    def failed(self, image: str) -> bool:
        """Whether that answer is that it could not be read."""

    def write(self, answers: Sequence[Answer]) -> None:
        """Add answers; raises `UserError` if the disk refuses."""

    def close(self) -> None:
        """Nothing comes any more."""


@contextmanager
def open_output(
    path: Path, made_by: dict[str, Any], top: int, embeddings: bool, retry: bool = False
) -> Iterator[Output]:
    """The output called `path`, of the kind that its ending says; what it holds stays.

    It is closed whatever happens. Other processes are kept out of it meanwhile.

    Args:
        made_by: what the answers depend on. It is kept beside the output, in `path` with
            `.json` added, and must be the same when the output is gone on with.
        top: answers for each image.
        retry: forget the images that could not be read, so that they are tried again.

    Raises:
        UserError: if the ending is unknown, what is there was made by something else, or
            another process writes there.
    """
    check(path, embeddings)
    with writing(path):
        try:
            lock = FileLock(path.with_name(f".{path.name}.lock")).acquire(blocking=False)
        except Timeout as error:
            raise UserError("another process writes here", str(path), "wait for its end") from error
    with lock:
        about = path.with_name(path.name + ".json")
        _refuse_others(path, about, made_by)
        write_json(about, made_by)
        output = _kinds()[path.suffix](path, top, retry)
        try:
            yield output
        finally:
            output.close()


def check(path: Path, embeddings: bool) -> None:
    """Raise `UserError` if no output can be called so: its ending is unknown, or its folder."""
    kinds = _kinds()
    if path.suffix not in kinds:
        raise UserError("unknown kind of output", f"--out {path}", f"known: {', '.join(kinds)}")
    if path.suffix == ".csv" and embeddings:
        raise UserError(
            "CSV has no room for embeddings", f"--out {path}", "take .jsonl or .parquet"
        )
    if path.suffix == ".parquet":
        _pyarrow(path)
    if not path.parent.is_dir():
        raise UserError("no such folder", str(path.parent), "make it first")


def _kinds() -> dict[str, Callable[[Path, int, bool], Output]]:
    return {".jsonl": _Lines, ".csv": _Table, ".parquet": _Parquet}


def _refuse_others(path: Path, about: Path, made_by: dict[str, Any]) -> None:
    """Raise `UserError` if what is there is not ours, or was made in another way."""
    if not about.exists():
        if path.exists():
            raise UserError("is not of this command's making", str(path), "give another --out")
        return
    facts = _read(about)
    if not isinstance(facts, dict) or not facts.keys() >= {"model", "weights"}:
        raise UserError("is not of this command's making", str(about), "give another --out")
    if path.exists() and facts != made_by:
        engine, now = facts.get("runtime"), made_by.get("runtime")
        varying = ("weights", "runtime")  # int8 has a digest of its own
        same = {k: v for k, v in facts.items() if k not in varying}
        if engine != now and same == {k: v for k, v in made_by.items() if k not in varying}:
            raise UserError(
                f"was made in {engine}, not in {now}",
                str(path),
                "go on with its --precision and --runtime, or give another --out",
            )
        raise UserError(
            "was made with another model or other options", str(path), "give another --out"
        )


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            "Parquet needs pyarrow", f"--out {path}", "pip install resnets[parquet]"
        ) from error
    return pyarrow, parquet


def _read(about: Path) -> Any:
    try:
        return json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", str(about), "give another --out") from error


class _Appended:
    """A text file to which lines are added; one that a kill cut off is dropped."""

    def __init__(self, path: Path, top: int, retry: bool) -> None:
        self.path, self.top = path, top
        if retry and path.exists():
            self._forget_failed()
        with writing(path):
            self._file: IO[bytes] = path.open("a+b")
        self._file.seek(0)
        whole = 0
        self._done: dict[str, bool] = {}
        for line in self._records(self._file):
            whole += len(line)
            if whole > len(line) or line != self._header():
                name, failed = self._entry(line)
                self._done[plain(name)] = failed
        with writing(path):
            self._file.truncate(whole)
            if not whole:
                self._add(self._header())

    def _forget_failed(self) -> None:
        """Write the file anew without the images that could not be read."""

        def copy(file: IO[bytes]) -> None:
            with self.path.open("rb") as before:
                for line in self._records(before):
                    if line == self._header() or not self._entry(line)[1]:
                        file.write(line)

        atomic_write(self.path, copy)

    def _records(self, file: IO[bytes]) -> Any:
        """The whole lines of the file."""
        for line in file:
            if line.endswith(b"\n"):
                yield line

    def _header(self) -> bytes:
        return b""

    def _entry(self, line: bytes) -> tuple[str, bool]:
        """The image of a line, and whether it could not be read."""
        raise NotImplementedError

    def _no_answer(self, line: bytes) -> UserError:
        return UserError(
            f"holds a line that is no answer ({line[:40]!r})", str(self.path), "delete it"
        )

    def _text(self, answer: Answer) -> bytes:
        raise NotImplementedError

    def _add(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()

    def holds(self, image: str) -> bool:
        return plain(image) in self._done

    def failed(self, image: str) -> bool:
        return self._done.get(plain(image), False)

    def write(self, answers: Sequence[Answer]) -> None:
        with writing(self.path):
            self._add(b"".join(self._text(answer) for answer in answers))

    def close(self) -> None:
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


class _Lines(_Appended):
    """JSON lines."""

    _decoder = json.JSONDecoder()
    _start = '{"image": '

    def _entry(self, line: bytes) -> tuple[str, bool]:
        try:
            text = line.decode()
            if text.startswith(self._start) and text.endswith("}\n"):  # as we write them
                name, end = self._decoder.raw_decode(text, len(self._start))
                if isinstance(name, str) and text.startswith((', "top": ', ', "error": '), end):
                    return name, text.startswith(', "error": ', end)
            row = json.loads(line)
            return str(row["image"]), "error" in row
        except (ValueError, KeyError, TypeError) as error:
            raise self._no_answer(line) from error

    def _text(self, answer: Answer) -> bytes:
        return (json.dumps(answer.as_dict()) + "\n").encode()


class _Table(_Appended):
    """CSV: a row for each image."""

    def _header(self) -> bytes:
        ranks = range(1, self.top + 1)
        pairs = [name for rank in ranks for name in (f"class_{rank}", f"probability_{rank}")]
        return self._row(["image", *pairs, "error"])

    def _records(self, file: IO[bytes]) -> Any:
        """Rows: a line break within quotes does not end one."""
        row = b""
        for line in file:
            row += line
            if line.endswith(b"\n") and row.count(b'"') % 2 == 0:
                yield row
                row = b""

    def _entry(self, line: bytes) -> tuple[str, bool]:
        try:
            row = next(csv.reader([line.decode("utf-8", "surrogateescape")]))
            if len(row) != 2 + 2 * self.top:
                raise ValueError(f"{len(row)} cells")
        except (ValueError, csv.Error) as error:
            raise self._no_answer(line) from error
        return row[0], bool(row[-1])

    def _text(self, answer: Answer) -> bytes:
        pairs = zip(answer.classes, answer.probabilities, strict=True)
        cells = [cell for pair in pairs for cell in pair]
        cells += [""] * (2 * self.top - len(cells))
        return self._row([answer.image, *cells, answer.error or ""])

    def _row(self, cells: Sequence[Any]) -> bytes:
        text = io.StringIO()
        # Before Python 3.13 a lone carriage return gets no quotes by itself.
        returns = any("\r" in str(cell) for cell in cells)
        quoted: dict[str, Any] = {"quoting": csv.QUOTE_ALL} if returns else {}
        csv.writer(text, lineterminator="\n", **quoted).writerow(cells)
        return text.getvalue().encode("utf-8", "surrogateescape")


class _Parquet:
    """A folder of Parquet files, which readers take for one table; each is whole or absent."""

    def __init__(self, path: Path, top: int, retry: bool) -> None:
        self._arrow, self._parquet = arrow, parquet = _pyarrow(path)
        self.path = make_folder(path)
        self._waiting: list[Answer] = []
        self._done: dict[str, bool] = {}
        self._parts = sorted(path.glob("part-*.parquet"))
        for part in self._parts:
            try:
                if retry:
                    self._forget_failed(part)
                table = parquet.read_table(part, columns=["image", "error"])
                failed = table["error"].is_valid().to_pylist()
                self._done |= zip(map(plain, table["image"].to_pylist()), failed, strict=True)
            except (OSError, arrow.ArrowException, KeyError) as error:
                raise UserError(f"is damaged ({error})", str(part), "delete it") from error

    def _forget_failed(self, part: Path) -> None:
        """Write a part anew without the images that could not be read."""
        errors = self._parquet.read_table(part, columns=["error"])["error"]
        if errors.null_count < len(errors):
            good = self._parquet.read_table(part).filter(errors.is_null())
            atomic_write(part, lambda file: self._parquet.write_table(good, file))

    def holds(self, image: str) -> bool:
        return plain(_utf8(image)) in self._done

    def failed(self, image: str) -> bool:
        return self._done.get(plain(_utf8(image)), False)

    def write(self, answers: Sequence[Answer]) -> None:
        self._waiting += answers
        if len(self._waiting) >= ROWS_A_PART:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        arrow, rows = self._arrow, self._waiting
        table = arrow.table(
            {
                "image": arrow.array([_utf8(row.image) for row in rows], arrow.string()),
                "classes": arrow.array([row.classes for row in rows], arrow.list_(arrow.string())),
                "probabilities": arrow.array(
                    [row.probabilities for row in rows], arrow.list_(arrow.float32())
                ),
                "embedding": arrow.array(
                    [row.embedding for row in rows], arrow.list_(arrow.float32())
                ),
                "error": arrow.array([row.error for row in rows], arrow.string()),
            }
        )
        last = int(self._parts[-1].stem.removeprefix("part-")) if self._parts else -1
        part = self.path / f"part-{last + 1:06}.parquet"
        atomic_write(part, lambda file: self._parquet.write_table(table, file))
        self._waiting = []  # first: Ctrl-C before the next line must not write them twice
        self._parts.append(part)

    def close(self) -> None:
        self._flush()


def _utf8(name: str) -> str:
    """A file's name as a string that Parquet takes: names need not be UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
