"""Utterance tables to feature parts: log-mel, extracted once per recording, one Ray task a part.

    manifests = extract([utterances], recipe.features, store)       # dataset features/<spec>/<corpus>
    sounds = extract([utterances], recipe.features, store, kind=WAVEFORM)     # dataset waveforms/<rate>/<corpus>

A part is a Parquet file with one row a recording: `digest`, `frames`, and `logmel`, the (frames, bins)
little-endian float16 bytes, uncompressed because compressed log-mel reads three times as slowly and is hardly
smaller. Parts are never rewritten: a new night extracts the digests that no part holds yet and lists the old
parts again. A part's key is the hash of its digests, so a killed run finds the parts it had finished.
An index (digest -> frames, part, position) is listed first, so that nobody opens parts to plan batches.
Waveforms, for tasks that learn to make sound, are kept alike: 16-bit samples, a frame each; and so is their pitch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtl.audio import log_mel
from mtl.pitch import PitchError, pitch
from pipelines import cluster, recipe
from pipelines.data.pieces import FeatureError, Piece, by_duration, one_thread, recordings, unreadable
from pipelines.data.sound import SoundError, decode
from pipelines.store import Manifest, Store, fingerprint

if TYPE_CHECKING:
    from pipelines.progress import Report

VERSION = 1  # bump when the same recording would give other features, or another waveform
PART_SECONDS = 900.0  # audio in a part: 14 MB at 80 bins and 10 ms
ROW_GROUP = 256  # rows
# One page for each row group: dataset.py maps the file and finds the rows in it by counting.
PARQUET = {
    "compression": "NONE",
    "use_dictionary": False,
    "row_group_size": ROW_GROUP,
    "data_page_size": 2**30,
    "write_statistics": False,
}

INDEX = pa.schema(
    [
        pa.field("digest", pa.string(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("part", pa.string(), nullable=False),  # key of the store
        pa.field("position", pa.int32(), nullable=False),  # row in the part
    ]
)


@dataclass(frozen=True)
class Kind:
    """What is made of a recording. name: the datasets' first. column: of the parts, the values' bytes, row-major.

    dtype: of the values, little-endian. make: (N,) float32 at spec.sample_rate -> the values, frames first. settings:
    those of the spec that change it. seconds: from one frame to the next.
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
        return pa.schema(
            [
                pa.field("digest", pa.string(), nullable=False),
                pa.field("frames", pa.int32(), nullable=False),
                pa.field(self.column, pa.large_binary(), nullable=False),
            ]
        )


def _log_mel(waveform: np.ndarray, spec: recipe.Features) -> np.ndarray:
    return log_mel(waveform, spec, np.float16)  # (T, F)


def _settings(spec: recipe.Features) -> dict[str, Any]:
    return spec.model_dump(mode="json")


def _hop(spec: recipe.Features) -> float:
    return spec.hop_ms / 1000


def _samples(waveform: np.ndarray, spec: recipe.Features) -> np.ndarray:
    return np.clip(np.rint(waveform * 32768), -32768, 32767)  # (N,)


def _rate(spec: recipe.Features) -> dict[str, Any]:
    return {"sample_rate": spec.sample_rate}


def _period(spec: recipe.Features) -> float:
    return 1 / spec.sample_rate


LOGMEL = Kind("features", "logmel", "<f2", _log_mel, _settings, _hop)
WAVEFORM = Kind("waveforms", "samples", "<i2", _samples, _rate, _period)
PITCH = Kind("pitch", "hertz", "<f2", pitch, _settings, _hop)  # (T,)


def dataset_name(spec: recipe.Features, corpus: str) -> str:
    return LOGMEL.dataset(spec, corpus)


