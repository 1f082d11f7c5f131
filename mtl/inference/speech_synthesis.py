"""Speech synthesis with a trained model: log-mels from encoded phones.

    speech, = synthesize(model, [code.number(phones)], speakers=[3], emotions=[1])      # speech.mel (T, F)

mtl.inference.synthesizer.Synthesizer makes waveforms from texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from mtl.heads import Head, States, first_head
from mtl.heads.mel import Mel
from mtl.heads.prosody import PredictedProsody, Prosody
from mtl.inputs.batch import Batch
from mtl.inputs.tts import TTSBatch, TTSExample, pad
from mtl.models.joint import SpeechModel
from mtl.spec import AUDIO, PHONES, with_answer
from mtl.tts.acoustic_model import contour

H = TypeVar("H", bound=Head)


@dataclass(frozen=True)
class SynthesizedSpeech:
    """Log-mel (T, F), pitch (T,) in Hz, 0 where unvoiced, and durations (P,) of the phones in frames."""

    mel: Tensor
    hertz: Tensor
    durations: Tensor


@torch.no_grad()
def synthesize(
    model: SpeechModel,
    phones: Sequence[np.ndarray],
    speakers: Sequence[int],
    emotions: Sequence[int],
    rates: Sequence[float] | None = None,
) -> list[SynthesizedSpeech]:
    """Speech of encoded phones (P,); rates: relative speaking rates, by default 1.

    Raises:
        ValueError: the model has no tasks `prosody` and `mel`.
    """
    rates = rates if rates is not None else [1.0] * len(phones)
    prosody = predict_prosody(model, phones, speakers, emotions)
    examples = [tts_example(*one) for one in zip(phones, prosody, speakers, emotions, rates, strict=True)]
    return [
        SynthesizedSpeech(mel, pitch_contour(model, example), torch.from_numpy(example.durations))
        for mel, example in zip(render(model, examples), examples, strict=True)
    ]


@torch.no_grad()
def predict_prosody(
    model: SpeechModel, phones: Sequence[np.ndarray], speakers: Sequence[int], emotions: Sequence[int]
) -> list[PredictedProsody]:
    """Predicted durations, pitch and energy of encoded phones (P,). Raises ValueError, as `synthesize`."""
    examples = [
        TTSExample(one, np.zeros(len(one), np.int64), np.zeros(len(one)), np.zeros(len(one)), speaker, emotion)
        for one, speaker, emotion in zip(phones, speakers, emotions, strict=True)
    ]
    head, states, _ = _encode(model, examples, Prosody)
    return [PredictedProsody(one.durations.cpu(), one.pitch.cpu(), one.energy.cpu()) for one in head.decode(states)]


def tts_example(
    phones: np.ndarray, prosody: PredictedProsody, speaker: int, emotion: int, rate: float = 1.0
) -> TTSExample:
    """Phones (P,) with their predicted prosody, `rate` times as fast."""
    durations = whole(prosody.durations / rate).numpy()
    return TTSExample(phones, durations, prosody.pitch.numpy(), prosody.energy.numpy(), speaker, emotion)


@torch.no_grad()
def render(model: SpeechModel, examples: Sequence[TTSExample]) -> list[Tensor]:
    """Log-mels (T, F) of phones with their prosody. Raises ValueError, as `synthesize`."""
    head, states, phones = _encode(model, examples, Mel)
    return head.speak(states, phones)


def pitch_contour(model: SpeechModel, example: TTSExample) -> Tensor:
    """(T,) Hz of each frame, 0 in unvoiced phones, linear between the middles of phones."""
    code = model.codec.speech
    assert code is not None, "a model that synthesises has one"
    durations = torch.from_numpy(example.durations)
    frames = max(1, int(durations.sum()))
    pitch = torch.from_numpy(np.asarray(code.pitch.up(example.pitch), dtype=np.float32))
    hertz = contour(pitch[None], durations[None], torch.tensor([len(durations)]), frames)[0].exp()
    voiced = torch.from_numpy(code.voiced(example.phones)).repeat_interleave(durations)
    return hertz[: len(voiced)] * voiced


def _encode(model: SpeechModel, examples: Sequence[TTSExample], kind: type[H]) -> tuple[H, States, TTSBatch]:
    """The model's head of one class, its states of the phones, and the phones."""
    if missing := [name for name in with_answer("speech") if name not in model.config.tasks]:
        raise ValueError(f"the model does not synthesise speech: it has no task {', '.join(missing)}")
    head = cast(H, first_head(model.tasks.values(), kind))
    phones = cast(TTSBatch, pad(examples)).to(model.device)
    domains = torch.zeros(len(phones), dtype=torch.int64, device=model.device)
    batch = Batch(("",) * len(phones), AUDIO, {PHONES: phones}, {}, domains)
    return head, model.encode(batch, (head.name,), PHONES)[head.name], phones


def whole(durations: Tensor) -> Tensor:
    """Durations (P,) rounded to whole frames, so that rounding errors do not add up; at least one frame in all."""
    frames = torch.diff(durations.cumsum(0).round(), prepend=durations.new_zeros(1)).clamp(min=0).long()
    frames[-1] += int(frames.sum() == 0)
    return frames
