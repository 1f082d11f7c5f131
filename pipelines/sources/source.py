"""Where a corpus comes from: a folder, a tar or zip archive, an http(s) URL or s3://, all listed and read alike.

    source = open_source("https://example.org/train.tar.gz", checksum="9f86d0…")
    source.fingerprint()                     # changes when the content does; opens and downloads nothing it need not
    source.read("train/label")

Archives and downloads go to the cache and are not lasting: ingest copies their recordings into the store.
A folder's and an S3 prefix's recordings stay where they are.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from pipelines.core.redaction import redact, redacted_errors
from pipelines.sources.archive import ArchiveError, is_archive_name, unpack
from pipelines.sources.download import DownloadError, download, remote_stamp
from pipelines.storage.checksums import is_named_content, names_its_content
from pipelines.storage.roots import cache_folder, object_exists, s3_filesystem, sha256
from pipelines.storage.store import STORED, DamagedPart, Store, fingerprint


class SourceError(RuntimeError):
    """A source that is absent, refused or not what its checksum says."""


@dataclass(frozen=True)
class File:
    """path: below the source, joined by '/'. stamp: changes when the bytes do."""

    path: str
    size: int
    stamp: str


@dataclass(frozen=True)
class Recording:
    """Audio that can be read later: a lasting URI, or a function that gives the file's bytes.

    uri: absolute local path or s3:// URI that will still be there tomorrow; ingest refers to it.
    load: gives the bytes of an audio file (WAV, FLAC …); ingest copies them into the store.
    name: what a person would look for, e.g. the path inside the archive; its suffix becomes the copy's.
    start, duration: the segment in seconds; the whole recording when duration is None.
    stamp: changes when the bytes do (size and time, ETag); an equal stamp under an equal name lets the next
        ingest skip the recording. Empty: read it again each time.
    """

    uri: str | None = None
    load: Callable[[], bytes] | None = None
    name: str = ""
    start: float = 0.0
    duration: float | None = None
    stamp: str = ""


class Source(Protocol):
    """Files by their paths below the source, joined by '/'.

    uri: as people are shown it, and as it is stored, without secrets. name: the last part of what is opened.
    focus: the one file that the URI names, or None when it names a folder.
    lasting: its recordings may be referred to where they lie. What is not lasting (an unpacked archive) was filled
        by somebody else: nothing in it may point outside.
    """

    uri: str
    lasting: bool

    @property
    def name(self) -> str: ...
    @property
    def focus(self) -> str | None: ...
    def files(self) -> list[File]: ...
    def read(self, path: str) -> bytes: ...
    def open(self, path: str) -> IO[bytes]: ...
    def stamp(self, path: str) -> str: ...
    def resolve(self, folder: str, name: str) -> str: ...
    def locate(self, path: str) -> str: ...
    def recording(self, path: str, start: float = 0.0, duration: float | None = None) -> Recording: ...
    def fingerprint(self) -> str: ...


class FolderSource:
    """A folder, or one file in it."""

    def __init__(self, folder: Path, focus: str | None = None, uri: str | None = None, lasting: bool = True) -> None:
        self.folder = folder
        self.focus = focus
        self.uri = uri or str(folder)
        self.lasting = lasting

    @property
    def name(self) -> str:
        return PurePosixPath(self.uri).name

    def files(self) -> list[File]:
        if self.focus is not None:
            return [File(self.focus, (self.folder / self.focus).stat().st_size, self.stamp(self.focus))]
        return sorted(_walk(str(self.folder), "", frozenset()), key=lambda file: file.path)

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def open(self, path: str) -> IO[bytes]:
        return open(self.folder / path, "rb")

    def stamp(self, path: str) -> str:
        """Size and time; empty when there is no such file."""
        try:
            status = os.stat(self.folder / path)
        except (OSError, ValueError):
            return ""
        return _stamp(status) if stat.S_ISREG(status.st_mode) else ""

    def resolve(self, folder: str, name: str) -> str:
        """The path, in this source, of a file that a label file in `folder` names."""
        if "\0" in name:
            raise SourceError(f"{name!r} is no file name")
        if self.lasting:
            return os.path.normpath(posixpath.join(folder, name))
        return _contained(folder, name, self.uri)

    def locate(self, path: str) -> str:
        """What a person would look for."""
        return str(self.folder / path) if self.lasting else f"{self.uri}!/{path}"

    def recording(self, path: str, start: float = 0.0, duration: float | None = None) -> Recording:
        if self.lasting:
            uri = os.path.normpath(self.folder / path)
            return Recording(uri=uri, name=uri, start=start, duration=duration, stamp=self.stamp(path))
        return Recording(
            load=partial(self.read, path),
            name=self.locate(path),
            start=start,
            duration=duration,
            stamp=self.stamp(path),
        )

    def fingerprint(self) -> str:
        return fingerprint([[file.path, file.stamp] for file in self.files()])


class S3Source:
    """An s3:// prefix, or one object in it. One listing serves a whole ingest."""

    lasting = True

    def __init__(self, uri: str) -> None:
        self.uri = redact(uri)
        self.name = PurePosixPath(uri.rstrip("/")).name
        self._folders: dict[str, dict[str, str]] = {}  # folder -> name -> ETag, of what lies beside a focus
        base = uri.removeprefix("s3://").rstrip("/")
        self.focus: str | None = None
        if not uri.endswith("/") and object_exists(self.fs, base):
            base, _, self.focus = base.rpartition("/")
        self.base = base

    @cached_property
    def fs(self) -> Any:
        return s3_filesystem()

    @cached_property
    def _listing(self) -> dict[str, File]:
        top = f"{self.base}/{self.focus}" if self.focus else self.base
        try:
            found = self.fs.find(top, detail=True)
        except FileNotFoundError:
            found = {}
        if not found:
            raise SourceError(
                f"{self.uri}: no such object and nothing below it (endpoint {redact(self.fs.endpoint_url or 'AWS')})"
            )
        paths = {path[len(self.base) + 1 :]: info for path, info in found.items() if info["type"] == "file"}
        return {path: File(path, info["size"], info["ETag"].strip('"')) for path, info in paths.items()}

    def files(self) -> list[File]:
        return sorted(self._listing.values(), key=lambda file: file.path)

    def read(self, path: str) -> bytes:
        return bytes(self.fs.cat_file(f"{self.base}/{path}"))

    def open(self, path: str) -> IO[bytes]:
        return self.fs.open(f"{self.base}/{path}", "rb")

    def stamp(self, path: str) -> str:
        if path in self._listing:
            return self._listing[path].stamp
        return self._beside(path) if self.focus is not None else ""

    def _beside(self, path: str) -> str:
        """ETag of an object that a manifest names which was itself named alone; each folder is listed once."""
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            try:
                found = self.fs.ls(f"{self.base}/{folder}".rstrip("/"), detail=True)
            except FileNotFoundError:
                found = []
            etags = {info["name"].rpartition("/")[2]: info.get("ETag", "").strip('"') for info in found}
            self._folders[folder] = etags
        return self._folders[folder].get(name, "")

    def resolve(self, folder: str, name: str) -> str:
        own = f"s3://{self.base}/"
        return (
            _contained("", name.removeprefix(own), self.uri)
            if name.startswith(own)
            else _contained(folder, name, self.uri)
        )

    def locate(self, path: str) -> str:
        return f"s3://{self.base}/{path}"

    def recording(self, path: str, start: float = 0.0, duration: float | None = None) -> Recording:
        uri = self.locate(path)
        return Recording(uri=uri, name=uri, start=start, duration=duration, stamp=self.stamp(path))

    def fingerprint(self) -> str:
        return fingerprint([[file.path, file.size, file.stamp] for file in self.files()])


