"""Extracts log-mel, waveforms and pitch of recordings into feature parts, with one Ray task per part.

    manifests = extract([utterances], recipe.features, store)       # dataset features/<spec>/<corpus>
    waveforms = extract([utterances], recipe.features, store, kind=WAVEFORM)     # dataset waveforms/<rate>/<corpus>

A part is a Parquet file with one row per recording: `digest`, `frames`, and `logmel`, the (frames, bins) little-endian
float16 bytes, uncompressed because compressed log-mel reads three times as slowly and is hardly smaller. Parts are
never rewritten: a new night extracts only new digests and refers to the old parts. A part's key is
the hash of its digests, so an interrupted run is resumed at the part level. A manifest's first file
is an index (digest -> frames, part, position), so that batches are planned without opening parts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtl.audio.features import log_mel
from mtl.audio.pitch import PitchError, pitch
from pipelines import recipe
from pipelines.core import cluster
from pipelines.core.progress import Report
from pipelines.recipe.address import stated
from pipelines.sources.segments import FeatureError, Piece, by_duration, decoded, one_thread
from pipelines.storage.store import Checksum, DamagedPart, Manifest, Store, fingerprint, first_table, usable_table

logger = logging.getLogger(__name__)

VERSION = 1  # raise when the same recording gives other features or another waveform
PART_SECONDS = 900.0  # audio in a part: 14 MB at 80 bins and 10 ms
ROW_GROUP = 256  # rows
# One page per row group: dataset.py maps the file and computes the offsets of rows.
PARQUET = {
    "compression": "NONE",
    "use_dictionary": False,
    "row_group_size": ROW_GROUP,
    "data_page_size": 2**30,
    "write_statistics": False,
}

DIGEST, FRAMES = pa.field("digest", pa.string(), nullable=False), pa.field("frames", pa.int32(), nullable=False)
PART, POSITION = pa.field("part", pa.string(), nullable=False), pa.field("position", pa.int32(), nullable=False)
INDEX = pa.schema([DIGEST, FRAMES, PART, POSITION])  # part: key of the store; position: row in the part


@dataclass(frozen=True)
class Kind:
    """A kind of features. name: the dataset kind. column: of the parts, with the values' bytes, row-major.

    dtype: of the values, little-endian. make: (N,) float32 at spec.sample_rate -> the values, frames first.
    settings: the part of the spec that affects the values. seconds: between frames.
    """

    name: str
    column: str
    dtype: str
    make: Callable[[np.ndarray, recipe.Features], np.ndarray]
    settings: Callable[[recipe.Features], dict[str, Any]]
    seconds: Callable[[recipe.Features], float]

    def dataset(self, spec: recipe.Features, corpus: str) -> str:
        return f"{self.name}/{fingerprint(self.name, VERSION, self.settings(spec))}/{corpus}"

    @property
    def schema(self) -> pa.Schema:
        """Of a part."""
        return pa.schema([DIGEST, FRAMES, pa.field(self.column, pa.large_binary(), nullable=False)])


LOGMEL = Kind(  # (T, F)
    "features", "logmel", "<f2", partial(log_mel, dtype=np.float16), stated, lambda spec: spec.hop_ms / 1000
)
WAVEFORM = Kind(  # (N,)
    "waveforms",
    "samples",
    "<i2",
    lambda waveform, spec: np.clip(np.rint(waveform * 32768), -32768, 32767),
    lambda spec: {"sample_rate": spec.sample_rate},
    lambda spec: 1 / spec.sample_rate,
)
PITCH = Kind("pitch", "hertz", "<f2", pitch, stated, LOGMEL.seconds)  # (T,)


def extract(
    manifests: Sequence[Manifest],
    spec: recipe.Features,
    store: Store,
    parallel: Literal["ray", "local"] = "ray",
    progress: Report | None = None,
    kind: Kind = LOGMEL,
) -> list[Manifest]:
    """One features manifest per utterance manifest; without files for a corpus without audio.

    parallel: "ray" runs one task per part, unless there is only one and no cluster is running;
        "local" runs in this process.

    Raises:
        FeatureError: a recording can no longer be read; the message names it.
        DamagedPart: the utterance table is damaged.
        PitchError: pitch is requested and Praat is not installed.
        ClusterError: Ray cannot be started or joined.
    """
    plans = [_Plan.make(manifest, spec, kind, store) for manifest in manifests]
    tasks = [(key, part) for plan in plans for key, part in plan.new.items() if key not in plan.finished]
    written = dict(_run(tasks, spec, kind, store, parallel, progress)) if tasks else {}
    return [plan.commit(written, store) for plan in plans]


class Written(NamedTuple):
    """A stored part: frames of each recording, and the file's checksum."""

    frames: list[int]
    checksum: Checksum


