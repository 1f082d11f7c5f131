"""Checks every file of a root against what is known of it: `motet fsck`.

    found = check(store)                        # reads every byte
    found.problems, found.files, found.bytes
    repair(store, found.problems)               # so that the next run makes anew what it can

Checked are the files that manifests list (by checksum; without one, whether they can be read), copies of recordings
(by the SHA-256 in their names) and checkpoints (by their digests.json).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load

from pipelines.storage.checksums import AUDIO, REMADE, Checksum, is_named_content, names_its_content, remedy
from pipelines.storage.store import DAMAGED, MANIFESTS, STORED, DamagedPart, Manifest, Store, fingerprint

if TYPE_CHECKING:
    from pipelines.core.progress import Report

READERS = 8  # files that are read at a time
CHECKPOINTS = ("train/", "search/")
DIGESTS = "digests.json"  # in a checkpoint's folder: name -> bytes, sha256; see mtl/training/checkpoint.py


@dataclass(frozen=True)
class File:
    """A file to check.

    manifests: the versions that list it. latest: whether one of them is the latest of its dataset.
    expected: its checksums, of which one must match; empty where none is recorded.
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
    """state: "damaged", "missing", or "unknown" (readable, and no checksum is recorded). advice: what to do, or what
    was done. actual: the checksum as it is."""

    file: File
    state: str
    size: int  # bytes; as listed where the file is missing
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
    """files, bytes: that were read."""

    problems: list[Problem]
    files: int
    bytes: int


def check(store: Store, progress: Report | None = None) -> Check:
    """Reads every file and says what is wrong. Nothing is changed."""
    sizes = {entry.key: entry.size for entry in store.list()}
    manifests, problems = _manifests(store, sizes)
    files = [*_listed(manifests, sizes), *_copies(store, manifests, sizes), *_checkpoints(store, sizes)]
    done = 0
    with ThreadPoolExecutor(READERS) as pool:
        for problem in pool.map(partial(_examine, store, sizes), files):
            done += 1
            if problem is not None:
                problems.append(problem)
            if progress is not None:
                progress(done, len(files), "files")
    problems = _models_by_address(problems)
    present = {file.key for file in files} & set(sizes)
    return Check(problems, len(files), sum(sizes[key] for key in present))


def repair(store: Store, problems: Sequence[Problem]) -> list[Problem]:
    """Moves damaged files away that a later run makes anew, and records checksums of those that have none."""
    repaired = []
    added: dict[tuple[str, int], dict[str, Checksum]] = {}
    for problem in problems:
        if problem.state == "unknown" and problem.actual is not None:
            for manifest in problem.file.manifests:
                added.setdefault((manifest.dataset, manifest.version), {})[problem.file.key] = problem.actual
            repaired.append(replace(problem, repaired=True, advice="its checksum was recorded"))
        elif problem.state != "unknown" and (problem.file.kind in REMADE or problem.file.key.startswith(AUDIO)):
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
        if not moved:  # remembered, so that the next check does not report it again
            store.put_bytes(DAMAGED + key, b"")
        return replace(problem, repaired=True, advice="given up: only older versions list it, and no run needs it")
    place = f"moved to {DAMAGED}{key}; " if moved else ""
    return replace(problem, repaired=True, advice=f"{place}{_advice(problem.file)}")


def _advice(file: File) -> str:
    if file.key.startswith(AUDIO):
        return "the next ingest copies it again; if its source is gone, the recording is lost"
    if not file.latest and file.kind in REMADE:
        return "only older versions list it, and no run needs it"
    if file.key.startswith(CHECKPOINTS):
        return "a resumed run takes the last whole checkpoint"
    return remedy(file.kind)


def _manifests(store: Store, sizes: Mapping[str, int]) -> tuple[list[Manifest], list[Problem]]:
    """All versions of all datasets, oldest first, and those that cannot be read."""
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
    """Files of manifests; without those of older versions that an earlier repair has given up."""
    latest = {manifest.dataset: manifest.version for manifest in manifests}
    listing: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        for key in manifest.files:
            listing.setdefault(key, []).append(manifest)
    for key, listed in listing.items():
        newest = [manifest for manifest in listed if latest[manifest.dataset] == manifest.version]
        if not newest and key not in sizes and DAMAGED + key in sizes:
            continue
        # A file that was made anew may have other bytes than an older version lists.
        known = {m.checksums[key] for m in newest if key in m.checksums} or {
            m.checksums[key] for m in listed if key in m.checksums
        }
        yield File(key, tuple(listed), bool(newest), tuple(known))


def _copies(store: Store, manifests: Sequence[Manifest], sizes: Mapping[str, int]) -> Iterator[File]:
    """Copies of recordings: those that are there, and those that the latest utterance tables name."""
    latest = {manifest.dataset: manifest for manifest in manifests if manifest.kind == "utterances" and manifest.files}
    keys = {key for key in sizes if names_its_content(key)}
    for manifest in latest.values():
        try:
            audio = store.read_table(manifest.files[0], columns=["audio"])["audio"].unique().to_pylist()
        except (FileNotFoundError, DamagedPart, pa.ArrowInvalid, KeyError):  # reported as what it is
            continue
        keys |= {uri.removeprefix(STORED) for uri in audio if uri and uri.startswith(STORED)}
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
            yield File(key)  # reported as JSON that cannot be read
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
    """What is wrong with a file that is there; empty where nothing is."""
    if file.expected:
        return "" if actual in file.expected else f"it holds {actual}, expected {file.expected[-1]}"
    if names_its_content(file.key):
        same = is_named_content(file.key, actual.sha256)
        return "" if same else f"its SHA-256 is {actual.sha256[:16]}…, its name says another"
    try:
        _read_through(file.key, store.read_bytes(file.key))
    except (pa.ArrowInvalid, SafetensorError, ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        return f"it cannot be read ({str(error)[:200]})"
    return ""


def _read_through(key: str, data: bytes) -> None:
    """Reads a file of a known format to its end."""
    if key.endswith(".parquet"):
        table = pq.ParquetFile(io.BytesIO(data))
        for group in range(table.num_row_groups):
            table.read_row_group(group)
    elif key.endswith(".safetensors"):
        load(data)
    elif key.endswith(".json"):
        json.loads(data)


def _models_by_address(problems: Sequence[Problem]) -> list[Problem]:
    """Files of models without checksums, checked by the model's address: the hash of all their names and SHA-256."""
    actual = {problem.file.key: problem.actual for problem in problems if problem.actual is not None}
    models = {p.file.manifests[-1].address: p.file.manifests[-1] for p in problems if p.file.kind == "models"}
    wrong: dict[str, str] = {}
    for manifest in models.values():
        known = [(key.rpartition("/")[2], actual.get(key)) for key in manifest.files]
        if all(checksum for _, checksum in known):
            address = fingerprint([[name, checksum.sha256] for name, checksum in sorted(known) if checksum])
            if address != manifest.address:
                wrong.update(dict.fromkeys(manifest.files, f"the folder's hash is {address}, its name says another"))
    return [
        replace(p, state="damaged", detail=wrong[p.file.key], advice=_advice(p.file), actual=None)
        if p.file.key in wrong
        else p
        for p in problems
    ]
