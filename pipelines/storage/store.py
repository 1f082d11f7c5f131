"""The store: where every derived thing lives, addressed by the content it came from.

    store = Store("motet-root")                        # or Store("s3://bucket/prefix")
    store.write_table("utterances/commands/1f0c.parquet", table)
    store.commit("utterances/commands", address="1f0c", files=("utterances/commands/1f0c.parquet",))
    store.latest("utterances/commands").files

A dataset version is a small JSON manifest that lists Parquet files. It is written last, on condition that no
other writer took its number, so a reader sees the whole old version or the whole new one, never a half.
Objects are never changed once written: a key carries the hash of what lies under it.

A manifest lists the size and SHA-256 of its files. `read_table(key, manifest=manifest)`, `read_bytes` and `fetch`
compare them with what they read and raise DamagedPart; a damaged file that can be made anew is moved to `damaged/`,
so that the next run of its stage finds it missing. Manifests written before checksums were recorded have none:
their files are read unchecked until `motet fsck --repair` records them.
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
from pipelines.storage.checksums import AUDIO, REMADE, Checksum, DamagedPart, checksum_of, mismatch, remedy
from pipelines.storage.kinds import check_kind
from pipelines.storage.manifest import Manifest
from pipelines.storage.roots import TEMPORARY, Entry, FolderRoot, StoreError, cache_folder, open_root

__all__ = [
    "Checksum",
    "DamagedPart",
    "Entry",
    "Manifest",
    "Store",
    "StoreError",
    "fingerprint",
    "first_table",
    "usable_table",
]

logger = logging.getLogger(__name__)

MANIFESTS = "manifests"
DAMAGED = "damaged/"  # before the key of a file that was moved away
STORED = "store:"  # scheme of an audio URI that is a key of the store
_COMMIT_ATTEMPTS = 1000  # each failed attempt means that another writer succeeded


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

    def put_bytes(self, key: str, data: bytes) -> Checksum:
        self._root.write(_checked(key), data)
        return checksum_of(data)

    def read_bytes(self, key: str, manifest: Manifest | None = None) -> bytes:
        """The key's content; with the manifest that lists it, checked.

        Raises:
            FileNotFoundError: no such key. DamagedPart: instead of it, with a manifest, and where the bytes differ.
        """
        detail = ""
        try:
            data = self._root.read(_checked(key))
        except FileNotFoundError:
            if manifest is None:
                raise
            detail = "it is not there"
        else:
            expected = manifest.checksums.get(key) if manifest is not None else None
            if expected is not None and (actual := checksum_of(data)) != expected:
                detail = f"it holds {actual}"
        if detail:  # raised here, so that it is no consequence of an error that a flow would retry
            raise self.damaged(key, manifest, detail)
        return data

    def exists(self, key: str) -> bool:
        return self._root.exists(_checked(key))

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """Everything whose key begins with `prefix`, by key."""
        return self._root.entries(prefix)

    def delete(self, key: str) -> None:
        """Removes the key; one that is not there is no error."""
        self._root.delete(_checked(key))

    def put_file(self, local: Path, key: str) -> Checksum:
        self._root.upload(Path(local), _checked(key))
        return checksum_of(Path(local))

    def fetch(self, key: str, manifest: Manifest | None = None) -> Path:
        """A local file with the key's content: the file itself below a folder root, else a cached copy.

        The copy is kept by key, so this is for keys whose content never changes. With the manifest that lists the key,
        the content is checked once in each process, and a copy before it is kept.

        Raises:
            FileNotFoundError: no such key. DamagedPart: instead of it, with a manifest, and where the bytes differ.
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
                raise self.damaged(key, manifest, "it is not there")
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
            except FileNotFoundError:
                if manifest is None:
                    raise
                detail = "it is not there"
            if not detail and expected is not None and (actual := mismatch(temporary, expected)) is not None:
                detail = f"it holds {actual}"
            if detail:
                raise self.damaged(key, manifest, detail)
            os.replace(temporary, copy)
        finally:
            temporary.unlink(missing_ok=True)
        return copy

    def fetch_folder(self, keys: Sequence[str], manifest: Manifest | None = None) -> Path:
        """A local folder that holds the named keys of one folder of the store; see `fetch`."""
        (folder,) = {self.fetch(key, manifest).parent for key in keys}
        return folder

    def write_table(self, key: str, table: pa.Table, **options: Any) -> Checksum:
        """The table as Parquet; `options` go to pyarrow.parquet.write_table."""
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, **options)
        return self.put_bytes(key, buffer.getvalue().to_pybytes())

    def read_table(
        self, key: str, columns: builtins.list[str] | None = None, manifest: Manifest | None = None
    ) -> pa.Table:
        """A Parquet file; with the manifest that lists it, checked as `read_bytes` does.

        Raises:
            FileNotFoundError: no such key. DamagedPart: it is not Parquet, or, with a manifest, not what that lists.
        """
        folder = isinstance(self._root, FolderRoot)
        source = self.fetch(key, manifest) if folder else pa.BufferReader(self.read_bytes(key, manifest))
        try:
            # ParquetFile, not read_table: the latter reads partitions into a path that holds a "=".
            return pq.ParquetFile(source).read(columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            detail = f"it cannot be read as Parquet ({error})"
        raise self.damaged(key, manifest, detail)

    def checksum(self, key: str) -> Checksum:
        """Of the stored bytes, as they are now."""
        if isinstance(self._root, FolderRoot):
            return checksum_of(self._root.path(_checked(key)))
        return checksum_of(self.read_bytes(key))

    def damaged(self, key: str, manifest: Manifest | None, detail: str) -> DamagedPart:
        """The error to raise for a file that a manifest lists; moves the file away where a later run makes it anew."""
        if not isinstance(self._root, FolderRoot):
            self._local_path(key).unlink(missing_ok=True)  # a cached copy
        if manifest is None:
            return DamagedPart(f"{self.root}/{key} is damaged: {detail}")
        expected = manifest.checksums.get(key)
        listed = f", expected {expected}" if expected else ""
        moved = ""
        if manifest.kind in REMADE:
            try:
                moved = f" It was moved to {DAMAGED}{key}." if self.set_aside(key, expected) else ""
            except OSError as error:  # a root that may only be read
                moved = f" It could not be moved to {DAMAGED}{key} ({error}); delete it."
        name = f"{manifest.dataset} version {manifest.version}"
        return DamagedPart(f"{self.root}/{key} of {name} is damaged: {detail}{listed}.{moved} {remedy(manifest.kind)}")

    def set_aside(self, key: str, expected: Checksum | None = None) -> bool:
        """Moves the key to damaged/, so that its stage finds it missing; False where there is nothing to move.

        Nothing is moved when a second reading gives the expected bytes: another process may have made the file anew.
        A recording's copy that is missing leaves an empty file there, by which the next ingest knows to copy it again.
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
        """Files of a manifest that are not there or have another size than listed, and what is wrong with each.

        This only lists folders: damage that leaves the size as it was is found when the file is read.
        """
        folders = {_checked(key).rpartition("/")[0] for key in manifest.files}
        entries = (entry for folder in sorted(folders) for entry in self.list(f"{folder}/" if folder else ""))
        sizes = {entry.key: entry.size for entry in entries}
        faults = {key: "it is not there" for key in manifest.files if key not in sizes}
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
        """A new version of the dataset, or the newest one when it has this address already and its files are whole.

        Write the files first. Of several writers each gets a number of its own, without gaps.

        checksums: what the writes returned. Files of the newest version keep the checksums that it lists; of others
        that are not given, they are computed from the stored bytes.

        Raises:
            StoreError: the dataset's name cannot be a key, pipelines/storage/kinds.py does not list its kind,
            or a file is not
                in the store as it was written.
            Lost: this process held the lock of the root and has lost it.
        """
        check_kind(dataset)
        _checked(f"{MANIFESTS}/{dataset}")
        files, written = tuple(files), dict(checksums or {})
        for _ in range(_COMMIT_ATTEMPTS):
            newest = self.latest(dataset)
            if newest is not None and newest.address == address and self._stands(newest, written):
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
        """Adds checksums to a version that was committed without them; what it lists already stays."""
        added = {key: checksums[key] for key in manifest.files if key in checksums}
        recorded = replace(manifest, checksums={**added, **manifest.checksums})
        if recorded != manifest:
            self._root.write(_manifest_key(manifest.dataset, manifest.version), recorded.to_json())
        return recorded

    def _stands(self, newest: Manifest, written: Mapping[str, Checksum]) -> bool:
        """Whether a version describes the files as they are now, `written` ones among them."""
        listed = newest.checksums
        return not self.faults(newest) and all(listed.get(key, written[key]) == written[key] for key in written)

    def _checksums(
        self, files: Sequence[str], newest: Manifest | None, written: dict[str, Checksum]
    ) -> dict[str, Checksum]:
        """Of each file; without those that the newest version lists without one: reading them all may take hours."""
        before = newest.checksums if newest else {}
        for key in files:
            if key not in written and key not in before and not (newest and key in newest.files) and self.exists(key):
                written[key] = self.checksum(key)
        known = {**before, **written}
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
        for key in reversed(keys):  # numbers are zero-padded, so the order of names is the order of versions
            yield Manifest.from_json(self.read_bytes(key))


def first_table(store: Store, manifest: Manifest) -> pa.Table:
    """The first file of a version, a table. Raises DamagedPart where its bytes are not those that are listed."""
    return store.read_table(manifest.files[0], manifest=manifest)


def usable_table(store: Store, manifest: Manifest | None, schema: pa.Schema) -> pa.Table:
    """The same; an empty table where there is no version, or where its table is damaged: a stage then makes it anew."""
    if manifest is None or not manifest.files:
        return schema.empty_table()
    try:
        return first_table(store, manifest)
    except DamagedPart as error:
        logger.warning("%s", error)
        return schema.empty_table()


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
