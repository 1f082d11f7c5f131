"""The store: where every derived thing lives, addressed by the content it came from.

    store = Store("motet-root")                        # or Store("s3://bucket/prefix")
    store.write_table("utterances/commands/1f0c.parquet", table)
    store.commit("utterances/commands", address="1f0c", files=("utterances/commands/1f0c.parquet",))
    store.latest("utterances/commands").files

A dataset version is a small JSON manifest that lists Parquet files. It is written last, on condition that no
other writer took its number, so a reader sees the whole old version or the whole new one, never a half.
Objects are never changed once written: a key carries the hash of what lies under it.
"""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import lock
from pipelines.kinds import check_kind
from pipelines.redaction import scrub
from pipelines.roots import TEMPORARY, Entry, FolderRoot, StoreError, cache_folder, open_root

__all__ = ["Entry", "Manifest", "Store", "StoreError", "fingerprint"]

MANIFESTS = "manifests"
STORED = "store:"  # scheme of an audio URI that is a key of the store
_COMMIT_ATTEMPTS = 1000  # each failed attempt means that another writer succeeded


@dataclass(frozen=True)
class Manifest:
    """One version of a dataset.

    address: hash of what the version was made from; equal addresses mean equal content.
    files: keys of the store. parents: dataset -> address of what it was derived from.
    """

    dataset: str
    version: int
    address: str
    created: str
    files: tuple[str, ...] = ()
    parents: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        content = json.loads(data)
        return cls(**{**content, "files": tuple(content["files"])})


class Store:
    """Bytes, tables and dataset versions below one root. Cheap to make, and picklable: it holds only its root."""

    def __init__(self, root: str | Path) -> None:
        self._root = open_root(str(root))
        self.root = str(self._root.folder) if isinstance(self._root, FolderRoot) else f"s3://{self._root.base}"

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def probe(self) -> None:
        """Checks that the root can be written and honours conditional creation, without which commits are not safe.

        Raises:
            StoreError: it cannot, or it lets a second writer overwrite the first (some S3 stand-ins do).
        """
        key = f".probe/{uuid.uuid4().hex}"
        try:
            first, second = self._root.create(key, b"1"), self._root.create(key, b"2")
            kept = self._root.read(key) if first else b""
            self._root.delete(key)
        except OSError as error:
            scrub(error)
            raise StoreError(f"{self.root} cannot be used as a store: {error}") from error
        if not first or second or kept != b"1":
            raise StoreError(
                f"{self.root} ignores 'create only if absent' (If-None-Match on S3, hard links in a folder), "
                "so two writers could overwrite each other's versions; use a server or file system that honours it"
            )

    def put_bytes(self, key: str, data: bytes) -> None:
        self._root.write(_checked(key), data)

    def read_bytes(self, key: str) -> bytes:
        return self._root.read(_checked(key))

    def exists(self, key: str) -> bool:
        return self._root.exists(_checked(key))

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """Everything whose key begins with `prefix`, by key."""
        return self._root.entries(prefix)

    def delete(self, key: str) -> None:
        """Removes the key; one that is not there is no error."""
        self._root.delete(_checked(key))

    def put_file(self, local: Path, key: str) -> None:
        self._root.upload(Path(local), _checked(key))

    def fetch(self, key: str) -> Path:
        """A local file with the key's content: the file itself below a folder root, else a cached copy.

        The copy is kept by key, so this is for keys whose content never changes.
        """
        if isinstance(self._root, FolderRoot):
            path = self._root.path(_checked(key))
            if not path.is_file():
                raise FileNotFoundError(f"{self.root} holds no {key}")
            return path
        copy = cache_folder() / "objects" / fingerprint(self.root) / _checked(key)
        if not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            temporary = copy.with_name(f".{copy.name}.{uuid.uuid4().hex}")
            try:
                self._root.download(key, temporary)
                os.replace(temporary, copy)
            finally:
                temporary.unlink(missing_ok=True)
        return copy

    def fetch_folder(self, keys: Sequence[str]) -> Path:
        """A local folder that holds the named keys of one folder of the store; see `fetch`."""
        (folder,) = {self.fetch(key).parent for key in keys}
        return folder

    def write_table(self, key: str, table: pa.Table, **options: Any) -> None:
        """The table as Parquet; `options` go to pyarrow.parquet.write_table."""
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, **options)
        self.put_bytes(key, buffer.getvalue().to_pybytes())

    def read_table(self, key: str, columns: builtins.list[str] | None = None) -> pa.Table:
        # ParquetFile, not read_table: the latter reads partitions into a path that holds a "=".
        if isinstance(self._root, FolderRoot):
            return pq.ParquetFile(self.fetch(key)).read(columns=columns)
        return pq.ParquetFile(pa.BufferReader(self.read_bytes(key))).read(columns=columns)

    def commit(
        self,
        dataset: str,
        address: str,
        files: Iterable[str] = (),
        parents: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """A new version of the dataset, or the newest one when it has this address already.

        Write the files first. Of several writers each gets a number of its own, without gaps.

        Raises:
            StoreError: the dataset's name cannot be a key, or pipelines/kinds.py does not list its kind.
            Lost: this process held the lock of the root and has lost it.
        """
        check_kind(dataset)
        _checked(f"{MANIFESTS}/{dataset}")
        for _ in range(_COMMIT_ATTEMPTS):
            newest = self.latest(dataset)
            if newest is not None and newest.address == address:
                return newest
            manifest = Manifest(
                dataset=dataset,
                version=newest.version + 1 if newest else 1,
                address=address,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                files=tuple(files),
                parents=dict(parents or {}),
                meta=dict(meta or {}),
            )
            lock.check(self.root)
            if self._root.create(_manifest_key(dataset, manifest.version), manifest.to_json()):
                return manifest
        raise StoreError(f"{dataset}: {_COMMIT_ATTEMPTS} other commits came first; is a writer looping?")

    def latest(self, dataset: str) -> Manifest | None:
        return next(self._newest_first(dataset), None)

    def find(self, dataset: str, address: str) -> Manifest | None:
        """The newest version with this address."""
        return next((version for version in self._newest_first(dataset) if version.address == address), None)

    def versions(self, dataset: str) -> builtins.list[Manifest]:
        """All versions, oldest first."""
        return list(self._newest_first(dataset))[::-1]

    def datasets(self) -> builtins.list[str]:
        keys = (PurePosixPath(entry.key) for entry in self.list(f"{MANIFESTS}/"))
        return sorted({str(key.parent.relative_to(MANIFESTS)) for key in keys})

    def _newest_first(self, dataset: str) -> Iterator[Manifest]:
        folder = f"{MANIFESTS}/{dataset}/"
        keys = [entry.key for entry in self.list(folder) if "/" not in entry.key[len(folder) :]]
        for key in reversed(keys):  # numbers are zero-padded, so the order of names is the order of versions
            yield Manifest.from_json(self.read_bytes(key))


def fingerprint(*parts: Any) -> str:
    """Hash of plain values: the first 16 hex digits of the SHA-256 of their canonical JSON."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _manifest_key(dataset: str, version: int) -> str:
    return f"{MANIFESTS}/{dataset}/v{version:08d}.json"


def _checked(key: str) -> str:
    """The key itself, if it stays below the root on every kind of root."""
    parts = key.split("/")
    if not key or any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key:
        raise StoreError(f"{key!r} cannot be a key; expected names joined by '/', without '.', '..' and backslashes")
    if parts[0] == TEMPORARY:
        raise StoreError(f"{key!r} lies in {TEMPORARY}/, which holds half-written files")
    return key
