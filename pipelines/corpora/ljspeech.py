"""LJSpeech (Ito and Johnson 2017) and corpora of its layout: metadata.csv and wavs/, one speaker.

    name: lj, kind: ljspeech, source: /data/LJSpeech-1.1         (or LJSpeech-1.1.tar.bz2, or its URL)

A line of metadata.csv is `id|printed text|normalised text`, without quotes or header. The normalised text ("nineteen
hundred" for "1900") is used. The release has no splits, so rows are split by sentence.
Options: `text: printed` selects the printed text; `speaker` names the speaker (default: LJ).
"""

from __future__ import annotations

from pathlib import PurePosixPath

from pipelines.corpora.base import Rows, audio_paths, choice, reader
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, not_utf8, text_lines

_METADATA = "metadata.csv"


def read(source: Source, corpus: Corpus) -> Rows:
    """One utterance per line; a Reject for each recording without a line."""
    printed = choice(corpus, "text", ("read", "printed"), "read") == "printed"
    metadata = next((file.path for file in source.files() if PurePosixPath(file.path).name == _METADATA), None)
    if metadata is None:
        raise CorpusError(f"{source.uri}: no {_METADATA} in it; expected LJSpeech's layout, with wavs/ beside it")
    recordings = {path.stem: str(path) for path in audio_paths(source)}
    where = source.locate(metadata)
    listed: set[str] = set()
    for row, line in enumerate(text_lines(source.read(metadata)), start=1):
        if not line.strip():
            continue
        cells = line.split("|")
        name = cells[0]
        if not_utf8(line) or len(cells) != 3:
            yield Reject(where, row, name, "bad_row", f"{line[:80]!r}, expected id|as printed|as read in UTF-8")
            continue
        listed.add(name)
        if name not in recordings:
            yield Reject(where, row, name, "missing_file", f"no recording wavs/{name}.wav")
            continue
        yield Utterance(
            id=name,
            recording=source.recording(recordings[name]),
            text=cells[1] if printed else cells[2] or cells[1],
            speaker=str(corpus.options.get("speaker", "LJ")),
            language=corpus.language or "en",
            file=where,
            row=row,
        )
    for name, path in sorted(recordings.items()):
        if name not in listed:
            yield Reject(source.locate(path), None, name, "missing_transcript", f"no line {name!r} in {_METADATA}")


READER = reader(read, "text", "speaker")
