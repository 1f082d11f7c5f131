"""A trained model speaks: phones to log-mels, and what its sound is worth beside the true one.

    said, = speak(model, [code.number(phones)], speakers=[3], emotions=[1])      # said.mel (T, F)
    echoes = echo(model, batch, hop_ms=10)       # recordings said again by their own durations: how near is the sound?

mtl.inference.synthesizer makes it a voice for texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mtl.heads.mel import Mel
from mtl.heads.prosody import PredictedProsody, Prosody
from mtl.inputs.batch import Batch
from mtl.inputs.tts import TTSBatch, TTSExample, pad
from mtl.metrics.distortion import CENTS, distortions
from mtl.models.joint import SpeechModel
from mtl.spec import with_answer
from mtl.tts.acoustic_model import contour


@dataclass(frozen=True)
class Echo:
    """A recording said again with its own durations, pitch and energy, and what the model would have foretold of it.

    distortion: sum over frames of the mel-cepstral distortion, dB; frames: their number, 0 without the task `mel`.
    duration_error: sum over phones of the absolute error of the duration, ms; phones: their number, 0 without the task
    `prosody`. pitch_error: sum over phones of the squared error of the pitch, cents².
    """

    distortion: float
    frames: int
    duration_error: float
    pitch_error: float
    phones: int


@dataclass(frozen=True)
class SynthesizedSpeech:
    """What a model says: log-mel (T, F), its pitch in Hz (T,), 0 where unvoiced, and the frames (P,) of each phone."""

    mel: Tensor
    hertz: Tensor
    durations: Tensor


@torch.no_grad()
def speak(
    model: SpeechModel,
    phones: Sequence[np.ndarray],
    speakers: Sequence[int],
    emotions: Sequence[int],
    rates: Sequence[float] | None = None,
) -> list[SynthesizedSpeech]:
    """Phones (P,) by number, said; rates: of speech, 2 is twice as fast; 1 each where left out.

    Raises:
        ValueError: the model has no tasks `prosody` and `mel`.
    """
    rates = rates if rates is not None else [1.0] * len(phones)
    told = predict_prosody(model, phones, speakers, emotions)
    saids = [as_predicted(*one) for one in zip(phones, told, speakers, emotions, rates, strict=True)]
    mels = render(model, saids)
    return [
        SynthesizedSpeech(mel, melody(model, said), torch.from_numpy(said.durations))
        for mel, said in zip(mels, saids, strict=True)
    ]


@torch.no_grad()
def predict_prosody(
    model: SpeechModel, phones: Sequence[np.ndarray], speakers: Sequence[int], emotions: Sequence[int]
) -> list[PredictedProsody]:
    """How the model would say phones (P,), by number. Raises ValueError, as `speak`."""
    _check(model)
    saids = [
        TTSExample(one, np.zeros(len(one), np.int64), np.zeros(len(one)), np.zeros(len(one)), speaker, emotion)
        for one, speaker, emotion in zip(phones, speakers, emotions, strict=True)
    ]
    spoken = cast(TTSBatch, pad(saids)).to(model.device)
    states = model.encode_phones(spoken, ("prosody",))
    found = cast(Prosody, model.task("prosody")).decode(states["prosody"])
    return [PredictedProsody(one.durations.cpu(), one.pitch.cpu(), one.energy.cpu()) for one in found]


def as_predicted(
    phones: np.ndarray, told: PredictedProsody, speaker: int, emotion: int, rate: float = 1.0
) -> TTSExample:
    """Phones (P,) to be said as it was foretold, `rate` times as fast."""
    durations = whole(told.durations / rate).numpy()
    return TTSExample(phones, durations, told.pitch.numpy(), told.energy.numpy(), speaker, emotion)


@torch.no_grad()
def render(model: SpeechModel, saids: Sequence[TTSExample]) -> list[Tensor]:
    """Log-mels (T, F) of phones said as they are told to be. Raises ValueError, as `speak`."""
    _check(model)
    spoken = cast(TTSBatch, pad(saids)).to(model.device)
    return cast(Mel, model.task("mel")).speak(model.encode_phones(spoken, ("mel",))["mel"], spoken)


def melody(model: SpeechModel, said: TTSExample) -> Tensor:
    """(T,) Hz of each frame, 0 in phones without a voice: straight lines between the middles of phones."""
    code = model.codec.speech
    assert code is not None, "a model that speaks has one"
    lasts = torch.from_numpy(said.durations)
    frames = max(1, int(lasts.sum()))
    pitch = torch.from_numpy(np.asarray(code.pitch.up(said.pitch), dtype=np.float32))
    line = contour(pitch[None], lasts[None], torch.tensor([len(lasts)]), frames)[0].exp()
    voiced = torch.from_numpy(code.voiced(said.phones)).repeat_interleave(lasts)
    return line[: len(voiced)] * voiced


def _check(model: SpeechModel) -> None:
    if missing := [name for name in with_answer("speech") if name not in model.config.tasks]:
        raise ValueError(f"the model does not speak: it has no task {', '.join(missing)}")


def whole(durations: Tensor) -> Tensor:
    """(P,) whole frames whose sums stay within half a frame of the sums of (P,): rounding errors do not add up.

    At least one frame in all: what is said in none at all is no sound.
    """
    frames = torch.diff(durations.cumsum(0).round(), prepend=durations.new_zeros(1)).clamp(min=0).long()
    frames[-1] += int(frames.sum() == 0)
    return frames


@torch.no_grad()
def echo(model: SpeechModel, batch: Batch, hop_ms: float) -> list[Echo | None]:
    """One for each row with phones, None for the others."""
    found: list[Echo | None] = [None] * len(batch)
    code = model.codec.speech
    tasks = [task for task in with_answer("speech") if task in model.config.tasks]
    if batch.spoken is None or batch.features is None or code is None or not tasks:
        return found
    rows = batch.spoken.lengths.nonzero()[:, 0]
    said = batch.rows(rows)
    assert said.spoken is not None, "rows with phones have them"
    assert said.features is not None, "and sound"
    states = model.encode_phones(said.spoken, tasks)
    errors = [(0.0, 0.0, 0)] * len(rows)
    if "prosody" in tasks:
        errors = []
        for place, one in enumerate(cast(Prosody, model.task("prosody")).decode(states["prosody"])):
            phones = len(one.durations)
            late = hop_ms * (one.durations - said.spoken.durations[place, :phones]).abs()
            off = CENTS * code.pitch.deviation * (one.pitch - said.spoken.pitch[place, :phones])
            errors.append((float(late.sum()), float(off.square().sum()), phones))
    distorted = [(0.0, 0)] * len(rows)
    if "mel" in tasks:
        mels = cast(Mel, model.task("mel")).speak(states["mel"], said.spoken)
        distorted = [
            (float(distortions(mel, said.features[place, : len(mel)].float()).sum()), len(mel))
            for place, mel in enumerate(mels)
        ]
    for row, (total, frames), (late_by, off_by, phones) in zip(rows.tolist(), distorted, errors, strict=True):
        found[row] = Echo(total, frames, late_by, off_by, phones)
    return found
