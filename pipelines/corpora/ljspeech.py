"""LJSpeech (Ito and Johnson 2017) and corpora of its layout: metadata.csv beside wavs/, one speaker.

    name: lj, kind: ljspeech, source: /data/LJSpeech-1.1         (or LJSpeech-1.1.tar.bz2, or its URL)

A line of metadata.csv is `id|as printed|as read`, without quotes or header; what was read ("nineteen hundred" for
"1900") is the text. Released without splits, so by sentence.
Options: `text: printed` takes the text as printed; `speaker` names the speaker (LJ if left out).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.corpora.base import AUDIO_SUFFIXES, Reader, check_options, need_source, source_fingerprint
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, not_utf8, text_lines

_METADATA = "metadata.csv"
_TEXTS = ("read", "printed")


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """One utterance a line.

    Raises:
        CorpusError: no metadata.csv, or options that do not fit.
    """
    source = need_source(source, corpus)
    check_options(corpus, ("text", "speaker"))
    wanted = corpus.options.get("text", "read")
    if wanted not in _TEXTS:
        raise CorpusError(f"corpora.{corpus.name}.options.text is {wanted!r}; expected {' or '.join(_TEXTS)}")
    paths = [PurePosixPath(file.path) for file in source.files()]
    metadata = next((path for path in paths if path.name == _METADATA), None)
    if metadata is None:
        raise CorpusError(f"{source.uri}: no {_METADATA} in it; expected LJSpeech's layout, with wavs/ beside it")
    recordings = {path.stem: str(path) for path in paths if path.suffix.lower() in AUDIO_SUFFIXES}
    where = source.locate(str(metadata))
    listed: set[str] = set()
    for row, line in enumerate(text_lines(source.read(str(metadata))), start=1):
        if not line.strip():
            continue
        cells = line.split("|")
        if not_utf8(line) or len(cells) != 3:
            yield Reject(where, row, cells[0], "bad_row", f"{line[:80]!r}, expected id|as printed|as read in UTF-8")
            continue
        listed.add(cells[0])
        recording = recordings.get(cells[0])
        if recording is None:
            yield Reject(where, row, cells[0], "missing_file", f"no recording wavs/{cells[0]}.wav")
            continue
        yield Utterance(
            id=cells[0],
            split=None,
            recording=source.recording(recording),
            text=cells[1] if wanted == "printed" else cells[2] or cells[1],
            speaker=str(corpus.options.get("speaker", "LJ")),
            language=corpus.language or "en",
            file=where,
            row=row,
        )
    for name, path in sorted(recordings.items()):
        if name not in listed:
            yield Reject(source.locate(path), None, name, "missing_transcript", f"no line {name!r} in {_METADATA}")


READER = Reader(read, source_fingerprint)
