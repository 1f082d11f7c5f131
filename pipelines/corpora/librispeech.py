"""LibriSpeech (Panayotov et al. 2015) and corpora of its layout: <subset>/<speaker>/<chapter>/<id>.flac, *.trans.txt.

    name: libri, kind: librispeech, source: /data/LibriSpeech      (or train-clean-100.tar.gz, or its URL)

The subset's name gives the split: train-*, dev-*, test-*. Transcripts are upper case and become lower case.
Options: `subsets` keeps only the named ones; `splits` moves speakers, for a piece of one subset.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.corpora.base import AUDIO_SUFFIXES, SPLIT_NAMES, Reader, check_options, need_source, source_fingerprint
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, not_utf8, text_lines

_TRANSCRIPT = ".trans.txt"


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """One utterance a line of each transcript file.

    Raises:
        CorpusError: no transcript file of this layout, an unknown option or subset.
    """
    source = need_source(source, corpus)
    check_options(corpus, ("subsets",))
    chapters, audio = _layout(source, corpus)
    transcribed: set[str] = set()
    for transcript in chapters:
        yield from _chapter(source, transcript, audio, transcribed)
    # What is left has sound and no line of text.
    folders = {str(PurePosixPath(path).parent) for path in chapters}
    for folder, recordings in sorted(audio.items()):
        for stem, path in sorted(recordings.items()):
            if path not in transcribed and (folder in folders or _is_chapter(folder)):
                detail = f"no line {stem!r} in {folder}/*{_TRANSCRIPT}"
                yield Reject(source.locate(path), None, stem, "missing_transcript", detail)


def _layout(source: Source, corpus: Corpus) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Transcript files, and folder -> stem -> recording, of the subsets that are wanted."""
    wanted = corpus.options.get("subsets")
    chapters: list[str] = []
    audio: dict[str, dict[str, str]] = {}
    subsets: set[str] = set()
    for file in source.files():
        path = PurePosixPath(file.path)
        is_transcript = path.name.endswith(_TRANSCRIPT)
        if not is_transcript and path.suffix.lower() not in AUDIO_SUFFIXES:
            continue
        subsets.add(_subset(source, path))
        if wanted is not None and _subset(source, path) not in wanted:
            continue
        if is_transcript:
            chapters.append(file.path)
        else:
            audio.setdefault(str(path.parent), {})[path.stem] = file.path
    absent = sorted(set(wanted or ()) - subsets)
    if absent:
        raise CorpusError(f"{source.uri}: holds no subset {', '.join(absent)}; there are {', '.join(sorted(subsets))}")
    if not chapters:
        raise CorpusError(
            f"{source.uri}: no <subset>/<speaker>/<chapter>/*{_TRANSCRIPT} in it; expected LibriSpeech's layout"
        )
    return chapters, audio


def _chapter(
    source: Source, transcript: str, audio: dict[str, dict[str, str]], transcribed: set[str]
) -> Iterator[Utterance | Reject]:
    """Utterances of one transcript file; `transcribed` gathers the recordings that have a line."""
    path = PurePosixPath(transcript)
    recordings = audio.get(str(path.parent), {})
    subset = _subset(source, path)
    where = source.locate(transcript)
    for row, line in enumerate(text_lines(source.read(transcript)), start=1):
        if not line.strip():
            continue
        utterance, _, text = line.strip().partition(" ")
        if not_utf8(line):
            yield Reject(where, row, None, "bad_row", f"{line!r} is not UTF-8")
            continue
        recording = recordings.get(utterance)
        if recording is None:
            yield Reject(where, row, utterance, "missing_file", f"no recording {path.parent}/{utterance}.flac")
            continue
        transcribed.add(recording)
        yield Utterance(
            id=utterance,
            split=SPLIT_NAMES.get(subset.partition("-")[0]),
            recording=source.recording(recording),
            text=text,
            speaker=path.parent.parent.name or None,
            file=where,
            row=row,
        )


def _subset(source: Source, path: PurePosixPath) -> str:
    """The folder above the speaker's; the source's own name when the source is one subset."""
    if len(path.parts) >= 4:
        return path.parts[-4]
    return source.name


def _is_chapter(folder: str) -> bool:
    parts = PurePosixPath(folder).parts
    return len(parts) >= 2 and parts[-1].isdigit() and parts[-2].isdigit()


READER = Reader(read, source_fingerprint)
