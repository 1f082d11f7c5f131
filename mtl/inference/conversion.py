"""Converts a recording to another emotion or speaker: its phones are recognised, then synthesised again.

    converter = Converter(Predictor.load("folder"))
    converted, = converter.convert([waveform], emotion="excited")     # converted.samples (N,) at features.sample_rate

Durations, pitch and energy of the recording change by what the model predicts for the two emotions:
a duration by the ratio of its two predictions, pitch and energy by their differences. The log-mel
is the model's for the new emotion, plus the spectral envelope (first cepstra) of the difference
between the recording and the model's log-mel for its own emotion, stretched to the new durations.
Of the difference between the two emotions' envelopes only TRUSTED is applied, which is nearest to
true recordings. So a recording converted to its own emotion is unchanged, and a speaker that
training did not contain keeps the voice. Conversion to another speaker leaves the correction out.

Huang et al. (2020) recognise and synthesise with two models; here these are two tasks of one model. The positions of
the phones in the recording come from aligning it with the model's own synthesis.
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
from mtl.inference.speech_synthesis import pitch_contour, predict_prosody, render, tts_example, whole
from mtl.inference.synthesizer import Synthesizer
from mtl.inputs.tts import NOBODY, TTSExample
from mtl.metrics.distortion import align, cepstra, cosines
from mtl.spec import first_with_answer
from mtl.tts.prosody_features import prosody_features

STRETCH = (0.33, 3.0)  # limits of a phone's change of duration
TRUSTED = 0.7  # share of the difference between the two emotions' predicted envelopes; the rest counts as error
CEPSTRA = 20  # cepstra of the correction: the shape of the vocal tract, without harmonics


class ConversionError(ValueError):
    """A recording in which no phone is recognised."""


@dataclass(frozen=True)
class Converted:
    """samples (N,), and the recognised phones, speaker and emotion of the recording."""

    samples: np.ndarray
    phones: tuple[str, ...]
    speaker: str | None
    emotion: str | None


class Converter:
    """Conversion with a predictor's tasks `phones`, `prosody` and `mel`.

    vocoder: a predictor with a vocoder, in place of the predictor's own.

    Raises:
        PredictorError: the model lacks a task, or the vocoder does not fit it.
    """

    def __init__(self, predictor: Predictor, vocoder: Predictor | None = None) -> None:
        if first_with_answer(predictor.model.config.tasks, "phones") is None:
            raise PredictorError("the model cannot convert: it has no task phones, which recognises them")
        self.predictor, self.voice = predictor, Synthesizer(predictor, vocoder)
        self.model, self.code = self.voice.model, self.voice.code

    def convert(
        self,
        waveforms: Sequence[np.ndarray],
        emotion: str | None = None,
        speaker: str | None = None,
        hertz: Sequence[np.ndarray] | None = None,
    ) -> list[Converted]:
        """Converts recordings (N,) float32 at features.sample_rate.

        emotion, speaker: by default the recognised ones. hertz: pitch of each frame (T,), 0 where unvoiced; by default
        the model's prediction.

        Raises:
            PredictorError: an unknown emotion or speaker.
            ConversionError: a recording without a recognised phone.
        """
        for kind, name, known in (("emotion", emotion, self.code.emotions), ("speaker", speaker, self.code.speakers)):
            if name is not None:
                self.voice.number(kind, name, known)
        predictions = self.predictor.predict(list(waveforms))
        pitches = list(hertz) if hertz is not None else [None] * len(predictions)
        converted = []
        for number, (wave, prediction, pitch) in enumerate(zip(waveforms, predictions, pitches, strict=True), start=1):
            if not prediction.phones:
                raise ConversionError(f"no phone is recognised in recording {number}, so it cannot be converted")
            source = _label(prediction, "speaker"), _label(prediction, "emotion")
            phones = self.code.number(prediction.phones)
            samples = self.voice.sound(*self._converted(wave, phones, source, emotion, speaker, pitch))
            converted.append(Converted(samples, prediction.phones, *source))
        return converted

    def _converted(
        self,
        wave: np.ndarray,
        phones: np.ndarray,
        source_style: tuple[str | None, str | None],
        emotion: str | None,
        speaker: str | None,
        hertz: np.ndarray | None,
    ) -> tuple[Tensor, Tensor]:
        """Log-mel (T, F) and pitch (T,) of the converted recording; source_style: its speaker and emotion."""
        own = self._numbers(*source_style)
        new = self._numbers(speaker or source_style[0], emotion or source_style[1])
        mel = torch.from_numpy(log_mel(wave, self.voice.features))
        before, after = predict_prosody(self.model, [phones] * 2, [own[0], new[0]], [own[1], new[1]])
        predicted = tts_example(phones, before, *own)
        (synthesised,) = render(self.model, [predicted])
        path = align(cepstra(synthesised.cpu().numpy()), cepstra(mel.numpy()))
        durations = placed(predicted.durations, *path, len(mel))
        source = TTSExample(phones, durations, *self._prosody(mel, durations, hertz, before), *own)
        stretch = (after.durations / before.durations.clamp(min=0.1)).clamp(*STRETCH)
        target = TTSExample(
            phones,
            whole(torch.from_numpy(durations) * stretch).numpy(),
            source.pitch + (after.pitch - before.pitch).numpy(),
            source.energy + (after.energy - before.energy).numpy(),
            *new,
        )
        ours, theirs = (one.cpu() for one in render(self.model, [source, target]))
        if speaker is None:
            frames = warped(source.durations, target.durations)
            untrusted = (1 - TRUSTED) * envelope(theirs - ours[frames])
            theirs = theirs + envelope(mel - ours)[frames] - untrusted
        return theirs, pitch_contour(self.model, target)

    def _prosody(
        self, mel: Tensor, durations: np.ndarray, hertz: np.ndarray | None, predicted: PredictedProsody
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pitch and energy (P,) of the recording, standardised; the predicted pitch if the recording's is not known."""
        features = prosody_features(mel.numpy(), np.zeros(len(mel)) if hertz is None else hertz, durations)
        unknown = np.isnan(features.pitch).any()
        pitch = predicted.pitch.numpy() if unknown else self.code.pitch.down(features.pitch)
        return pitch, self.code.energy.down(features.energy)

    def _numbers(self, speaker: str | None, emotion: str | None) -> tuple[int, int]:
        default = 1 if self.code.speakers else NOBODY
        return self.code.speaker(speaker) or default, self.code.emotion(emotion)


