"""EmoDB, the Berlin database of emotional speech (Burkhardt et al. 2005): ten German sentences, read by ten actors.

    name: emodb, kind: emodb, source: /data/emodb            (the folder wav/ of the release, or a parent of it)

All labels are in the file name: 03a01Fa.wav is speaker 03, sentence a01, emotion F, version a. The release has no
splits, so rows are split by speaker; every sentence is read by all speakers, which would inflate a random split.
Options: `emotions` renames or drops labels (see emotions.py); `splits` assigns speakers to splits.
"""

from __future__ import annotations

import re

from pipelines.corpora.base import Rows, audio_paths, reader
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


def read(source: Source, corpus: Corpus) -> Rows:
    """One utterance per recording."""
    renamed = renaming(corpus, tuple(EMOTIONS.values()))
    paths = sorted(audio_paths(source), key=lambda path: path.stem)
    if not any(_NAME.fullmatch(path.stem) for path in paths):
        raise CorpusError(f"{source.uri}: no recording has a name like 03a01Fa.wav; expected EmoDB's layout")
    for path in paths:
        where = source.locate(str(path))
        match = _NAME.fullmatch(path.stem)
        if match is None:
            detail = "the name is not speaker, sentence, emotion, version, as in 03a01Fa"
            yield Reject(where, None, path.stem, "bad_row", detail)
        elif match["emotion"] not in EMOTIONS or match["sentence"] not in SENTENCES:
            detail = f"emotion {match['emotion']}, sentence {match['sentence']}; expected {', '.join(EMOTIONS)} and "
            yield Reject(where, None, path.stem, "bad_row", detail + ", ".join(SENTENCES))
        else:
            yield Utterance(
                id=path.stem,
                recording=source.recording(str(path)),
                text=SENTENCES[match["sentence"]],
                speaker=match["speaker"],
                language="de",
                labels={"emotion": renamed(EMOTIONS[match["emotion"]])},
                file=where,
            )


READER = reader(read, OPTION)
