"""Common Voice (Ardila et al. 2020): <language>/{train,dev,test}.tsv and <language>/clips/*.mp3, for several languages.

    name: cv, kind: commonvoice, source: /data/cv-corpus-21.0-2025-03-14      (or …/de, or one language's .tar.gz)

The release's splits share no speaker (`client_id`). `locale`, or the folder's name, is the language. Votes, age, gender
and accent are not read. Decoding MP3 needs libsndfile >= 1.1.
Options: `languages` selects languages; `lists: validated` reads all of validated.tsv, most of which is in none of the
release's splits, and splits it by speaker.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from pipelines.corpora.base import SPLIT_NAMES, Rows, choice, read_tsv, reader
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance

LISTS = {"splits": ("train", "dev", "test"), "validated": ("validated",)}
_COLUMNS = ("client_id", "path", "sentence")


def read(source: Source, corpus: Corpus) -> Rows:
    """One utterance per line of each list."""
    present = {file.path for file in source.files()}
    for path in _lists(source, corpus, LISTS[choice(corpus, "lists", LISTS, "splits")], present):
        yield from _rows(source, path, present)


def _lists(source: Source, corpus: Corpus, names: tuple[str, ...], present: set[str]) -> list[PurePosixPath]:
    """The lists of the selected languages."""
    paths = [path for path in map(PurePosixPath, sorted(present)) if path.suffix == ".tsv" and path.stem in names]
    languages = {_language(source, path) for path in paths}
    selected = set(corpus.options.get("languages") or languages)
    if absent := sorted(selected - languages):
        raise CorpusError(f"{source.uri}: holds no {', '.join(absent)}; there are {', '.join(sorted(languages))}")
    if not paths:
        lists = ", ".join(f"{name}.tsv" for name in names)
        raise CorpusError(f"{source.uri}: no <language>/{lists} in it; expected Common Voice's layout")
    return [path for path in paths if _language(source, path) in selected]


def _rows(source: Source, path: PurePosixPath, present: set[str]) -> Rows:
    where = source.locate(str(path))
    # Not the csv module: in these files a sentence that begins with a quotation mark is not a quoted cell.
    header, rows = read_tsv(source, str(path))
    if missing := [column for column in _COLUMNS if column not in header]:
        yield Reject(where, 1, None, "bad_row", f"no column {', '.join(missing)}; expected Common Voice's header")
        return
    for item in rows:
        if isinstance(item, Reject):
            yield item
            continue
        row, cells = item
        clip = str(path.parent / "clips" / cells["path"])
        language = cells.get("locale") or _language(source, path)
        name = f"{language}/{PurePosixPath(cells['path']).stem}"
        if clip not in present:
            yield Reject(where, row, name, "missing_file", f"no recording {clip}")
            continue
        yield Utterance(
            id=name,
            split=SPLIT_NAMES.get(path.stem),
            recording=source.recording(clip),
            text=cells["sentence"],
            speaker=cells["client_id"] or None,
            language=language,
            file=where,
            row=row,
        )


def _language(source: Source, path: PurePosixPath) -> str:
    """The list's folder, or the source's name if the source is one language."""
    return path.parent.name or source.name.partition(".")[0]


READER = reader(read, "languages", "lists")
