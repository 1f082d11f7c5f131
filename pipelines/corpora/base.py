"""What a corpus reader yields: utterances with their labels, or rows that it had to turn away.

A corpus is one file here with one function, the same for all of them:

    def read(source: Source | None, corpus: recipe.Corpus) -> Iterator[Utterance | Reject]

A reader opens label files only. It never opens a recording (ingest does that, in parallel, once),
never raises for a bad row (it yields a Reject) and invents no label: what the corpus does not say is None.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance

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
class Reader:
    """A kind of corpus.

    read: the rows.
    fingerprint: changes when `read` would yield something else; found without opening a recording.
    """

    read: Callable[[Source | None, Corpus], Iterator[Utterance | Reject]]
    fingerprint: Callable[[Source | None, Corpus], str]


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
