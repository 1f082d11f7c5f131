"""Speech synthesis with a trained model: phones to log-mels.

    said, = speak(model, [code.number(phones)], speakers=[3], emotions=[1])      # said.mel (T, F)

mtl.inference.synthesizer makes it a voice for texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from mtl.heads import Head, first_head
from mtl.heads.mel import Mel
from mtl.heads.prosody import PredictedProsody, Prosody
from mtl.inputs.tts import TTSBatch, TTSExample, pad
from mtl.models.joint import SpeechModel
from mtl.spec import with_answer
from mtl.tts.acoustic_model import contour

H = TypeVar("H", bound=Head)


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
    head = _head(model, Prosody)
    predicted = head.decode(model.encode_phones(spoken, (head.name,))[head.name])
    return [PredictedProsody(one.durations.cpu(), one.pitch.cpu(), one.energy.cpu()) for one in predicted]


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
    head = _head(model, Mel)
    return head.speak(model.encode_phones(spoken, (head.name,))[head.name], spoken)


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


def _head(model: SpeechModel, kind: type[H]) -> H:
    """The model's head of one class; `_check` has found one."""
    head = first_head(model.tasks.values(), kind)
    assert head is not None, "a model that speaks has one"
    return head


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
