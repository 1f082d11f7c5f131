"""Unpacks untrusted tar and zip archives.

An archive is refused as a whole if it has paths outside the folder, links, devices, two members of
the same name, or an implausible size. tarfile's data filter would not replace these checks: zip
archives and size limits need the same code, and the filter accepts links.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# Compression of FLAC is 1:1, of speech in WAV 1:2, of near silence in WAV 1:30, of label files 1:10.
MAX_EXPANSION = 100
ALWAYS_ALLOWED = 64 << 20  # bytes; small archives of text or silence may expand to this size
MAX_MEMBERS = 5_000_000
_CHUNK = 1 << 20
_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")


class ArchiveError(ValueError):
    """A refused or damaged archive; the message names the archive and the member."""


def is_archive_name(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks into `folder`, which is created only when complete.

    Raises:
        ArchiveError: the archive is damaged or refused; all its files are removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    temporary.mkdir()
    allowed = max(ALWAYS_ALLOWED, MAX_EXPANSION * archive.stat().st_size)  # sizes in headers are not trusted
    try:
        remaining = allowed
        for number, (name, stream) in enumerate(_members(archive), start=1):
            if number > MAX_MEMBERS:
                raise ArchiveError(f"{archive}: refused, holds more than {MAX_MEMBERS} members")
            remaining -= _write(archive, temporary, _safe(archive, name), stream, remaining)
            if remaining < 0:
                raise ArchiveError(
                    f"{archive}: refused, expands to more than {allowed >> 20} MiB ({MAX_EXPANSION} times its size); "
                    "unpack it by hand and give the folder as source if that is right"
                )
        os.replace(temporary, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise ArchiveError(f"{archive}: damaged archive: {error}") from error
    except OSError as error:
        if folder.is_dir():  # another process finished the same archive first
            return
        raise ArchiveError(f"{archive}: cannot be unpacked into {folder.parent}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file, in the archive's order."""
    return _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)


def _not_a_file(archive: Path, name: str, is_link: bool) -> ArchiveError:
    kind = "link" if is_link else "special file"
    return ArchiveError(f"{archive}: refused, {name!r} is a {kind}; expected files and folders only")


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if member.isdir():
                _safe(archive, member.name)
                continue
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                raise _not_a_file(archive, member.name, member.issym() or member.islnk())
            yield member.name, stream


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            mode = member.external_attr >> 16  # Unix file type, 0 if the archive was made on another system
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _not_a_file(archive, member.filename, stat.S_ISLNK(mode))
            if member.is_dir():
                _safe(archive, member.filename)
                continue
            try:
                stream = packed.open(member)
            except (RuntimeError, NotImplementedError) as error:  # encrypted, or an unknown compression
                raise ArchiveError(f"{archive}: {member.filename!r} cannot be read: {error}") from error
            with stream:
                yield member.filename, stream


def _safe(archive: Path, name: str) -> Path:
    """The member's path below the folder."""
    parts = name.split("/")
    # Backslashes and drive letters matter on other systems.
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise ArchiveError(f"{archive}: refused, {name!r} leads out of the folder")
    return Path(*[part for part in parts if part not in ("", ".")])


def _write(archive: Path, folder: Path, name: Path, stream: IO[bytes], limit: int) -> int:
    """Writes a member, and returns its size; stops soon after `limit` bytes."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise ArchiveError(f"{archive}: refused, two members are named {name.as_posix()!r}")
    size = 0
    with open(path, "xb") as file:
        while size <= limit and (chunk := stream.read(_CHUNK)):
            size += file.write(chunk)
    return size
