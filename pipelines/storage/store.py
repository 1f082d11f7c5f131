"""The store: versioned datasets below one root, addressed by the content that they were derived from.

    store = Store("motet-root")                        # or Store("s3://bucket/prefix")
    store.write_table("utterances/commands/1f0c.parquet", table)
    store.commit("utterances/commands", address="1f0c", files=("utterances/commands/1f0c.parquet",))
    store.latest("utterances/commands").files

A dataset version is a small JSON manifest that lists Parquet files. It is written last, and only if
no other writer has taken its number, so readers never see an incomplete version. Keys contain the
hash of their content, and objects are never changed.

A manifest lists the size and SHA-256 of its files. `read_table(key, manifest=manifest)`, `read_bytes` and `fetch`
verify them and raise DamagedPart. A damaged file that can be derived again is moved to `damaged/`, so that the next
run of its stage creates it again. The oldest manifests have no checksums; `motet fsck --repair` adds them.
"""

from __future__ import annotations

import builtins
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.redaction import scrub
from pipelines.storage import lock
from pipelines.storage.checksums import AUDIO, Checksum, DamagedPart, checksum_of, mismatch, remedy
from pipelines.storage.kinds import DERIVED, check_kind
from pipelines.storage.manifest import Manifest
from pipelines.storage.roots import TEMPORARY, Entry, FolderRoot, StoreError, cache_folder, open_root

__all__ = ["Checksum", "DamagedPart", "Entry", "Manifest", "Store", "StoreError", "fingerprint"]

logger = logging.getLogger(__name__)

MANIFESTS = "manifests"
DAMAGED = "damaged/"  # prefix of the keys of files that were set aside
STORED = "store:"  # scheme of an audio URI that is a key of the store
_COMMIT_ATTEMPTS = 1000  # each failed attempt means that another writer succeeded
_MISSING = "it is not there"


