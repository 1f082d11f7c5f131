"""CoVoST 2 (Wang et al. 2020): Common Voice's clips with translations, as the release's get_covost_splits.py leaves it.

    name: covost, kind: covost, source: /data/cv-corpus-4/en       (clips/*.mp3 and covost_v2.en_de.<split>.tsv in it)

The tables have the columns path, sentence, translation and client_id; tabs part them, a backslash escapes, nothing
quotes. Their names give the split (train, dev, test) and both languages. A clip may lie there under another suffix, as
it does where it was converted. Options: `pair`, such as en_de, where the source holds tables of several.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.corpora.base import AUDIO_SUFFIXES, SPLIT_NAMES, Reader, check_options, need_source, source_fingerprint
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, not_utf8, text_lines

COLUMNS = ("path", "sentence", "translation", "client_id")
_TABLE = re.compile(r"covost_v2\.(?P<pair>(?P<language>[\w-]+)_[\w-]+)\.(?P<split>train|dev|test)\.tsv")


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """One utterance a line of each table.

    Raises:
        CorpusError: no table of the release, several pairs of languages and none chosen, other columns.
    """
    source = need_source(source, corpus)
    check_options(corpus, ("pair",))
    clips = {
        PurePosixPath(file.path).stem: file.path
        for file in source.files()
        if PurePosixPath(file.path).suffix.lower() in AUDIO_SUFFIXES
    }
    for path, table in _tables(source, corpus):
        yield from _table(source, path, table, clips)


def _tables(source: Source, corpus: Corpus) -> list[tuple[str, re.Match[str]]]:
    """The release's tables of one pair of languages."""
    named = ((file.path, _TABLE.fullmatch(PurePosixPath(file.path).name)) for file in source.files())
    found = sorted((path, match) for path, match in named if match is not None)
    if not found:
        raise CorpusError(
            f"{source.uri}: no covost_v2.<from>_<to>.<split>.tsv in it; expected the tables that CoVoST's "
            "get_covost_splits.py writes, beside Common Voice's clips"
        )
    pairs = sorted({match["pair"] for _, match in found})
    chosen = corpus.options.get("pair")
    if chosen is None and len(pairs) > 1:
        raise CorpusError(f"corpora.{corpus.name}: there are tables of {', '.join(pairs)}; set options.pair to one")
    if chosen is not None and chosen not in pairs:
        raise CorpusError(f"corpora.{corpus.name}.options.pair is {chosen!r}; there are tables of {', '.join(pairs)}")
    return [(path, match) for path, match in found if match["pair"] == (chosen or pairs[0])]


def _table(source: Source, path: str, table: re.Match[str], clips: dict[str, str]) -> Iterator[Utterance | Reject]:
    where = source.locate(path)
    lines = text_lines(source.read(path))
    header = lines[0].split("\t") if lines else []
    if missing := [name for name in COLUMNS if name not in header]:
        raise CorpusError(f"{where}: no column {', '.join(missing)}; it has {', '.join(header) or 'no line'}")
    for row, line in enumerate(lines[1:], start=2):
        cells = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"), [])
        if not_utf8(line) or len(cells) != len(header):
            detail = "the line is not UTF-8" if not_utf8(line) else f"{len(cells)} cells, expected {len(header)}"
            yield Reject(where, row, None, "bad_row", detail)
            continue
        given = dict(zip(header, cells, strict=True))
        name = PurePosixPath(given["path"]).stem
        if name not in clips:
            yield Reject(where, row, name, "missing_file", f"no clip {given['path']!r} in {source.uri}")
            continue
        yield Utterance(
            id=name,
            split=SPLIT_NAMES[table["split"]],
            recording=source.recording(clips[name]),
            text=given["sentence"],
            speaker=given["client_id"] or None,
            language=table["language"],
            labels={"translation": given["translation"].strip() or None},
            file=where,
            row=row,
        )


READER = Reader(read, source_fingerprint)
