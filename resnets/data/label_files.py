"""Files that list the class of each image.

A table has two columns (image, class), separated by tabs, semicolons, commas or blanks, perhaps
with a row of headings, further columns, and a column that names the split. Some files have one
column only: the classes in the order of the sorted images.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from resnets.data.images import has_image_ending
from resnets.data.split_names import split_of
from resnets.support.errors import UserError, valid_utf8
from resnets.support.files import read_text
from resnets.support.names import composed, similar

CLASS_INDEX_FILE = "labels.tsv"
"""Columns `file` and `class_index`: the index of a model's output."""

CLASS_NAME_FILES = (
    "val_annotations.txt",
    "LOC_val_solution.csv",
    "val_map.txt",
    "val_labels.txt",
    "labels.txt",
    "labels.csv",
    "ILSVRC2012_validation_synsets.txt",
)
"""Files that give the classes of a flat folder of test images."""
TABLE_FILES = ("labels.tsv", "labels.csv", "labels.txt", "train.csv", "train.tsv")
"""Files that give the classes of all images of a data folder; any other .csv or .tsv that is alone
there and has headings for image and class is one, too."""

MAX_CLASSES = 1_000_000
_SAVE_AS_UTF8 = "save the file as UTF-8"
_NO_CLASS = "needs an image and its class"

_FILE_HEADINGS = (
    "file", "filename", "filepath", "path", "image", "imagename", "imagepath", "imagefile",
    "imageid", "img", "imgname", "imgpath", "imgid", "photo", "picture", "id", "name",
)  # fmt: skip
_CLASS_HEADINGS = (
    "class", "classname", "label", "labelname", "category", "categoryname", "target", "y",
    "breed", "species", "variety", "type", "predictionstring", "classindex", "classid", "labelid",
    "name",
)  # fmt: skip
_UNCLEAR_HEADINGS = ("id", "imageid", "imgid", "name", "type", "y")
"""Headings that often mean other things: such a column counts only where there is no other."""
_SPLIT_HEADINGS = ("split", "set", "subset", "dataset", "partition", "usage", "phase")
_CLASS_AND_BOXES = re.compile(r"\S+( \d+){4}( \S+( \d+){4})*")

Label = TypeVar("Label", str, int)


class Entry(NamedTuple, Generic[Label]):
    """One line of a label file.

    Args:
        image: the image's path below its folder.
        label: the name of its class, or the index of a model's output.
        line: the line's number, from 1.
        split: `train`, `val` or `test`; empty if the file does not say.
    """

    image: str
    label: Label
    line: int
    split: str = ""

    @property
    def tested(self) -> bool:
        """Whether the image is to test on."""
        return self.split in ("val", "test")


class FileNames:
    """Files of a folder, found by the names that label files give them.

    Args:
        names: the files' paths below the folder.
        folder: the folder; a listed path may begin with its name.
        preferred: of files of one name in several folders, those of this folder are meant.
    """

    def __init__(self, names: Iterable[str], folder: Path, preferred: str = "") -> None:
        self._folder, self._preferred = folder, preferred
        self._paths: dict[str, str] = {}
        self._short: dict[str, list[str]] = {}
        for name in names:
            path = composed(name)
            self._paths[path] = name
            base = path.rpartition("/")[2]
            for short in {base, os.path.splitext(base)[0], os.path.splitext(path)[0]}:  # noqa: PTH122
                if short != path:
                    self._short.setdefault(short, []).append(name)

    def find(self, listed: str) -> str | None:
        """The path of a listed file: as it is, without its ending, or by its name alone.

        None if no file or several fit.
        """
        name = composed(listed)
        for one in (name, name.replace("\\", "/")):
            clean = one.removeprefix("./")
            for path in (clean, clean.removeprefix(f"{self._folder.name}/")):
                if path in self._paths:
                    return self._paths[path]
                found = self._short.get(path, [])
                near = [f for f in found if f.startswith(f"{self._preferred}/")] or found
                if len(near) == 1:
                    return near[0]
        return None

    def missing(self, listed: str, location: str) -> UserError:
        """The error for a listed file that `find` does not find."""
        short = self._short.get(composed(listed), [])
        if len(short) > 1:
            message = f"lists {listed[:200]}, which may be {short[0]} or {short[1]}"
            return UserError(message, location, "list the path of each image")
        message = f"lists an image that does not exist: {listed[:200]}"
        other = similar(listed, self._paths) or similar(listed, self._short)
        hint = f"did you mean {other}?" if other else ""
        return UserError(message, location, _SAVE_AS_UTF8 if _has_other_bytes(listed) else hint)


