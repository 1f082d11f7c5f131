"""Looks into recordings, once each: what they are, or why they cannot be used.

    facts = inspect(utterances, quality, store, known)        # one Facts for each utterance with a recording

A recording is read, hashed and decoded in a pool of threads (hashing and libsndfile let the interpreter run), and
copied into the store where its source is not lasting. Facts are kept, so the next ingest opens only what changed.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import soundfile

from pipelines.core.redaction import redact, scrub
from pipelines.recipe import Quality
from pipelines.sources.audio import SoundError, check
from pipelines.sources.audio import read as read_sound
from pipelines.sources.open import read_audio
from pipelines.sources.source import Recording, SourceError
from pipelines.storage.checksums import AUDIO, AUDIO_DIGITS
from pipelines.storage.roots import http_status
from pipelines.storage.store import DAMAGED, STORED, Store

if TYPE_CHECKING:
    from pipelines.core.progress import Report

# Manifests round durations: a segment from 0 that ends this close to the end, in s, means the whole recording.
WHOLE_SLACK = 0.1
_MAX_SUFFIX = 6

FACTS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("stamp", pa.string(), nullable=False),
        pa.field("asked_start", pa.float64(), nullable=False),
        pa.field("asked_duration", pa.float64()),
        pa.field("audio", pa.string()),
        pa.field("start", pa.float64()),
        pa.field("duration", pa.float64()),
        pa.field("sample_rate", pa.int32()),
        pa.field("digest", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


@dataclass(frozen=True)
class Facts:
    """One recording or segment: columns of the utterance table, or the reason and detail of a quarantine row.

    name, stamp, asked_start, asked_duration: what was looked at, see Recording.
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


Key = tuple[str, str, float, float | None]


def inspect(
    recordings: Sequence[Recording],
    quality: Quality,
    store: Store,
    known: Mapping[Key, Facts],
    progress: Report | None = None,
) -> list[Facts]:
    """Facts of each recording, in their order; `known` ones with an equal stamp are not opened again."""
    found: list[Facts | None] = [_recall(recording, known) for recording in recordings]
    _forget_lost_copies(found, store)
    groups: dict[object, list[int]] = {}
    for position, recording in enumerate(recordings):
        if found[position] is None:
            # Segments of one file are cut from one reading of it.
            same = recording.uri or ((recording.name, recording.stamp) if recording.stamp else position)
            groups.setdefault(same, []).append(position)
    done = len(recordings) - sum(map(len, groups.values()))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        jobs = pool.map(
            lambda group: _look([recordings[position] for position in group], quality, store), groups.values()
        )
        for group, facts in zip(groups.values(), jobs, strict=True):
            for position, fact in zip(group, facts, strict=True):
                found[position] = fact
            done += len(group)
            if progress is not None:
                progress(done, len(recordings), "recordings")
    return [fact for fact in found if fact is not None]


def damaged_audio(store: Store) -> set[str]:
    """Keys of recordings' copies that were found damaged or missing since they were last copied."""
    return {entry.key.removeprefix(DAMAGED) for entry in store.list(DAMAGED + AUDIO)}


def clear_copied_again(store: Store) -> None:
    """Deletes the damaged copies of recordings that have been copied again."""
    for key in damaged_audio(store):
        if store.exists(key):
            store.delete(DAMAGED + key)


def digest_of(data: bytes, start: float = 0.0, duration: float | None = None) -> str:
    """Name of a recording's (or, with a duration, a segment's) features: 32 hex digits of SHA-256."""
    digest = hashlib.sha256(data)
    if duration is not None:
        digest.update(f"|{start:.6f}|{duration:.6f}".encode())
    return digest.hexdigest()[:32]


def to_table(facts: Iterable[Facts]) -> pa.Table:
    return pa.Table.from_pylist([asdict(fact) for fact in facts], schema=FACTS)


def from_table(table: pa.Table) -> dict[Key, Facts]:
    """Facts by what was looked at; a file that was missing is looked for again."""
    facts = (Facts(**row) for row in table.to_pylist())
    return {fact.key: fact for fact in facts if fact.reason != "missing_file"}


