"""Recordings as they are opened again after ingest: whole or a segment, from a folder, the store or S3.

for pieces, source in recordings(part, store):           # runs of pieces of one recording, and its bytes or path
    for piece in pieces:
        waveform = decode(source, rate, piece.start, piece.duration)
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

import torch

from pipelines.sources.source import read_audio
from pipelines.storage.store import STORED, DamagedPart, Store

T = TypeVar("T")
FETCHES = 8  # recordings on their way from S3 while others are decoded


class FeatureError(RuntimeError):
    """A recording that ingest had accepted and that cannot be read now."""


@dataclass(frozen=True)
class Piece:
    """A recording, or a segment of one, to extract."""

    digest: str
    audio: str
    start: float
    duration: float  # s


def by_duration(items: Iterable[T], duration: Callable[[T], float], seconds: float) -> Iterator[list[T]]:
    """The items in their order, in lists that are closed when they last `seconds` or more; the last may be shorter."""
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


def recordings(part: list[Piece], store: Store) -> Iterator[tuple[list[Piece], bytes | Path]]:
    """Runs of pieces that lie in the same recording, and the recording; from S3, several are fetched ahead."""
    runs = [list(pieces) for _, pieces in itertools.groupby(part, key=lambda piece: piece.audio)]
    if not any(_is_remote(pieces[0].audio, store) for pieces in runs):
        yield from ((pieces, _open(pieces[0].audio, store)) for pieces in runs)
        return
    ahead: deque[tuple[list[Piece], Future[bytes | Path]]] = deque()
    with ThreadPoolExecutor(FETCHES) as pool:
        for pieces in runs:
            ahead.append((pieces, pool.submit(_open, pieces[0].audio, store)))
            if len(ahead) > FETCHES:
                ready, source = ahead.popleft()
                yield ready, source.result()
        for ready, source in ahead:
            yield ready, source.result()


def _is_remote(audio: str, store: Store) -> bool:
    return audio.startswith("s3://") or (audio.startswith(STORED) and store.root.startswith("s3://"))


def _open(audio: str, store: Store) -> bytes | Path:
    """The recording behind an audio URI of the utterance table. Raises FeatureError."""
    try:
        if audio.startswith(("s3://", STORED)):
            # Not `fetch`: on S3 it would keep a copy, and a recording is read once.
            return read_audio(audio, store)
    except (OSError, DamagedPart) as error:
        raise unreadable(audio, error) from error
    return Path(audio)


def unreadable(audio: str, error: Exception) -> FeatureError:
    return FeatureError(
        f"{audio}: {error}. It was read when its corpus was ingested; put it back, or ingest the corpus again"
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One part, one core: threads of several tasks on the same cores only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
