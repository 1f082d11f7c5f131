"""Duration, pitch and energy of each phone (FastSpeech 2's variance predictors, in one)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from mtl.answers import Measurement
from mtl.audio.features import FeatureSpec
from mtl.heads.base import PLAIN, Decoding, Head, States, speech_code_of
from mtl.inputs.batch import Batch
from mtl.layers.encoder import padding_mask
from mtl.metrics.distortion import CENTS
from mtl.spec import TaskSpec
from mtl.tts.acoustic_model import ConvStack

if TYPE_CHECKING:
    from mtl.config.model import ModelConfig
    from mtl.inputs.codec import Codec


BLOCKS, EXPANSION = 2, 2


@dataclass(frozen=True)
class PredictedProsody:
    """durations (P,) frames, not yet whole; pitch, energy (P,) on the code's scales."""

    durations: Tensor
    pitch: Tensor
    energy: Tensor


class Prosody(Head):
    """Three numbers a phone. The loss of each is its squared error, of the duration that of ln(1 + frames)."""

    def __init__(self, spec: TaskSpec, width: int, dropout: float) -> None:
        super().__init__(spec)
        self.stack = ConvStack(BLOCKS, width, EXPANSION, dropout)
        self.output = nn.Linear(width, 3)

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        speech_code_of(spec, codec)
        return cls(spec, config.width, config.dropout)

    def forward(self, states: States) -> Tensor:
        """(B, P, 3): ln(1 + frames), pitch, energy."""
        assert states.style is not None, "states of phones have it"
        return self.output(self.stack(states.hidden, states.lengths, states.style)).float()

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        return lengths.new_zeros(()) if batch.spoken is None else batch.spoken.lengths.sum()

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        spoken = batch.spoken
        assert spoken is not None, "counted only where there are phones"
        target = torch.stack((spoken.durations.float().log1p(), spoken.pitch, spoken.energy), dim=-1)
        mask = padding_mask(spoken.lengths, spoken.phones.shape[1])
        squared = (self(states) - target).square().sum(dim=-1) * mask
        return squared.sum(), spoken.lengths.sum()

    @torch.no_grad()
    def decode(self, states: States, options: Decoding = PLAIN) -> list[PredictedProsody]:
        outputs = self(states)
        return [
            PredictedProsody(row[:length, 0].expm1().clamp(min=0), row[:length, 1], row[:length, 2])
            for row, length in zip(outputs, states.lengths.tolist(), strict=True)
        ]

    def measure(self, states: States, batch: Batch, codec: Codec, spec: FeatureSpec) -> list[Measurement | None]:
        """duration: absolute errors, ms. pitch: squared errors, cents²."""
        assert batch.spoken is not None, "rows with phones alone are measured"
        deviation = speech_code_of(self.spec, codec).pitch.deviation
        measurements: list[Measurement | None] = []
        for row, predicted in enumerate(self.decode(states)):
            phones = len(predicted.durations)
            late = spec.hop_ms * (predicted.durations - batch.spoken.durations[row, :phones]).abs()
            off = CENTS * deviation * (predicted.pitch - batch.spoken.pitch[row, :phones])
            counts = {"duration": (float(late.sum()), phones), "pitch": (float(off.square().sum()), phones)}
            measurements.append(Measurement(counts))
        return measurements
