"""ATIS (Hemphill et al. 1990) in the layout of slot-filling work: <split>/seq.in, seq.out, label, a sentence per line.

    name: atis, kind: atis, source: /data/atis

Text only: no audio, speakers or domain. Intents are used as they are; a double one such as "atis_flight#atis_airfare"
is one label. The folders train, valid (or dev) and test are the splits, unless `options.folders` gives others:
{train: train, valid: test} evaluates on the valid folder of a release without test data.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.corpora.base import SPLIT_NAMES, Rows, reader
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.schema import SPLITS
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, not_utf8, text_lines

_FILES = ("seq.in", "seq.out", "label")


def read(source: Source, corpus: Corpus) -> Rows:
    """One utterance per line."""
    splits = _splits(corpus)
    paths = (PurePosixPath(file.path) for file in source.files())
    folders = [path.parent for path in paths if path.name == "seq.in" and path.parent.name in splits]
    if not folders:
        raise CorpusError(
            f"{source.uri}: no folder {' or '.join(splits)} with {', '.join(_FILES)}; expected ATIS's layout"
        )
    for folder in folders:
        yield from _folder(source, folder, splits[folder.name])


def _splits(corpus: Corpus) -> dict[str, str]:
    """Folder name -> split."""
    splits = corpus.options.get("folders", SPLIT_NAMES)
    if not isinstance(splits, dict) or not splits or not all(split in SPLITS for split in splits.values()):
        raise CorpusError(
            f"corpora.{corpus.name}.options.folders is {splits!r}; expected folders and their splits, "
            f"such as {{train: train, valid: test}}, of {', '.join(SPLITS)}"
        )
    return {str(folder): split for folder, split in splits.items()}


def _folder(source: Source, folder: PurePosixPath, split: str) -> Rows:
    present = {file.path for file in source.files()}
    paths = [f"{folder}/{name}" for name in _FILES]
    absent = [path for path in paths if path not in present]
    if absent:
        yield Reject(source.locate(absent[0]), None, None, "missing_file", f"{folder}/ has seq.in, but not {absent[0]}")
        return
    sentences, tags, intents = (text_lines(source.read(path)) for path in paths)
    where = source.locate(paths[0])
    if not len(sentences) == len(tags) == len(intents):
        yield from _misaligned(where, [sentences, tags, intents])
        return
    for row, (sentence, slots, intent) in enumerate(zip(sentences, tags, intents, strict=True), start=1):
        name = f"{folder.name}-{row:05d}"
        if not_utf8(sentence + slots + intent):
            yield Reject(where, row, name, "bad_row", f"{sentence!r} is not UTF-8")
            continue
        yield Utterance(
            id=name,
            split=split,
            text=sentence,
            tokens=sentence.split(),
            slots=slots.split(),
            labels={"intent": intent.strip() or None},
            file=where,
            row=row,
        )


def _misaligned(where: str, files: list[list[str]]) -> Iterator[Reject]:
    """Rejects all rows: with a line missing somewhere, labels cannot be matched with sentences."""
    counts = ", ".join(f"{name} {len(lines)}" for name, lines in zip(_FILES, files, strict=True))
    for row in range(1, max(map(len, files)) + 1):
        yield Reject(where, row, None, "length_mismatch", f"lines of the three files differ: {counts}")


READER = reader(read, "folders")