def placed(durations: np.ndarray, ours: np.ndarray, theirs: np.ndarray, frames: int) -> np.ndarray:
    """Durations (P,) of the phones in a recording of `frames` frames; they sum to `frames`.

    durations (P,): in the model's synthesis. ours, theirs (N,): aligned frames of the synthesis and the recording, from
    the first pair to the last.
    """
    starts = np.cumsum(durations) - durations
    first = theirs[np.searchsorted(ours, starts).clip(max=len(theirs) - 1)]
    boundaries = np.append(np.where(starts > ours[-1], frames, first), frames)
    boundaries[0] = 0
    return np.diff(boundaries)


def warped(source: np.ndarray, target: np.ndarray) -> Tensor:
    """(T,) for each target frame, the source frame at the same relative position of the same phone.

    source, target (P,): durations in frames. For a phone without a source frame it is a frame of its neighbour.
    """
    starts = np.cumsum(source) - source
    phone = np.repeat(np.arange(len(target)), target)
    position = (np.arange(len(phone)) - (np.cumsum(target) - target)[phone] + 0.5) / target[phone]
    frames = np.floor(starts[phone] + position * source[phone]).clip(0, source.sum() - 1)
    return torch.from_numpy(frames.astype(np.int64))


def envelope(mel: Tensor) -> Tensor:
    """Spectral envelope of a log-mel (T, F): its first CEPSTRA cepstra, the level included."""
    basis = torch.from_numpy(cosines(mel.shape[-1], min(CEPSTRA, mel.shape[-1]))).to(mel)
    basis = basis / basis.norm(dim=0)  # (F, CEPSTRA), orthonormal
    return mel @ basis @ basis.T


def _label(prediction: Prediction, task: str) -> str | None:
    return prediction.labels[task].value if task in prediction.labels else None
