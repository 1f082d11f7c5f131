"""ATIS (Hemphill et al. 1990) as slot-filling work distributes it: <split>/seq.in, seq.out, label, a line a sentence.

    name: atis, kind: atis, source: /data/atis

Text alone: no audio, no speakers, one domain (so none is stated). Intents stay as they are; a double one such as
"atis_flight#atis_airfare" is one label. The folders train, valid (or dev) and test are the splits, unless
`options.folders` says otherwise: {train: train, valid: test} judges by the valid folder where there is no test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.corpora.base import SPLIT_NAMES, Reader, check_options, need_source, source_fingerprint
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.schema import SPLITS
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, not_utf8, text_lines

_FILES = ("seq.in", "seq.out", "label")


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """One utterance a line.

    Raises:
        CorpusError: no folder with the three files, or an unknown option.
    """
    source = need_source(source, corpus)
    check_options(corpus, ("folders",))
    names = _names(corpus)
    folders = _folders(source, names)
    if not folders:
        raise CorpusError(
            f"{source.uri}: no folder {' or '.join(names)} with {', '.join(_FILES)}; expected ATIS's layout"
        )
    for folder in folders:
        yield from _split(source, folder, names[PurePosixPath(folder).name])


def _names(corpus: Corpus) -> dict[str, str]:
    """Folder to split, as options.folders has it or as the release names them."""
    names = corpus.options.get("folders", SPLIT_NAMES)
    if not isinstance(names, dict) or not names or not all(split in SPLITS for split in names.values()):
        raise CorpusError(
            f"corpora.{corpus.name}.options.folders is {names!r}; expected folders and their splits, "
            f"such as {{train: train, valid: test}}, of {', '.join(SPLITS)}"
        )
    return {str(folder): split for folder, split in names.items()}


def _folders(source: Source, names: dict[str, str]) -> list[str]:
    """Folders that are named like a split and hold at least the sentences."""
    paths = (PurePosixPath(file.path) for file in source.files())
    return [str(path.parent) for path in paths if path.name == "seq.in" and path.parent.name in names]


def _split(source: Source, folder: str, split: str) -> Iterator[Utterance | Reject]:
    present = {file.path for file in source.files()}
    paths = [f"{folder}/{name}" for name in _FILES]
    absent = [path for path in paths if path not in present]
    if absent:
        yield Reject(source.locate(absent[0]), None, None, "missing_file", f"{folder}/ has seq.in, but not {absent[0]}")
        return
    sentences, tags, intents = (text_lines(source.read(path)) for path in paths)
    if not len(sentences) == len(tags) == len(intents):
        yield from _misaligned(source, paths[0], [sentences, tags, intents])
        return
    where = source.locate(paths[0])
    for row, (sentence, slots, intent) in enumerate(zip(sentences, tags, intents, strict=True), start=1):
        name = f"{PurePosixPath(folder).name}-{row:05d}"
        if not_utf8(sentence + slots + intent):
            yield Reject(where, row, name, "bad_row", f"{sentence!r} is not UTF-8")
            continue
        yield Utterance(
            id=name,
            split=split,
            recording=None,
            text=sentence,
            tokens=sentence.split(),
            slots=slots.split(),
            labels={"intent": intent.strip() or None},
            file=where,
            row=row,
        )


def _misaligned(source: Source, path: str, lines: list[list[str]]) -> Iterator[Reject]:
    """Every row: where a line is missing somewhere, no label can be trusted to stand beside its sentence."""
    counts = ", ".join(f"{name} {len(found)}" for name, found in zip(_FILES, lines, strict=True))
    for row in range(1, max(map(len, lines)) + 1):
        yield Reject(source.locate(path), row, None, "length_mismatch", f"lines of the three files differ: {counts}")


READER = Reader(read, source_fingerprint)
