"""Storage back ends: a folder or an S3 prefix with the same eight operations.

Writes are atomic: a key is absent or complete. A key can be created on condition that it does not
exist, which makes the commit of a manifest atomic (store.py). S3 reads its endpoint and credentials
from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ~/.aws or fsspec's configuration.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from pipelines.core.redaction import redact

TEMPORARY = ".tmp"  # incomplete files of a folder root; never listed


class StoreError(RuntimeError):
    """A root that cannot be used as a store, or an invalid key."""


@dataclass(frozen=True)
class Entry:
    """A stored object: its key, size in bytes, and when it was last written (UTC)."""

    key: str
    size: int
    modified: datetime


class FolderRoot:
    """Keys as files below a folder. Writes go to a temporary file, which is synced and renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.location = folder, str(folder)

    def path(self, key: str) -> Path:
        return self.folder / key

    def read(self, key: str) -> bytes:
        return self.path(key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        self._replace(key, lambda temporary: _write_synced(temporary, io.BytesIO(data)))

    def upload(self, local: Path, key: str) -> None:
        with open(local, "rb") as file:
            self._replace(key, lambda temporary: _write_synced(temporary, file))

    def create(self, key: str, data: bytes) -> bool:
        """Writes the key unless it exists; returns whether it did. `link` is atomic."""
        temporary = self._temporary()
        try:
            _write_synced(temporary, io.BytesIO(data))
            self.path(key).parent.mkdir(parents=True, exist_ok=True)
            os.link(temporary, self.path(key))
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(self.path(key).parent)
        return True

    def download(self, key: str, local: Path) -> None:
        shutil.copyfile(self.path(key), local)

    def exists(self, key: str) -> bool:
        try:
            return stat.S_ISREG(self.path(key).stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def entries(self, prefix: str) -> list[Entry]:
        entries = []
        for path in self._files(prefix):
            key = path.relative_to(self.folder).as_posix()
            if key.startswith(prefix):
                try:
                    info = path.stat()
                except FileNotFoundError:  # deleted since the folder was read
                    continue
                entries.append(Entry(key, info.st_size, datetime.fromtimestamp(info.st_mtime, UTC)))
        return sorted(entries, key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)

    def _files(self, prefix: str) -> Iterator[Path]:
        top = self.folder / prefix.rpartition("/")[0]
        # By default os.walk skips a folder that cannot be read.
        for folder, names, files in os.walk(top, onerror=_raise_unless_absent):
            if Path(folder) == self.folder and TEMPORARY in names:
                names.remove(TEMPORARY)
            yield from (Path(folder) / file for file in files)

    def _temporary(self) -> Path:
        folder = self.folder / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex

    def _replace(self, key: str, fill: Callable[[Path], None]) -> None:
        temporary = self._temporary()
        try:
            fill(temporary)
            self.path(key).parent.mkdir(parents=True, exist_ok=True)
            # The folder is not synced here, which halves the cost of a small file. A journal keeps the order of
            # renames, so the sync after a manifest's creation also covers all earlier renames.
            os.replace(temporary, self.path(key))
        finally:
            temporary.unlink(missing_ok=True)


class S3Root:
    """Keys as objects below s3://bucket/prefix, through s3fs."""

    def __init__(self, url: str) -> None:
        self.base = url.removeprefix("s3://").strip("/")
        self.location = f"s3://{self.base}"

    def path(self, key: str) -> str:
        return f"{self.base}/{key}"

    @cached_property
    def fs(self) -> Any:
        return s3_filesystem()

    def read(self, key: str) -> bytes:
        return bytes(self.fs.cat_file(self.path(key)))

    def write(self, key: str, data: bytes) -> None:
        self.fs.pipe_file(self.path(key), data)

    def upload(self, local: Path, key: str) -> None:
        self.fs.put_file(str(local), self.path(key))

    def create(self, key: str, data: bytes) -> bool:
        """As FolderRoot.create. For small data: multipart uploads may overwrite an object."""
        try:
            self.fs.pipe_file(self.path(key), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs maps a 412 without an error code to EINVAL; 409 is a concurrent request.
            if http_status(error) in (409, 412):
                return False
            raise
        return True

    def download(self, key: str, local: Path) -> None:
        self.fs.get_file(self.path(key), str(local))

    def exists(self, key: str) -> bool:
        return object_exists(self.fs, self.path(key))

    def entries(self, prefix: str) -> list[Entry]:
        try:
            objects = self.fs.find(self.base, prefix=prefix, detail=True)
        except FileNotFoundError as error:  # a prefix without objects gives an empty listing instead
            raise StoreError(f"{self.location} cannot be listed: {error}; does the bucket exist?") from error
        entries = [
            Entry(path[len(self.base) + 1 :], info["size"], info["LastModified"])
            for path, info in objects.items()
            # A key that ends in "/" is a folder that was created in the server's web console.
            if info["type"] == "file" and path.startswith(f"{self.base}/{prefix}") and not path.endswith("/")
        ]
        return sorted(entries, key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        try:
            self.fs.rm_file(self.path(key))
        except FileNotFoundError as error:  # some servers return 404 for an absent key
            if error_code(error) == "NoSuchBucket":
                raise

    def __getstate__(self) -> dict[str, Any]:
        # Connections cannot be pickled: a Ray worker opens its own.
        return {"base": self.base, "location": self.location}


Root = FolderRoot | S3Root


def open_root(location: str) -> Root:
    """The root that a folder path or an s3:// URL names."""
    if location.startswith("s3://"):
        if not location.removeprefix("s3://").strip("/"):
            raise StoreError(f"{location!r} names no bucket; expected s3://bucket/prefix")
        return S3Root(location)
    if "://" in location:
        raise StoreError(f"{redact(location)!r} cannot be a store; expected a folder or s3://bucket/prefix")
    return FolderRoot(Path(location).expanduser().absolute())


def s3_filesystem() -> Any:
    """s3fs without its listing cache, which would hide writes of other machines."""
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False)


def object_exists(fs: Any, path: str) -> bool:
    """Whether the S3 object exists. Unlike `fs.isfile` and `fs.exists`, does not hide errors.

    Raises:
        OSError, botocore's errors: 5xx, a time-out, 403. S3 sends 403 for an absent key if s3:ListBucket is not
            granted, and for any key if the credentials have expired or the clock is wrong.
    """
    bucket, key, _ = fs.split_path(path)
    try:
        fs.call_s3("head_object", fs.kwargs, Bucket=bucket, Key=key)
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise PermissionError(
            f"s3://{path}: the server refuses to say whether it exists ({error}); check the credentials, the clock of "
            "this machine, and that they grant s3:GetObject and s3:ListBucket"
        ) from error
    return True


def http_status(error: BaseException) -> int | None:
    """HTTP status of an error of s3fs, if it has one."""
    return _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")


def error_code(error: BaseException) -> str | None:
    """S3's code of an error of s3fs, such as "NoSuchBucket", if it has one."""
    return _response(error).get("Error", {}).get("Code")


def _response(error: BaseException) -> dict[str, Any]:
    return getattr(error.__cause__, "response", None) or {}


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def sha256(path: Path) -> str:
    """Of a local file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """This user's cache folder: $MOTET_CACHE, or a folder below the temporary folder.

    Raises:
        StoreError: the folder below the shared temporary folder belongs to another user, who could plant files.
    """
    if location := os.environ.get("MOTET_CACHE"):
        folder = Path(location).expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"motet-cache-{user}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.lstat()
    if hasattr(os, "getuid") and (info.st_uid != user or not stat.S_ISDIR(info.st_mode)):
        raise StoreError(f"{folder} belongs to another user; set MOTET_CACHE to a folder of your own")
    return folder


def _write_synced(path: Path, content: IO[bytes]) -> None:
    with open(path, "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power failure, if the file system supports syncing folders."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    with suppress(OSError):
        os.fsync(handle)
    os.close(handle)
