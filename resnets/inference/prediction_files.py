"""Files of predictions: JSON lines, CSV or Parquet; one that is incomplete can be resumed."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar

from resnets.inference.image_inputs import normalized
from resnets.inference.predictions import DIGITS, Prediction
from resnets.inference.predictor import Identity
from resnets.support.errors import UserError, valid_utf8
from resnets.support.files import (
    atomic_write,
    existing_folder,
    locked,
    make_folder,
    sync,
    write_json,
    writing,
)

ROWS_PER_PART = 10_000
"""Predictions in one file of a Parquet folder."""


class Record(Protocol):
    """What a file has of each image."""

    @property
    def image(self) -> str:
        """The image's name."""

    @property
    def error(self) -> str | None:
        """Why the image could not be read."""

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON, with `image` first, and `error` if there is one."""


Row = TypeVar("Row", bound=Record)


class PredictionFile(ABC, Generic[Row]):
    """An open file of predictions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, bool] = {}
        """By image, whether the file has an error for it."""

    def holds(self, image: str) -> bool:
        """Whether the file has a prediction for the image, or its error."""
        return self._key(image) in self._done

    def failed(self, image: str) -> bool:
        """Whether the file has an error for the image."""
        return self._done.get(self._key(image), False)

    def _key(self, image: str) -> str:
        return normalized(valid_utf8(image))

    @abstractmethod
    def write(self, predictions: Sequence[Row]) -> None:
        """Append predictions; raises `UserError` if the disk is full or read-only."""

    @abstractmethod
    def close(self) -> None:
        """Write what is buffered, and close the file."""


@contextmanager
def open_file(
    path: Path, origin: dict[str, Any], *, top: int, embeddings: bool, retry: bool = False
) -> Iterator[PredictionFile[Prediction]]:
    """Open or create a file of predictions, in the format of its extension; its content is kept.

    Args:
        path: ends in `.jsonl`, `.csv` or `.parquet` (a folder of Parquet files).
        origin: what `origin_of` returns, see `opened`.
        top: classes of each prediction.
        embeddings: whether predictions hold the pooled features.
        retry: remove the images that could not be read, so that they are tried again.

    Raises:
        UserError: if the extension is unknown, or as `opened`.
    """
    check_path(path, embeddings)
    with opened(path, origin, lambda: _formats()[path.suffix](path, top, retry)) as output:
        yield output


@contextmanager
def opened(
    path: Path, origin: dict[str, Any], make: Callable[[], PredictionFile[Row]]
) -> Iterator[PredictionFile[Row]]:
    """A file that `make` opens; locked against other processes until the context ends, and closed.

    Args:
        path: the file.
        origin: what its content depends on. It is stored next to `path`, in a file with `.json`
            appended to the name; a file is resumed only with the same origin.
        make: opens it.

    Raises:
        UserError: if the file was not written by this program or with other models or options, or
            another process writes it.
    """
    busy = UserError("another process writes here", str(path), "wait until it has finished")
    with locked(path.with_name(f".{path.name}.lock"), busy):
        record = path.with_name(path.name + ".json")
        _refuse_other_origin(path, record, origin)
        write_json(record, origin)
        output = make()
        try:
            yield output
        finally:
            output.close()


@dataclass(frozen=True)
class Written:
    """What `write_predictions` did.

    Args:
        computed: predictions that were written, errors included.
        skipped: images that the file had already.
        failed: images that could not be read, now or before.
    """

    computed: int
    skipped: int
    failed: int


