"""Where each image of a set of shards is: `shards.json`, and one array file for each split.

`resnets shards` writes both next to the shards. For WebDataset shards from other writers, `scan`
makes them in the cache folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnets.data.image_formats import EXTENSIONS
from resnets.data.samples import PackedNames
from resnets.data.shards.store import HINT, ShardFile, Store
from resnets.data.split_names import has_test_word
from resnets.support.errors import UserError
from resnets.support.files import make_folder, write_bytes

FORMAT = 1
MANIFEST = "shards.json"

_END_MARKER = 2 * tarfile.BLOCKSIZE  # zeros at least, at the end of every tar file
_CHUNK = 1 << 20
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")
_PADDED_NUMBER = re.compile(r"[0-9]{1,9}")
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Index:
    """The images of a split, in the order of the folder that they come from.

    Args:
        shard: number of the shard, int32 (images,).
        offset: where the image's content begins in the shard, in bytes, int64 (images,).
        length: bytes of the content, int64 (images,).
        labels: int64 (images,).
        names: the images' names.
    """

    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    labels: NDArray[np.int64]
    names: PackedNames

    def write(self, folder: Path, split: str) -> ShardFile:
        """Write the array file of a split into `folder`; returns its description."""
        arrays: dict[str, Any] = {
            "shard": self.shard,
            "offset": self.offset,
            "length": self.length,
            "labels": self.labels,
            "names": self.names.buffer,
            "ends": self.names.ends,
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        file = ShardFile(f"{split}.index.npz", len(content), digest, len(self.labels))
        write_bytes(folder / file.name, content)
        return file

    @staticmethod
    def parse(content: bytes, location: str) -> Index:
        """The content of an array file; raises `UserError` if it is damaged."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return Index(
                    arrays["shard"],
                    arrays["offset"],
                    arrays["length"],
                    arrays["labels"],
                    PackedNames(arrays["names"], arrays["ends"]),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError("the index of the shards is damaged", location, HINT) from error


@dataclass(frozen=True)
class Split:
    """The shards of a split, and the file of its index."""

    shards: list[ShardFile]
    index: ShardFile


@dataclass(frozen=True)
class Manifest:
    """The content of `shards.json`.

    Args:
        classes: class names in the order of the labels.
        splits: `train`, and `val` if there is one.
        source: identifies the images and the options that the shards were written with.
    """

    classes: list[str]
    splits: dict[str, Split]
    source: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write `shards.json` into `folder`."""
        values = {"format": FORMAT, "classes": self.classes, "source": self.source}
        splits = {
            name: {"shards": [f.to_json() for f in split.shards], "index": split.index.to_json()}
            for name, split in self.splits.items()
        }
        text = json.dumps({**values, "splits": splits}, indent=1) + "\n"
        write_bytes(folder / MANIFEST, text.encode())

    @staticmethod
    def parse(content: bytes, location: str, trusted: bool = False) -> Manifest:
        """The content of a `shards.json`.

        Args:
            content: of the file.
            location: its path or URL, for messages.
            trusted: whether `scan` wrote it, so that its shards may have any path or URL.

        Raises:
            UserError: if it is damaged, of a later format, or names files in other folders.
        """
        try:
            values = json.loads(content)
            if values["format"] > FORMAT:
                message = "was written by a later version of resnets"
                raise UserError(message, location, "update resnets")
            splits = {
                str(name): Split(
                    [ShardFile.from_json(f, location, trusted) for f in split["shards"]],
                    ShardFile.from_json(split["index"], location),
                )
                for name, split in values["splits"].items()
            }
            if "train" not in splits:
                raise KeyError("train")
            return Manifest([str(name) for name in values["classes"]], splits, values["source"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = "is not a description of shards, or is damaged"
            raise UserError(message, location, HINT) from error


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern such as `a-{000..002}.tar` or `{train,val}.tar` stands for."""
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if ends:
        words = [str(n).zfill(len(ends[1])) for n in range(int(ends[1]), int(ends[2]) + 1)]
    else:
        words = found[1].split(",")
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [name for word in words for name in expand_braces(f"{before}{word}{after}")]


def scan(store: Store, names: list[str], classes: list[str] | None, out: Path) -> Manifest:
    """Index WebDataset shards from other writers, and write the index into the folder `out`.

    Shards whose names contain `val`, `test` or the like as a word are the test split (see
    `split_names.has_test_word`). The folders or hosts that all names begin with do not count.

    Args:
        store: provides the shards.
        names: the shards' file names or URLs.
        classes: class names, if the shards contain class numbers and the names are known.
        out: folder for the index.

    Raises:
        UserError: if a shard is truncated or compressed, or an image or its class is missing.
    """
    if not names:
        raise UserError("the pattern names no shards", store.location)
    scanned: dict[str, _ScannedSplit] = {}
    common = "".join(os.path.commonprefix(names).rpartition("/")[:2])  # noqa: RUF071
    for name in names:
        stem = name.removeprefix(common).removesuffix(".tar")
        split = "val" if has_test_word(stem) else "train"
        path = store.path(ShardFile(name, None, "", 0))
        try:
            scanned.setdefault(split, _ScannedSplit()).add(path, name, stem)
        except UserError:
            if store.remote:  # so that it is downloaded again after it was repaired
                path.unlink(missing_ok=True)
            raise
    if "train" not in scanned:
        scanned["train"] = scanned.pop("val")
    words = {sample.word for split in scanned.values() for sample in split.samples}
    if not words:
        raise UserError("the shards contain no images", store.location)
    class_names, numbers = _number_classes(words, classes, store.location)
    make_folder(out)
    splits = {
        name: Split(split.files, split.index(numbers).write(out, name))
        for name, split in scanned.items()
    }
    manifest = Manifest(class_names, splits, {"scanned": True})
    manifest.write(out)
    return manifest


