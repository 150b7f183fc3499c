"""Data sets that come as one archive: unpacked once, into the cache."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path

from filelock import FileLock

from resnets.support.errors import UserError
from resnets.support.files import cache_folder, make_folder, writing

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
_BROKEN = (  # what the readers raise for archives that are damaged or of an unknown kind
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, LZMAError, NotImplementedError,
    RuntimeError, ValueError,
)  # fmt: skip


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
    name = archive.name.lstrip(".").split(".")[0]
    home = cache_folder("unpacked", hashlib.sha256(known.encode()).hexdigest()[:16])
    folder = home / name
    make_folder(home)
    with writing(home), FileLock(home / ".lock"):
        if not folder.exists():
            _unpack(archive, home, folder)
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _unpack(archive: Path, home: Path, folder: Path) -> None:
    """Unpack beside `folder`, which appears when all is there. Others must be kept out."""
    temporary = home / ".unpacking"
    shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed
    temporary.mkdir()
    try:
        try:
            if archive.name.lower().endswith(".zip"):
                _unpack_zip(archive, temporary)
            else:
                _unpack_tar(archive, temporary)
        except _BROKEN as error:
            raise _damaged(archive, error) from error
        except OSError as error:
            if error.errno is None:  # the decompressor's, not the disk's
                raise _damaged(archive, error) from error
            if error.filename == str(archive):
                raise UserError(f"cannot be read ({error.strerror})", str(archive)) from error
            raise
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_zip(archive: Path, into: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if name.startswith("/") or ".." in name.split("/"):
                raise zipfile.BadZipFile(f"{name!r} would land outside")
        file.extractall(into)


def _unpack_tar(archive: Path, into: Path) -> None:
    with tarfile.open(archive) as file:
        file.extractall(into, filter="data")
        # Python takes a damaged header for the archive's end, and leaves checksums behind it.
        assert file.fileobj is not None
        file.fileobj.seek(file.offset)
        if any(file.fileobj.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"damaged at byte {file.offset:,}")
        while file.fileobj.read(1 << 20):
            pass


def _damaged(archive: Path, error: Exception) -> UserError:
    return UserError(f"cannot be unpacked ({error})", str(archive), "get it again")
