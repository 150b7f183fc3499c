"""Images as WebDataset tar shards, with an index that lets each be read at once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from resnets.data.images import decode, read_header
from resnets.data.preprocessing import resize_shorter
from resnets.data.samples import PhotoSet, Samples, fingerprint, shuffled
from resnets.data.shards.index import (
    MANIFEST,
    File,
    Index,
    Manifest,
    Split,
    file_of,
    names_of,
    read_file,
    read_manifest,
)
from resnets.data.shards.store import FolderStore
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, make_folder, write_bytes, writing
from resnets.support.parallel import in_threads

SHARD_BYTES = 128_000_000
"""Size of a shard by default, about."""

_STATE = ".writing.jsonl"
_KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_HEADER = 512

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Written:
    """A finished shard, and where its images lie."""

    file: File
    offsets: list[int]
    lengths: list[int]


def write(
    images: PhotoSet,
    out: Path,
    resize: int | None = None,
    quality: int = 90,
    images_per_shard: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Write a set of images as shards; goes on with a writing that was interrupted.

    Images are decoded, so that none is broken, and copied to the last byte. Those that are
    neither JPEG, PNG nor WebP become PNG. Training images stand in the shards in a random order.

    Args:
        images: the set.
        out: a folder, made if it is not there.
        resize: images with a longer shorter side are scaled down to this many pixels and
            stored as JPEG.
        quality: of those JPEGs, 1 to 100.
        images_per_shard: as many as `SHARD_BYTES` hold by default.
        threads: how many images are decoded at once.
        progress: called with the images done and their number.

    Raises:
        UserError: if an image cannot be decoded, `out` holds another set, another process
            writes there, or the disk is full.
    """
    splits = {"train": images.train, "val": images.val}
    source: dict[str, Any] = {name: fingerprint(samples) for name, samples in splits.items()}
    source["state"] = {name: _state(samples) for name, samples in splits.items()}
    source |= {"resize": resize, "quality": quality if resize else None}
    source["images_per_shard"] = images_per_shard
    make_folder(out)
    lock = FileLock(out / ".lock")
    with writing(out / ".lock"):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:  # which is an OSError, but not the disk's
            raise UserError("another process writes here", str(out), "wait for its end") from error
    with lock:
        done = _finished(out, source)
        if done is not None:
            return done
        return _Writer(splits, out, source, threads, progress).write(images.classes)


def refuse_within(data: Path, out: Path) -> None:
    """Raise `UserError` if the shards would lie among the images that they are made from."""
    if out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"lies in the images' folder {data}", str(out), "choose another folder")


def _finished(out: Path, source: dict[str, Any]) -> Manifest | None:
    """The set that is already there and whole; raises `UserError` if it is another one."""
    path = out / MANIFEST
    if not path.is_file():
        return None
    manifest = read_manifest(path.read_bytes(), str(path))
    if manifest.source != source:
        raise UserError(
            "holds shards of other images or settings, or images changed since they were written",
            str(out),
            "choose another folder, or delete this one",
        )
    try:
        for split in manifest.splits.values():
            FolderStore(out).check([*split.shards, split.index])
    except UserError:
        path.unlink()  # first: until all are written anew, this is no set
        return None
    return manifest


