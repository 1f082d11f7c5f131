"""IEMOCAP (Busso et al. 2008): five sessions of two actors, read and improvised, with emotions as rated by listeners.

    name: iemocap, kind: iemocap, source: /data/IEMOCAP_full_release

Transcripts are in Session<N>/dialog/transcriptions/<dialog>.txt, labels in dialog/EmoEvaluation/<dialog>.txt: the code
that most of the raters chose. An utterance without a majority (xxx) has a transcript and no emotion. Each actor is in
one session, so the sessions are the splits: 5 is test, 4 is valid, the others are train.
Options: `sessions` changes the splits, {1: test, 2: valid}; `emotions` renames or drops labels, {excited: happy,
other: null} (see emotions.py); `splits` assigns speakers to splits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from pipelines.corpora.base import Rows, reader
from pipelines.corpora.emotions import OPTION, renaming
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.schema import SPLITS
from pipelines.utterances.utterance import CorpusError, Reject, Utterance

EMOTIONS = {
    "neu": "neutral", "ang": "angry", "hap": "happy", "exc": "excited", "sad": "sad", "fru": "frustrated",
    "fea": "afraid", "sur": "surprised", "dis": "disgusted", "oth": "other",
}  # fmt: skip
UNDECIDED = "xxx"
SESSIONS = {"4": "valid", "5": "test"}
_LABEL = re.compile(r"\[[\d.]+ - [\d.]+\]\t(\S+)\t(\w+)\t\[[\d., ]+\]")
_TURN = re.compile(r"(Ses(\d\d)[FM]_\w+?_([FM])\d{3}) \[[\d.]+-[\d.]+\]: (.*)")
# Turns that are not utterances of the corpus: "Ses01F_impro01_MXX0 [..]: ..", "M: words", "F:[LAUGHTER]".
_NO_UTTERANCE = re.compile(r"(Ses\d\d[FM]_\w+?_[FM]XX\d+ \[.*|[FM]:.*)")
_SOUND = re.compile(r"\[[A-Z ]+\]")  # [LAUGHTER], [BREATHING]


def read(source: Source, corpus: Corpus) -> Rows:
    """One utterance per line of each transcription."""
    renamed = renaming(corpus, tuple(EMOTIONS.values()))
    sessions = _sessions(corpus)
    paths = [path for file in source.files() if not (path := PurePosixPath(file.path)).name.startswith("._")]
    recordings = {path.stem: str(path) for path in paths if path.suffix.lower() == ".wav" and "sentences" in path.parts}
    evaluations = {path.name: path for path in paths if path.suffix == ".txt" and path.parent.name == "EmoEvaluation"}
    transcriptions = sorted(path for path in paths if path.suffix == ".txt" and path.parent.name == "transcriptions")
    if not transcriptions:
        raise CorpusError(
            f"{source.uri}: no Session<N>/dialog/transcriptions/<dialog>.txt in it; expected IEMOCAP's layout"
        )
    for path in transcriptions:
        if path.name in evaluations:
            labels = _labels(source, evaluations[path.name])
        else:
            labels = {}
            detail = f"no dialog/EmoEvaluation/{path.name}, so its utterances have no emotion"
            yield Reject(source.locate(str(path)), None, path.stem, "missing_file", detail)
        yield from _dialog(source, path, labels, recordings, sessions, renamed)


def _sessions(corpus: Corpus) -> Mapping[str, str]:
    """Session -> split."""
    sessions = corpus.options.get("sessions", SESSIONS)
    if not isinstance(sessions, dict) or not all(
        str(session) in "12345" and split in SPLITS for session, split in sessions.items()
    ):
        raise CorpusError(
            f"corpora.{corpus.name}.options.sessions is {sessions!r}; expected sessions 1 to 5 and their splits, "
            "such as {4: valid, 5: test}; those not named train"
        )
    return {str(session): split for session, split in sessions.items()}


def _labels(source: Source, path: PurePosixPath) -> dict[str, str]:
    """Utterance -> code. Other lines are headings or ratings of single listeners."""
    matches = (_LABEL.fullmatch(line) for line in _lines(source, path))
    return {match[1]: match[2] for match in matches if match}


def _dialog(
    source: Source,
    path: PurePosixPath,
    labels: Mapping[str, str],
    recordings: Mapping[str, str],
    sessions: Mapping[str, str],
    renamed: Callable[[str | None], str | None],
) -> Rows:
    where = source.locate(str(path))
    for row, line in enumerate(_lines(source, path), start=1):
        if not line or _NO_UTTERANCE.fullmatch(line):
            continue
        match = _TURN.fullmatch(line)
        if match is None:
            detail = f"{line[:80]!r}, expected Ses01F_impro01_F000 [001.0000-002.5000]: words"
            yield Reject(where, row, None, "bad_row", detail)
            continue
        name, session, actor, words = match.groups()
        code = labels.get(name, UNDECIDED)
        if name not in recordings:
            yield Reject(where, row, name, "missing_file", f"no recording sentences/wav/{path.stem}/{name}.wav")
        elif code != UNDECIDED and code not in EMOTIONS:
            detail = f"emotion {code!r}, expected {', '.join((*EMOTIONS, UNDECIDED))}"
            yield Reject(where, row, name, "bad_row", detail)
        else:
            yield Utterance(
                id=name,
                split=sessions.get(str(int(session)), "train"),
                recording=source.recording(recordings[name]),
                text=_SOUND.sub(" ", words).strip() or None,
                speaker=f"Ses{session}{actor}",
                language="en",
                labels={"emotion": renamed(EMOTIONS.get(code))},
                file=where,
                row=row,
            )


def _lines(source: Source, path: PurePosixPath) -> list[str]:
    # A few files contain bytes of an 8-bit code page; Latin-1 decodes any byte.
    text = source.read(str(path)).decode("latin-1")
    return [line.removesuffix("\r") for line in text.split("\n")]


READER = reader(read, OPTION, "sessions")
