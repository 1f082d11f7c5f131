"""Reader of Kaldi data directories: <split>/wav.scp, text, utt2spk, one utterance a line."""

from __future__ import annotations

from pathlib import PurePosixPath

from pipelines.corpora.base import SPLIT_NAMES, Rows, reader
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, text_lines


def read(source: Source, corpus: Corpus) -> Rows:
    """One utterance for each line of `wav.scp`.

    Raises:
        CorpusError: the source has no `wav.scp`.
    """
    paths = {file.path for file in source.files()}
    lists = sorted(path for path in paths if PurePosixPath(path).name == "wav.scp")
    if not lists:
        raise CorpusError(f"{source.uri}: found no wav.scp; expected Kaldi data directories")
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


READER = reader(read)