def _state(samples: Samples) -> str:
    """Hash of the sizes and times of the images' files, by which a change of content shows."""
    digest = hashlib.sha256()
    for index in range(len(samples)):
        with contextlib.suppress(OSError):  # reading it will tell
            facts = (Path(samples.where) / samples.name(index)).stat()
            digest.update(f"{index} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


class _Writer:
    def __init__(
        self,
        splits: dict[str, Samples],
        out: Path,
        source: dict[str, Any],
        threads: int,
        progress: Progress | None,
    ) -> None:
        self.splits, self.out, self.source, self.threads = splits, out, source, threads
        self._progress = progress
        self._total = sum(map(len, splits.values()))
        self._done = 0

    def write(self, classes: tuple[str, ...]) -> Manifest:
        there = self._resumed()
        parts = {name: self._split(name, there) for name in self.splits}
        manifest = Manifest(list(classes), parts, self.source)
        write_bytes(self.out / MANIFEST, manifest.text().encode())  # last: the set is now whole
        (self.out / _STATE).unlink(missing_ok=True)
        return manifest

    def _resumed(self) -> dict[str, _Written]:
        """Shards that an interrupted writing of the same set left; those of another go."""
        state = self.out / _STATE
        lines = []
        if state.exists():
            for line in state.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last line may be cut off
                    lines.append(json.loads(line))
        there = {}
        for line in lines[1:]:
            written = _Written(
                read_file(line["file"], str(state)), line["offsets"], line["lengths"]
            )
            path = self.out / written.file.file
            if lines[0] != self.source:
                path.unlink(missing_ok=True)
            elif path.is_file() and path.stat().st_size == written.file.bytes:
                there[path.name] = written
        if not lines or lines[0] != self.source:
            write_bytes(state, (json.dumps(self.source) + "\n").encode())
        return there

    def _split(self, split: str, there: dict[str, _Written]) -> Split:
        samples = self.splits[split]
        order = np.arange(len(samples))
        if split == "train":  # so that a reader of whole shards sees all classes mixed
            order = shuffled(len(samples), 0, 0)
        size = self.source["images_per_shard"] or _images_per_shard(samples)
        shard, offset, length = (np.empty(len(samples), np.int64) for _ in range(3))
        files = []
        for number, start in enumerate(range(0, len(samples), size)):
            part = order[start : start + size]
            name = f"{split}-{number:06}.tar"
            written = there.get(name) or self._shard(name, samples, part, start)
            files.append(written.file)
            shard[part], offset[part], length[part] = number, written.offsets, written.lengths
            self._done += len(part) if name in there else 0
        names = names_of([samples.name(i) for i in range(len(samples))])
        content = Index(shard.astype(np.int32), offset, length, samples.labels, *names).packed()
        index = file_of(f"{split}.index.npz", content, len(samples))
        write_bytes(self.out / index.file, content)
        return Split(files, index)

    def _shard(self, name: str, samples: Samples, part: NDArray[np.int64], first: int) -> _Written:
        encode = partial(_encoded, samples, self.source["resize"], self.source["quality"])
        path = self.out / name
        offsets: list[int] = []
        lengths: list[int] = []
        digest = hashlib.sha256()

        def fill(file: IO[bytes]) -> None:
            target = _Hashing(file, digest)
            with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
                members = in_threads(encode, part.tolist(), self.threads)
                for key, (index, (ending, content)) in enumerate(
                    zip(part.tolist(), members, strict=True), first
                ):
                    offsets.append(tar.offset + _HEADER)
                    lengths.append(len(content))
                    _add(tar, f"{key:09}.{ending}", content)
                    _add(tar, f"{key:09}.cls", str(samples.labels[index]).encode())
                    self._count()

        atomic_write(path, fill)
        file = File(name, path.stat().st_size, digest.hexdigest(), len(part))
        line = {"file": file.__dict__, "offsets": offsets, "lengths": lengths}
        with writing(self.out / _STATE), (self.out / _STATE).open("a") as state:
            state.write(json.dumps(line) + "\n")
        return _Written(file, offsets, lengths)

    def _count(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes], digest: hashlib._Hash) -> None:
        self._file, self._digest = file, digest
        self.tell = file.tell

    def write(self, content: bytes) -> int:
        self._digest.update(content)
        return self._file.write(content)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _images_per_shard(samples: Samples) -> int:
    some = np.linspace(0, len(samples) - 1, min(64, len(samples))).astype(int)
    mean = sum(len(samples.read(int(i))) for i in some) / len(some)
    return max(1, math.ceil(SHARD_BYTES / (mean + 4 * _HEADER)))


def _encoded(samples: Samples, resize: int | None, quality: int, index: int) -> tuple[str, bytes]:
    """Ending and content of the image as it goes into the shard."""
    name = str(Path(samples.where) / samples.name(index))
    content = samples.read(index)
    try:
        header = read_header(content, name)
        buffer = io.BytesIO()
        if resize and min(header.width, header.height) > resize:
            image = resize_shorter(decode(content, name, resize), resize, "bicubic")
            image.save(buffer, "JPEG", quality=quality)
            return "jpg", buffer.getvalue()
        if header.format in _KEPT:
            decode(content, name, 64)  # no broken image goes into a shard
            return _KEPT[header.format], content
        decode(content, name).save(buffer, "PNG")
        return "png", buffer.getvalue()
    except UserError as error:
        hint = "resnets doctor DATA --quarantine DATA/.quarantine leaves such images out"
        raise UserError(error.message, error.location, hint) from error


def summaries(manifest: Manifest) -> Iterator[str]:
    """A line for each split: images, shards, size."""
    for name, split in manifest.splits.items():
        images, size = split.index.images, sum(file.bytes or 0 for file in split.shards)
        shards = f"{len(split.shards):,} shard{'s' if len(split.shards) != 1 else ''}"
        yield f"{name}: {images:,} images in {shards}, {size / 1e6:,.1f} MB"