def _recall(recording: Recording, known: Mapping[Key, Facts]) -> Facts | None:
    if not recording.stamp:
        return None
    return known.get((_name(recording), recording.stamp, recording.start, recording.duration))


def _forget_lost_copies(found: list[Facts | None], store: Store) -> None:
    """A copy may have been collected since, if the row that used it went into quarantine."""
    if not any(fact and (fact.audio or "").startswith(STORED) for fact in found):
        return
    present = {STORED + entry.key for entry in store.list(AUDIO)}
    for position, fact in enumerate(found):
        if fact and (fact.audio or "").startswith(STORED) and fact.audio not in present:
            found[position] = None


def _look(recordings: Sequence[Recording], quality: Quality, store: Store) -> list[Facts]:
    """Facts of segments of one file."""
    blank = [Facts(_name(item), item.stamp, item.start, item.duration) for item in recordings]
    try:
        data = recordings[0].load() if recordings[0].load is not None else read_audio(recordings[0].uri or "", store)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        return [replace(fact, reason="missing_file", detail=redact(f"{fact.name}: {error}")) for fact in blank]
    except PermissionError as error:
        if http_status(error) is not None:  # expired credentials or a wrong clock are no fault of the recording
            scrub(error)
            text = f"{blank[0].name} cannot be read: {error}; check the credentials and the clock of this machine"
            raise SourceError(text) from error
        return [replace(fact, reason="missing_file", detail=redact(f"{fact.name}: {error}")) for fact in blank]
    except ValueError as error:  # a damaged page of a Parquet file
        return [replace(fact, reason="undecodable", detail=redact(f"{fact.name}: {error}")) for fact in blank]
    except OSError as error:
        # A network that failed is not a fault of the recording: the stage fails, and may be tried again.
        scrub(error)
        raise SourceError(f"{blank[0].name} cannot be read: {error}") from error
    facts = [_examine(fact, data, quality) for fact in blank]
    audio = recordings[0].uri
    if audio is None and any(fact.reason is None for fact in facts):
        audio = STORED + _copy(data, recordings[0].name, store)
    return [replace(fact, audio=audio) if fact.reason is None else fact for fact in facts]


def _examine(fact: Facts, data: bytes, quality: Quality) -> Facts:
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
    promised = _seconds_by_header(data)
    if promised is not None and duration is not None and duration < promised - WHOLE_SLACK:
        return *read_sound(data, 0.0, duration), False
    if promised is not None and promised > 10 * max_seconds:
        # An hour as one utterance would fill the memory before it was measured.
        raise SoundError("too_long", f"{promised:.3f} s, expected at most {max_seconds:g} s")
    waveform, rate = read_sound(data)
    seconds = len(waveform) / rate
    if duration is not None and duration > seconds + WHOLE_SLACK:
        raise SoundError("too_short", f"expected {duration:g} s, the recording lasts {seconds:.3f} s: is it cut off?")
    if duration is not None and duration < seconds - WHOLE_SLACK:
        return waveform[: round(duration * rate)], rate, False
    return waveform, rate, True


def _seconds_by_header(data: bytes) -> float | None:
    """None where there is no header to trust: an MP3's only estimates, a damaged one cannot be read."""
    try:
        info = soundfile.info(io.BytesIO(data))
    except (soundfile.SoundFileError, RuntimeError, TypeError):
        return None
    return info.frames / info.samplerate if info.format != "MPEG" and info.samplerate else None


def _copy(data: bytes, name: str, store: Store) -> str:
    """Puts a recording into the store under its own hash; gives the key."""
    suffix = PurePosixPath(name).suffix.lower()
    if not 1 < len(suffix) <= _MAX_SUFFIX or not suffix[1:].isalnum():
        suffix = ""
    digest = hashlib.sha256(data).hexdigest()[:AUDIO_DIGITS]
    key = f"{AUDIO}{digest[:2]}/{digest}{suffix}"
    # Written even if it is there: that renews its age, and garbage collection spares what is young.
    store.put_bytes(key, data)
    return key


def _name(recording: Recording) -> str:
    return recording.uri or recording.name
