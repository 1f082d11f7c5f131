"""EmoDB, the Berlin database of emotional speech (Burkhardt et al. 2005): ten actors say ten sentences in German.

    name: emodb, kind: emodb, source: /data/emodb            (the folder wav/ of the release, or what holds it)

All is in a recording's name, 03a01Fa.wav: speaker 03, sentence a01, emotion F, version a. Released without splits, so
by speaker: a score over speakers that training heard is worth nothing here, since every sentence is said by everybody.
Options: `emotions` renames or drops some (see emotions.py); `splits` moves speakers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.corpora.base import AUDIO_SUFFIXES, Reader, check_options, need_source, source_fingerprint
from pipelines.corpora.emotions import OPTION, renaming
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance

# German initials: Wut, Langeweile, Ekel, Angst, Freude, Trauer, neutral.
EMOTIONS = {
    "W": "angry", "L": "bored", "E": "disgusted", "A": "afraid", "F": "happy", "T": "sad", "N": "neutral",
}  # fmt: skip
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
_NAME = re.compile(r"(?P<speaker>\d\d)(?P<sentence>[ab]\d\d)(?P<emotion>[A-Z])(?P<version>[a-z]?)")


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """One utterance a recording.

    Raises:
        CorpusError: no recording that is named as EmoDB's are, or options that do not fit.
    """
    source = need_source(source, corpus)
    check_options(corpus, (OPTION,))
    renamed = renaming(corpus, tuple(EMOTIONS.values()))
    paths = sorted(
        (path for file in source.files() if (path := PurePosixPath(file.path)).suffix.lower() in AUDIO_SUFFIXES),
        key=lambda path: path.stem,
    )
    if not any(_NAME.fullmatch(path.stem) for path in paths):
        raise CorpusError(f"{source.uri}: no recording named as 03a01Fa.wav is; expected EmoDB's layout")
    for path in paths:
        where = source.locate(str(path))
        named = _NAME.fullmatch(path.stem)
        if named is None:
            detail = "the name is not speaker, sentence, emotion, version, as 03a01Fa is"
            yield Reject(where, None, path.stem, "bad_row", detail)
        elif named["emotion"] not in EMOTIONS or named["sentence"] not in SENTENCES:
            detail = f"emotion {named['emotion']}, sentence {named['sentence']}; expected {', '.join(EMOTIONS)} and "
            yield Reject(where, None, path.stem, "bad_row", detail + ", ".join(SENTENCES))
        else:
            yield Utterance(
                id=path.stem,
                split=None,
                recording=source.recording(str(path)),
                text=SENTENCES[named["sentence"]],
                speaker=named["speaker"],
                language="de",
                labels={"emotion": renamed(EMOTIONS[named["emotion"]])},
                file=where,
            )


READER = Reader(read, source_fingerprint)
