"""Text to speech: waveforms from texts, for a speaker and an emotion of the training data.

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
from mtl.inference.speech_synthesis import SynthesizedSpeech, synthesize
from mtl.inference.vocoding import VocoderWrapper
from mtl.inputs.batch import chunks
from mtl.inputs.tts import NOBODY
from mtl.spec import with_answer
from mtl.tts.phonemes import Phonemiser, UnspeakableText

__all__ = ["Synthesizer", "UnspeakableText", "sentences"]

RATES = (0.25, 4.0)  # speaking rate, relative to the training data
BATCH_PHONES = 2000  # of one forward pass, padding counted
USUAL_EMOTION = "neutral"
# Behind a full stop, a question mark or an exclamation mark, unless it ends an abbreviation of one letter.
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b\w\.)\s+|\n+")


class Synthesizer:
    """Synthesis with a predictor's tasks `prosody` and `mel`, and a vocoder (mtl.inference.vocoding).

    vocoder: a predictor with a vocoder, in place of the predictor's own.

    Raises:
        PredictorError: the model does not synthesise speech, or the vocoder does not fit it.
    """

    def __init__(self, predictor: Predictor, vocoder: Predictor | None = None) -> None:
        code = predictor.codec.speech
        if code is None or not predictor.model.config.speaks:
            raise PredictorError(f"the model does not speak: it has no tasks {' and '.join(with_answer('speech'))}")
        self.model, self.code, self.features = predictor.model, code, predictor.features
        self.phonemiser = Phonemiser(code.phonemes)
        self.vocoder = VocoderWrapper.of(predictor, vocoder)

    def say(
        self, texts: Sequence[str], speaker: str | None = None, emotion: str | None = None, rate: float = 1.0
    ) -> list[np.ndarray]:
        """Waveforms (N,) float32 within [-1, 1] at features.sample_rate, one per text.

        speaker: the first one by default. emotion: neutral by default, if training had it. rate: 2 is twice as fast.

        Raises:
            PredictorError: an unknown speaker or emotion, or a rate outside RATES.
            UnspeakableText: a text without anything to pronounce.
        """
        speech = self.synthesize([self.phones(text) for text in texts], speaker, emotion, rate)
        return [self.sound(one.mel, one.hertz) for one in speech]

    def stream(
        self, text: str, speaker: str | None = None, emotion: str | None = None, rate: float = 1.0
    ) -> Iterator[np.ndarray]:
        """Waveforms of a text sentence by sentence, so that playback starts early. Raises as `say`."""
        for sentence in sentences(text):
            yield from self.say([sentence], speaker, emotion, rate)

    def phones(self, text: str) -> list[str]:
        """Raises UnspeakableText."""
        return self.phonemiser(text)

    def synthesize(
        self,
        phones: Sequence[Sequence[str]],
        speaker: str | None = None,
        emotion: str | None = None,
        rate: float = 1.0,
    ) -> list[SynthesizedSpeech]:
        """Log-mels and pitch of phones. Raises PredictorError, as `say`."""
        if not RATES[0] <= rate <= RATES[1]:
            raise PredictorError(f"rate is {rate:g}, expected {RATES[0]:g} to {RATES[1]:g}")
        speakers = [self.number("speaker", speaker, self.code.speakers)] * len(phones)
        emotions = [self.number("emotion", emotion, self.code.emotions, USUAL_EMOTION)] * len(phones)
        return self.synthesize_encoded([self.code.number(one) for one in phones], speakers, emotions, rate)

    def synthesize_encoded(
        self, phones: Sequence[np.ndarray], speakers: Sequence[int], emotions: Sequence[int], rate: float = 1.0
    ) -> list[SynthesizedSpeech]:
        """As mtl.inference.speech_synthesis.synthesize, in batches of similar length."""
        speech: dict[int, SynthesizedSpeech] = {}
        for chunk in chunks({i: len(one) for i, one in enumerate(phones)}, BATCH_PHONES):
            of_speakers, with_emotions = [speakers[i] for i in chunk], [emotions[i] for i in chunk]
            rates = [rate] * len(chunk)
            batch = synthesize(self.model, [phones[i] for i in chunk], of_speakers, with_emotions, rates)
            speech.update(zip(chunk, batch, strict=True))
        return [speech[i] for i in range(len(phones))]

    @staticmethod
    def number(kind: str, name: str | None, known: Sequence[str], default: str | None = None) -> int:
        """Number of a speaker or an emotion, from 1; NOBODY without a name if there are none.

        Raises:
            PredictorError: an unknown name.
        """
        if name is None:
            return NOBODY if not known else known.index(default) + 1 if default in known else 1
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known) or 'none by name'}"
            raise PredictorError(f"the model was trained on no {kind} {name!r}; {hint}")
        return known.index(name) + 1

    def sound(self, mel: Tensor, hertz: Tensor | None = None) -> np.ndarray:
        """Waveform (N,) float32 within [-1, 1] of a log-mel (T, F); hertz (T,): its pitch, if known."""
        return self.vocoder(mel, hertz)


def sentences(text: str) -> list[str]:
    """Sentences of a text, split at full stops and line ends; parts without a letter or digit are dropped."""
    return [part for part in map(str.strip, _SENTENCE.split(text)) if any(map(str.isalnum, part))]
