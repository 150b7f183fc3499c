"""Data sets that come as one archive: unpacked once, into the cache."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from resnets.support.errors import UserError
from resnets.support.files import cache_folder, make_folder, writing

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


def is_archive(path: Path) -> bool:
    """Whether this is a file that `unpacked` opens."""
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def unpacked(archive: Path) -> Path:
    """The folder that an archive holds; a single one around everything is left out.

    It is unpacked at the first call, and again when the file has changed. Members that would
    land outside of it are refused.

    Raises:
        UserError: if the archive is damaged, or the disk too small.
    """
    facts = archive.stat()
    known = f"{archive.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    name = archive.name.split(".")[0]
    home = cache_folder("unpacked", hashlib.sha256(known.encode()).hexdigest()[:16])
    folder = home / name
    make_folder(home)
    with writing(home), FileLock(home / ".lock"):
        if not folder.exists():
            _unpack(archive, home, folder)
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _unpack(archive: Path, home: Path, folder: Path) -> None:
    """Unpack beside `folder`, which appears when all is there."""
    temporary = Path(tempfile.mkdtemp(dir=home, prefix=".unpacking-"))
    try:
        with writing(folder):
            try:
                if archive.name.lower().endswith(".zip"):
                    shutil.unpack_archive(archive, temporary, "zip")
                else:
                    with tarfile.open(archive) as tar:
                        tar.extractall(temporary, filter="data")
            except (tarfile.TarError, zipfile.BadZipFile, shutil.ReadError, EOFError) as error:
                raise UserError(
                    f"cannot be unpacked ({error})", str(archive), "get it again"
                ) from error
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