class FetchedSource:
    """An archive, or anything behind a URL: known by a fingerprint, fetched and unpacked when it is first read."""

    lasting = False

    def __init__(self, location: str, version: str, checksum: str | None, shown: str | None = None) -> None:
        self.uri = shown or location
        self.name = PurePosixPath(location.rstrip("/")).name
        self._location = location
        self._version = version
        self._checksum = checksum

    @cached_property
    def _local(self) -> FolderSource:
        file = _fetch(self._location, self._version, self._checksum, self.uri)
        if not is_archive_name(file.name):
            return FolderSource(file.parent, focus=file.name, uri=self.uri, lasting=False)
        folder = cache_folder() / "unpacked" / fingerprint(str(file), self._version)
        if not folder.is_dir():
            try:
                unpack(file, folder)
            except ArchiveError as error:
                raise SourceError(str(error)) from error
        return FolderSource(folder, uri=self.uri, lasting=False)

    @property
    def focus(self) -> str | None:
        return self._local.focus

    def files(self) -> list[File]:
        return self._local.files()

    def read(self, path: str) -> bytes:
        return self._local.read(path)

    def open(self, path: str) -> IO[bytes]:
        return self._local.open(path)

    def stamp(self, path: str) -> str:
        return self._local.stamp(path)

    def resolve(self, folder: str, name: str) -> str:
        return self._local.resolve(folder, name)

    def locate(self, path: str) -> str:
        return self._local.locate(path)

    def recording(self, path: str, start: float = 0.0, duration: float | None = None) -> Recording:
        return self._local.recording(path, start, duration)

    def fingerprint(self) -> str:
        return fingerprint(self._location, self._version)


