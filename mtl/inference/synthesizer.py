"""A model that speaks, in use: texts to waveforms, by a speaker and with an emotion that it knows.

voice = Synthesizer(Predictor.load("folder"))
samples, = voice.say(["Dinner is ready."], speaker="LJ", emotion="happy", rate=1.1)     # (N,) float32
for samples in voice.stream("A long text. Sentence by sentence."): ...
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from mtl.inference.predictor import Predictor, PredictorError
from mtl.inference.speech_synthesis import SynthesizedSpeech, speak
from mtl.inference.vocoding import VocoderWrapper
from mtl.inputs.batch import chunks
from mtl.inputs.tts import NOBODY
from mtl.spec import with_answer
from mtl.tts.phonemes import Phonemiser, UnspeakableText

RATES = (0.25, 4.0)  # of speech, against that of training
BATCH_PHONES = 2000  # of one forward pass, padding counted
USUAL_EMOTION = "neutral"
# Behind a full stop, a question mark or an exclamation mark, unless it ends an abbreviation of one letter.
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b\w\.)\s+|\n+")


class Synthesizer:
    """A Predictor's tasks `prosody` and `mel`, and a vocoder: another model's, where one is given; see
    mtl.inference.vocoding.

    Raises:
        PredictorError: the model does not speak, or the vocoder is none for it.
    """

    def __init__(self, predictor: Predictor, vocoder: Predictor | None = None) -> None:
        code = predictor.codec.speech
        if code is None or not predictor.model.config.speaks:
            raise PredictorError(f"the model does not speak: it has no tasks {' and '.join(with_answer('speech'))}")
        self.model, self.code, self.features = predictor.model, code, predictor.features
        self.phonemiser = Phonemiser(code.phonemes)
        self.sounding = VocoderWrapper.of(predictor, vocoder)

    def say(
        self, texts: Sequence[str], speaker: str | None = None, emotion: str | None = None, rate: float = 1.0
    ) -> list[np.ndarray]:
        """(N,) float32 within [-1, 1] at features.sample_rate, one a text.

        speaker, emotion: None for the first speaker, and a neutral voice if training had one. rate: 2 is twice as fast.

        Raises:
            PredictorError: a speaker or emotion that training never heard, or a rate out of RATES.
            UnspeakableText: a text of which nothing can be said.
        """
        said = self.said([self.phones(text) for text in texts], speaker, emotion, rate)
        return [self.sound(one.mel, one.hertz) for one in said]

    def stream(
        self, text: str, speaker: str | None = None, emotion: str | None = None, rate: float = 1.0
    ) -> Iterator[np.ndarray]:
        """The text sentence by sentence, so that the first is heard while the others are made. Raises as `say`."""
        for sentence in sentences(text):
            yield from self.say([sentence], speaker, emotion, rate)

    def phones(self, text: str) -> list[str]:
        """Raises UnspeakableText."""
        return self.phonemiser(text)

    def said(
        self,
        phones: Sequence[Sequence[str]],
        speaker: str | None = None,
        emotion: str | None = None,
        rate: float = 1.0,
    ) -> list[SynthesizedSpeech]:
        """Phones as log-mels and pitch. Raises PredictorError, as `say`."""
        if not RATES[0] <= rate <= RATES[1]:
            raise PredictorError(f"rate is {rate:g}, expected {RATES[0]:g} to {RATES[1]:g}")
        who = self.number("speaker", speaker, self.code.speakers)
        how = self.number("emotion", emotion, self.code.emotions, USUAL_EMOTION)
        count = len(phones)
        return self.uttered([self.code.number(one) for one in phones], [who] * count, [how] * count, [rate] * count)

    def uttered(
        self,
        phones: Sequence[np.ndarray],
        speakers: Sequence[int],
        emotions: Sequence[int],
        rates: Sequence[float] | None = None,
    ) -> list[SynthesizedSpeech]:
        """As mtl.inference.speech_synthesis.speak, of any number of utterances, some at a time."""
        rates = rates or [1.0] * len(phones)
        found: dict[int, SynthesizedSpeech] = {}
        for chunk in chunks({i: len(one) for i, one in enumerate(phones)}, BATCH_PHONES):
            who, how = [speakers[i] for i in chunk], [emotions[i] for i in chunk]
            said = speak(self.model, [phones[i] for i in chunk], who, how, [rates[i] for i in chunk])
            found.update(zip(chunk, said, strict=True))
        return [found[i] for i in range(len(phones))]

    @staticmethod
    def number(kind: str, name: str | None, known: Sequence[str], usual: str | None = None) -> int:
        """A name's place among those known, from 1; NOBODY where there are none and none is asked for.

        Raises PredictorError where it is not known.
        """
        if name is None:
            return NOBODY if not known else known.index(usual) + 1 if usual in known else 1
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known) or 'none by name'}"
            raise PredictorError(f"the model was trained on no {kind} {name!r}; {hint}")
        return known.index(name) + 1

    def sound(self, mel: Tensor, hertz: Tensor | None = None) -> np.ndarray:
        """(T, F) log-mel -> (N,) float32 within [-1, 1]; hertz (T,): its pitch, where that is known."""
        return self.sounding(mel, hertz)


def sentences(text: str) -> list[str]:
    """Of a text, at its stops and line ends; those without a letter or digit belong to no sentence."""
    return [part for part in map(str.strip, _SENTENCE.split(text)) if any(map(str.isalnum, part))]


__all__ = ["Synthesizer", "UnspeakableText", "sentences"]
