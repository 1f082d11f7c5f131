"""How each phone of a recording is said: its duration, pitch and energy, which synthesis learns to foretell.

    manifests = measure(utterances, spec, store)    # dataset prosody/<spec>/<corpus>, one row a recording with phones

Durations are in frames of the log-mel and fill it: a frame belongs to the phone in which its middle lies. For pitch and
energy see mtl/tts/prosody_features.py. A version keeps the rows whose recording and phones are
those of the version before, so a new night measures what is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtl.audio.features import hop_length, log_mel, window_length
from mtl.audio.pitch import PitchError, pitch
from mtl.tts.prosody_features import prosody_features
from pipelines import recipe
from pipelines.core import cluster
from pipelines.recipe.address import stated
from pipelines.sources.audio import SoundError, decode
from pipelines.sources.segments import FeatureError, Piece, by_duration, one_thread, recordings, unreadable
from pipelines.storage.store import Manifest, Store, fingerprint, first_table, usable_table
from pipelines.utterances.schema import conform

if TYPE_CHECKING:
    from pipelines.core.progress import Report

VERSION = 2  # bump when the same recording and phones would give other numbers
TASK_SECONDS = 900.0  # of audio in one Ray task
MEASURED = ("pitch", "energy", "voiced")

PROSODY = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # of the utterance
        pa.field("key", pa.string(), nullable=False),  # of the recording, its phones and their ends
        pa.field("durations", pa.list_(pa.int32()), nullable=False),  # frames of each phone; they sum to all frames
        pa.field("pitch", pa.list_(pa.float32()), nullable=False),  # ln Hz of each phone; NaN where no voice is heard
        pa.field("energy", pa.list_(pa.float32()), nullable=False),  # mean ln power of each phone
        pa.field("voiced", pa.list_(pa.float32()), nullable=False),  # share of each phone's frames that have a voice
    ]
)


@dataclass(frozen=True)
class SpokenRow:
    """A recording to measure: its phones, and where each ends, s."""

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
    """One prosody manifest for each utterance manifest; one without files where no recording has phones with ends.

    aligned: of alignment.align, for the same corpora: where phones end, of rows that do not say it themselves.
    parallel: "ray" runs one task for TASK_SECONDS of audio, "local" runs in this process.

    Raises:
        FeatureError: a recording cannot be read any more; the message names it.
        PitchError: Praat is not installed.
        ClusterError: Ray cannot be started or joined.
    """
    learned: dict[str, list[float]] = {}
    for manifest in aligned:
        if manifest.files:
            table = first_table(store, manifest)
            learned.update(zip(table["id"].to_pylist(), table["ends"].to_pylist(), strict=True))
    return [_measure(manifest, learned, spec, store, parallel, progress) for manifest in manifests]


def durations_of(ends: Sequence[float], frames: int, spec: recipe.Features) -> np.ndarray:
    """Frames of each phone, (P,), from where it ends in s: those whose middles lie within it.

    Frames behind the last end are the last phone's.
    """
    middles = (np.arange(frames) * hop_length(spec) + window_length(spec) / 2) / spec.sample_rate
    borders = np.searchsorted(middles, np.asarray(ends), side="left")
    borders[-1] = frames
    return np.diff(borders, prepend=0).astype(np.int32)


def prosody_of(waveform: np.ndarray, ends: Sequence[float], spec: recipe.Features) -> dict[str, list[Any]]:
    """`durations` and MEASURED of PROSODY for (N,) float32 at spec.sample_rate."""
    logmel = log_mel(waveform, spec)  # (T, F)
    durations = durations_of(ends, len(logmel), spec)
    said = prosody_features(logmel, pitch(waveform, spec), durations)
    return {"durations": durations.tolist(), **{name: getattr(said, name).tolist() for name in MEASURED}}


def _measure(
    manifest: Manifest,
    learned: Mapping[str, list[float]],
    spec: recipe.Features,
    store: Store,
    parallel: str,
    progress: Report | None,
) -> Manifest:
    dataset = dataset_name(spec, manifest.dataset.rpartition("/")[2])
    spoken = _spoken(conform(first_table(store, manifest)), learned)
    address = fingerprint(sorted((one.id, one.key) for one in spoken))
    latest = store.latest(dataset)
    if latest is not None and latest.address == address and not store.faults(latest):
        return latest
    old = usable_table(store, latest, PROSODY)
    wanted = {(one.id, one.key): one for one in spoken}
    pairs = zip(old["id"].to_pylist(), old["key"].to_pylist(), strict=True)
    kept = old.filter(pa.array([pair in wanted for pair in pairs], pa.bool_()))
    held = set(zip(kept["id"].to_pylist(), kept["key"].to_pylist(), strict=True))
    new = [one for pair, one in wanted.items() if pair not in held]
    table = pa.concat_tables([kept, *_run(new, spec, store, parallel, progress)])
    files = (f"{dataset}/{address}.parquet",) if len(table) else ()
    checksums = {key: store.write_table(key, table) for key in files}
    meta = {"rows": len(table), "measured": len(new), "spec": asdict(spec)}
    return store.commit(dataset, address, files, {manifest.dataset: manifest.address}, meta, checksums)


def _spoken(rows: pa.Table, learned: Mapping[str, list[float]]) -> list[SpokenRow]:
    """Recordings with phones and their ends, the corpus's own or learned ones."""
    there = rows.filter(pc.and_(pc.is_valid(rows["audio"]), pc.is_valid(rows["phones"])))
    columns = ("id", "digest", "audio", "start", "duration", "phone_ends")
    return [
        SpokenRow(id_, Piece(digest, audio, start, duration), tuple(ends or learned[id_]))
        for id_, digest, audio, start, duration, ends in zip(*(there[c].to_pylist() for c in columns), strict=True)
        if ends or id_ in learned
    ]


def _run(
    new: list[SpokenRow], spec: recipe.Features, store: Store, parallel: str, progress: Report | None
) -> Iterator[pa.Table]:
    report = progress or (lambda done, total, label: None)
    tasks, done = list(by_duration(new, lambda one: one.piece.duration, TASK_SECONDS)), 0
    report(0, len(new), "prosody")
    if parallel == "local" or (len(tasks) <= 1 and not cluster.connected()):
        measured: Iterator[pa.Table] = (measure_part(task, spec, store) for task in tasks)
    else:
        calls = [(task, spec, store) for task in tasks]
        measured = (table for _, table in cluster.over(calls, measure_part, FeatureError, PitchError))
    for table in measured:
        done += len(table)
        report(done, len(new), "prosody")
        yield table


def measure_part(part: list[SpokenRow], spec: recipe.Features, store: Store) -> pa.Table:
    """Rows of PROSODY, one a recording: one Ray task. Raises FeatureError naming the recording that cannot be read."""
    rows = []
    with one_thread():
        by_place = {(one.piece.audio, one.piece.start, one.id): one for one in part}
        ordered = [by_place[place] for place in sorted(by_place)]
        pieces = iter(ordered)
        for run, source in recordings([one.piece for one in ordered], store):
            for piece in run:
                one = next(pieces)
                try:
                    waveform = decode(source, spec.sample_rate, piece.start, piece.duration)
                except SoundError as error:
                    raise unreadable(piece.audio, error) from error
                rows.append({"id": one.id, "key": one.key, **prosody_of(waveform, one.ends, spec)})
    return pa.Table.from_pylist(rows, schema=PROSODY)