def extract(
    manifests: Sequence[Manifest],
    spec: recipe.Features,
    store: Store,
    parallel: Literal["ray", "local"] = "ray",
    progress: Report | None = None,
    kind: Kind = LOGMEL,
) -> list[Manifest]:
    """One features manifest for each utterance manifest; a corpus without audio gets one without files.

    parallel: "ray" runs one task a part (a single part, when no cluster is up, is not worth starting one);
        "local" runs in this process.
    progress: called with recordings done, recordings to do, and what is being done.

    Raises:
        FeatureError: a recording cannot be read any more; the message names it.
        PitchError: Praat is not installed, and pitch is asked for.
        ClusterError: Ray cannot be started or joined.
    """
    plans = [_Plan.make(manifest, spec, kind, store) for manifest in manifests]
    tasks = [(key, pieces) for plan in plans for key, pieces in plan.missing.items()]
    frames = dict(_run(tasks, spec, kind, store, parallel, progress)) if tasks else {}
    return [plan.commit(frames, store) for plan in plans]


@dataclass
class _Plan:
    """What one corpus needs: which parts are there, and which are to be made."""

    manifest: Manifest
    spec: recipe.Features
    kind: Kind
    pieces: list[Piece]
    old: pa.Table  # INDEX rows of digests that earlier versions hold and the table still wants
    new: dict[str, list[Piece]]  # part key -> what goes in
    missing: dict[str, list[Piece]]  # those of `new` that no killed run has left behind
    unchanged: Manifest | None

    @classmethod
    def make(cls, manifest: Manifest, spec: recipe.Features, kind: Kind, store: Store) -> _Plan:
        pieces = _pieces(store.read_table(manifest.files[0], columns=["digest", "audio", "start", "duration"]))
        dataset = kind.dataset(spec, _corpus(manifest))
        latest = store.latest(dataset)
        if latest is not None and latest.address == _address(pieces):
            return cls(manifest, spec, kind, pieces, INDEX.empty_table(), {}, {}, latest)
        old = _held(latest, pieces, store)
        known = set(old["digest"].to_pylist())
        new = dict(_parts([piece for piece in pieces if piece.digest not in known], dataset))
        missing = {key: part for key, part in new.items() if not store.exists(key)}
        return cls(manifest, spec, kind, pieces, old, new, missing, None)

    def commit(self, frames: dict[str, list[int]], store: Store) -> Manifest:
        if self.unchanged is not None:
            return self.unchanged
        made = [_index_rows(key, part, frames.get(key), store) for key, part in self.new.items()]
        index = pa.concat_tables([self.old, *made])
        dataset, address = self.kind.dataset(self.spec, _corpus(self.manifest)), _address(self.pieces)
        files: tuple[str, ...] = ()
        if len(index):
            parts = index["part"].unique().to_pylist()
            name = fingerprint(address, parts)  # equal digests may lie in other parts after another history
            files = (f"{dataset}/index-{name}.parquet", *parts)
            store.write_table(files[0], index)
        total = pc.sum(index["frames"]).as_py() or 0
        meta = {
            "rows": len(index),
            "extracted": sum(len(part) for part in self.new.values()),
            "frames": total,
            "hours": round(total * self.kind.seconds(self.spec) / 3600, 4),
            "spec": self.kind.settings(self.spec),
        }
        return store.commit(dataset, address, files, {self.manifest.dataset: self.manifest.address}, meta)


def index(store: Store, manifest: Manifest) -> pa.Table:
    """INDEX rows of a features manifest."""
    return store.read_table(manifest.files[0]) if manifest.files else INDEX.empty_table()


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


def _held(latest: Manifest | None, pieces: list[Piece], store: Store) -> pa.Table:
    """Index of what the last version holds and the table still wants; a part that lost all its rows is let go."""
    if latest is None or not latest.files:
        return INDEX.empty_table()
    held = index(store, latest)
    return held.filter(pc.is_in(held["digest"], pa.array([piece.digest for piece in pieces], pa.string())))


def _parts(pieces: list[Piece], dataset: str) -> Iterator[tuple[str, list[Piece]]]:
    for part in by_duration(pieces, lambda piece: piece.duration, PART_SECONDS):
        yield _part_key(part, dataset), part


def _part_key(part: list[Piece], dataset: str) -> str:
    return f"{dataset}/{fingerprint([piece.digest for piece in part])}.parquet"