def find_class_indices(folder: Path) -> Path | None:
    """The file `labels.tsv` in `folder`, unless its classes are names."""
    path = _first_file([folder / CLASS_INDEX_FILE])
    if path is None:
        return None
    try:
        return None if _headings(path) else path
    except UserError:
        return path  # reported by whoever reads it


def find_class_names(folder: Path) -> Path | None:
    """The first of `CLASS_NAME_FILES` in `folder` or in its parent folder."""
    return _first_file(p / name for p in (folder, folder.parent) for name in CLASS_NAME_FILES)


def find_table(folder: Path) -> Path | None:
    """The file in `folder` that lists its images with their classes, if there is one."""
    path = _first_file(folder / name for name in TABLE_FILES)
    if path is not None:
        return path
    try:
        alone = [p for p in folder.iterdir() if is_table(p) and not p.name.startswith(".")]
    except OSError:
        return None
    if len(alone) != 1:
        return None
    try:
        return alone[0] if _headings(alone[0]) else None
    except UserError:
        return alone[0]  # reported by whoever reads it


def find_any(folder: Path) -> Path | None:
    """Any label file in `folder`."""
    return _first_file(folder / name for name in CLASS_NAME_FILES) or find_table(folder)


def is_table(path: Path) -> bool:
    """Whether this is a file that may list images, by its ending."""
    return path.suffix.lower() in (".csv", ".tsv") and os.path.isfile(path)  # noqa: PTH113


def _first_file(paths: Iterable[Path]) -> Path | None:
    return next((p for p in paths if os.path.isfile(p)), None)  # noqa: PTH113 (never raises)


def image_exists(folder: Path, name: str) -> bool:
    """Whether a listed image exists; false for names that the system refuses."""
    try:
        return (folder / name).exists()
    except (OSError, ValueError):
        return False


def read_class_indices(path: Path) -> list[Entry[int]]:
    """The images of a `labels.tsv` with the indices of their classes.

    Raises:
        UserError: if the file cannot be read, a column is missing, a class index is not a number
            from 0 to `MAX_CLASSES`, or an image is listed twice.
    """
    text = io.StringIO(_read(path), newline="")
    rows = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        for column in ("file", "class_index"):
            columns = [*(rows.fieldnames or ())].count(column)
            if columns != 1:
                number = "two columns" if columns else "no column"
                raise UserError(f"has {number} {column!r}", str(path))
        entries = [_class_index(row, path, rows.line_num) for row in rows]
    except csv.Error as error:  # a cell of more than 128 kB
        location = f"{path}, line {rows.reader.line_num}"
        raise UserError(f"cannot be read ({error})", location) from error
    _check(entries, path)
    return entries


def _class_index(row: dict[str | Any, str | Any], path: Path, line: int) -> Entry[int]:
    name, text, location = row["file"], row["class_index"], f"{path}, line {line}"
    if any(row.get(None, ())):
        raise UserError("has more cells than there are headings", location)
    try:
        index = int(text)
    except (TypeError, ValueError) as error:
        raise UserError(f"{text!r} is not a class index", location) from error
    if index < 0:
        raise UserError(f"class index {index} is negative", location)
    if index > MAX_CLASSES:
        raise UserError(f"class index {index} is too large", location)
    if not name:
        raise UserError("the column 'file' is empty", location)
    return Entry(name, index, line)


def read_class_names(path: Path, folder: Path, files: Iterable[str]) -> list[Entry[str]]:
    """The images of a flat folder with the names of their classes.

    Lines about images of another split, such as `train/1.jpg` for a folder `val`, are skipped.

    Args:
        path: the label file.
        folder: the folder of the images.
        files: names of the files in it.

    Raises:
        UserError: if the label file cannot be read, or lists no images, an image twice, or not
            as many classes as there are images.
    """
    files = [name for name in files if not name.startswith(".")]
    rows, columns = _rows(path)
    if rows and columns is None and all(len(cells) == 1 for cells, _ in rows):
        return _one_column(path, files, [(cells[0], line) for cells, line in rows])
    if columns is None:
        _refuse_uneven(path, rows)
    names, entries = FileNames(files, folder), []
    for entry in _entries(path, rows, columns or _Columns()):
        split = entry.image.replace("\\", "/").removeprefix("./").partition("/")[0]
        other = split != folder.name and split_of(split)
        if not (other and (folder.parent / split).is_dir() and not (folder / split).is_dir()):
            entries.append(entry._replace(image=names.find(entry.image) or entry.image))
    _check(entries, path)
    return entries


