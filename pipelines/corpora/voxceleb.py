"""VoxCeleb (Nagrani et al. 2017) and corpora of its layout: idXXXXX/<video>/NNNNN.wav, and a trial list.

    name: vox, kind: voxceleb, source: /data/voxceleb1         (its wav/ and, beside it, veri_test2.txt)

There are no transcripts: these rows train and evaluate the speaker task only. Lines of the trial list, "1
ID/…/00001.wav ID/…/00008.wav", become the `trials` of the first recording's row. The speakers in the list are the test
split, as in VoxCeleb's protocol; of the others 5 % (by hash) are valid, the rest train. Without a list, speakers are
split by hash. Options: `trials` names the list (default: veri_test2.txt or veri_test.txt, if present); `splits` assigns
speakers to splits. The .m4a files of VoxCeleb 2 must be converted to .wav or .flac first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.corpora.base import Rows, audio_paths, reader
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.splits import position
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, text_lines

DEFAULT_LISTS = ("veri_test2.txt", "veri_test.txt")  # the cleaned list first
VALID_SHARE = 0.05


def read(source: Source, corpus: Corpus) -> Rows:
    """One utterance per recording."""
    recordings = {_id(path): str(path) for path in audio_paths(source) if len(path.parts) >= 3}
    if not recordings:
        raise CorpusError(
            f"{source.uri}: no <speaker>/<video>/<number>.wav in it; expected VoxCeleb's layout (.m4a is not read: "
            "convert it to .wav)"
        )
    trial_list = _trial_list(source, corpus)
    trials: dict[str, list[str]] = defaultdict(list)
    if trial_list is not None:
        yield from _trials(source, trial_list, recordings, trials)
    pairs = ((name, trial.partition(" ")[2]) for name, lines in trials.items() for trial in lines)
    test_speakers = {name.split("/")[0] for pair in pairs for name in pair}
    for name, recording in sorted(recordings.items()):
        speaker = name.split("/")[0]
        yield Utterance(
            id=name,
            split=_split(speaker, test_speakers) if test_speakers else None,
            recording=source.recording(recording),
            speaker=speaker,
            trials=trials.get(name),
            file=source.locate(recording),
        )


def _id(path: PurePosixPath) -> str:
    """speaker/video/number, as in trial lists."""
    return "/".join((*path.parts[-3:-1], path.stem))


def _trial_list(source: Source, corpus: Corpus) -> str | None:
    """Path of the trial list that the options name (by name or path), or of a default one."""
    paths = {PurePosixPath(file.path).name: file.path for file in source.files()}
    name = corpus.options.get("trials")
    if name is None:
        return next((paths[name] for name in DEFAULT_LISTS if name in paths), None)
    path = name if name in {file.path for file in source.files()} else paths.get(name)
    if path is None:
        raise CorpusError(f"corpora.{corpus.name}.options.trials: {source.uri} holds no file {name!r}")
    return path


def _trials(source: Source, path: str, recordings: dict[str, str], trials: dict[str, list[str]]) -> Iterator[Reject]:
    """Fills `trials`: recording -> ["label other recording"]. Yields a Reject for an invalid line."""
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


def _split(speaker: str, test_speakers: set[str]) -> str:
    if speaker in test_speakers:
        return "test"
    return "valid" if position("speaker", speaker) < VALID_SHARE else "train"


READER = reader(read, "trials")
