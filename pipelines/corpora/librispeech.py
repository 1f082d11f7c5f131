"""LibriSpeech (Panayotov et al. 2015) and corpora of its layout: <subset>/<speaker>/<chapter>/<id>.flac, *.trans.txt.

    name: libri, kind: librispeech, source: /data/LibriSpeech      (or train-clean-100.tar.gz, or its URL)

The subset's name gives the split: train-*, dev-*, test-*. Transcripts are upper case and become lower case.
Options: `subsets` selects subsets; `splits` assigns speakers to splits, for a part of one subset.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from pipelines.corpora.base import AUDIO_SUFFIXES, SPLIT_NAMES, Rows, reader
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, not_utf8, text_lines

_TRANSCRIPT = ".trans.txt"


def read(source: Source, corpus: Corpus) -> Rows:
    """One utterance per line of each transcript file; a Reject for each recording without a line."""
    transcripts, audio = _layout(source, corpus)
    transcribed: set[str] = set()
    for transcript in transcripts:
        yield from _chapter(source, transcript, audio, transcribed)
    folders = {str(path.parent) for path in transcripts}
    for folder, recordings in sorted(audio.items()):
        for stem, path in sorted(recordings.items()):
            if path not in transcribed and (folder in folders or _is_chapter(folder)):
                detail = f"no line {stem!r} in {folder}/*{_TRANSCRIPT}"
                yield Reject(source.locate(path), None, stem, "missing_transcript", detail)


def _layout(source: Source, corpus: Corpus) -> tuple[list[PurePosixPath], dict[str, dict[str, str]]]:
    """Transcript files, and folder -> stem -> recording, of the selected subsets."""
    selected = corpus.options.get("subsets")
    transcripts: list[PurePosixPath] = []
    audio: dict[str, dict[str, str]] = {}
    subsets: set[str] = set()
    for file in source.files():
        path = PurePosixPath(file.path)
        is_transcript = path.name.endswith(_TRANSCRIPT)
        if not is_transcript and path.suffix.lower() not in AUDIO_SUFFIXES:
            continue
        subset = _subset(source, path)
        subsets.add(subset)
        if selected is not None and subset not in selected:
            continue
        if is_transcript:
            transcripts.append(path)
        else:
            audio.setdefault(str(path.parent), {})[path.stem] = file.path
    if absent := sorted(set(selected or ()) - subsets):
        raise CorpusError(f"{source.uri}: holds no subset {', '.join(absent)}; there are {', '.join(sorted(subsets))}")
    if not transcripts:
        raise CorpusError(
            f"{source.uri}: no <subset>/<speaker>/<chapter>/*{_TRANSCRIPT} in it; expected LibriSpeech's layout"
        )
    return transcripts, audio


def _chapter(source: Source, path: PurePosixPath, audio: dict[str, dict[str, str]], transcribed: set[str]) -> Rows:
    """Utterances of one transcript file; adds their recordings to `transcribed`."""
    recordings = audio.get(str(path.parent), {})
    where = source.locate(str(path))
    for row, line in enumerate(text_lines(source.read(str(path))), start=1):
        if not line.strip():
            continue
        name, _, text = line.strip().partition(" ")
        if not_utf8(line):
            yield Reject(where, row, None, "bad_row", f"{line!r} is not UTF-8")
            continue
        recording = recordings.get(name)
        if recording is None:
            yield Reject(where, row, name, "missing_file", f"no recording {path.parent}/{name}.flac")
            continue
        transcribed.add(recording)
        yield Utterance(
            id=name,
            split=SPLIT_NAMES.get(_subset(source, path).partition("-")[0]),
            recording=source.recording(recording),
            text=text,
            speaker=path.parent.parent.name or None,
            file=where,
            row=row,
        )


def _subset(source: Source, path: PurePosixPath) -> str:
    """The parent of the speaker's folder, or the source's name if the source is one subset."""
    return path.parts[-4] if len(path.parts) >= 4 else source.name


def _is_chapter(folder: str) -> bool:
    parts = PurePosixPath(folder).parts
    return len(parts) >= 2 and parts[-1].isdigit() and parts[-2].isdigit()


READER = reader(read, "subsets")
