"""IEMOCAP (Busso et al. 2008): five sessions of two actors, read and improvised, with the emotion that listeners heard.

    name: iemocap, kind: iemocap, source: /data/IEMOCAP_full_release

Words come from Session<N>/dialog/transcriptions/<dialog>.txt, labels from dialog/EmoEvaluation/<dialog>.txt: the code
on which most of the listeners agreed; where none had a majority (xxx), the utterance has words and no emotion.
A session's two actors are in no other session, so sessions are the splits: 5 tests, 4 is valid, the others train.
Options: `sessions` says otherwise, {1: test, 2: valid}; `emotions` renames or drops some, {excited: happy, other: null}
(see emotions.py); `splits` moves speakers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from pipelines.corpora.base import Reader, check_options, need_source, source_fingerprint
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
_SAID = re.compile(r"(Ses(\d\d)[FM]_\w+?_([FM])\d{3}) \[[\d.]+-[\d.]+\]: (.*)")
# Turns that were not cut out as utterances: "Ses01F_impro01_MXX0 [..]: ..", "M: words", "F:[LAUGHTER]".
_NO_UTTERANCE = re.compile(r"(Ses\d\d[FM]_\w+?_[FM]XX\d+ \[.*|[FM]:.*)")
_SOUND = re.compile(r"\[[A-Z ]+\]")  # [LAUGHTER], [BREATHING]: no words


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """One utterance a line of each transcription that names one.

    Raises:
        CorpusError: no transcription of this layout, or options that do not fit.
    """
    source = need_source(source, corpus)
    check_options(corpus, (OPTION, "sessions"))
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
        for item in _dialog(source, path, labels, recordings, sessions):
            if isinstance(item, Reject):
                yield item
            else:
                yield replace(item, labels={"emotion": renamed(item.labels["emotion"])})


def _sessions(corpus: Corpus) -> Mapping[str, str]:
    given = corpus.options.get("sessions", SESSIONS)
    if not isinstance(given, dict) or not all(
        str(session) in "12345" and split in SPLITS for session, split in given.items()
    ):
        raise CorpusError(
            f"corpora.{corpus.name}.options.sessions is {given!r}; expected sessions 1 to 5 and their splits, "
            "such as {4: valid, 5: test}; those not named train"
        )
    return {str(session): split for session, split in given.items()}


def _labels(source: Source, path: PurePosixPath) -> dict[str, str]:
    """Utterance to code. Other lines are a heading, empty, or what each listener said."""
    found = (_LABEL.fullmatch(line) for line in _lines(source, path))
    return {match[1]: match[2] for match in found if match}


def _dialog(
    source: Source,
    path: PurePosixPath,
    labels: Mapping[str, str],
    recordings: Mapping[str, str],
    sessions: Mapping[str, str],
) -> Iterator[Utterance | Reject]:
    where = source.locate(str(path))
    for row, line in enumerate(_lines(source, path), start=1):
        if not line or _NO_UTTERANCE.fullmatch(line):
            continue
        said = _SAID.fullmatch(line)
        if said is None:
            detail = f"{line[:80]!r}, expected Ses01F_impro01_F000 [001.0000-002.5000]: words"
            yield Reject(where, row, None, "bad_row", detail)
            continue
        name, session, who, words = said.groups()
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
                speaker=f"Ses{session}{who}",
                language="en",
                labels={"emotion": EMOTIONS.get(code)},
                file=where,
                row=row,
            )


def _lines(source: Source, path: PurePosixPath) -> list[str]:
    # A handful of files hold single bytes of an 8-bit code page; any byte is a character of latin-1.
    text = source.read(str(path)).decode("latin-1")
    return [line.removesuffix("\r") for line in text.split("\n")]


READER = Reader(read, source_fingerprint)
