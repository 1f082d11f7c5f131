"""A recording said again with another emotion, or by another speaker: its phones are heard, and spoken anew.

    converter = Converter(Predictor.load("folder"))
    converted, = converter.convert([waveform], emotion="excited")     # converted.samples (N,) at features.sample_rate

What changes is what the model foretells of the two emotions: a phone becomes longer by the ratio of its two foretold
durations, higher and louder by the difference of its two foretold pitches and energies. And the sound is the model's in
the new emotion, plus what the recording has beyond the model's in its own: of that the envelope, the first cepstra,
stretched to the new durations; of the difference of the two envelopes seven tenths are believed, which is nearest to
true recordings. So a recording converted to its own emotion is the recording, and a voice that training
never heard stays that voice. Another speaker is given without that rest.

To hear what is said and to speak it again is the way of Huang et al. (2020), with two models; here it is two tasks of
one. Where phones lie in the recording is found by aligning it with the model's own way of saying it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtl.answers import Prediction
from mtl.audio.features import log_mel
from mtl.heads.prosody import PredictedProsody
from mtl.inference.predictor import Predictor, PredictorError
from mtl.inference.speech_synthesis import as_predicted, melody, predict_prosody, render, whole
from mtl.inference.synthesizer import Synthesizer
from mtl.inputs.tts import NOBODY, TTSExample
from mtl.metrics.distortion import align, cepstra, cosines
from mtl.spec import first_with_answer
from mtl.tts.prosody_features import prosody_features

STRETCH = (0.33, 3.0)  # of a phone
BELIEVED = 0.7  # of the difference between two emotions' envelopes as the model has it; the rest counts as its error
KEPT = 20  # cepstra of what a recording has beyond the model's way of saying it: the throat, not the harmonics


class ConversionError(ValueError):
    """A recording in which nothing is heard that could be said again."""


@dataclass(frozen=True)
class Converted:
    """samples (N,); what was heard: phones, speaker and emotion."""

    samples: np.ndarray
    phones: tuple[str, ...]
    speaker: str | None
    emotion: str | None


class Converter:
    """A Predictor's tasks `phones`, `prosody` and `mel`, and a vocoder: another model's, where one is given.

    Raises:
        PredictorError: the model does not speak, or does not hear phones, or the vocoder is none for it.
    """

    def __init__(self, predictor: Predictor, vocoder: Predictor | None = None) -> None:
        if first_with_answer(predictor.model.config.tasks, "phones") is None:
            raise PredictorError("the model cannot convert: it has no task phones, which hears what is said")
        self.predictor, self.voice = predictor, Synthesizer(predictor, vocoder)
        self.model, self.code = self.voice.model, self.voice.code

    def convert(
        self,
        waveforms: Sequence[np.ndarray],
        emotion: str | None = None,
        speaker: str | None = None,
        hertz: Sequence[np.ndarray] | None = None,
    ) -> list[Converted]:
        """Each (N,) float32 at features.sample_rate, said again.

        emotion, speaker: None for the one that is heard. hertz: the pitch of each frame (T,), 0 where unvoiced; where
        it is left out, the recording is taken to have the pitch that the model foretells.

        Raises:
            PredictorError: an emotion or speaker that training never heard.
            ConversionError: no phone is heard.
        """
        for kind, name, known in (("emotion", emotion, self.code.emotions), ("speaker", speaker, self.code.speakers)):
            if name is not None:
                self.voice.number(kind, name, known)
        heard = self.predictor.predict(list(waveforms))
        for number, one in enumerate(heard):
            if not one.phones:
                raise ConversionError(f"nothing is heard in recording {number + 1} that could be said again")
        pitches = list(hertz) if hertz is not None else [None] * len(heard)
        return [
            Converted(
                self.voice.sound(*self._said(wave, one, emotion, speaker, pitch)),
                one.phones or (),
                _label(one, "speaker"),
                _label(one, "emotion"),
            )
            for wave, one, pitch in zip(waveforms, heard, pitches, strict=True)
        ]

    def _said(
        self, wave: np.ndarray, heard: Prediction, emotion: str | None, speaker: str | None, hertz: np.ndarray | None
    ) -> tuple[Tensor, Tensor]:
        """Log-mel (T, F) and pitch (T,) of the recording as it is to be said."""
        phones = self.code.number(heard.phones or ())
        own = self._manner(_label(heard, "speaker"), _label(heard, "emotion"))
        wanted = self._manner(speaker or _label(heard, "speaker"), emotion or _label(heard, "emotion"))
        mel = torch.from_numpy(log_mel(wave, self.voice.features))
        before, after = predict_prosody(self.model, [phones] * 2, [own[0], wanted[0]], [own[1], wanted[1]])
        usual = as_predicted(phones, before, *own)
        (said,) = render(self.model, [usual])
        lasts = placed(usual.durations, *align(cepstra(said.cpu().numpy()), cepstra(mel.numpy())), len(mel))
        source = TTSExample(phones, lasts, *self._phrasing(mel, lasts, hertz, before), *own)
        stretch = (after.durations / before.durations.clamp(min=0.1)).clamp(*STRETCH)
        target = TTSExample(
            phones,
            whole(torch.from_numpy(lasts) * stretch).numpy(),
            source.pitch + (after.pitch - before.pitch).numpy(),
            source.energy + (after.energy - before.energy).numpy(),
            *wanted,
        )
        ours, theirs = render(self.model, [source, target])
        tune = melody(self.model, target)
        if speaker is not None:
            return theirs.cpu(), tune
        ours, theirs, place = ours.cpu(), theirs.cpu(), warped(source.durations, target.durations)
        doubted = (1 - BELIEVED) * envelope(theirs - ours[place])
        return theirs + envelope(mel - ours)[place] - doubted, tune

    def _phrasing(
        self, mel: Tensor, lasts: np.ndarray, hertz: np.ndarray | None, foretold: PredictedProsody
    ) -> tuple[np.ndarray, np.ndarray]:
        """The recording's own pitch and energy (P,), on the code's scales."""
        said = prosody_features(mel.numpy(), np.zeros(len(mel)) if hertz is None else hertz, lasts)
        heights = foretold.pitch.numpy() if np.isnan(said.pitch).any() else self.code.pitch.down(said.pitch)
        return heights, self.code.energy.down(said.energy)

    def _manner(self, speaker: str | None, emotion: str | None) -> tuple[int, int]:
        somebody = 1 if self.code.speakers else NOBODY  # where the model tells no speakers apart
        return self.code.speaker(speaker) or somebody, self.code.emotion(emotion)


def placed(durations: np.ndarray, ours: np.ndarray, theirs: np.ndarray, frames: int) -> np.ndarray:
    """(P,) frames that each phone has in a recording of so many; they sum to all of them.

    durations (P,): in the model's way of saying it; ours, theirs (N,): its frames and the recording's that belong
    together, from the first pair to the last.
    """
    starts = np.cumsum(durations) - durations
    first = theirs[np.searchsorted(ours, starts).clip(max=len(theirs) - 1)]
    borders = np.append(np.where(starts > ours[-1], frames, first), frames)
    borders[0] = 0
    return np.diff(borders)


def warped(source: np.ndarray, target: np.ndarray) -> Tensor:
    """(T,) for each frame of the target, the frame of the source at the same place of the same phone.

    source, target (P,): frames of each phone. A phone that the source has no frame of is given its neighbour's.
    """
    starts = np.cumsum(source) - source
    phone = np.repeat(np.arange(len(target)), target)
    place = (np.arange(len(phone)) - (np.cumsum(target) - target)[phone] + 0.5) / target[phone]
    frames = np.floor(starts[phone] + place * source[phone]).clip(0, source.sum() - 1)
    return torch.from_numpy(frames.astype(np.int64))


def envelope(mel: Tensor) -> Tensor:
    """(T, F) with its first KEPT cepstra alone, loudness among them."""
    basis = torch.from_numpy(cosines(mel.shape[-1], min(KEPT, mel.shape[-1]))).to(mel)
    basis = basis / basis.norm(dim=0)  # (F, KEPT), orthonormal
    return mel @ basis @ basis.T


def _label(prediction: Prediction, task: str) -> str | None:
    return prediction.labels[task].value if task in prediction.labels else None
