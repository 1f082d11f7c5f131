"""What a corpus reader yields: utterances with their labels, or rows that it had to turn away.

A corpus is one file here with one function, the same for all of them:

    def read(source: Source | None, corpus: recipe.Corpus) -> Iterator[Utterance | Reject]

A reader opens label files only. It never opens a recording (ingest does that, in parallel, once),
never raises for a bad row (it yields a Reject) and invents no label: what the corpus does not say is None.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.data.source import Recording, Source
from pipelines.recipe import Corpus

# Options of every kind: {speaker: split} overrides (splits.py), and a licence that is kept with each version.
COMMON_OPTIONS = ("splits", "license")
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".mp3", ".aiff", ".aif", ".opus")
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
class Utterance:
    """One row as the corpus states it; ingest adds the corpus name to `id`, normalises `text` and settles the split.

    split: the release's own, one of table.SPLITS, or None where it has none.
    recording: None for a row of text alone.
    slots: BIO tags, one for each of `tokens`.
    labels: values of the columns that tasks declare (mtl.spec.label_columns), None or left out where not labelled.
    context: the turns of the dialogue before this one, oldest first; None where the row is no part of a dialogue.
    trials: "1 ID" or "0 ID" for verification: whether the row ID of this corpus is the same speaker.
    phones, phone_ends: what is said, silence included, and where each ends in s, for a corpus that knows; see
        mtl/phonemes.py. Ingest makes phones of the text of others, where the recipe asks for them.
    file, row: where a person would mend it; row is 1-based, None when the file is the row.
    """

    id: str
    split: str | None
    recording: Recording | None
    text: str | None
    tokens: list[str] | None = None
    slots: list[str] | None = None
    speaker: str | None = None
    language: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    context: list[str] | None = None
    trials: list[str] | None = None
    phones: list[str] | None = None
    phone_ends: list[float] | None = None
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


def source_fingerprint(source: Source | None, corpus: Corpus) -> str:
    """`Reader.fingerprint` of a corpus that is all in its source: the listing."""
    return need_source(source, corpus).fingerprint()


def need_source(source: Source | None, corpus: Corpus) -> Source:
    if source is None:
        raise CorpusError(
            f"corpora.{corpus.name}: a {corpus.kind} corpus needs a source: folder, archive, URL or s3://"
        )
    return source


def check_options(corpus: Corpus, allowed: Iterable[str]) -> None:
    """Raises CorpusError for an option that this kind of corpus does not know, naming the nearest one."""
    known = sorted({*allowed, *COMMON_OPTIONS})
    for option in corpus.options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"a {corpus.kind} corpus knows {', '.join(known)}"
            raise CorpusError(f"corpora.{corpus.name}.options.{option}: unknown option; {hint}")


def text_lines(data: bytes) -> list[str]:
    """Lines of a UTF-8 file, without their ends. Bytes that are not UTF-8 become lone surrogates: see `not_utf8`."""
    lines = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def not_utf8(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
