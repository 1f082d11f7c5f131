"""VoxCeleb (Nagrani et al. 2017) and corpora of its layout: idXXXXX/<video>/NNNNN.wav, and lists of trials.

    name: vox, kind: voxceleb, source: /data/voxceleb1         (its wav/ and, beside it, veri_test2.txt)

No transcripts: these rows train and judge the speaker alone. Lines of a list of trials, "1 ID/…/00001.wav
ID/…/00008.wav", become the `trials` of the first recording's row; their speakers are the test split, as VoxCeleb means
it, and the others train, but for one in twenty, by hash, which is valid. Without a list speakers are split by hash.
Options: `trials` names the list (veri_test2.txt if left out, or veri_test.txt, or none); `splits` moves speakers.
Recordings under aac/ (VoxCeleb 2's .m4a) have to be converted to .wav or .flac first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.corpora.base import AUDIO_SUFFIXES, Reader, check_options, need_source, source_fingerprint
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.splits import position
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, text_lines

USUAL_LISTS = ("veri_test2.txt", "veri_test.txt")  # the cleaned list first
VALID_SHARE = 0.05


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """One utterance a recording.

    Raises:
        CorpusError: no recording of this layout, an unknown option, or no such list of trials.
    """
    source = need_source(source, corpus)
    check_options(corpus, ("trials",))
    recordings = {
        _id(path): file.path
        for file in source.files()
        if (path := PurePosixPath(file.path)).suffix.lower() in AUDIO_SUFFIXES and len(path.parts) >= 3
    }
    if not recordings:
        raise CorpusError(
            f"{source.uri}: no <speaker>/<video>/<number>.wav in it; expected VoxCeleb's layout (.m4a is not read: "
            "convert it to .wav)"
        )
    listed = _list(source, corpus)
    trials: dict[str, list[str]] = defaultdict(list)
    if listed is not None:
        yield from _trials(source, listed, recordings, trials)
    judged = {name.split("/")[0] for name, others in trials.items() for name in (name, *_others(others))}
    for name, recording in sorted(recordings.items()):
        speaker = name.split("/")[0]
        yield Utterance(
            id=name,
            split=_split(speaker, judged) if judged else None,
            recording=source.recording(recording),
            text=None,
            speaker=speaker,
            trials=trials.get(name),
            file=source.locate(recording),
        )


def _id(path: PurePosixPath) -> str:
    """speaker/video/number, as the lists have it."""
    return "/".join((*path.parts[-3:-1], path.stem))


def _list(source: Source, corpus: Corpus) -> str | None:
    names = {PurePosixPath(file.path).name: file.path for file in source.files()}
    given = corpus.options.get("trials")
    if given is None:
        return next((names[name] for name in USUAL_LISTS if name in names), None)
    found = given if given in {file.path for file in source.files()} else names.get(given)
    if found is None:
        raise CorpusError(f"corpora.{corpus.name}.options.trials: {source.uri} holds no file {given!r}")
    return found


def _trials(source: Source, path: str, recordings: dict[str, str], trials: dict[str, list[str]]) -> Iterator[Reject]:
    """Fills `trials`: recording -> "label other". A line that names no recording here is turned away."""
    where = source.locate(path)
    for row, line in enumerate(text_lines(source.read(path)), start=1):
        if not line.strip():
            continue
        label, *names = line.split()
        ids = [_id(PurePosixPath(name)) for name in names]
        if label not in ("0", "1") or len(ids) != 2:
            yield Reject(where, row, None, "bad_row", f"{line!r}, expected: 0 or 1, and two recordings")
        elif absent := [name for name in ids if name not in recordings]:
            yield Reject(where, row, ids[0], "missing_file", f"no recording {absent[0]}.wav")
        else:
            trials[ids[0]].append(f"{label} {ids[1]}")


def _others(trials: list[str]) -> list[str]:
    return [trial.partition(" ")[2] for trial in trials]


def _split(speaker: str, judged: set[str]) -> str:
    if speaker in judged:
        return "test"
    return "valid" if position("speaker", speaker) < VALID_SHARE else "train"


READER = Reader(read, source_fingerprint)