def open_source(uri: str, checksum: str | None = None, written: str | None = None) -> Source:
    """The source that a URI names; nothing is downloaded or unpacked yet.

    checksum: sha256 of an archive or a download, in hex. With one, an http source is known without asking the server.
    written: the URI with its variables unexpanded; names of what is downloaded, which are stored, are made of it.

    Raises:
        SourceError: there is no such thing.
    """
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    shown = redact(written or uri)
    try:
        with redacted_errors():
            if scheme in ("http", "https"):
                return FetchedSource(uri, checksum.lower() if checksum else remote_stamp(uri), checksum, shown)
            if scheme == "s3":
                source = S3Source(uri)
                if source.focus and is_archive_name(source.focus):
                    return FetchedSource(uri, source.stamp(source.focus), checksum, source.uri)
                return source
    except (DownloadError, OSError) as error:
        raise SourceError(_without(f"{shown}: {error}", uri, shown)) from None
    if scheme not in ("", "file"):
        raise SourceError(f"{shown}: unknown scheme {scheme!r}; expected a path, http(s):// or s3://")
    return _open_path(Path(uri.removeprefix("file://")).expanduser().absolute(), checksum)


def read_audio(uri: str, store: Store) -> bytes:
    """The bytes behind the `audio` column of an utterance table: a local path, an s3:// URI or a key of the store.

    Raises:
        OSError: it is not there any more. DamagedPart: a copy in the store has other bytes than its name says.
    """
    if uri.startswith(STORED):
        return _read_copy(uri.removeprefix(STORED), store)
    if uri.startswith("s3://"):
        return bytes(s3_filesystem().cat_file(uri))
    return Path(uri).read_bytes()


def _read_copy(key: str, store: Store) -> bytes:
    """A recording's copy, checked by its name; one that is missing or damaged is noted, for the next ingest."""
    try:
        data = store.read_bytes(key)
    except FileNotFoundError:
        with suppress(OSError):  # a root that may only be read
            store.set_aside(key)
        raise
    if names_its_content(key) and not is_named_content(key, hashlib.sha256(data).hexdigest()):
        with suppress(OSError):
            store.set_aside(key)
        raise DamagedPart(f"{store.root}/{key} is damaged: its bytes have another SHA-256 than its name says")
    return data


def _open_path(path: Path, checksum: str | None) -> Source:
    if path.is_dir():
        return FolderSource(path)
    if not path.is_file():
        raise SourceError(f"{path}: no such file or folder")
    if is_archive_name(path.name):
        return FetchedSource(str(path), checksum.lower() if checksum else _stamp(path.stat()), checksum)
    return FolderSource(path.parent, focus=path.name)


def _fetch(uri: str, version: str, checksum: str | None, shown: str) -> Path:
    """The archive or file as a local file that matches its checksum."""
    try:
        with redacted_errors():
            if uri.lower().startswith(("http://", "https://")):
                return download(uri, checksum)
            if uri.startswith("s3://"):
                path = _fetch_object(uri, version)
            else:
                path = Path(uri)
            if checksum and sha256(path) != checksum.lower():
                raise SourceError(f"{shown}: sha256 is {sha256(path)}, expected {checksum.lower()}")
    except (DownloadError, OSError) as error:
        raise SourceError(_without(str(error), uri, shown)) from None
    return path


def _without(message: str, uri: str, shown: str) -> str:
    """The message with the URI as it is shown: also a variable in its path may be a secret."""
    return message.replace(uri, shown).replace(redact(uri), shown) if "://" in uri else message


def _fetch_object(uri: str, version: str) -> Path:
    """An S3 object in the cache, under its ETag: unlike a store's, a source's objects may change."""
    name = uri.rpartition("/")[2]
    path = cache_folder() / "downloads" / fingerprint(uri, version) / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_copy = path.with_name(f".{name}.{uuid.uuid4().hex}")
        try:
            s3_filesystem().get_file(uri, str(partial_copy))
            os.replace(partial_copy, path)
        finally:
            partial_copy.unlink(missing_ok=True)
    return path


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[File]:
    """Files below a folder. Links are followed, but not into a folder that holds them."""
    try:
        info = os.stat(folder)
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}") from error
    here = (info.st_dev, info.st_ino)
    if here in above:
        return
    with os.scandir(folder) as items:
        for item in items:
            path = f"{prefix}{item.name}"
            if item.is_dir():
                yield from _walk(item.path, f"{path}/", above | {here})
            elif item.is_file():
                status = item.stat()
                yield File(path, status.st_size, _stamp(status))


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _contained(folder: str, name: str, uri: str) -> str:
    path = posixpath.normpath(posixpath.join(folder, name))
    if "://" in name or path.startswith(("/", "../")) or path == ".." or "\\" in name or "\0" in name:
        raise SourceError(f"{name!r} leads out of {uri}")
    return path