def read_table(path: Path, names: FileNames) -> tuple[list[Entry[str]], list[Entry[str]]]:
    """The images of a data folder with the names of their classes, and perhaps their split.

    Of a table with the splits val and test, those of test are left out, as of folders.

    Args:
        path: the table.
        names: the images of the folder.

    Returns:
        The entries, and those that are left out.

    Raises:
        UserError: if the table cannot be read, or lists no images, an image twice, or one that
            does not exist, or names an unknown split.
    """
    rows, columns = _rows(path)
    if (columns is None or columns.guessed) and any(len(cells) != 2 for cells, _ in rows):
        hint = "give it a first line with the headings file and class"
        raise UserError("does not say which column is the class", str(path), hint)
    entries = []
    for entry in _entries(path, rows, columns or _Columns()):
        found = names.find(entry.image)
        if found is None:
            raise names.missing(entry.image, f"{path}, line {entry.line}")
        entries.append(entry._replace(image=found))
    _check(entries, path)
    unused = "test" if any(entry.split == "val" for entry in entries) else None
    used = [entry for entry in entries if entry.split != unused]
    return used, [entry for entry in entries if entry.split == unused]


class _Columns(NamedTuple):
    """Which columns of a table hold the image, its class and its split.

    `guessed` if no heading names the class.
    """

    image: int = 0
    label: int = 1
    split: int | None = None
    guessed: bool = False


def _headings(path: Path) -> _Columns | None:
    """The columns by a table's first line, if it has headings for images and names of classes."""
    rows, columns = _rows(path, first=1)
    if columns is None or columns.guessed or "class_index" in rows[0][0]:
        return None
    return columns


def _rows(
    path: Path, first: int | None = None
) -> tuple[list[tuple[list[str], int]], _Columns | None]:
    """The rows of a table with their lines, without headings, and the columns by its headings.

    With `first`, that many rows, headings included.
    """
    lines = [line for line in enumerate(_read(path).split("\n"), 1) if line[1].strip()]
    semicolons = bool(lines) and all(";" in text and "\t" not in text for _, text in lines)
    rows = []
    for line, text in lines[:first]:
        try:
            cells = _cells(text.rstrip("\r"), semicolons)
        except csv.Error as error:
            raise UserError(f"cannot be read ({error})", f"{path}, line {line}") from error
        if cells:
            rows.append((cells, line))
    columns = _columns(rows[0][0]) if rows else None
    if first:
        return rows, columns
    if columns is None:
        return rows, None
    _refuse_uneven(path, rows)
    _refuse_unclear(path, [cells for cells, _ in rows], columns)
    return rows[1:], columns


def _refuse_uneven(path: Path, rows: Sequence[tuple[list[str], int]]) -> None:
    """Raise `UserError` if a row has other cells than the first has; empty ones do not count."""
    for cells, line in rows[1:]:
        first, first_line = rows[0]
        more = any(cells[len(first) :])
        if more or len(cells) < len(first):
            if len(cells) < 2:
                raise UserError(_NO_CLASS, f"{path}, line {line}")
            message = f"has {len(cells)} cells, but line {first_line} has {len(first)}"
            hint = "put names with commas into quotes, or separate the cells by tabs"
            raise UserError(message, f"{path}, line {line}", hint if more else "")


def _refuse_unclear(path: Path, rows: Sequence[list[str]], columns: _Columns) -> None:
    """Raise `UserError` if another column may be the image or its class, and says another thing.

    Of two columns for the image, both must name the same file; of two for the class, such as a
    number and a name, each value of one must belong to one value of the other.
    """
    headings = _plain(rows[0])
    for what, own, known in (
        ("image", columns.image, _FILE_HEADINGS),
        ("class", columns.label, _CLASS_HEADINGS),
        ("split", columns.split, ()),
    ):
        for other, heading in enumerate(headings):
            if own is None or other in (columns.image, columns.label, columns.split):
                continue
            clear = heading in known and heading not in _UNCLEAR_HEADINGS
            if heading != headings[own] and not (clear and _differ(what, rows[1:], own, other)):
                continue
            names = f"{rows[0][own]!r} and {rows[0][other]!r}"
            message = f"two columns may be the {what}: {names}"
            raise UserError(message, str(path), "remove or rename one of them")


