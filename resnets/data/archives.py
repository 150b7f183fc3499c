"""Data sets that come as one archive: unpacked once, into the cache."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path
from typing import IO

from resnets.data.layouts import wrapped
from resnets.support.errors import UserError
from resnets.support.files import cache_folder, locked, make_folder, writing
from resnets.support.names import printable

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
OTHER_ENDINGS = (".7z", ".rar", ".tar.zst", ".zst", ".tar.lz4", ".lz4", ".gz", ".bz2", ".xz")
"""Endings of archives that are not opened."""
_DAMAGE = (  # what the readers raise for archives that are damaged or of an unknown kind
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, LZMAError, NotImplementedError,
    RuntimeError, ValueError, KeyError,
)  # fmt: skip
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST}
_CHUNK = 1 << 20  # bytes
_COPY_AGAIN = "download or copy it again"
_PACK_AGAIN = "pack the folder of images again"


def is_archive(path: Path) -> bool:
    """Whether this is a file that `unpacked` opens."""
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def refuse_other_kinds(path: Path) -> None:
    """Raise `UserError` for an archive of a kind that `unpacked` does not open."""
    if path.name.lower().endswith(OTHER_ENDINGS) and path.is_file() and not is_archive(path):
        hint = f"unpack it, or pack it as {', '.join(ENDINGS)}"
        raise UserError("is an archive of an unsupported kind", str(path), hint)


def unpacked(archive: Path) -> Path:
    """The folder with an archive's content; of a data set in folders, the data folder in them.

    The first call unpacks the archive into the cache, and a later one does so again if the file
    has changed.

    Raises:
        UserError: if the archive is damaged, empty or has a password, if a member leads out of its
            folder or is neither a file nor a folder, if two members of one name have different
            contents, or if the disk is full.
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
    if not archive.stat().st_size:
        raise UserError("is empty: it has no bytes", str(archive), _COPY_AGAIN)
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
        if error.errno in _IN_THE_WAY or error.errno == errno.ENAMETOOLONG:
            member = os.path.relpath(os.fsdecode(error.filename), temporary)
            reason = "is both a file and a folder"
            if error.errno == errno.ENAMETOOLONG:
                reason = "has too long a name for this system"
            raise _refused(archive, member, reason) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            if member.flag_bits & 1:
                hint = "unpack it yourself, and give its folder"
                raise UserError("has a password", str(archive), hint)
            member.filename = member.filename.replace("\\", "/")  # of some Windows programs
            _refuse_outside(archive, member.filename)
        for member in members:
            target = folder / member.filename
            if not target.is_file() or member.is_dir():
                file.extract(member, folder)
                continue
            with file.open(member) as content:
                _refuse_another(archive, member.filename, target, content)


def _unpack_tar(archive: Path, folder: Path) -> None:
    def checked(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
        _refuse_outside(archive, member.name)
        try:
            safe = tarfile.data_filter(member, destination)
        except tarfile.SpecialFileError as error:
            raise _refused(archive, member.name, "is a device or a pipe") from error
        except tarfile.FilterError as error:
            hint = "pack the files themselves, not links to them (tar --dereference)"
            reason = "is a link out of the archive"
            raise _refused(archive, member.name, reason, hint) from error
        target = folder / safe.name
        if not os.path.lexists(target) or safe.isdir():
            return safe
        if safe.issym() and target.is_symlink():
            if os.readlink(target) != safe.linkname:  # noqa: PTH115 (a Path has no ./)
                raise _another(archive, member.name)
            return None
        content = file.extractfile(member) if target.is_file() else None
        if content is None:
            return safe
        with content:
            _refuse_another(archive, member.name, target, content)
        return None

    with tarfile.open(archive) as file:
        file.extractall(folder, filter=checked)
        # Python takes a damaged header for the archive's end, and reads no checksums after it.
        assert file.fileobj is not None
        file.fileobj.seek(file.offset)
        if any(file.fileobj.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"damaged at byte {file.offset:,}")
        while file.fileobj.read(_CHUNK):
            pass


def _refuse_outside(archive: Path, name: str) -> None:
    """Raise `UserError` if a member's path leads out of the archive's folder."""
    if name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:/", name):
        raise _refused(archive, name, "leads out of the archive's folder")


def _refuse_another(archive: Path, name: str, target: Path, content: IO[bytes]) -> None:
    """Raise `UserError` unless a member is the same as the file that has its name already."""
    with target.open("rb") as first:
        while True:
            chunk, other = first.read(_CHUNK), content.read(_CHUNK)
            if chunk != other:
                raise _another(archive, name)
            if not chunk:
                return


def _another(archive: Path, name: str) -> UserError:
    """The error for a member that would replace an earlier one."""
    return _refused(archive, name, "is there twice, with different contents")


def _refused(archive: Path, member: str, reason: str, hint: str = _PACK_AGAIN) -> UserError:
    """The error for an archive with a member that cannot be unpacked."""
    name = printable(member)
    name = name if len(name) <= 100 else f"{name[:100]}..."
    return UserError(f"cannot be unpacked: its member {name} {reason}", str(archive), hint)


def _damaged(archive: Path, error: Exception) -> UserError:
    """The error for an archive that its reader refuses."""
    zipped = archive.name.lower().endswith(".zip")
    with contextlib.suppress(*_DAMAGE, OSError):
        if zipped and tarfile.is_tarfile(archive):
            return UserError("is a tar, not a zip", str(archive), "let its name end in .tar")
        if not zipped and zipfile.is_zipfile(archive):
            return UserError("is a zip, not a tar", str(archive), "let its name end in .zip")
    reason = str(error.args[0]) if error.args else type(error).__name__
    if reason.startswith("file could not be opened successfully"):  # lists all that was tried
        reason = "not a tar"
    return UserError(f"cannot be unpacked ({reason})", str(archive), _COPY_AGAIN)
