"""Reader of Kaldi data directories: <split>/wav.scp, text, utt2spk, one utterance a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.corpora.base import SPLIT_NAMES, Reader, check_options, need_source, source_fingerprint
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, text_lines


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """One utterance for each line of `wav.scp`.

    Raises:
        CorpusError: no `wav.scp` in the source, or an unknown option.
    """
    source = need_source(source, corpus)
    check_options(corpus, ())
    paths = {file.path for file in source.files()}
    lists = sorted(path for path in paths if PurePosixPath(path).name == "wav.scp")
    if not lists:
        raise CorpusError(f"{source.uri}: no wav.scp in it; expected Kaldi data directories")
    for path in lists:
        folder = PurePosixPath(path).parent
        texts = columns(source, str(folder / "text"), paths)
        speakers = columns(source, str(folder / "utt2spk"), paths)
        for row, (name, audio) in enumerate(columns(source, path, paths).items(), start=1):
            if audio not in paths:
                yield Reject(source.locate(path), row, name, "missing_file", f"no recording {audio}")
                continue
            yield Utterance(
                id=name,
                split=SPLIT_NAMES.get(folder.name),
                recording=source.recording(audio),
                text=texts.get(name),
                speaker=speakers.get(name),
                file=source.locate(path),
                row=row,
            )


def columns(source: Source, path: str, paths: set[str]) -> dict[str, str]:
    """First word -> rest of the line; empty where the file is missing."""
    lines = text_lines(source.read(path)) if path in paths else []
    return {name: rest.strip() for name, _, rest in (line.partition(" ") for line in lines)}


READER = Reader(read, source_fingerprint)
