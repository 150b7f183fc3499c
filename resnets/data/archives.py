"""Data sets that come as one archive: unpacked once, into the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path

from resnets.data.layouts import wrapped
from resnets.support.errors import UserError
from resnets.support.files import cache_folder, locked, make_folder, writing

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
_DAMAGE = (  # what the readers raise for archives that are damaged or of an unknown kind
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, LZMAError, NotImplementedError,
    RuntimeError, ValueError,
)  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether this is a file that `unpacked` opens."""
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def unpacked(archive: Path) -> Path:
    """The folder with an archive's content; of a data set in folders, the data folder in them.

    The first call unpacks the archive into the cache, and a later one does so again if the file
    has changed. Members whose path leads out of the folder are refused.

    Raises:
        UserError: if the archive is damaged, or the disk full.
    """
    facts = archive.stat()
    # Copying tools can preserve the size and the date of another content, but not all of these.
    state = facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino
    version = f"{archive.resolve()} {state}"
    home = cache_folder("unpacked", hashlib.sha256(os.fsencode(version)).hexdigest()[:16])
    folder = home / archive.name.lstrip(".").split(".")[0]
    make_folder(home)
    with writing(home), locked(home / ".lock"):
        if not folder.exists():
            _unpack(archive, folder)
    return wrapped(folder)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack to a temporary folder, then rename it to `folder`. The caller holds the lock."""
    temporary = folder.parent / ".unpacking"
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    temporary.mkdir()
    try:
        if archive.name.lower().endswith(".zip"):
            _unpack_zip(archive, temporary)
        else:
            _unpack_tar(archive, temporary)
        temporary.rename(folder)
    except _DAMAGE as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno is None:  # of the decompressor, not of the disk
            raise _damaged(archive, error) from error
        if error.filename == str(archive):
            raise UserError(f"cannot be read ({error.strerror})", str(archive)) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if name.startswith("/") or ".." in name.split("/"):
                raise zipfile.BadZipFile(f"the path {name!r} leads out of the archive's folder")
        file.extractall(folder)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
        # Python takes a damaged header for the archive's end, and reads no checksums after it.
        assert file.fileobj is not None
        file.fileobj.seek(file.offset)
        if any(file.fileobj.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"damaged at byte {file.offset:,}")
        while file.fileobj.read(1 << 20):
            pass


def _damaged(archive: Path, error: Exception) -> UserError:
    return UserError(f"cannot be unpacked ({error})", str(archive), "download or copy it again")
