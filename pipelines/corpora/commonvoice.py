"""Common Voice (Ardila et al. 2020): <language>/{train,dev,test}.tsv and <language>/clips/*.mp3, one language or many.

    name: cv, kind: commonvoice, source: /data/cv-corpus-21.0-2025-03-14      (or …/de, or one language's .tar.gz)

The release's splits share no speaker; a `client_id` is one. `locale`, or the folder's name, is the language. Votes,
age, gender and accent are not read. Clips are MP3, which libsndfile 1.1 and later decode.
Options: `languages` keeps only the named ones; `lists: validated` takes all of validated.tsv, most of which is in none
of the release's splits, and splits it by speaker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.corpora.base import SPLIT_NAMES, Reader, check_options, need_source, source_fingerprint
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, not_utf8, text_lines

LISTS = {"splits": ("train", "dev", "test"), "validated": ("validated",)}
_NEEDED = ("client_id", "path", "sentence")


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """One utterance a line of each list.

    Raises:
        CorpusError: no list of this layout, an unknown option or language.
    """
    source = need_source(source, corpus)
    check_options(corpus, ("languages", "lists"))
    wanted = corpus.options.get("lists", "splits")
    if wanted not in LISTS:
        raise CorpusError(
            f"corpora.{corpus.name}.options.lists is {wanted!r}, expected {' or '.join(map(repr, LISTS))}"
        )
    present = {file.path for file in source.files()}
    for path in _lists(source, corpus, LISTS[wanted], present):
        yield from _rows(source, path, present)


def _lists(source: Source, corpus: Corpus, names: tuple[str, ...], present: set[str]) -> list[str]:
    """The lists of the wanted languages that have clips beside them."""
    found = [
        path
        for name in sorted(present)
        if (path := PurePosixPath(name)).suffix == ".tsv" and path.stem in names
    ]  # fmt: skip
    languages = {_language(source, path) for path in found}
    wanted = corpus.options.get("languages")
    absent = sorted(set(wanted or ()) - languages)
    if absent:
        raise CorpusError(f"{source.uri}: holds no {', '.join(absent)}; there are {', '.join(sorted(languages))}")
    chosen = [str(path) for path in found if wanted is None or _language(source, path) in wanted]
    if not chosen:
        lists = ", ".join(f"{name}.tsv" for name in names)
        raise CorpusError(f"{source.uri}: no <language>/{lists} in it; expected Common Voice's layout")
    return chosen


def _rows(source: Source, name: str, present: set[str]) -> Iterator[Utterance | Reject]:
    path = PurePosixPath(name)
    where = source.locate(name)
    # Not csv: a sentence that begins with a quotation mark is no quoted cell here.
    lines = text_lines(source.read(name))
    header = lines[0].split("\t") if lines else []
    missing = [column for column in _NEEDED if column not in header]
    if missing:
        yield Reject(where, 1, None, "bad_row", f"no column {', '.join(missing)}; expected Common Voice's header")
        return
    for row, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if not_utf8(line) or len(cells) != len(header):
            told = "not UTF-8" if not_utf8(line) else f"{len(cells)} cells, expected {len(header)}"
            yield Reject(where, row, None, "bad_row", told)
            continue
        given = dict(zip(header, cells, strict=True))
        clip = str(path.parent / "clips" / given["path"])
        language = given.get("locale") or _language(source, path)
        utterance = f"{language}/{PurePosixPath(given['path']).stem}"
        if clip not in present:
            yield Reject(where, row, utterance, "missing_file", f"no recording {clip}")
            continue
        yield Utterance(
            id=utterance,
            split=SPLIT_NAMES.get(path.stem),
            recording=source.recording(clip),
            text=given["sentence"],
            speaker=given["client_id"] or None,
            language=language,
            file=where,
            row=row,
        )


def _language(source: Source, path: PurePosixPath) -> str:
    """The list's folder; the source's own name when the source is one language."""
    return path.parent.name or source.name.partition(".")[0]


READER = Reader(read, source_fingerprint)
