"""Writing images as WebDataset tar shards, with an index that gives access to each image."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.images import decode, read_header
from resnets.data.preprocessing import resize_shorter
from resnets.data.quarantine import excludable
from resnets.data.samples import (
    PackedNames,
    PhotoSet,
    Samples,
    epoch_permutation,
    fingerprint,
)
from resnets.data.shards.index import MANIFEST, Index, Manifest, Split
from resnets.data.shards.store import FolderStore, ShardFile
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, locked, make_folder, write_bytes, writing
from resnets.support.names import counted, listed
from resnets.support.parallel import in_threads

SHARD_BYTES = 128_000_000
"""Approximate size of a shard by default."""

_JOURNAL = ".writing.jsonl"
"""The images and options on the first line, then a line for each finished shard."""
_OWN_FILES = re.compile(rf"\..*|{re.escape(MANIFEST)}|(train|val)(-\d+\.tar|\.index\.npz)")
_COPIED_FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}

Progress = Callable[[int, int], None]


def write(
    images: PhotoSet,
    out: Path,
    *,
    resize: int | None = None,
    quality: int = 90,
    images_per_shard: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Write a data set as shards; an interrupted writing is resumed.

    Images are decoded, to find broken ones, and copied byte by byte. Images that are neither
    JPEG, PNG nor WebP become PNG. The shards contain the training images in a random order.

    Args:
        images: the data set.
        out: a folder, created if necessary.
        resize: images whose shorter side is longer than this many pixels are scaled down to it
            and stored as JPEG.
        quality: of these JPEGs, 1 to 100.
        images_per_shard: as many as fit into `SHARD_BYTES` by default.
        threads: number of images that are decoded at once.
        progress: called with the number of images written and of all images.

    Raises:
        UserError: if an image cannot be decoded, `out` contains other shards, another process
            writes there, or the disk is full.
    """
    splits = {"train": images.train, "val": images.val}
    source: dict[str, Any] = {name: fingerprint(samples) for name, samples in splits.items()}
    source["state"] = {name: _file_state(samples) for name, samples in splits.items()}
    source |= {"resize": resize, "quality": quality if resize else None}
    source["images_per_shard"] = images_per_shard
    make_folder(out)
    busy = UserError(
        "another process is writing shards here", str(out), "wait until it has finished"
    )
    with locked(out / ".lock", busy):
        finished = _finished(out, source)
        if finished is not None:
            return finished
        return _Writer(splits, out, source, threads, progress).write(images.classes)


def refuse_within(data: Path, out: Path) -> None:
    """Raise `UserError` if the folder of the shards is inside that of the images."""
    if out.resolve().is_relative_to(data.resolve()):
        message = f"is inside the folder of the images, {data}"
        raise UserError(message, str(out), "choose another folder")


def refuse_other_files(out: Path) -> None:
    """Raise `UserError` if a folder holds anything but shards, which would hide it from readers."""
    if not out.is_dir():
        return
    others = [name for name in sorted(os.listdir(out)) if not _OWN_FILES.fullmatch(name)]  # noqa: PTH208
    if others:
        raise UserError(f"holds other files: {listed(others)}", str(out), "choose a new folder")


def summary(manifest: Manifest) -> Iterator[str]:
    """A line for each split with the number of images and shards, and the size."""
    for name, split in manifest.splits.items():
        images, size = split.index.images, sum(file.size or 0 for file in split.shards)
        held = f"{counted(images, 'image')} in {counted(len(split.shards), 'shard')}"
        yield f"{name}: {held}, {size / 1e6:,.1f} MB"


def _finished(out: Path, source: dict[str, Any]) -> Manifest | None:
    """The complete set of shards in `out`, if there is one.

    Raises:
        UserError: if it was written from other images or with other options.
    """
    path = out / MANIFEST
    if not path.is_file():
        return None
    manifest = Manifest.parse(path.read_bytes(), str(path))
    if manifest.source != source:
        raise UserError(
            "contains shards of other images or settings, or the images changed since",
            str(out),
            "choose another folder, or delete this one",
        )
    try:
        for split in manifest.splits.values():
            FolderStore(out).check([*split.shards, split.index])
    except UserError:
        path.unlink()  # first, so that the set counts as incomplete until all is written
        return None
    return manifest


