"""Unpacking tar and zip archives that come from elsewhere, without trusting them.

Refused as a whole, before anything of them is used: paths that leave the folder, links and devices,
two members of one name, and sizes that no corpus has (a few kilobytes that expand to terabytes).
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

# Speech hardly shrinks (FLAC 1:1, WAV of speech 1:2, WAV of near silence 1:30), label files shrink 10 times.
MAX_EXPANSION = 100
ALWAYS_ALLOWED = 64 << 20  # bytes; small archives of text or silence may expand as they like up to here
MAX_MEMBERS = 5_000_000
_CHUNK = 1 << 20
_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")


class ArchiveError(ValueError):
    """An archive that is refused or damaged; the message names the archive and the member."""


def is_archive_name(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks into `folder`, which appears only when everything is in it.

    Raises:
        ArchiveError: the archive is damaged or refused; nothing of it is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    temporary.mkdir()
    budget = _Budget(archive)
    try:
        for name, stream in _members(archive):
            budget.count_member()
            _write(temporary, _safe(archive, name), stream, budget)
        os.replace(temporary, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise ArchiveError(f"{archive}: damaged archive: {error}") from error
    except OSError as error:
        if folder.is_dir():  # another process finished the same archive first
            return
        raise ArchiveError(f"{archive}: cannot be unpacked into {folder.parent}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Budget:
    """Bytes that an archive may still expand to. What is written counts, not what its headers promise."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.allowed = max(ALWAYS_ALLOWED, MAX_EXPANSION * archive.stat().st_size)
        self.left = self.allowed
        self.members = 0

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ArchiveError(
                f"{self.archive}: refused, expands to more than {self.allowed >> 20} MiB "
                f"({MAX_EXPANSION} times its size); unpack it by hand and give the folder as source if that is right"
            )

    def count_member(self) -> None:
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise ArchiveError(f"{self.archive}: refused, holds more than {MAX_MEMBERS} members")


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file, in the archive's order."""
    if zipfile.is_zipfile(archive):
        return _zip_members(archive)
    return _tar_members(archive)


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if member.isdir():
                _safe(archive, member.name)
                continue
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                kind = "link" if member.issym() or member.islnk() else "special file"
                raise ArchiveError(f"{archive}: refused, {member.name!r} is a {kind}; expected files and folders only")
            yield member.name, stream


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            mode = member.external_attr >> 16  # Unix file type, 0 when the archive comes from elsewhere
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "link" if stat.S_ISLNK(mode) else "special file"
                text = f"{archive}: refused, {member.filename!r} is a {kind}; expected files and folders only"
                raise ArchiveError(text)
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
    # Backslashes and drive letters are separators and roots elsewhere than here.
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise ArchiveError(f"{archive}: refused, {name!r} leads out of the folder")
    return Path(*[part for part in parts if part not in ("", ".")])


def _write(folder: Path, name: Path, stream: IO[bytes], budget: _Budget) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise ArchiveError(f"{budget.archive}: refused, two members are named {name.as_posix()!r}")
    with open(path, "xb") as file:
        while chunk := stream.read(_CHUNK):
            budget.spend(len(chunk))
            file.write(chunk)
