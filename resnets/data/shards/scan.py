"""The index of WebDataset shards that others made, from one walk through their headers."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnets.data.images import EXTENSIONS
from resnets.data.shards.index import HINT, File, Index, Manifest, Split, file_of, names_of
from resnets.data.shards.store import Store
from resnets.support.errors import UserError
from resnets.support.files import make_folder, write_bytes

_VAL = re.compile(r"(^|[^a-z])(val|valid|validation|test)([^a-z]|$)")
_END = 1024  # bytes of zeros at least, at the end of every tar file
_PIECE = 1 << 20
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")
_PADDED = re.compile(r"[0-9]{1,9}")
_RANGE = re.compile(r"\{([^{}]*)\}")


def expanded(pattern: str) -> list[str]:
    """`a-{000..002}.tar` and `{train,val}.tar` as the names that they stand for."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if ends:
        words = [str(n).zfill(len(ends[1])) for n in range(int(ends[1]), int(ends[2]) + 1)]
    else:
        words = found[1].split(",")
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [name for word in words for name in expanded(f"{before}{word}{after}")]


@dataclass
class _Part:
    shard: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    files: list[File] = field(default_factory=list)


def scan(store: Store, names: list[str], classes: list[str] | None, out: Path) -> Manifest:
    """Index the shards `names` and keep the index in the folder `out`.

    Shards whose names speak of `val`, `valid`, `validation` or `test` are to test on; what all
    names begin with, such as a host and its folders, says nothing.

    Args:
        store: gives the shards.
        names: the shards' names or addresses.
        classes: class names in the order of the numbers in the shards, if known.
        out: a folder for the index.

    Raises:
        UserError: if a shard is truncated or compressed, or an image or its class is missing.
    """
    if not names:
        raise UserError("stands for no shards", store.where)
    parts: dict[str, _Part] = {}
    common = "".join(os.path.commonprefix(names).rpartition("/")[:2])  # noqa: RUF071
    for name in names:
        own = name.removeprefix(common).removesuffix(".tar")
        split = "val" if _VAL.search(own.lower()) else "train"
        path = store.path(File(name, None, "", 0))
        try:
            _add(parts.setdefault(split, _Part()), path, name, own)
        except UserError:
            if store.windowed:  # a mended shard at the same address must be seen
                path.unlink(missing_ok=True)
            raise
    if "train" not in parts:
        parts["train"] = parts.pop("val")
    words = {word for part in parts.values() for word in part.words}
    if not words:
        raise UserError("the shards hold no images", store.where)
    known, numbers = _classes(words, classes, store.where)
    make_folder(out)
    splits = {}
    for split, part in parts.items():
        labels = [numbers[word] for word in part.words]
        index = Index(
            np.array(part.shard, np.int32),
            np.array(part.offset, np.int64),
            np.array(part.length, np.int64),
            np.array(labels, np.int64),
            *names_of(part.names),
        )
        content = index.packed()
        file = file_of(f"{split}.index.npz", content, len(labels))
        write_bytes(out / file.file, content)
        splits[split] = Split(part.files, file)
    return Manifest(known, splits, {"scanned": True})


def _classes(
    words: set[str], classes: list[str] | None, where: str
) -> tuple[list[str], dict[str, int]]:
    """Class names, and the label that each word in the shards stands for.

    Words are numbers if all are below 100,000 without leading zeros, as WordNet's offsets are
    not, or if they number the known classes.
    """
    number = _NUMBER if classes is None else _PADDED
    if not all(number.fullmatch(word) for word in words):
        names = sorted(words)
        return names, {name: number for number, name in enumerate(names)}
    numbers = {word: int(word) for word in words}
    count = max(numbers.values()) + 1
    if classes is None:
        return [str(number) for number in range(count)], numbers
    if count > len(classes):
        raise UserError(f"class {count - 1} is beyond the {len(classes)} of classes.txt", where)
    return classes, numbers


def _add(part: _Part, path: Path, name: str, own: str) -> None:
    number, before = len(part.files), len(part.names)
    try:
        with tarfile.open(path, "r:") as tar:
            for key, image, word in _samples(tar, path.stat().st_size, name):
                part.shard.append(number)
                part.offset.append(image.offset_data)
                part.length.append(image.size)
                part.names.append(f"{own}/{key}{Path(image.name).suffix}")
                part.words.append(word)
    except FileNotFoundError as error:
        raise UserError("the shard is missing", str(path)) from error
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"the shard is truncated or no tar file ({error})", name, HINT) from error
    part.files.append(File(name, path.stat().st_size, "", len(part.names) - before))


def _samples(
    tar: tarfile.TarFile, size: int, name: str
) -> Iterator[tuple[str, tarfile.TarInfo, str]]:
    """Key, image and class of each sample; the files of a sample stand side by side."""
    key, image, word = "", None, None
    for member in tar:
        if not member.isfile():
            continue
        if member.offset_data + member.size > size:
            raise UserError(f"the shard is truncated within {member.name}", name, HINT)
        folder, _, base = member.name.rpartition("/")
        stem, _, ending = base.partition(".")
        mine = f"{folder}/{stem}" if folder else stem
        if mine != key:
            if key:
                yield _whole(key, image, word, name)
            key, image, word = mine, None, None
        if f".{ending.lower()}" in EXTENSIONS:
            image = member
        elif ending == "cls":
            content = tar.extractfile(member)
            word = content.read().decode("utf-8", "replace").strip() if content else None
    _refuse_rest(tar, size, name)
    if key:
        yield _whole(key, image, word, name)


def _refuse_rest(tar: tarfile.TarFile, size: int, name: str) -> None:
    """Raise `UserError` unless zeros follow the last member: tarfile passes over all else."""
    if size - tar.offset < _END:
        raise UserError("the shard is truncated: it has no end marker", name, HINT)
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    while piece := tar.fileobj.read(_PIECE):
        rest = piece.lstrip(b"\0")
        if rest:
            at = tar.fileobj.tell() - len(rest)
            raise UserError(f"the shard is damaged at byte {at:,}", name, HINT)


def _whole(
    key: str, image: tarfile.TarInfo | None, word: str | None, name: str
) -> tuple[str, tarfile.TarInfo, str]:
    if image is None:
        raise UserError(f"sample {key} has no image", name)
    if not word:
        raise UserError(f"sample {key} has no class (a member {key}.cls)", name)
    return key, image, word
