"""What a corpus reader yields: utterances with their labels, or rows that it had to turn away.

A corpus is one file here with one function, the same for all of them:

    def read(source: Source | None, corpus: recipe.Corpus) -> Iterator[Utterance | Reject]

A reader opens label files only. It never opens a recording (ingest does that, in parallel, once),
never raises for a bad row (it yields a Reject) and invents no label: what the corpus does not say is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.recipe import Corpus

if TYPE_CHECKING:
    from pipelines.source import Source

# Names that releases use for the three splits of table.SPLITS.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "devel": "valid",
    "test": "test",
    "eval": "test",
}


@dataclass(frozen=True)
class Recording:
    """Audio that can be read later: a lasting URI, or a function that gives the file's bytes.

    uri: absolute local path or s3:// URI that will still be there tomorrow; ingest refers to it.
    load: gives the bytes of an audio file (WAV, FLAC …); ingest copies them into the store.
    name: what a person would look for, e.g. the path inside the archive; its suffix becomes the copy's.
    start, duration: the segment in seconds; the whole recording when duration is None.
    stamp: changes when the bytes do (size and time, ETag); an equal stamp under an equal name lets the next
        ingest skip the recording. Empty: read it again each time.
    """

    uri: str | None = None
    load: Callable[[], bytes] | None = None
    name: str = ""
    start: float = 0.0
    duration: float | None = None
    stamp: str = ""


@dataclass(frozen=True)
class Utterance:
    """One row as the corpus states it; ingest adds the corpus name to `id`, normalises `text` and settles the split.

    split: the release's own, one of table.SPLITS, or None where it has none.
    recording: None for a row of text alone.
    slots: BIO tags, one for each of `tokens`.
    file, row: where a person would mend it; row is 1-based, None when the file is the row.
    """

    id: str
    split: str | None
    recording: Recording | None
    text: str | None
    tokens: list[str] | None = None
    slots: list[str] | None = None
    intent: str | None = None
    domain: str | None = None
    speaker: str | None = None
    emotion: str | None = None
    language: str | None = None
    file: str = ""
    row: int | None = None


@dataclass(frozen=True)
class Reject:
    """A row that a reader could not turn into an utterance; `reason` is one of table.REASONS."""

    file: str
    row: int | None
    id: str | None
    reason: str
    detail: str


@dataclass(frozen=True)
class Reader:
    """A kind of corpus.

    read: the rows.
    fingerprint: changes when `read` would yield something else; found without opening a recording.
    """

    read: Callable[[Source | None, Corpus], Iterator[Utterance | Reject]]
    fingerprint: Callable[[Source | None, Corpus], str]


class CorpusError(ValueError):
    """A source that is not laid out as its kind of corpus is, or options that do not fit it."""
