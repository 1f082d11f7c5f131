"""The interface of a corpus source, and the source that is a folder. See open.py for URIs."""

from __future__ import annotations

import os
import posixpath
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from pipelines.storage.store import fingerprint


class SourceError(RuntimeError):
    """A source that is absent or refused, or has another checksum than expected."""


@dataclass(frozen=True)
class File:
    """path: relative to the source, joined by '/'. stamp: changes when the content does."""

    path: str
    size: int
    stamp: str


@dataclass(frozen=True)
class Recording:
    """Audio that can be read later, from a permanent URI or by a function.

    uri: absolute local path or s3:// URI that stays valid; the utterance table refers to it.
    load: returns the bytes of an audio file (WAV, FLAC …); ingest copies them into the store.
    name: for messages, e.g. the path inside the archive; the copy has its suffix.
    start, duration: the segment in seconds; the whole recording if duration is None.
    stamp: changes when the content does (size and time, ETag). The next ingest skips a recording
        with the same name and stamp. Empty: it is read each time.
    """

    uri: str | None = None
    load: Callable[[], bytes] | None = None
    name: str = ""
    start: float = 0.0
    duration: float | None = None
    stamp: str = ""


class Source(ABC):
    """Files by their paths below the source, joined by '/'.

    uri: without secrets, as shown and stored. name: its last part.
    focus: the file that the URI names, or None if it names a folder.
    permanent: whether recordings may be referred to in place. Others (in an unpacked archive) are
        copied, and paths in their label files must not leave the source.
    """

    uri: str
    name: str
    focus: str | None
    permanent = True

    @abstractmethod
    def files(self) -> list[File]: ...

    @abstractmethod
    def read(self, path: str) -> bytes: ...

    @abstractmethod
    def open(self, path: str) -> IO[bytes]: ...

    @abstractmethod
    def stamp(self, path: str) -> str:
        """Changes with the file's content; empty if there is no such file."""

    @abstractmethod
    def locate(self, path: str) -> str:
        """The file's full path or URI."""

    def resolve(self, folder: str, name: str) -> str:
        """The path of a file that is named in a label file in `folder`. Raises SourceError."""
        path = posixpath.normpath(posixpath.join(folder, name))
        if "://" in name or path.startswith(("/", "../")) or path == ".." or "\\" in name or "\0" in name:
            raise SourceError(f"{name!r} leads out of {self.uri}")
        return path

    def recording(self, path: str, start: float = 0.0, duration: float | None = None) -> Recording:
        """A recording, or a segment of it in seconds."""
        uri = self.locate(path)
        reference: dict[str, Any] = {"uri": uri} if self.permanent else {"load": partial(self.read, path)}
        return Recording(**reference, name=uri, start=start, duration=duration, stamp=self.stamp(path))

    def fingerprint(self) -> str:
        """Changes with the content of the source."""
        return fingerprint([[file.path, file.stamp] for file in self.files()])


class FolderSource(Source):
    """A folder, or one file in it."""

    def __init__(self, folder: Path, focus: str | None = None) -> None:
        self.folder, self.focus = folder, focus
        self.uri, self.name = str(folder), folder.name

    def files(self) -> list[File]:
        if self.focus is not None:
            return [File(self.focus, (self.folder / self.focus).stat().st_size, self.stamp(self.focus))]
        return sorted(_walk(str(self.folder), "", frozenset()), key=lambda file: file.path)

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def open(self, path: str) -> IO[bytes]:
        return open(self.folder / path, "rb")

    def stamp(self, path: str) -> str:
        """Size and time."""
        try:
            status = os.stat(self.folder / path)
        except (OSError, ValueError):
            return ""
        return stamp_of(status) if stat.S_ISREG(status.st_mode) else ""

    def resolve(self, folder: str, name: str) -> str:
        """Paths may leave a folder of the user."""
        if "\0" in name:
            raise SourceError(f"{name!r} is no file name")
        return os.path.normpath(posixpath.join(folder, name))

    def locate(self, path: str) -> str:
        return os.path.normpath(self.folder / path)


def stamp_of(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _walk(folder: str, prefix: str, ancestors: frozenset[tuple[int, int]]) -> Iterator[File]:
    """Files below a folder. Links are followed, but not into a folder that contains them."""
    try:
        info = os.stat(folder)
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}") from error
    identity = (info.st_dev, info.st_ino)
    if identity in ancestors:
        return
    with os.scandir(folder) as items:
        for item in items:
            path = f"{prefix}{item.name}"
            if item.is_dir():
                yield from _walk(item.path, f"{path}/", ancestors | {identity})
            elif item.is_file():
                status = item.stat()
                yield File(path, status.st_size, stamp_of(status))
