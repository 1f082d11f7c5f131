"""Measures duration, pitch and energy of each phone, the targets of prosody prediction in synthesis.

    manifests = measure(utterances, spec, store)    # dataset prosody/<spec>/<corpus>, one row per recording with phones

Durations are in frames of the log-mel: a frame belongs to the phone that contains its middle. Pitch and energy are
defined in mtl/tts/prosody_features.py. Rows of unchanged recordings and phones are taken from the last version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtl.audio.features import hop_length, log_mel, window_length
from mtl.audio.pitch import PitchError, pitch
from mtl.tts.prosody_features import prosody_features
from pipelines import recipe
from pipelines.core import cluster
from pipelines.core.progress import Report
from pipelines.recipe.address import stated
from pipelines.sources.segments import FeatureError, Piece, by_duration, decoded, one_thread
from pipelines.storage.store import Manifest, Store, fingerprint, first_table, usable_table
from pipelines.utterances.schema import conform

VERSION = 2  # raise when the same recording and phones give other values
TASK_SECONDS = 900.0  # of audio per Ray task
MEASURED = ("pitch", "energy", "voiced")

PROSODY = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # of the utterance
        pa.field("key", pa.string(), nullable=False),  # of the recording, its phones and their ends
        pa.field("durations", pa.list_(pa.int32()), nullable=False),  # frames of each phone
        pa.field("pitch", pa.list_(pa.float32()), nullable=False),  # ln Hz of each phone; NaN if unvoiced
        pa.field("energy", pa.list_(pa.float32()), nullable=False),  # mean ln power of each phone
        pa.field("voiced", pa.list_(pa.float32()), nullable=False),  # share of voiced frames of each phone
    ]
)


@dataclass(frozen=True)
class SpokenRow:
    """A recording to measure. ends: of its phones, in s."""

    id: str
    piece: Piece
    ends: tuple[float, ...]

    @property
    def key(self) -> str:
        return fingerprint(self.piece.digest, self.ends)


def dataset_name(spec: recipe.Features, corpus: str) -> str:
    return f"prosody/{fingerprint('prosody', VERSION, stated(spec))}/{corpus}"


def measure(
    manifests: Sequence[Manifest],
    spec: recipe.Features,
    store: Store,
    parallel: Literal["ray", "local"] = "ray",
    progress: Report | None = None,
    aligned: Sequence[Manifest] = (),
) -> list[Manifest]:
    """One prosody manifest per utterance manifest; without files if no recording has phones with ends.

    aligned: manifests of alignment.align for the same corpora, with the ends of phones in rows without ends.
    parallel: "ray" runs one task per TASK_SECONDS of audio, "local" runs in this process.

    Raises:
        FeatureError: a recording can no longer be read; the message names it.
        PitchError: Praat is not installed.
        ClusterError: Ray cannot be started or joined.
    """
    aligned_ends: dict[str, list[float]] = {}
    for manifest in aligned:
        if manifest.files:
            table = first_table(store, manifest)
            aligned_ends.update(zip(table["id"].to_pylist(), table["ends"].to_pylist(), strict=True))
    return [_measure(manifest, aligned_ends, spec, store, parallel, progress) for manifest in manifests]


def durations_of(ends: Sequence[float], frames: int, spec: recipe.Features) -> np.ndarray:
    """Frames of each phone, (P,), from the ends in s. Later frames belong to the last phone."""
    middles = (np.arange(frames) * hop_length(spec) + window_length(spec) / 2) / spec.sample_rate
    borders = np.searchsorted(middles, np.asarray(ends), side="left")
    borders[-1] = frames
    return np.diff(borders, prepend=0).astype(np.int32)


def prosody_of(waveform: np.ndarray, ends: Sequence[float], spec: recipe.Features) -> dict[str, list[Any]]:
    """`durations` and MEASURED of PROSODY for (N,) float32 at spec.sample_rate."""
    logmel = log_mel(waveform, spec)  # (T, F)
    durations = durations_of(ends, len(logmel), spec)
    features = prosody_features(logmel, pitch(waveform, spec), durations)
    return {"durations": durations.tolist(), **{name: getattr(features, name).tolist() for name in MEASURED}}


def _measure(
    manifest: Manifest,
    aligned_ends: Mapping[str, list[float]],
    spec: recipe.Features,
    store: Store,
    parallel: str,
    progress: Report | None,
) -> Manifest:
    dataset = dataset_name(spec, manifest.dataset.rpartition("/")[2])
    rows = {(row.id, row.key): row for row in _spoken_rows(conform(first_table(store, manifest)), aligned_ends)}
    address = fingerprint(sorted(rows))
    latest = store.latest(dataset)
    if latest is not None and latest.address == address and not store.faults(latest):
        return latest
    old = usable_table(store, latest, PROSODY)
    old_keys = dict.fromkeys(zip(old["id"].to_pylist(), old["key"].to_pylist(), strict=True))
    unchanged = old.filter(pa.array([key in rows for key in old_keys], pa.bool_()))
    new = [row for key, row in rows.items() if key not in old_keys]
    table = pa.concat_tables([unchanged, *_run(new, spec, store, parallel, progress)])
    files = (f"{dataset}/{address}.parquet",) if len(table) else ()
    checksums = {key: store.write_table(key, table) for key in files}
    meta = {"rows": len(table), "measured": len(new), "spec": asdict(spec)}
    return store.commit(dataset, address, files, {manifest.dataset: manifest.address}, meta, checksums)


def _spoken_rows(rows: pa.Table, aligned_ends: Mapping[str, list[float]]) -> list[SpokenRow]:
    """Recordings with phones and their ends, of the corpus or of the alignment."""
    spoken = rows.filter(pc.and_(pc.is_valid(rows["audio"]), pc.is_valid(rows["phones"])))
    columns = ("id", "digest", "audio", "start", "duration", "phone_ends")
    return [
        SpokenRow(id_, Piece(digest, audio, start, duration), tuple(ends or aligned_ends[id_]))
        for id_, digest, audio, start, duration, ends in zip(*(spoken[c].to_pylist() for c in columns), strict=True)
        if ends or id_ in aligned_ends
    ]


def _run(
    new: list[SpokenRow], spec: recipe.Features, store: Store, parallel: str, progress: Report | None
) -> Iterator[pa.Table]:
    report = progress or (lambda done, total, label: None)
    tasks, done = list(by_duration(new, lambda row: row.piece.duration, TASK_SECONDS)), 0
    report(0, len(new), "prosody")
    if parallel == "local" or (len(tasks) <= 1 and not cluster.connected()):
        measured: Iterator[pa.Table] = (measure_part(task, spec, store) for task in tasks)
    else:
        calls = [(task, spec, store) for task in tasks]
        measured = (table for _, table in cluster.run_tasks(calls, measure_part, FeatureError, PitchError))
    for table in measured:
        done += len(table)
        report(done, len(new), "prosody")
        yield table


def measure_part(part: list[SpokenRow], spec: recipe.Features, store: Store) -> pa.Table:
    """Rows of PROSODY, as a Ray task. Raises FeatureError with the name of an unreadable file."""
    ordered = sorted(part, key=lambda row: (row.piece.audio, row.piece.start, row.id))
    with one_thread():
        waveforms = decoded([row.piece for row in ordered], spec.sample_rate, store)
        measured = [
            {"id": row.id, "key": row.key, **prosody_of(waveform, row.ends, spec)}
            for row, waveform in zip(ordered, waveforms, strict=True)
        ]
    return pa.Table.from_pylist(measured, schema=PROSODY)