@dataclass
class _Plan:
    """The existing parts of one corpus, and the parts to create."""

    manifest: Manifest
    spec: recipe.Features
    kind: Kind
    pieces: list[Piece]
    latest: Manifest | None
    old: pa.Table = field(default_factory=INDEX.empty_table)  # rows of the last version that are still needed
    new: dict[str, list[Piece]] = field(default_factory=dict)  # part key -> its recordings
    finished: dict[str, Written] = field(default_factory=dict)  # those of `new` that an interrupted run has written
    unchanged: bool = False

    @classmethod
    def make(cls, manifest: Manifest, spec: recipe.Features, kind: Kind, store: Store) -> _Plan:
        columns = ["digest", "audio", "start", "duration"]
        pieces = _pieces(store.read_table(manifest.files[0], columns, manifest))
        dataset = kind.dataset(spec, _corpus(manifest))
        latest = store.latest(dataset)
        faults = store.faults(latest) if latest is not None else {}
        if latest is not None and latest.address == _address(pieces) and not faults:
            return cls(manifest, spec, kind, pieces, latest, unchanged=True)
        old = _reusable_index(latest, faults, pieces, store)
        known = set(old["digest"].to_pylist())
        parts = by_duration((p for p in pieces if p.digest not in known), lambda piece: piece.duration, PART_SECONDS)
        new = {_part_key(part, dataset): part for part in parts}
        written = {key: _written(key, part, store) for key, part in new.items() if key not in faults}
        finished = {key: part for key, part in written.items() if part is not None}
        return cls(manifest, spec, kind, pieces, latest, old, new, finished)

    def commit(self, written: dict[str, Written], store: Store) -> Manifest:
        if self.unchanged and self.latest is not None:
            return self.latest
        written = {key: written[key] if key in written else self.finished[key] for key in self.new}
        new = [_index_rows([p.digest for p in part], written[key].frames, key) for key, part in self.new.items()]
        index = _in_order(pa.concat_tables([self.old, *new]), self.latest)
        dataset, address = self.kind.dataset(self.spec, _corpus(self.manifest)), _address(self.pieces)
        checksums = {key: part.checksum for key, part in written.items()}
        files: tuple[str, ...] = ()
        if len(index):
            parts = index["part"].unique().to_pylist()
            name = fingerprint(address, parts)  # the same digests may be in other parts
            files = (f"{dataset}/index-{name}.parquet", *parts)
            checksums[files[0]] = store.write_table(files[0], index)
        total = pc.sum(index["frames"]).as_py() or 0
        meta = {
            "rows": len(index),
            "extracted": sum(len(part) for part in self.new.values()),
            "frames": total,
            "hours": round(total * self.kind.seconds(self.spec) / 3600, 4),
            "spec": self.kind.settings(self.spec),
        }
        parents = {self.manifest.dataset: self.manifest.address}
        return store.commit(dataset, address, files, parents, meta, checksums)


def index(store: Store, manifest: Manifest) -> pa.Table:
    """INDEX rows of a features manifest."""
    return first_table(store, manifest) if manifest.files else INDEX.empty_table()


def _pieces(table: pa.Table) -> list[Piece]:
    """Distinct recordings of an utterance table, in its order."""
    audio = table.filter(pc.is_valid(table["audio"]))
    pieces: dict[str, Piece] = {}
    for row in zip(*(audio[name].to_pylist() for name in ("digest", "audio", "start", "duration")), strict=True):
        pieces.setdefault(row[0], Piece(*row))
    return list(pieces.values())


def _corpus(manifest: Manifest) -> str:
    return manifest.dataset.rpartition("/")[2]


def _address(pieces: list[Piece]) -> str:
    return fingerprint(sorted(piece.digest for piece in pieces))


def _reusable_index(latest: Manifest | None, faults: Mapping[str, str], pieces: list[Piece], store: Store) -> pa.Table:
    """Index rows of the last version that are still needed and whose parts are intact.

    faults: files of the version that are missing or have another size; their rows are extracted again.
    """
    if latest is None or not latest.files:
        return INDEX.empty_table()
    for key, fault in faults.items():
        logger.warning("%s of %s: %s; it is created again", key, latest.dataset, fault)
    rows = INDEX.empty_table() if latest.files[0] in faults else usable_table(store, latest, INDEX)
    if not len(rows):
        rows = _index_of_parts(latest, faults, store)
    rows = rows.filter(pc.invert(pc.is_in(rows["part"], pa.array(list(faults), pa.string()))))
    return rows.filter(pc.is_in(rows["digest"], pa.array([piece.digest for piece in pieces], pa.string())))


