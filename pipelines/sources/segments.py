"""Opens ingested recordings, from a folder, the store or S3, for feature extraction.

for waveform in decoded(pieces, sample_rate, store): ...
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from pipelines.sources.audio import SoundError, decode
from pipelines.sources.open import read_audio
from pipelines.storage.store import STORED, DamagedPart, Store

T = TypeVar("T")
FETCHES = 8  # concurrent downloads from S3


class FeatureError(RuntimeError):
    """A recording that ingest accepted and that can no longer be read."""


@dataclass(frozen=True)
class Piece:
    """A recording, or a segment of one."""

    digest: str
    audio: str
    start: float
    duration: float  # s


def by_duration(items: Iterable[T], duration: Callable[[T], float], seconds: float) -> Iterator[list[T]]:
    """Consecutive items in lists of at least `seconds`; the last list may be shorter."""
    part: list[T] = []
    total = 0.0
    for item in items:
        part.append(item)
        total += duration(item)
        if total >= seconds:
            yield part
            part, total = [], 0.0
    if part:
        yield part


def decoded(part: list[Piece], sample_rate: int, store: Store) -> Iterator[np.ndarray]:
    """(N,) float32 of each piece. Raises FeatureError with the name of an unreadable recording."""
    for pieces, source in _recordings(part, store):
        for piece in pieces:
            try:
                yield decode(source, sample_rate, piece.start, piece.duration)
            except SoundError as error:
                raise _unreadable(piece.audio, error) from error


def _recordings(part: list[Piece], store: Store) -> Iterator[tuple[list[Piece], bytes | Path]]:
    """Consecutive pieces of the same recording, and the recording; remote ones are prefetched."""
    runs = [list(pieces) for _, pieces in itertools.groupby(part, key=lambda piece: piece.audio)]
    if not any(_is_remote(pieces[0].audio, store) for pieces in runs):
        yield from ((pieces, _open(pieces[0].audio, store)) for pieces in runs)
        return
    queue: deque[tuple[list[Piece], Future[bytes | Path]]] = deque()
    with ThreadPoolExecutor(FETCHES) as pool:
        for pieces in runs:
            queue.append((pieces, pool.submit(_open, pieces[0].audio, store)))
            if len(queue) > FETCHES:
                first, source = queue.popleft()
                yield first, source.result()
        for first, source in queue:
            yield first, source.result()


def _is_remote(audio: str, store: Store) -> bool:
    return audio.startswith("s3://") or (audio.startswith(STORED) and store.root.startswith("s3://"))


def _open(audio: str, store: Store) -> bytes | Path:
    """The recording behind an audio URI of the utterance table. Raises FeatureError."""
    try:
        if audio.startswith(("s3://", STORED)):
            # Not Store.fetch: a recording is read once, so a copy in the cache is of no use.
            return read_audio(audio, store)
    except (OSError, DamagedPart) as error:
        raise _unreadable(audio, error) from error
    return Path(audio)


def _unreadable(audio: str, error: Exception) -> FeatureError:
    return FeatureError(
        f"{audio}: {error}. It was read when its corpus was ingested; put it back, or ingest the corpus again"
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Restricts torch to one thread: each part is processed on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
