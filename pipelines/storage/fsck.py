"""Verifies all files of a root: `motet fsck`.

    result = check(store)                       # reads every byte
    result.problems, result.files, result.bytes
    repair(store, result.problems)              # sets damaged files aside, so that the next run creates them again

Files of manifests are verified by their checksums (without one, they are parsed), copies of
recordings by the SHA-256 in their names, and checkpoints by their digests.json.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load

from pipelines.core.progress import Report
from pipelines.storage.checksums import AUDIO, Checksum, is_named_content, names_its_content, remedy
from pipelines.storage.kinds import DERIVED
from pipelines.storage.store import DAMAGED, MANIFESTS, DamagedPart, Manifest, Store, audio_copies, fingerprint

READERS = 8  # threads
CHECKPOINTS = ("train/", "search/")
DIGESTS = "digests.json"  # in a checkpoint's folder: name -> bytes, sha256; see mtl/training/checkpoint.py


@dataclass(frozen=True)
class File:
    """A file to verify.

    manifests: the versions that list it. latest: whether one of them is the latest of its dataset.
    expected: checksums, one of which must match; empty if none is recorded.
    """

    key: str
    manifests: tuple[Manifest, ...] = ()
    latest: bool = True
    expected: tuple[Checksum, ...] = ()

    @property
    def dataset(self) -> str:
        return self.manifests[-1].dataset if self.manifests else self.key.partition("/")[0]

    @property
    def kind(self) -> str:
        return self.dataset.partition("/")[0]


@dataclass(frozen=True)
class Problem:
    """state: "damaged", "missing", or "unknown" (readable, but without a checksum). advice: what to
    do, or what `repair` did. actual: the current checksum."""

    file: File
    state: str
    size: int  # bytes; the recorded size if the file is missing
    detail: str
    advice: str
    repaired: bool = False
    actual: Checksum | None = None

    def to_json(self) -> dict[str, Any]:
        versions = [f"{manifest.dataset} version {manifest.version}" for manifest in self.file.manifests]
        plain = {name: getattr(self, name) for name in ("state", "size", "detail", "advice", "repaired")}
        return {"key": self.file.key, "dataset": self.file.dataset, **plain, "versions": versions}


@dataclass(frozen=True)
class Check:
    """files, bytes: read."""

    problems: list[Problem]
    files: int
    bytes: int


def check(store: Store, progress: Report | None = None) -> Check:
    """Reads and verifies every file; changes nothing."""
    sizes = {entry.key: entry.size for entry in store.list()}
    manifests, problems = _manifests(store, sizes)
    files = [*_listed(manifests, sizes), *_copies(store, manifests, sizes), *_checkpoints(store, sizes)]
    with ThreadPoolExecutor(READERS) as pool:
        for done, problem in enumerate(pool.map(partial(_examine, store, sizes), files), start=1):
            if problem is not None:
                problems.append(problem)
            if progress is not None:
                progress(done, len(files), "files")
    problems = _models_by_address(problems)
    present = {file.key for file in files} & set(sizes)
    return Check(problems, len(files), sum(sizes[key] for key in present))


def repair(store: Store, problems: Sequence[Problem]) -> list[Problem]:
    """Sets aside damaged files that a later run creates again, and records missing checksums."""
    repaired = []
    added: dict[tuple[str, int], dict[str, Checksum]] = {}
    for problem in problems:
        if problem.state == "unknown" and problem.actual is not None:
            for manifest in problem.file.manifests:
                added.setdefault((manifest.dataset, manifest.version), {})[problem.file.key] = problem.actual
            repaired.append(replace(problem, repaired=True, advice="its checksum was recorded"))
        elif problem.state != "unknown" and (problem.file.kind in DERIVED or problem.file.key.startswith(AUDIO)):
            repaired.append(_set_aside(store, problem))
        else:
            repaired.append(problem)
    for dataset in {dataset for dataset, _ in added}:
        for manifest in store.versions(dataset):
            store.record(manifest, added.get((dataset, manifest.version), {}))
    return repaired


def _set_aside(store: Store, problem: Problem) -> Problem:
    key = problem.file.key
    moved = store.set_aside(key)
    if not problem.file.latest:
        if not moved:  # recorded, so that the next check does not report it again
            store.put_bytes(DAMAGED + key, b"")
        return replace(problem, repaired=True, advice="given up: only older versions list it, and no run needs it")
    prefix = f"moved to {DAMAGED}{key}; " if moved else ""
    return replace(problem, repaired=True, advice=f"{prefix}{_advice(problem.file)}")


def _advice(file: File) -> str:
    if file.key.startswith(AUDIO):
        return "the next ingest copies it again; if its source is gone, the recording is lost"
    if not file.latest and file.kind in DERIVED:
        return "only older versions list it, and no run needs it"
    if file.key.startswith(CHECKPOINTS):
        return "a resumed run takes the last whole checkpoint"
    return remedy(file.kind)


def _manifests(store: Store, sizes: Mapping[str, int]) -> tuple[list[Manifest], list[Problem]]:
    """All versions of all datasets, oldest first, and problems for those that cannot be read."""
    manifests, problems = [], []
    for key in sorted(key for key in sizes if key.startswith(f"{MANIFESTS}/")):
        try:
            manifests.append(Manifest.from_json(store.read_bytes(key)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            advice = "restore it from a backup, or delete it: then the version before it is the newest"
            detail = f"it is not a manifest ({error})"
            problems.append(Problem(File(key), "damaged", sizes[key], detail, advice))
    return manifests, problems


def _listed(manifests: Iterable[Manifest], sizes: Mapping[str, int]) -> Iterator[File]:
    """Files of manifests, without those of older versions that an earlier repair has given up."""
    latest = {manifest.dataset: manifest.version for manifest in manifests}
    listing: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        for key in manifest.files:
            listing.setdefault(key, []).append(manifest)
    for key, listed in listing.items():
        newest = [manifest for manifest in listed if latest[manifest.dataset] == manifest.version]
        if not newest and key not in sizes and DAMAGED + key in sizes:
            continue
        # Checksums of the newest version take precedence: a file that was created again may have changed.
        known = ({m.checksums[key] for m in versions if key in m.checksums} for versions in (newest, listed))
        yield File(key, tuple(listed), bool(newest), tuple(next(filter(None, known), ())))


def _copies(store: Store, manifests: Sequence[Manifest], sizes: Mapping[str, int]) -> Iterator[File]:
    """Copies of recordings: the existing ones, and those that the latest utterance tables name."""
    latest = {manifest.dataset: manifest for manifest in manifests if manifest.kind == "utterances" and manifest.files}
    keys = {key for key in sizes if names_its_content(key)}
    for manifest in latest.values():
        # The table itself is among the files of manifests and reported there.
        with suppress(FileNotFoundError, DamagedPart, pa.ArrowInvalid, KeyError):
            keys |= audio_copies(store, manifest.files[0])
    yield from (File(key) for key in sorted(keys))


def _checkpoints(store: Store, sizes: Mapping[str, int]) -> Iterator[File]:
    for key in sizes:
        folder, _, name = key.rpartition("/")
        if name != DIGESTS or not key.startswith(CHECKPOINTS):
            continue
        try:
            digests = json.loads(store.read_bytes(key))
            checksums = {name: Checksum(listed["bytes"], listed["sha256"]) for name, listed in digests.items()}
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            yield File(key)  # reported as invalid JSON
            continue
        yield from (File(f"{folder}/{name}", expected=(checksum,)) for name, checksum in checksums.items())


def _examine(store: Store, sizes: Mapping[str, int], file: File) -> Problem | None:
    listed = file.expected[-1].size if file.expected else 0
    if file.key not in sizes:
        return Problem(file, "missing", listed, "it is not there", _advice(file))
    try:
        actual = store.checksum(file.key)
        detail = _fault(store, file, actual)
    except FileNotFoundError:
        return Problem(file, "missing", listed, "it was deleted during the check", _advice(file))
    if detail:
        return Problem(file, "damaged", actual.size, detail, _advice(file))
    if file.manifests and any(file.key not in manifest.checksums for manifest in file.manifests):
        advice = "`motet fsck --repair` records its checksum"
        return Problem(file, "unknown", actual.size, "no checksum is recorded", advice, actual=actual)
    return None


def _fault(store: Store, file: File, actual: Checksum) -> str:
    """A description of the damage to an existing file; empty if it is intact."""
    if file.expected:
        return "" if actual in file.expected else f"it holds {actual}, expected {file.expected[-1]}"
    if names_its_content(file.key):
        same = is_named_content(file.key, actual.sha256)
        return "" if same else f"its SHA-256 is {actual.sha256[:16]}…, its name says another"
    try:
        _parse(file.key, store.read_bytes(file.key))
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, SafetensorError, ValueError, OSError) as error:
        return f"it cannot be read ({str(error)[:200]})"
    return ""


def _parse(key: str, data: bytes) -> None:
    """Reads a file of a known format completely."""
    if key.endswith(".parquet"):
        table = pq.ParquetFile(io.BytesIO(data))
        for group in range(table.num_row_groups):
            table.read_row_group(group)
    elif key.endswith(".safetensors"):
        load(data)
    elif key.endswith(".json"):
        json.loads(data)


def _models_by_address(problems: Sequence[Problem]) -> list[Problem]:
    """Verifies models without checksums by their address, the hash of all names and SHA-256."""
    actual = {problem.file.key: problem.actual for problem in problems if problem.actual is not None}
    models = {p.file.manifests[-1].address: p.file.manifests[-1] for p in problems if p.file.kind == "models"}
    wrong: dict[str, str] = {}
    for manifest in models.values():
        if all(key in actual for key in manifest.files):
            address = fingerprint(sorted([key.rpartition("/")[2], actual[key].sha256] for key in manifest.files))
            if address != manifest.address:
                wrong.update(dict.fromkeys(manifest.files, f"the folder's hash is {address}, its name says another"))
    return [
        replace(p, state="damaged", detail=wrong[p.file.key], advice=_advice(p.file), actual=None)
        if p.file.key in wrong
        else p
        for p in problems
    ]
