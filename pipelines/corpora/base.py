"""The interface of a corpus reader, and helpers that several readers share.

A corpus layout is one file here and its name in CORPUS_KINDS (pipelines/recipe/base.py):

    def read(source: Source, corpus: Corpus) -> Rows: ...

    READER = reader(read, "subsets")             # and the options that the layout accepts

A reader opens label files only; ingest opens recordings. It yields a Reject for an invalid row, and never invents a
label: values that the corpus does not give are None. It raises CorpusError if the source does not have the layout.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, not_utf8, text_lines

Rows = Iterator[Utterance | Reject]

COMMON_OPTIONS = ("splits", "license")  # of every layout: {speaker: split} overrides, and a licence that is recorded
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".mp3", ".aiff", ".aif", ".opus")
# Names of splits in releases -> names in utterances.schema.SPLITS.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "dev", "devel"), "valid"),
    **dict.fromkeys(("test", "eval"), "test"),
}


@dataclass(frozen=True)
class Reader:
    """read: the rows. fingerprint: changes when they may change; opens no recording."""

    read: Callable[[Source | None, Corpus], Rows]
    fingerprint: Callable[[Source | None, Corpus], str]


def reader(
    rows: Callable[[Source, Corpus], Rows],
    *options: str,
    fingerprint: Callable[[Source, Corpus], str] = lambda source, corpus: source.fingerprint(),
) -> Reader:
    """A Reader that requires a source and accepts the named options, besides COMMON_OPTIONS."""

    def read(source: Source | None, corpus: Corpus) -> Rows:
        required = _required(source, corpus)
        check_options(corpus, (*options, *COMMON_OPTIONS))
        return rows(required, corpus)

    return Reader(read, lambda source, corpus: fingerprint(_required(source, corpus), corpus))


def check_options(corpus: Corpus, known: Collection[str]) -> None:
    """Raises CorpusError for an unknown option, with the nearest known one."""
    for option in corpus.options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"a corpus of kind {corpus.kind} has " + ", ".join(known)
            raise CorpusError(f"corpora.{corpus.name}.options.{option}: unknown option; {hint}")


def choice(corpus: Corpus, option: str, choices: Collection[str], default: str) -> str:
    """The value of an option that has a fixed set of values."""
    value = corpus.options.get(option, default)
    if value not in choices:
        expected = " or ".join(map(repr, choices))
        raise CorpusError(f"corpora.{corpus.name}.options.{option} is {value!r}; expected {expected}")
    return str(value)


def audio_paths(source: Source) -> list[PurePosixPath]:
    """The source's audio files, by their suffix."""
    paths = (PurePosixPath(file.path) for file in source.files())
    return [path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES]


def read_tsv(
    source: Source, path: str, parse: Callable[[str], list[str]] = lambda line: line.split("\t")
) -> tuple[list[str], Iterator[tuple[int, dict[str, str]] | Reject]]:
    """The header of a tab-separated file, and its lines: number and cells, or a Reject."""
    lines = text_lines(source.read(path))
    header = lines[0].split("\t") if lines else []

    def rows() -> Iterator[tuple[int, dict[str, str]] | Reject]:
        for number, line in enumerate(lines[1:], start=2):
            cells = parse(line)
            if not_utf8(line) or len(cells) != len(header):
                detail = "the line is not UTF-8" if not_utf8(line) else f"{len(cells)} cells, expected {len(header)}"
                yield Reject(source.locate(path), number, None, "bad_row", detail)
            else:
                yield number, dict(zip(header, cells, strict=True))

    return header, rows()


def _required(source: Source | None, corpus: Corpus) -> Source:
    if source is None:
        raise CorpusError(
            f"corpora.{corpus.name}: a {corpus.kind} corpus needs a source: folder, archive, URL or s3://"
        )
    return source
