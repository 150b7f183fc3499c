"""Files of answers: JSON lines, CSV or Parquet; a writing that was cut off goes on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from resnets.deploy.predicting import Answer
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, make_folder, write_json, writing

ROWS_A_PART = 10_000
"""Answers in one file of a Parquet folder."""


class Output(Protocol):
    """A file of answers."""

    def holds(self, image: str) -> bool:
        """Whether the image has its answer already."""

    def write(self, answers: Sequence[Answer]) -> None:
        """Add answers; raises `UserError` if the disk refuses."""

    def close(self) -> None:
        """Nothing comes any more."""


def open_output(path: Path, made_by: dict[str, Any], top: int, embeddings: bool) -> Output:
    """The output called `path`, of the kind that its ending says; what it holds stays.

    Args:
        made_by: what the answers depend on. It is kept beside the output, in `path` with
            `.json` added, and must be the same when the output is gone on with.
        top: answers for each image.

    Raises:
        UserError: if the ending is unknown, or what is there was made by something else.
    """
    kinds: dict[str, Callable[[Path, int], Output]] = {
        ".jsonl": _Lines,
        ".csv": _Table,
        ".parquet": _Parquet,
    }
    if path.suffix not in kinds:
        raise UserError("unknown kind of output", f"--out {path}", f"known: {', '.join(kinds)}")
    if path.suffix == ".csv" and embeddings:
        raise UserError(
            "CSV has no room for embeddings", f"--out {path}", "take .jsonl or .parquet"
        )
    about = path.with_name(path.name + ".json")
    if not path.parent.is_dir():
        raise UserError("no such folder", str(path.parent), "make it first")
    if path.exists() and not about.exists():
        raise UserError("is not of this command's making", str(path), "give another --out")
    if path.exists() and _read(about) != made_by:
        raise UserError(
            "was made with another model or other options", str(path), "give another --out"
        )
    write_json(about, made_by)
    return kinds[path.suffix](path, top)


def digest(path: Path) -> str:
    """Hash of a model file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(about: Path) -> Any:
    try:
        return json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", str(about), "give another --out") from error


class _Appended:
    """A text file to which lines are added; one that a kill cut off is dropped."""

    def __init__(self, path: Path, top: int) -> None:
        self.path, self.top = path, top
        with writing(path):
            self._file: IO[bytes] = path.open("a+b")
        self._file.seek(0)
        whole = 0
        self._done: set[str] = set()
        for line in self._records(self._file):
            whole += len(line)
            name = self._name(line)
            if name is not None:
                self._done.add(name)
        with writing(path):
            self._file.truncate(whole)
            if not whole:
                self._add(self._header())

    def _records(self, file: IO[bytes]) -> Any:
        """The whole lines of the file."""
        for line in file:
            if line.endswith(b"\n"):
                yield line

    def _header(self) -> bytes:
        return b""

    def _name(self, line: bytes) -> str | None:
        raise NotImplementedError

    def _text(self, answer: Answer) -> bytes:
        raise NotImplementedError

    def _add(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()

    def holds(self, image: str) -> bool:
        return image in self._done

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

    def _name(self, line: bytes) -> str | None:
        try:
            return str(json.loads(line)["image"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"holds a line that is no answer ({line[:40]!r})", str(self.path), "delete it"
            ) from error

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

    def _name(self, line: bytes) -> str | None:
        row = next(csv.reader([line.decode("utf-8", "surrogateescape")]))
        return None if line == self._header() else row[0]

    def _text(self, answer: Answer) -> bytes:
        pairs = zip(answer.classes, answer.probabilities, strict=True)
        cells = [cell for pair in pairs for cell in pair]
        cells += [""] * (2 * self.top - len(cells))
        return self._row([answer.image, *cells, answer.error or ""])

    def _row(self, cells: Sequence[Any]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        return text.getvalue().encode("utf-8", "surrogateescape")


class _Parquet:
    """A folder of Parquet files, which readers take for one table; each is whole or absent."""

    def __init__(self, path: Path, top: int) -> None:
        try:
            import pyarrow as arrow
            from pyarrow import parquet
        except ImportError as error:
            raise UserError(
                "Parquet needs pyarrow", f"--out {path}", "pip install resnets[parquet]"
            ) from error
        self._arrow, self._parquet = arrow, parquet
        self.path = make_folder(path)
        self._waiting: list[Answer] = []
        self._done: set[str] = set()
        self._parts = sorted(path.glob("part-*.parquet"))
        for part in self._parts:
            try:
                self._done |= set(parquet.read_table(part, columns=["image"])["image"].to_pylist())
            except (OSError, arrow.ArrowException, KeyError) as error:
                raise UserError(f"is damaged ({error})", str(part), "delete it") from error

    def holds(self, image: str) -> bool:
        return _utf8(image) in self._done

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
        self._parts.append(part)
        self._waiting = []

    def close(self) -> None:
        self._flush()


def _utf8(name: str) -> str:
    """A file's name as a string that Parquet takes: names need not be UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