def _differ(what: str, rows: Iterable[list[str]], one: int, other: int) -> bool:
    """Whether two columns for the image or the class say different things of any row."""
    pairs = {(cells[one], cells[other]) for cells in rows}
    if what == "image":
        return any(_stem(first) != _stem(second) for first, second in pairs)
    return not len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _stem(listed: str) -> str:
    """A listed file's name without its folder and its ending."""
    return os.path.splitext(listed.replace("\\", "/").rpartition("/")[2])[0]  # noqa: PTH122


def _plain(cells: Sequence[str]) -> list[str]:
    """Headings without letter case, blanks and signs."""
    return [re.sub(r"[\s_.-]", "", cell).lower() for cell in cells]


def _columns(cells: Sequence[str]) -> _Columns | None:
    """The columns that headings name; None if the first row is none of headings."""
    headings = _plain(cells)

    def first(known: Sequence[str], but: int | None = None) -> int | None:
        found = [headings.index(name) for name in known if name in headings]
        return next((number for number in found if number != but), None)

    image = first(_FILE_HEADINGS)
    if image is None or len(cells) < 2:
        return None
    label = first(_CLASS_HEADINGS, image)
    if label is None:
        return _Columns(guessed=True) if image == 0 else None
    return _Columns(image, label, first(_SPLIT_HEADINGS))


def _entries(
    path: Path, rows: Iterable[tuple[list[str], int]], columns: _Columns
) -> Iterable[Entry[str]]:
    for cells, line in rows:
        if len(cells) <= max(columns.image, columns.label) or not cells[columns.label]:
            raise UserError(_NO_CLASS, f"{path}, line {line}")
        split = ""
        if columns.split is not None:
            named = cells[columns.split] if len(cells) > columns.split else ""
            split = split_of(named) or ""
            if not split:
                hint = "use train and val"
                raise UserError(f"unknown split {named!r}", f"{path}, line {line}", hint)
        label = cells[columns.label]
        if _has_other_bytes(label):
            shown = label.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            message = f"the class {shown[:200]} is not UTF-8 text"
            raise UserError(message, f"{path}, line {line}", _SAVE_AS_UTF8)
        yield Entry(cells[columns.image], label, line, split)


def _read(path: Path) -> str:
    """The text of a file; names of images may have bytes that are not UTF-8."""
    return read_text(path, errors="surrogateescape")


def _has_other_bytes(text: str) -> bool:
    """Whether a text was read from bytes that are not UTF-8."""
    return valid_utf8(text) != text


def _cells(row: str, semicolons: bool) -> list[str]:
    """The cells of a line, separated by tabs, else semicolons or commas, else blanks."""
    if "\t" in row:
        return [cell.strip() for cell in row.split("\t")]
    if semicolons:
        return [cell.strip() for cell in next(csv.reader([row], delimiter=";"))]
    if "," in row:
        cells = [cell.strip() for cell in next(csv.reader([row]))]
        # Kaggle's "id,class left top right bottom ..."; other class names may contain blanks.
        if len(cells) > 1 and _CLASS_AND_BOXES.fullmatch(cells[1]):
            cells[1] = cells[1].split()[0]
        return cells
    return row.split()


def _one_column(path: Path, files: list[str], rows: list[tuple[str, int]]) -> list[Entry[str]]:
    images = sorted(name for name in files if has_image_ending(name))
    if len(images) != len(rows):
        raise UserError(f"has {len(rows)} classes for {len(images)} images", str(path))
    one_column = [([image, name], line) for image, (name, line) in zip(images, rows, strict=True)]
    return [*_entries(path, one_column, _Columns())]


def _check(entries: Sequence[Entry[Any]], path: Path) -> None:
    """Raise `UserError` if there are no entries, or two for one image."""
    if not entries:
        raise UserError("lists no images", str(path))
    known: dict[str, Entry[Any]] = {}
    for entry in entries:
        first = known.setdefault(entry.image, entry)
        if first is not entry:
            message = f"lists {entry.image} again, after line {first.line}"
            if first.label != entry.label:
                message += f": as {entry.label!r}, and there as {first.label!r}"
            raise UserError(message, f"{path}, line {entry.line}")
