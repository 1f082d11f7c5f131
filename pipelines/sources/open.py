"""Opens corpus sources and recordings by URI: folders, tar and zip archives, http(s) URLs and s3://.

    source = open_source("https://example.org/train.tar.gz", checksum="9f86d0…")
    source.fingerprint()                     # changes with the content; downloads nothing
    source.read("train/label")               # downloads and unpacks on first use

Archives and downloads are unpacked in the cache, and ingest copies their recordings into the store.
Recordings of a folder or an S3 prefix stay where they are.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath

from pipelines.core.redaction import redact, redacted_errors
from pipelines.sources.archive import ArchiveError, is_archive_name, unpack
from pipelines.sources.download import DownloadError, download, remote_stamp
from pipelines.sources.s3 import S3Source
from pipelines.sources.source import FolderSource, Source, SourceError, stamp_of
from pipelines.storage.checksums import is_named_content, names_its_content
from pipelines.storage.roots import cache_folder, s3_filesystem, sha256
from pipelines.storage.store import STORED, DamagedPart, Store, fingerprint


class FetchedSource(FolderSource):
    """An archive, or a file behind a URL: identified by its version, fetched and unpacked on first use."""

    permanent = False

    def __init__(self, location: str, version: str, checksum: str | None, shown: str | None = None) -> None:
        self.uri = shown or location
        self.name = PurePosixPath(location.rstrip("/")).name
        self._location = location
        self._version = version
        self._checksum = checksum

    @cached_property
    def _local(self) -> tuple[Path, str | None]:
        """The folder, and the file in it if the location is no archive."""
        file = _fetch(self._location, self._version, self._checksum, self.uri)
        if not is_archive_name(file.name):
            return file.parent, file.name
        folder = cache_folder() / "unpacked" / fingerprint(str(file), self._version)
        if not folder.is_dir():
            try:
                unpack(file, folder)
            except ArchiveError as error:
                raise SourceError(str(error)) from error
        return folder, None

    @property
    def folder(self) -> Path:  # type: ignore[override]
        return self._local[0]

    @property
    def focus(self) -> str | None:  # type: ignore[override]
        return self._local[1]

    def resolve(self, folder: str, name: str) -> str:
        return Source.resolve(self, folder, name)

    def locate(self, path: str) -> str:
        return f"{self.uri}!/{path}"

    def fingerprint(self) -> str:
        return fingerprint(self._location, self._version)


def open_source(uri: str, checksum: str | None = None, written: str | None = None) -> Source:
    """The source that a URI names; nothing is downloaded or unpacked yet.

    checksum: hex SHA-256 of an archive or a download. With it, an http source is identified without a request.
    written: the URI with unexpanded variables, from which the stored names of downloaded files are made.

    Raises:
        SourceError: the source does not exist, or its scheme is unknown.
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
        OSError: it no longer exists. DamagedPart: a copy in the store does not have the SHA-256 in its name.
    """
    if uri.startswith(STORED):
        return _read_copy(uri.removeprefix(STORED), store)
    if uri.startswith("s3://"):
        return bytes(s3_filesystem().cat_file(uri))
    return Path(uri).read_bytes()


def _read_copy(key: str, store: Store) -> bytes:
    """A recording's copy. If it is missing or damaged, the next ingest copies it again."""
    try:
        data = store.read_bytes(key)
    except FileNotFoundError:
        with suppress(OSError):  # the root may be read-only
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
        return FetchedSource(str(path), checksum.lower() if checksum else stamp_of(path.stat()), checksum)
    return FolderSource(path.parent, focus=path.name)


def _fetch(uri: str, version: str, checksum: str | None, shown: str) -> Path:
    """The archive or file as a local file that has the given checksum."""
    try:
        with redacted_errors():
            if uri.lower().startswith(("http://", "https://")):
                return download(uri, checksum)
            path = _fetch_object(uri, version) if uri.startswith("s3://") else Path(uri)
            if checksum and sha256(path) != checksum.lower():
                raise SourceError(f"{shown}: sha256 is {sha256(path)}, expected {checksum.lower()}")
    except (DownloadError, OSError) as error:
        raise SourceError(_without(str(error), uri, shown)) from None
    return path


def _without(message: str, uri: str, shown: str) -> str:
    """The message with the shown form of the URI: a variable in its path may also be a secret."""
    return message.replace(uri, shown).replace(redact(uri), shown) if "://" in uri else message


def _fetch_object(uri: str, version: str) -> Path:
    """An S3 object in the cache, under its ETag, since objects of a source may change."""
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
