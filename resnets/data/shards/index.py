"""Where each image of a set of shards lies: `shards.json` and one array file for each split."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.support.errors import UserError

FORMAT = 1
MANIFEST = "shards.json"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class File:
    """A file of the set.

    Args:
        file: its name, relative to the set's folder.
        bytes: its size; None where others made it and it lies far away.
        sha256: of its content; empty where others made it.
        images: how many images it holds.
    """

    file: str
    bytes: int | None
    sha256: str
    images: int


@dataclass(frozen=True)
class Index:
    """The images of a split, in the order of the folder that they come from.

    Args:
        shard: number of the shard, int32.
        offset: where the image's content begins in the shard, int64.
        length: bytes of the content, int64.
        labels: int64.
        names: all names, UTF-8 without separators, uint8.
        ends: where each name ends in `names`, int64.
    """

    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    labels: NDArray[np.int64]
    names: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def packed(self) -> bytes:
        """The content of the array file."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: getattr(self, name) for name in self.__dataclass_fields__})
        return buffer.getvalue()


def names_of(names: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Names as one buffer, and where each ends in it."""
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def read_index(content: bytes, where: str) -> Index:
    """An array file's content; raises `UserError` if it is damaged."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return Index(*(arrays[name] for name in Index.__dataclass_fields__))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError("the index of the shards is damaged", where, HINT) from error


HINT = "copy or write the shards anew"


@dataclass(frozen=True)
class Split:
    """One split of the set: its shards, and the file with its index."""

    shards: list[File]
    index: File


@dataclass(frozen=True)
class Manifest:
    """What `shards.json` says.

    Args:
        classes: class names in the labels' order.
        splits: `train`, and `val` if there is one.
        source: which images these are and how they were written.
    """

    classes: list[str]
    splits: dict[str, Split]
    source: dict[str, Any]

    def text(self) -> str:
        """As JSON."""
        values = {"format": FORMAT, "classes": self.classes, "source": self.source}
        splits = {name: asdict(split) for name, split in self.splits.items()}
        return json.dumps({**values, "splits": splits}, indent=1) + "\n"


def read_manifest(content: bytes, where: str, own: bool = False) -> Manifest:
    """`shards.json`; raises `UserError` if it is damaged or of a later format.

    Args:
        content: of the file.
        where: its path or address.
        own: whether we made it for shards of others, and it may name any file or address.
    """
    try:
        values = json.loads(content)
        if values["format"] > FORMAT:
            raise UserError("was written by a later version of resnets", where, "update resnets")
        splits = {
            str(name): Split(
                [read_file(f, where, own) for f in split["shards"]],
                read_file(split["index"], where),
            )
            for name, split in values["splits"].items()
        }
        if "train" not in splits:
            raise KeyError("train")
        return Manifest([str(name) for name in values["classes"]], splits, values["source"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("is no description of shards, or damaged", where, HINT) from error


def read_file(values: dict[str, Any], where: str, own: bool = False) -> File:
    """A file's description; raises `UserError` if it may lead out of the set's folder."""
    file = File(**values)
    if not (isinstance(file.bytes, int) or (own and file.bytes is None)):
        raise TypeError("bytes")
    if not own and not _PLAIN.fullmatch(file.file):
        raise UserError(f"{file.file!r} is no plain name of a file", where, "do not trust this set")
    return file


def file_of(name: str, content: bytes, images: int) -> File:
    """The description of a file of this content."""
    return File(name, len(content), hashlib.sha256(content).hexdigest(), images)