def _file_state(samples: Samples) -> str:
    """Hash of the sizes and times of the image files, which detects changed content."""
    digest = hashlib.sha256()
    for index in range(len(samples)):
        with contextlib.suppress(OSError):  # reported when the image is read
            stat = (Path(samples.location) / samples.name(index)).stat()
            digest.update(f"{index} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _FinishedShard:
    """A shard, and where its images lie in it."""

    file: ShardFile
    offsets: list[int]
    lengths: list[int]


class _Writer:
    """Writes the splits of a data set into a folder, shard by shard."""

    def __init__(
        self,
        splits: dict[str, Samples],
        out: Path,
        source: dict[str, Any],
        threads: int,
        progress: Progress | None,
    ) -> None:
        self._splits, self._out, self._source, self._threads = splits, out, source, threads
        self._journal = out / _JOURNAL
        self._progress = progress
        self._total = sum(map(len, splits.values()))
        self._done = 0

    def write(self, classes: tuple[str, ...]) -> Manifest:
        finished = self._resume()
        splits = {name: self._write_split(name, finished) for name in self._splits}
        manifest = Manifest(list(classes), splits, self._source)
        manifest.write(self._out)  # last, since it makes the set complete
        self._journal.unlink(missing_ok=True)
        return manifest

    def _resume(self) -> dict[str, _FinishedShard]:
        """The finished shards of an interrupted writing; those of another data set are deleted."""
        lines = []
        if self._journal.exists():
            for line in self._journal.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last line may be cut off
                    lines.append(json.loads(line))
        same_source = bool(lines) and lines[0] == self._source
        finished = {}
        for line in lines[1:]:
            file = ShardFile.from_json(line["file"], str(self._journal))
            path = self._out / file.name
            if not same_source:
                path.unlink(missing_ok=True)
            elif path.is_file() and path.stat().st_size == file.size:
                finished[path.name] = _FinishedShard(file, line["offsets"], line["lengths"])
        if not same_source:
            write_bytes(self._journal, (json.dumps(self._source) + "\n").encode())
        return finished

    def _write_split(self, split: str, finished: dict[str, _FinishedShard]) -> Split:
        samples = self._splits[split]
        order = np.arange(len(samples))
        if split == "train":  # so that whoever reads whole shards gets all classes mixed
            order = epoch_permutation(len(samples), 0, 0)
        size = self._source["images_per_shard"] or _images_per_shard(samples)
        shard, offset, length = (np.empty(len(samples), np.int64) for _ in range(3))
        files = []
        for number, start in enumerate(range(0, len(samples), size)):
            members = order[start : start + size]
            name = f"{split}-{number:06}.tar"
            if name in finished:
                written = finished[name]
                self._done += len(members)
            else:
                written = self._write_shard(name, samples, members, start)
            files.append(written.file)
            shard[members], offset[members] = number, written.offsets
            length[members] = written.lengths
        names = PackedNames.pack(samples.name(i) for i in range(len(samples)))
        index = Index(shard.astype(np.int32), offset, length, samples.labels, names)
        return Split(files, index.write(self._out, split))

    def _write_shard(
        self, name: str, samples: Samples, members: NDArray[np.int64], first_key: int
    ) -> _FinishedShard:
        encode = partial(_encode, samples, self._source["resize"], self._source["quality"])
        path = self._out / name
        offsets: list[int] = []
        lengths: list[int] = []

        def fill(file: IO[bytes]) -> None:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                encoded = in_threads(encode, members.tolist(), self._threads)
                for key, (index, (extension, content)) in enumerate(
                    zip(members.tolist(), encoded, strict=True), first_key
                ):
                    offsets.append(tar.offset + tarfile.BLOCKSIZE)
                    lengths.append(len(content))
                    _add_member(tar, f"{key:09}.{extension}", content)
                    _add_member(tar, f"{key:09}.cls", str(samples.labels[index]).encode())
                    self._count()

        atomic_write(path, fill)
        with path.open("rb") as shard:
            digest = hashlib.file_digest(shard, "sha256").hexdigest()
        file = ShardFile(name, path.stat().st_size, digest, len(members))
        line = {"file": file.to_json(), "offsets": offsets, "lengths": lengths}
        with writing(self._journal), self._journal.open("a") as journal:
            journal.write(json.dumps(line) + "\n")
        return _FinishedShard(file, offsets, lengths)

    def _count(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _images_per_shard(samples: Samples) -> int:
    """How many images fit into `SHARD_BYTES`, estimated from 64 of them."""
    some = np.linspace(0, len(samples) - 1, min(64, len(samples))).astype(int)
    mean = sum(len(samples.read(int(i))) for i in some) / len(some)
    return max(1, math.ceil(SHARD_BYTES / (mean + 4 * tarfile.BLOCKSIZE)))


def _encode(samples: Samples, resize: int | None, quality: int, index: int) -> tuple[str, bytes]:
    """Extension and content of an image as it is stored in the shard."""
    name = str(Path(samples.location) / samples.name(index))
    content = samples.read(index)
    try:
        header = read_header(content, name)
        buffer = io.BytesIO()
        if resize and min(header.width, header.height) > resize:
            image = resize_shorter(decode(content, name, resize), resize, "bicubic")
            image.save(buffer, "JPEG", quality=quality)
            return "jpg", buffer.getvalue()
        if header.format in _COPIED_FORMATS:
            decode(content, name, 64)  # raises if the image is broken
            return _COPIED_FORMATS[header.format], content
        decode(content, name).save(buffer, "PNG")
        return "png", buffer.getvalue()
    except UserError as error:
        raise excludable(error) from error