def _index_rows(key: str, part: list[Piece], frames: list[int] | None, store: Store) -> pa.Table:
    if frames is None:  # left by a run that was killed before it could commit
        frames = store.read_table(key, columns=["frames"])["frames"].to_pylist()
    columns = [[piece.digest for piece in part], frames, [key] * len(part), range(len(part))]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, INDEX, strict=True)], schema=INDEX)


def _run(
    tasks: list[tuple[str, list[Piece]]],
    spec: recipe.Features,
    kind: Kind,
    store: Store,
    parallel: str,
    progress: Report | None,
) -> Iterator[tuple[str, list[int]]]:
    """Part key and frame counts of every part, as they are finished."""
    total, done = sum(len(part) for _, part in tasks), 0
    report = progress or (lambda done, total, label: None)
    report(0, total, kind.name)
    local = parallel == "local" or (len(tasks) == 1 and not cluster.connected())
    if local:
        finished = _run_here(tasks, spec, kind, store)
    else:
        calls = [(key, part, spec, kind, store) for key, part in tasks]
        made = cluster.over(calls, extract_part, FeatureError, PitchError)
        finished = ((calls[number][0], frames) for number, frames in made)
    for key, frames in finished:
        done += len(frames)
        report(done, total, kind.name)
        yield key, frames


def _run_here(
    tasks: list[tuple[str, list[Piece]]], spec: recipe.Features, kind: Kind, store: Store
) -> Iterator[tuple[str, list[int]]]:
    # A part is written, and synced to the disk, while the next one is decoded.
    with ThreadPoolExecutor(1) as writer:
        written: tuple[str, list[int], Future[None]] | None = None
        for key, part in tasks:
            table = make_part(part, spec, kind, store)
            writing = writer.submit(store.write_table, key, table, **PARQUET)
            if written:
                yield _when_written(*written)
            written = key, table["frames"].to_pylist(), writing
        if written:
            yield _when_written(*written)


def _when_written(key: str, frames: list[int], writing: Future[None]) -> tuple[str, list[int]]:
    writing.result()
    return key, frames


def extract_part(key: str, part: list[Piece], spec: recipe.Features, kind: Kind, store: Store) -> list[int]:
    """Makes a part, writes it under `key`, and gives the frame counts: one Ray task. Raises FeatureError."""
    table = make_part(part, spec, kind, store)
    store.write_table(key, table, **PARQUET)
    frames: list[int] = table["frames"].to_pylist()
    return frames


def make_part(part: list[Piece], spec: recipe.Features, kind: Kind, store: Store) -> pa.Table:
    """Rows of the kind's schema. Raises FeatureError naming the recording that cannot be read."""
    features: list[np.ndarray] = []
    with one_thread():
        for pieces, source in recordings(part, store):
            features += (_features(piece, source, spec, kind) for piece in pieces)
    return _part_table(part, features, kind)


def _features(piece: Piece, source: bytes | Path, spec: recipe.Features, kind: Kind) -> np.ndarray:
    """The kind's values, frames first."""
    try:
        waveform = decode(source, spec.sample_rate, piece.start, piece.duration)
    except SoundError as error:
        raise unreadable(piece.audio, error) from error
    return kind.make(waveform, spec).astype(kind.dtype, copy=False)


def _part_table(part: list[Piece], features: list[np.ndarray], kind: Kind) -> pa.Table:
    """The arrays as one contiguous column, copied once."""
    frames = pa.array([len(array) for array in features], pa.int32())
    sizes = np.array([array.nbytes for array in features], dtype=np.int64)
    offsets = np.concatenate([[0], sizes.cumsum()])
    values = np.concatenate([array.reshape(-1) for array in features])
    column = pa.Array.from_buffers(pa.large_binary(), len(part), [None, pa.py_buffer(offsets), pa.py_buffer(values)])
    columns: list[Any] = [pa.array([piece.digest for piece in part]), frames, column]
    return pa.Table.from_arrays(columns, schema=kind.schema)
