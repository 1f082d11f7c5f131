"""A recording said again with another emotion, or by another speaker: its phones are heard, and spoken anew.

    converter = Converter(Predictor.load("folder"))
    converted, = converter.convert([waveform], emotion="excited")     # converted.samples (N,) at features.sample_rate

Recognition and synthesis one after the other, as in the sequence-to-sequence baseline of the Voice Conversion Challenge
2020 (Huang et al. 2020), here by two tasks of one model. What is kept are the phones, the speaker and the tempo; how
long, how high and how loud each phone is said comes from the emotion that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtl.audio import hop_length
from mtl.predictor import Prediction, Predictor, PredictorError
from mtl.speech import NOBODY
from mtl.synthesiser import RATES, Synthesiser


class ConversionError(ValueError):
    """A recording in which nothing is heard that could be said again."""


@dataclass(frozen=True)
class Converted:
    """samples (N,); what was heard: phones, speaker and emotion; and the tempo, as a rate of `say`."""

    samples: np.ndarray
    phones: tuple[str, ...]
    speaker: str | None
    emotion: str | None
    rate: float


class Converter:
    """A Predictor's tasks `phones`, `prosody` and `mel`, and a vocoder.

    Raises:
        PredictorError: the model does not speak, or does not hear phones.
    """

    def __init__(self, predictor: Predictor) -> None:
        if "phones" not in predictor.model.config.tasks:
            raise PredictorError("the model cannot convert: it has no task phones, which hears what is said")
        self.predictor, self.voice = predictor, Synthesiser(predictor)

    def convert(
        self, waveforms: Sequence[np.ndarray], emotion: str | None = None, speaker: str | None = None
    ) -> list[Converted]:
        """Each (N,) float32 at features.sample_rate, said again.

        emotion, speaker: None for the one that is heard; a stranger is given the voice that is nearest to theirs.

        Raises:
            PredictorError: an emotion or speaker that training never heard.
            ConversionError: no phone is heard.
        """
        code, voice = self.voice.code, self.voice
        for kind, name, known in (("emotion", emotion, code.emotions), ("speaker", speaker, code.speakers)):
            if name is not None:
                voice.number(kind, name, known)
        heard = self.predictor.predict(list(waveforms))
        for number, one in enumerate(heard):
            if not one.phones:
                raise ConversionError(f"nothing is heard in recording {number + 1} that could be said again")
        phones = [code.number(one.phones or ()) for one in heard]
        speakers = [_label(one, "speaker") for one in heard]
        emotions = [_label(one, "emotion") for one in heard]
        # How the model would have said it as it was said tells whether it was said faster or slower than usual.
        own = [[code.speaker(name) for name in speakers], [code.emotion(name) for name in emotions]]
        usual = [int(uttered.durations.sum()) for uttered in voice.uttered(phones, *own)]
        hop = hop_length(voice.features)
        rates = [
            float(np.clip(frames * hop / max(len(wave), 1), *RATES))
            for frames, wave in zip(usual, waveforms, strict=True)
        ]
        who = [code.speaker(speaker if speaker is not None else name) for name in speakers]
        how = [code.emotion(emotion if emotion is not None else name) for name in emotions]
        said = voice.uttered(phones, [one or self._somebody for one in who], how, rates)
        return [
            Converted(voice.sound(uttered.mel), one.phones or (), *labels, rate)
            for uttered, one, labels, rate in zip(said, heard, zip(speakers, emotions, strict=True), rates, strict=True)
        ]

    @property
    def _somebody(self) -> int:
        """Who speaks where the model tells no speakers apart."""
        return 1 if self.voice.code.speakers else NOBODY


def _label(prediction: Prediction, task: str) -> str | None:
    return prediction.labels[task].value if task in prediction.labels else None