def _number_classes(
    words: set[str], classes: list[str] | None, location: str
) -> tuple[list[str], dict[str, int]]:
    """The class names, and the label of each word that stands for a class in the shards.

    Words are class numbers if all are below 100,000 without leading zeros (unlike the WordNet
    offsets of ImageNet's classes), or if class names are given. Otherwise they are class names.
    """
    number = _NUMBER if classes is None else _PADDED_NUMBER
    if not all(number.fullmatch(word) for word in words):
        names = sorted(words)
        return names, {name: label for label, name in enumerate(names)}
    numbers = {word: int(word) for word in words}
    count = max(numbers.values()) + 1
    if classes is None:
        return [str(label) for label in range(count)], numbers
    if count > len(classes):
        message = f"class {count - 1} is beyond the {len(classes)} of classes.txt"
        raise UserError(message, location)
    return classes, numbers


class _Sample(NamedTuple):
    """An image in a tar file, and the content of the member `.cls` with the same key."""

    name: str
    offset: int
    length: int
    word: str


@dataclass
class _ScannedSplit:
    """The images of a split, as far as its shards have been scanned."""

    files: list[ShardFile] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    samples: list[_Sample] = field(default_factory=list)

    def add(self, path: Path, name: str, stem: str) -> None:
        """Scan a shard; the names of its images begin with `stem`."""
        try:
            with tarfile.open(path, "r:") as tar:
                samples = list(_scan_tar(tar, path.stat().st_size, name))
        except FileNotFoundError as error:
            raise UserError("the shard is missing", str(path)) from error
        except (tarfile.TarError, OSError) as error:
            message = f"the shard is truncated or not a tar file ({error})"
            raise UserError(message, name, HINT) from error
        self.shard += [len(self.files)] * len(samples)
        self.names += [f"{stem}/{sample.name}" for sample in samples]
        self.samples += samples
        self.files.append(ShardFile(name, path.stat().st_size, "", len(samples)))

    def index(self, numbers: dict[str, int]) -> Index:
        """The index, with the labels that `numbers` assigns to the words."""
        return Index(
            np.array(self.shard, np.int32),
            np.array([sample.offset for sample in self.samples], np.int64),
            np.array([sample.length for sample in self.samples], np.int64),
            np.array([numbers[sample.word] for sample in self.samples], np.int64),
            PackedNames.pack(self.names),
        )


def _scan_tar(tar: tarfile.TarFile, size: int, name: str) -> Iterator[_Sample]:
    """The samples of a tar file of `size` bytes; the members of a sample follow each other."""
    for key, members in groupby(_files(tar, size, name), key=lambda m: _split_name(m.name)[0]):
        if not key:  # a hidden file
            continue
        image, word = None, ""
        for member in members:
            extension = _split_name(member.name)[1]
            if f".{extension.lower()}" in EXTENSIONS:
                image = member
            elif extension == "cls":
                content = tar.extractfile(member)
                word = content.read().decode("utf-8", "replace").strip() if content else ""
        if image is None:
            raise UserError(f"sample {key} has no image", name)
        if not word:
            hint = "if this is an archive of class folders, give the path of the archive"
            raise UserError(f"sample {key} has no class (a member {key}.cls)", name, hint)
        yield _Sample(key + Path(image.name).suffix, image.offset_data, image.size, word)


def _files(tar: tarfile.TarFile, size: int, name: str) -> Iterator[tarfile.TarInfo]:
    """The members that are files; raises `UserError` if the tar file is truncated or damaged."""
    for member in tar:
        if member.isfile():
            if member.offset_data + member.size > size:
                raise UserError(f"the shard is truncated within {member.name}", name, HINT)
            yield member
    _check_end(tar, size, name)


def _split_name(name: str) -> tuple[str, str]:
    """The key of a member and its extension: its path before and after the file's first dot."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, extension


def _check_end(tar: tarfile.TarFile, size: int, name: str) -> None:
    """Raise `UserError` unless only zeros follow the last member: tarfile ignores the rest."""
    if size - tar.offset < _END_MARKER:
        raise UserError("the shard is truncated: it has no end marker", name, HINT)
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    while chunk := tar.fileobj.read(_CHUNK):
        rest = chunk.lstrip(b"\0")
        if rest:
            position = tar.fileobj.tell() - len(rest)
            raise UserError(f"the shard is damaged at byte {position:,}", name, HINT)