def write_predictions(
    output: PredictionFile[Row],
    images: Sequence[str],
    predict: Callable[[list[str]], Iterable[Row]],
    *,
    batch: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write the predictions that a file lacks, batch by batch.

    Args:
        output: the open file.
        images: image files.
        predict: yields predictions of some image files, usually one for each.
        batch: predictions that are written at a time.
        progress: called after each batch with the number done and the number to compute.

    Raises:
        UserError: if the file cannot be written, or from `predict`.
    """
    todo = [image for image in images if not output.holds(image)]
    failed = sum(output.failed(image) for image in images)
    predictions, done = iter(predict(todo)), 0
    while group := list(islice(predictions, batch)):
        output.write(group)
        done += len(group)
        failed += sum(prediction.error is not None for prediction in group)
        progress(done, len(todo))
    return Written(computed=done, skipped=len(images) - len(todo), failed=failed)


def origin_of(identity: Identity, *, top: int, embeddings: bool) -> dict[str, Any]:
    """What the predictions in a file depend on, as `open_file` compares and stores it."""
    return {
        "model": identity.network,
        "weights": identity.weights,
        "runtime": identity.runtime,
        "top": top,
        "embeddings": embeddings,
    }


def check_path(path: Path, embeddings: bool) -> None:
    """Raise `UserError` if predictions cannot be written to `path`.

    That is so if its extension is unknown or cannot hold embeddings, a package is missing for it,
    or its folder does not exist.
    """
    formats = _formats()
    if path.suffix not in formats:
        raise UserError("unknown kind of output", f"--out {path}", f"known: {', '.join(formats)}")
    if path.suffix == ".csv" and embeddings:
        raise UserError("CSV cannot hold embeddings", f"--out {path}", "use .jsonl or .parquet")
    if path.suffix == ".parquet":
        _pyarrow(path)
    existing_folder(path.parent, "create it first")


def _formats() -> dict[str, Callable[[Path, int, bool], PredictionFile[Prediction]]]:
    return {
        ".jsonl": lambda path, top, retry: JsonLines(path, retry),
        ".csv": _Csv,
        ".parquet": _Parquet,
    }


def _refuse_other_origin(path: Path, record: Path, origin: dict[str, Any]) -> None:
    """Raise `UserError` if the file was not written by this program, or in another way."""
    if not record.exists():
        if path.exists():
            raise UserError("was not written by this command", str(path), "give another --out")
        return
    try:
        earlier = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", str(record), "give another --out") from error
    if not isinstance(earlier, dict) or not earlier.keys() >= {"model", "weights"}:
        raise UserError("was not written by this command", str(record), "give another --out")
    if path.exists() and earlier != origin:
        before, now = earlier.get("runtime"), origin.get("runtime")
        varying = {"weights": None, "runtime": None}  # the digest of weights differs in int8
        if before != now and {**earlier, **varying} == {**origin, **varying}:
            raise UserError(
                f"was made in {before}, not in {now}",
                str(path),
                "resume with its --precision and --runtime, or give another --out",
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


class _TextFile(PredictionFile[Row]):
    """A text file to which lines are appended; an incomplete last line is removed."""

    def __init__(self, path: Path, retry: bool) -> None:
        super().__init__(path)
        if retry and path.exists():
            self._forget_failed()
        with writing(path):
            self._file: IO[bytes] = path.open("a+b")
        self._file.seek(0)
        length = 0  # of all complete lines
        for line in self._records(self._file):
            length += len(line)
            if length > len(line) or line != self._header():
                name, failed = self._entry(line)
                self._done[self._key(name)] = failed
        with writing(path):
            self._file.truncate(length)
            if not length:
                self._add(self._header())

    def _forget_failed(self) -> None:
        """Remove the images that could not be read."""

        def copy(file: IO[bytes]) -> None:
            with self.path.open("rb") as before:
                for line in self._records(before):
                    if line == self._header() or not self._entry(line)[1]:
                        file.write(line)

        atomic_write(self.path, copy)

    def _records(self, file: IO[bytes]) -> Any:
        """The complete lines of the file."""
        for line in file:
            if line.endswith(b"\n"):
                yield line

    def _header(self) -> bytes:
        return b""

    @abstractmethod
    def _entry(self, line: bytes) -> tuple[str, bool]:
        """The image of a line, and whether the line is an error; raises `UserError`."""

    def _bad_line(self, line: bytes) -> UserError:
        return UserError(
            f"a line is not a prediction ({line[:40]!r})", str(self.path), "delete that line"
        )

    @abstractmethod
    def _line(self, prediction: Row) -> bytes:
        """A prediction as a line."""

    def _add(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()

    def write(self, predictions: Sequence[Row]) -> None:
        with writing(self.path):
            self._add(b"".join(map(self._line, predictions)))

    def close(self) -> None:
        with writing(self.path):
            self._file.flush()
            sync(self.path)
            self._file.close()


class JsonLines(_TextFile[Row]):
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
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._bad_line(line) from error

    def _line(self, prediction: Row) -> bytes:
        return (json.dumps(prediction.as_dict()) + "\n").encode()


class _Csv(_TextFile[Prediction]):
    """CSV: a row for each image."""

    def __init__(self, path: Path, top: int, retry: bool) -> None:
        self.top = top
        super().__init__(path, retry)

    def _header(self) -> bytes:
        ranks = range(1, self.top + 1)
        pairs = [name for rank in ranks for name in (f"class_{rank}", f"probability_{rank}")]
        return csv_row(["image", *pairs, "error"])

    def _records(self, file: IO[bytes]) -> Any:
        """The complete rows; a line break within quotes does not end a row."""
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
            raise self._bad_line(line) from error
        return row[0], bool(row[-1])

    def _line(self, prediction: Prediction) -> bytes:
        facts = [entry.as_dict() for entry in prediction.top]
        cells = [cell for one in facts for cell in one.values()]
        cells += [""] * (2 * self.top - len(cells))
        return csv_row([prediction.image, *cells, prediction.error or ""])


def csv_row(cells: Sequence[Any]) -> bytes:
    """Cells as a row of CSV."""
    text = io.StringIO()
    # Before Python 3.13 a lone carriage return is not quoted.
    returns = any("\r" in str(cell) for cell in cells)
    quoted: dict[str, Any] = {"quoting": csv.QUOTE_ALL} if returns else {}
    csv.writer(text, lineterminator="\n", **quoted).writerow(cells)
    return valid_utf8(text.getvalue()).encode()


class _Parquet(PredictionFile[Prediction]):
    """A folder of Parquet files, which readers treat as one table; each is complete or absent."""

    def __init__(self, path: Path, top: int, retry: bool) -> None:
        self._arrow, self._parquet = arrow, parquet = _pyarrow(path)
        super().__init__(make_folder(path))
        self._buffer: list[Prediction] = []
        self._parts = sorted(path.glob("part-*.parquet"))
        for part in self._parts:
            try:
                if retry:
                    self._forget_failed(part)
                table = parquet.read_table(part, columns=["image", "error"])
                failed = table["error"].is_valid().to_pylist()
                self._done |= zip(map(normalized, table["image"].to_pylist()), failed, strict=True)
            except (OSError, arrow.ArrowException, KeyError) as error:
                raise UserError(f"is damaged ({error})", str(part), "delete it") from error

    def _forget_failed(self, part: Path) -> None:
        """Remove the images that could not be read from a part."""
        errors = self._parquet.read_table(part, columns=["error"])["error"]
        if errors.null_count < len(errors):
            good = self._parquet.read_table(part).filter(errors.is_null())
            atomic_write(part, lambda file: self._parquet.write_table(good, file))

    def write(self, predictions: Sequence[Prediction]) -> None:
        self._buffer += predictions
        if len(self._buffer) >= ROWS_PER_PART:
            self._flush()

    def _flush(self) -> None:
        if not self._buffer:
            return
        arrow, rows = self._arrow, self._buffer
        text, numbers = arrow.string(), arrow.list_(arrow.float32())
        tops = [row.top for row in rows]
        classes = [[valid_utf8(entry.name) for entry in top] for top in tops]
        probabilities = [[round(entry.probability, DIGITS) for entry in top] for top in tops]
        columns = {
            "image": arrow.array([valid_utf8(row.image) for row in rows], text),
            "classes": arrow.array(classes, arrow.list_(text)),
            "probabilities": arrow.array(probabilities, numbers),
            "embedding": arrow.array([row.embedding for row in rows], numbers),
            "error": arrow.array([row.error for row in rows], text),
        }
        table = arrow.table(columns)
        last = int(self._parts[-1].stem.removeprefix("part-")) if self._parts else -1
        part = self.path / f"part-{last + 1:06}.parquet"
        atomic_write(part, lambda file: self._parquet.write_table(table, file))
        self._buffer = []  # first: Ctrl-C before the next line must not write them twice
        self._parts.append(part)

    def close(self) -> None:
        self._flush()
