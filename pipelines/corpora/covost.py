"""CoVoST 2 (Wang et al. 2020): Common Voice clips and the translation tables that get_covost_splits.py writes.

    name: covost, kind: covost, source: /data/cv-corpus-4/en       (clips/*.mp3 and covost_v2.en_de.<split>.tsv in it)

The tables have the columns path, sentence, translation and client_id, separated by tabs, with backslash escapes and
without quotes. Their names give the split and both languages. A clip may have another suffix than in the table, if it
was converted. Option: `pair`, such as en_de, if the source has tables of several pairs.
"""

from __future__ import annotations

import csv
import re
from pathlib import PurePosixPath

from pipelines.corpora.base import SPLIT_NAMES, Rows, audio_paths, read_tsv, reader
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance

COLUMNS = ("path", "sentence", "translation", "client_id")
_TABLE = re.compile(r"covost_v2\.(?P<pair>(?P<language>[\w-]+)_[\w-]+)\.(?P<split>train|dev|test)\.tsv")


def read(source: Source, corpus: Corpus) -> Rows:
    """One utterance per line of each table."""
    clips = {path.stem: str(path) for path in audio_paths(source)}
    for path, match in _tables(source, corpus):
        yield from _table(source, path, match, clips)


def _tables(source: Source, corpus: Corpus) -> list[tuple[str, re.Match[str]]]:
    """The tables of one language pair."""
    matches = ((file.path, _TABLE.fullmatch(PurePosixPath(file.path).name)) for file in source.files())
    tables = sorted((path, match) for path, match in matches if match is not None)
    if not tables:
        raise CorpusError(
            f"{source.uri}: no covost_v2.<from>_<to>.<split>.tsv in it; expected the tables that CoVoST's "
            "get_covost_splits.py writes, beside Common Voice's clips"
        )
    pairs = sorted({match["pair"] for _, match in tables})
    pair = corpus.options.get("pair")
    if pair is None and len(pairs) > 1:
        raise CorpusError(f"corpora.{corpus.name}: there are tables of {', '.join(pairs)}; set options.pair to one")
    if pair is not None and pair not in pairs:
        raise CorpusError(f"corpora.{corpus.name}.options.pair is {pair!r}; there are tables of {', '.join(pairs)}")
    return [(path, match) for path, match in tables if match["pair"] == (pair or pairs[0])]


def _table(source: Source, path: str, match: re.Match[str], clips: dict[str, str]) -> Rows:
    where = source.locate(path)
    header, rows = read_tsv(source, path, _cells)
    if missing := [name for name in COLUMNS if name not in header]:
        raise CorpusError(f"{where}: no column {', '.join(missing)}; it has {', '.join(header) or 'no line'}")
    for item in rows:
        if isinstance(item, Reject):
            yield item
            continue
        row, cells = item
        name = PurePosixPath(cells["path"]).stem
        if name not in clips:
            yield Reject(where, row, name, "missing_file", f"no clip {cells['path']!r} in {source.uri}")
            continue
        yield Utterance(
            id=name,
            split=SPLIT_NAMES[match["split"]],
            recording=source.recording(clips[name]),
            text=cells["sentence"],
            speaker=cells["client_id"] or None,
            language=match["language"],
            labels={"translation": cells["translation"].strip() or None},
            file=where,
            row=row,
        )


def _cells(line: str) -> list[str]:
    return next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"), [])


READER = reader(read, "pair")
