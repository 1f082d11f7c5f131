"""Inspects the recordings of a corpus: duration, rate and digest, or the reason why a recording is unusable.

    facts = inspect(recordings, quality, store, known)        # one Facts per recording

Each file is read, hashed and decoded once, in a thread pool (hashing and libsndfile release the GIL), and copied into
the store if its source is not permanent. Facts are stored, so the next ingest opens only changed files.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import soundfile

from pipelines.core.progress import Report
from pipelines.core.redaction import redact, scrub
from pipelines.recipe import Quality
from pipelines.sources.audio import SoundError, check
from pipelines.sources.audio import read as read_sound
from pipelines.sources.open import read_audio
from pipelines.sources.source import Recording, SourceError
from pipelines.storage.checksums import AUDIO, AUDIO_DIGITS
from pipelines.storage.roots import http_status
from pipelines.storage.store import DAMAGED, STORED, Store

# s. Manifests round durations: a segment from 0 that ends within this distance of the end is the whole recording.
WHOLE_SLACK = 0.1
_MAX_SUFFIX = 6


@dataclass(frozen=True)
class Facts:
    """One recording or segment: columns of the utterance table, or the reason and detail of a quarantine row.

    name, stamp, asked_start, asked_duration: of the Recording.
    """

    name: str
    stamp: str
    asked_start: float
    asked_duration: float | None
    audio: str | None = None
    start: float | None = None
    duration: float | None = None
    sample_rate: int | None = None
    digest: str | None = None
    reason: str | None = None
    detail: str | None = None

    @property
    def key(self) -> Key:
        return self.name, self.stamp, self.asked_start, self.asked_duration


_ARROW = {"str": pa.string(), "float": pa.float64(), "int": pa.int32()}
FACTS = pa.schema([pa.field(f.name, _ARROW[str(f.type).split()[0]], "None" in str(f.type)) for f in fields(Facts)])
Key = tuple[str, str, float, float | None]


def inspect(
    recordings: Sequence[Recording],
    quality: Quality,
    store: Store,
    known: Mapping[Key, Facts],
    progress: Report | None = None,
) -> list[Facts]:
    """Facts of each recording, in order. Recordings with known facts are not opened."""
    all_facts = [_recall(recording, known) for recording in recordings]
    _forget_lost_copies(all_facts, store)
    groups: dict[object, list[int]] = {}
    for index, recording in enumerate(recordings):
        if all_facts[index] is None:
            # A file with several segments is read once.
            file = recording.uri or ((recording.name, recording.stamp) if recording.stamp else index)
            groups.setdefault(file, []).append(index)
    done = len(recordings) - sum(map(len, groups.values()))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        files = ([recordings[index] for index in group] for group in groups.values())
        results = pool.map(partial(_inspect_file, quality=quality, store=store), files)
        for group, facts in zip(groups.values(), results, strict=True):
            for index, fact in zip(group, facts, strict=True):
                all_facts[index] = fact
            done += len(group)
            if progress is not None:
                progress(done, len(recordings), "recordings")
    return [fact for fact in all_facts if fact is not None]


def damaged_audio(store: Store) -> set[str]:
    """Keys of copies of recordings that are damaged or missing and have not been copied again."""
    return {entry.key.removeprefix(DAMAGED) for entry in store.list(DAMAGED + AUDIO)}


def clear_restored_copies(store: Store) -> None:
    """Deletes damaged copies of recordings that have been copied again."""
    for key in damaged_audio(store):
        if store.exists(key):
            store.delete(DAMAGED + key)


def digest_of(data: bytes, start: float = 0.0, duration: float | None = None) -> str:
    """Hash of a recording or, with a duration, of a segment: 32 hex digits of SHA-256."""
    digest = hashlib.sha256(data)
    if duration is not None:
        digest.update(f"|{start:.6f}|{duration:.6f}".encode())
    return digest.hexdigest()[:32]


def to_table(facts: Iterable[Facts]) -> pa.Table:
    return pa.Table.from_pylist([asdict(fact) for fact in facts], schema=FACTS)


def from_table(table: pa.Table) -> dict[Key, Facts]:
    """Facts by their keys, without those of missing files, which are looked up again."""
    facts = (Facts(**row) for row in table.to_pylist())
    return {fact.key: fact for fact in facts if fact.reason != "missing_file"}


def _recall(recording: Recording, known: Mapping[Key, Facts]) -> Facts | None:
    if not recording.stamp:
        return None
    return known.get((_name(recording), recording.stamp, recording.start, recording.duration))


def _forget_lost_copies(all_facts: list[Facts | None], store: Store) -> None:
    """Removes facts whose copy was garbage-collected, because its row had been quarantined."""
    copies = {
        index: fact.audio for index, fact in enumerate(all_facts) if fact and (fact.audio or "").startswith(STORED)
    }
    present = {STORED + entry.key for entry in store.list(AUDIO)} if copies else set()
    for index, audio in copies.items():
        if audio not in present:
            all_facts[index] = None


def _inspect_file(segments: Sequence[Recording], quality: Quality, store: Store) -> list[Facts]:
    """Facts of segments of one file."""
    blank = [Facts(_name(segment), segment.stamp, segment.start, segment.duration) for segment in segments]
    first = segments[0]
    try:
        data = first.load() if first.load is not None else read_audio(first.uri or "", store)
    except (OSError, ValueError) as error:
        reason = _reason(error, _name(first))
        return [replace(fact, reason=reason, detail=redact(f"{fact.name}: {error}")) for fact in blank]
    facts = [_with_audio_facts(fact, data, quality) for fact in blank]
    audio = first.uri
    if audio is None and any(fact.reason is None for fact in facts):
        audio = STORED + _copy(data, first.name, store)
    return [replace(fact, audio=audio) if fact.reason is None else fact for fact in facts]


def _reason(error: OSError | ValueError, name: str) -> str:
    """The reason to quarantine a recording that cannot be read.

    Raises SourceError for a failure of the network or of S3's authentication, so that the stage fails and is retried.
    """
    if isinstance(error, ValueError):  # a damaged page of a Parquet file
        return "undecodable"
    refused = isinstance(error, PermissionError) and http_status(error) is not None  # by S3
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError) and not refused:
        return "missing_file"
    scrub(error)
    advice = "; check the credentials and the clock of this machine" if refused else ""
    raise SourceError(f"{name} cannot be read: {error}{advice}") from error


def _with_audio_facts(fact: Facts, data: bytes, quality: Quality) -> Facts:
    start, duration = fact.asked_start, fact.asked_duration
    try:
        waveform, rate, whole = _cut(data, start, duration, quality.max_seconds)
        check(waveform, rate, quality.min_seconds, quality.max_seconds)
    except SoundError as error:
        return replace(fact, reason=error.reason, detail=error.detail)
    seconds = len(waveform) / rate
    digest = digest_of(data) if whole else digest_of(data, start, seconds)
    return replace(fact, start=start, duration=seconds, sample_rate=rate, digest=digest)


def _cut(data: bytes, start: float, duration: float | None, max_seconds: float) -> tuple[np.ndarray, int, bool]:
    """Waveform (N,), rate in Hz, and whether it is the whole recording. Raises SoundError."""
    if start > 0:
        return *read_sound(data, start, duration), False
    length = _header_seconds(data)
    if length is not None and duration is not None and duration < length - WHOLE_SLACK:
        return *read_sound(data, 0.0, duration), False
    if length is not None and length > 10 * max_seconds:
        # Not decoded, because a recording of hours may not fit into memory.
        raise SoundError("too_long", f"{length:.3f} s, expected at most {max_seconds:g} s")
    waveform, rate = read_sound(data)
    seconds = len(waveform) / rate
    if duration is not None and duration > seconds + WHOLE_SLACK:
        raise SoundError("too_short", f"expected {duration:g} s, the recording has {seconds:.3f} s: is it truncated?")
    if duration is not None and duration < seconds - WHOLE_SLACK:
        return waveform[: round(duration * rate)], rate, False
    return waveform, rate, True


def _header_seconds(data: bytes) -> float | None:
    """Duration by the header; None for MP3, whose header only estimates it, or if damaged."""
    try:
        info = soundfile.info(io.BytesIO(data))
    except (soundfile.SoundFileError, RuntimeError, TypeError):
        return None
    return info.frames / info.samplerate if info.format != "MPEG" and info.samplerate else None


def _copy(data: bytes, name: str, store: Store) -> str:
    """Stores a recording under its hash, and returns the key."""
    suffix = PurePosixPath(name).suffix.lower()
    if not 1 < len(suffix) <= _MAX_SUFFIX or not suffix[1:].isalnum():
        suffix = ""
    digest = hashlib.sha256(data).hexdigest()[:AUDIO_DIGITS]
    key = f"{AUDIO}{digest[:2]}/{digest}{suffix}"
    # Written even if it exists: garbage collection keeps recently written files.
    store.put_bytes(key, data)
    return key


def _name(recording: Recording) -> str:
    return recording.uri or recording.name