class Store:
    """Bytes, tables and dataset versions below one root. Cheap to create, and picklable."""

    def __init__(self, root: str | Path) -> None:
        self._root = open_root(str(root))
        self.root = self._root.location

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def probe(self) -> None:
        """Checks that the root is writable and supports conditional creation, which commits depend on.

        Raises:
            StoreError: it is not, or a second writer can overwrite the first (as with some S3-compatible servers).
        """
        key = f".probe/{uuid.uuid4().hex}"
        try:
            first, second = self._root.create(key, b"1"), self._root.create(key, b"2")
            content = self._root.read(key) if first else b""
            self._root.delete(key)
        except OSError as error:
            scrub(error)
            raise StoreError(f"{self.root} cannot be used as a store: {error}") from error
        if not first or second or content != b"1":
            raise StoreError(
                f"{self.root} ignores 'create only if absent' (If-None-Match on S3, hard links in a folder), "
                "so two writers could overwrite each other's versions; use a server or file system that honours it"
            )

    def put_bytes(self, key: str, data: bytes) -> Checksum:
        self._root.write(_checked(key), data)
        return checksum_of(data)

    def read_bytes(self, key: str, manifest: Manifest | None = None) -> bytes:
        """The key's content; verified if the manifest that lists it is passed.

        Raises:
            FileNotFoundError: no such key, without a manifest. DamagedPart: the file is missing or damaged, with one.
        """
        if manifest is None:
            return self._root.read(_checked(key))
        expected, detail = manifest.checksums.get(key), ""
        try:
            data = self._root.read(_checked(key))
            if expected is not None and (actual := checksum_of(data)) != expected:
                detail = f"it holds {actual}"
        except FileNotFoundError:
            detail = _MISSING
        if detail:  # raised outside of the except block: a FileNotFoundError as context would be retried
            raise self.damaged(key, manifest, detail)
        return data

    def exists(self, key: str) -> bool:
        return self._root.exists(_checked(key))

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """All entries whose key begins with `prefix`, sorted by key."""
        return self._root.entries(prefix)

    def delete(self, key: str) -> None:
        """Removes the key, if it exists."""
        self._root.delete(_checked(key))

    def put_file(self, local: Path, key: str) -> Checksum:
        self._root.upload(Path(local), _checked(key))
        return checksum_of(Path(local))

    def fetch(self, key: str, manifest: Manifest | None = None) -> Path:
        """A local file with the key's content: the file itself below a folder root, else a cached copy.

        Only for keys whose content never changes. With the manifest that lists the key, the content
        is verified once per process. Raises as `read_bytes` does.
        """
        expected = manifest.checksums.get(key) if manifest is not None else None
        copy = self._local_path(key)
        if copy.is_file():
            actual = mismatch(copy, expected) if expected is not None else None
            if actual is None:
                return copy
            if isinstance(self._root, FolderRoot):
                raise self.damaged(key, manifest, f"it holds {actual}")
        elif isinstance(self._root, FolderRoot):
            if manifest is not None:
                raise self.damaged(key, manifest, _MISSING)
            raise FileNotFoundError(f"{self.root} holds no {key}")
        return self._download(key, copy, expected, manifest)

    def _local_path(self, key: str) -> Path:
        if isinstance(self._root, FolderRoot):
            return self._root.path(_checked(key))
        return cache_folder() / "objects" / fingerprint(self.root) / _checked(key)

    def _download(self, key: str, copy: Path, expected: Checksum | None, manifest: Manifest | None) -> Path:
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary = copy.with_name(f".{copy.name}.{uuid.uuid4().hex}")
        try:
            detail = ""
            try:
                self._root.download(key, temporary)
                if expected is not None and (actual := mismatch(temporary, expected)) is not None:
                    detail = f"it holds {actual}"
            except FileNotFoundError:
                if manifest is None:
                    raise
                detail = _MISSING
            if detail:
                raise self.damaged(key, manifest, detail)
            os.replace(temporary, copy)
        finally:
            temporary.unlink(missing_ok=True)
        return copy

    def fetch_folder(self, keys: Sequence[str], manifest: Manifest | None = None) -> Path:
        """A local folder with the given keys, which are in one folder of the store; see `fetch`."""
        (folder,) = {self.fetch(key, manifest).parent for key in keys}
        return folder

    def write_table(self, key: str, table: pa.Table, **options: Any) -> Checksum:
        """Writes Parquet; `options` are those of pyarrow.parquet.write_table."""
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, **options)
        return self.put_bytes(key, buffer.getvalue().to_pybytes())

    def read_table(
        self, key: str, columns: builtins.list[str] | None = None, manifest: Manifest | None = None
    ) -> pa.Table:
        """A Parquet file, verified as by `read_bytes`; also raises DamagedPart if the file is not Parquet."""
        folder = isinstance(self._root, FolderRoot)
        source = self.fetch(key, manifest) if folder else pa.BufferReader(self.read_bytes(key, manifest))
        try:
            # ParquetFile, because read_table takes a "=" in a path for a partition.
            return pq.ParquetFile(source).read(columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            detail = f"it cannot be read as Parquet ({error})"
        raise self.damaged(key, manifest, detail)

    def checksum(self, key: str) -> Checksum:
        """Checksum of the current content."""
        if isinstance(self._root, FolderRoot):
            return checksum_of(self._root.path(_checked(key)))
        return checksum_of(self.read_bytes(key))

    def damaged(self, key: str, manifest: Manifest | None, detail: str) -> DamagedPart:
        """The error for a damaged file, which is set aside if a later run creates it again."""
        if not isinstance(self._root, FolderRoot):
            self._local_path(key).unlink(missing_ok=True)  # a cached copy
        if manifest is None:
            return DamagedPart(f"{self.root}/{key} is damaged: {detail}")
        expected = manifest.checksums.get(key)
        listed = f", expected {expected}" if expected else ""
        moved = ""
        if manifest.kind in DERIVED:
            try:
                moved = f" It was moved to {DAMAGED}{key}." if self.set_aside(key, expected) else ""
            except OSError as error:  # a read-only root
                moved = f" It could not be moved to {DAMAGED}{key} ({error}); delete it."
        name = f"{manifest.dataset} version {manifest.version}"
        return DamagedPart(f"{self.root}/{key} of {name} is damaged: {detail}{listed}.{moved} {remedy(manifest.kind)}")

    def set_aside(self, key: str, expected: Checksum | None = None) -> bool:
        """Moves the key to damaged/, so that its stage creates it again; returns False if there is nothing to move.

        If the file now has the expected checksum (another process may have replaced it), it stays. A missing copy of a
        recording leaves an empty file in damaged/, so that the next ingest copies it again.
        """
        try:
            data = self._root.read(_checked(key))
        except FileNotFoundError:
            if key.startswith(AUDIO):
                self._root.write(DAMAGED + key, b"")
            return False
        if expected is not None and checksum_of(data) == expected:
            return False
        self._root.write(DAMAGED + key, data)
        self._root.delete(key)
        return True

    def faults(self, manifest: Manifest) -> dict[str, str]:
        """Files of a manifest that are missing or have another size, with a description.

        Compares listings only; other damage is detected when a file is read.
        """
        folders = {_checked(key).rpartition("/")[0] for key in manifest.files}
        entries = (entry for folder in sorted(folders) for entry in self.list(f"{folder}/" if folder else ""))
        sizes = {entry.key: entry.size for entry in entries}
        faults = {key: _MISSING for key in manifest.files if key not in sizes}
        for key, checksum in manifest.checksums.items():
            if key in sizes and sizes[key] != checksum.size:
                faults[key] = f"it has {sizes[key]:,} bytes, expected {checksum.size:,}"
        return faults

    def commit(
        self,
        dataset: str,
        address: str,
        files: Iterable[str] = (),
        parents: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        checksums: Mapping[str, Checksum] | None = None,
    ) -> Manifest:
        """Creates a version of the dataset, or returns the newest one if it has this address and its files are intact.

        The files are written first. Concurrent writers get different version numbers, without gaps.

        checksums: as returned by the writes. Others are taken from the newest version, or computed from the files.

        Raises:
            StoreError: invalid dataset name, unknown kind, or a file is not in the store as it was
            written. Lost: this process has lost the lock of the root.
        """
        check_kind(dataset)
        _checked(f"{MANIFESTS}/{dataset}")
        files, written = tuple(files), dict(checksums or {})
        for _ in range(_COMMIT_ATTEMPTS):
            newest = self.latest(dataset)
            if newest is not None and newest.address == address and self._is_intact(newest, written):
                return self.record(newest, written)
            manifest = Manifest(
                dataset=dataset,
                version=newest.version + 1 if newest else 1,
                address=address,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                files=files,
                parents=dict(parents or {}),
                meta=dict(meta or {}),
                checksums=self._checksums(files, newest, written),
            )
            self._check_files(manifest)
            lock.check(self.root)
            if self._root.create(_manifest_key(dataset, manifest.version), manifest.to_json()):
                return manifest
        raise StoreError(f"{dataset}: {_COMMIT_ATTEMPTS} other commits came first; is a writer looping?")

    def record(self, manifest: Manifest, checksums: Mapping[str, Checksum]) -> Manifest:
        """Adds checksums to a version that lacks them."""
        added = {key: checksums[key] for key in manifest.files if key in checksums}
        recorded = replace(manifest, checksums={**added, **manifest.checksums})
        if recorded != manifest:
            self._root.write(_manifest_key(manifest.dataset, manifest.version), recorded.to_json())
        return recorded

    def _is_intact(self, newest: Manifest, written: Mapping[str, Checksum]) -> bool:
        """Whether a version describes the current files, including the ones just written."""
        listed = newest.checksums
        return not self.faults(newest) and all(listed.get(key, written[key]) == written[key] for key in written)

    def _checksums(
        self, files: Sequence[str], newest: Manifest | None, written: dict[str, Checksum]
    ) -> dict[str, Checksum]:
        """Of each file. Files that the newest version lists without one are not read: it may take hours."""
        previous = newest.checksums if newest else {}
        for key in files:
            if key not in written and not (newest and key in newest.files) and self.exists(key):
                written[key] = self.checksum(key)
        known = {**previous, **written}
        return {key: known[key] for key in files if key in known}

    def _check_files(self, manifest: Manifest) -> None:
        faults = self.faults(manifest)
        if faults:
            key, fault = next(iter(faults.items()))
            raise StoreError(
                f"{manifest.dataset} cannot be committed: {len(faults)} of its {len(manifest.files)} files are not in "
                f"{self.root} as they were written, for instance {key}: {fault}. Was it deleted meanwhile? Run it again"
            )

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
        for key in reversed(keys):  # version numbers are zero-padded
            yield Manifest.from_json(self.read_bytes(key))


def first_table(store: Store, manifest: Manifest) -> pa.Table:
    """The first file of a version, which is a table. Raises DamagedPart."""
    return store.read_table(manifest.files[0], manifest=manifest)


def usable_table(store: Store, manifest: Manifest | None, schema: pa.Schema) -> pa.Table:
    """The first table of a version; an empty one if there is no version or the table is damaged."""
    if manifest is None or not manifest.files:
        return schema.empty_table()
    try:
        return first_table(store, manifest)
    except DamagedPart as error:
        logger.warning("%s", error)
        return schema.empty_table()


def audio_copies(store: Store, key: str, manifest: Manifest | None = None) -> set[str]:
    """Keys of the copies of recordings that an utterance table refers to."""
    uris = store.read_table(key, ["audio"], manifest)["audio"].unique().to_pylist()
    return {uri.removeprefix(STORED) for uri in uris if uri and uri.startswith(STORED)}


def fingerprint(*parts: Any) -> str:
    """Hash of JSON values: the first 16 hex digits of the SHA-256 of their canonical JSON."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _manifest_key(dataset: str, version: int) -> str:
    return f"{MANIFESTS}/{dataset}/v{version:08d}.json"


def _checked(key: str) -> str:
    """The key itself, if it is valid on every kind of root."""
    parts = key.split("/")
    if not key or any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key:
        raise StoreError(f"{key!r} cannot be a key; expected names joined by '/', without '.', '..' and backslashes")
    if parts[0] == TEMPORARY:
        raise StoreError(f"{key!r} lies in {TEMPORARY}/, which holds half-written files")
    return key