def _index_of_parts(latest: Manifest, faults: Mapping[str, str], store: Store) -> pa.Table:
    """The index of a version whose index file is lost, from its readable parts."""
    rows = [INDEX.empty_table()]
    for key in latest.files[1:]:
        if key in faults:
            continue
        try:
            part = store.read_table(key, ["digest", "frames"], latest)
        except DamagedPart as error:
            logger.warning("%s", error)
            continue
        rows.append(_index_rows(part["digest"].to_pylist(), part["frames"].to_pylist(), key))
    return pa.concat_tables(rows)


def _in_order(index: pa.Table, latest: Manifest | None) -> pa.Table:
    """Rows by part, in the order of the last version, so that a repair gives the same index."""
    previous = latest.files if latest is not None else ()
    keys = list(dict.fromkeys([*previous, *index["part"].unique().to_pylist()]))
    rank = pc.index_in(index["part"], pa.array(keys, pa.string()))
    keyed = pa.table({"rank": rank, "position": index["position"]})
    return index.take(pc.sort_indices(keyed, [("rank", "ascending"), ("position", "ascending")]))


def _part_key(part: list[Piece], dataset: str) -> str:
    return f"{dataset}/{fingerprint([piece.digest for piece in part])}.parquet"


def _written(key: str, part: list[Piece], store: Store) -> Written | None:
    """A part that an interrupted run has written; None if there is none or it is damaged."""
    if not store.exists(key):
        return None
    try:
        table = store.read_table(key, columns=["digest", "frames"])
    except DamagedPart:
        return None
    if table["digest"].to_pylist() != [piece.digest for piece in part]:
        return None
    return Written(table["frames"].to_pylist(), store.checksum(key))


def _index_rows(digests: list[str], frames: list[int], key: str) -> pa.Table:
    columns = [digests, frames, [key] * len(digests), range(len(digests))]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, INDEX, strict=True)], schema=INDEX)


def _run(
    tasks: list[tuple[str, list[Piece]]],
    spec: recipe.Features,
    kind: Kind,
    store: Store,
    parallel: str,
    progress: Report | None,
) -> Iterator[tuple[str, Written]]:
    """Extracts and writes parts; yields each one's key and Written, in order of completion."""
    total, done = sum(len(part) for _, part in tasks), 0
    report = progress or (lambda done, total, label: None)
    report(0, total, kind.name)
    if parallel == "local" or (len(tasks) == 1 and not cluster.connected()):
        finished = _run_here(tasks, spec, kind, store)
    else:
        calls = [(key, part, spec, kind, store) for key, part in tasks]
        results = cluster.run_tasks(calls, extract_part, FeatureError, PitchError)
        finished = ((calls[number][0], written) for number, written in results)
    for key, written in finished:
        done += len(written.frames)
        report(done, total, kind.name)
        yield key, written


def _run_here(
    tasks: list[tuple[str, list[Piece]]], spec: recipe.Features, kind: Kind, store: Store
) -> Iterator[tuple[str, Written]]:
    # A part is written and synced while the next one is decoded.
    with ThreadPoolExecutor(1) as writer:
        previous: tuple[str, Future[Written]] | None = None
        for key, part in tasks:
            writing = writer.submit(_write, key, make_part(part, spec, kind, store), store)
            if previous:
                yield previous[0], previous[1].result()
            previous = key, writing
        if previous:
            yield previous[0], previous[1].result()


def extract_part(key: str, part: list[Piece], spec: recipe.Features, kind: Kind, store: Store) -> Written:
    """Extracts a part and writes it to `key`, as a Ray task. Raises FeatureError."""
    return _write(key, make_part(part, spec, kind, store), store)


def _write(key: str, table: pa.Table, store: Store) -> Written:
    return Written(table["frames"].to_pylist(), store.write_table(key, table, **PARQUET))


def make_part(part: list[Piece], spec: recipe.Features, kind: Kind, store: Store) -> pa.Table:
    """The table of a part. Raises FeatureError with the name of an unreadable recording."""
    with one_thread():
        waveforms = decoded(part, spec.sample_rate, store)
        features = [kind.make(waveform, spec).astype(kind.dtype, copy=False) for waveform in waveforms]
    return _part_table(part, features, kind)


def _part_table(part: list[Piece], features: list[np.ndarray], kind: Kind) -> pa.Table:
    """Concatenates the arrays into one contiguous column, with one copy."""
    frames = pa.array([len(array) for array in features], pa.int32())
    sizes = np.array([array.nbytes for array in features], dtype=np.int64)
    offsets = np.concatenate([[0], sizes.cumsum()])
    values = np.concatenate([array.reshape(-1) for array in features])
    column = pa.Array.from_buffers(pa.large_binary(), len(part), [None, pa.py_buffer(offsets), pa.py_buffer(values)])
    columns: list[Any] = [pa.array([piece.digest for piece in part]), frames, column]
    return pa.Table.from_arrays(columns, schema=kind.schema)
