"""How fast a recording is spoken, and how lively: two numbers that emotions differ in (Murray and Arnott 1993).

`tempo` is the mean length of a phone; `intonation` the deviation of the phones' pitches from their mean, in semitones.
Both are labelled wherever it is known how phones are said; nobody has to annotate them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from mtl.heads.base import States, speech_code_of
from mtl.heads.pooling import Pooled
from mtl.inputs.batch import Batch
from mtl.inputs.tts import SpeechCode, TTSBatch
from mtl.layers.encoder import padding_mask
from mtl.spec import TaskSpec

if TYPE_CHECKING:
    from mtl.config.model import ModelConfig
    from mtl.inputs.codec import Codec


SEMITONES = 12 / math.log(2)  # in a unit of ln Hz
STEP = 0.1  # of tempo: a tenth longer or shorter weighs what a semitone does
USUAL = {"tempo": math.log(8) / STEP, "intonation": 2.0}  # what an untrained head says: 8 frames a phone, 2 semitones


class Regression(Pooled):
    """The loss is Huber's, of ln(frames a phone) in steps of a tenth, or of semitones."""

    def __init__(self, spec: TaskSpec, width: int, bins: int, code: SpeechCode, dropout: float) -> None:
        super().__init__(spec, width, bins, 1, dropout)
        self.pitch = code.pitch
        nn.init.constant_(self.output.bias, USUAL[spec.name])

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        return cls(spec, config.width, config.bins, speech_code_of(spec, codec), config.dropout)

    def target(self, spoken: TTSBatch) -> Tensor:
        """(B,) of rows that have phones; what stands in the others means nothing."""
        phones = spoken.lengths.clamp(min=1)
        if self.name == "tempo":
            return (spoken.durations.sum(dim=1).clamp(min=1) / phones).log() / STEP
        mask = padding_mask(spoken.lengths, spoken.phones.shape[1])
        mean = (spoken.pitch * mask).sum(dim=1) / phones
        variance = ((spoken.pitch - mean[:, None]).square() * mask).sum(dim=1) / phones
        return variance.sqrt() * self.pitch.deviation * SEMITONES

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        return lengths.new_zeros(()) if batch.spoken is None else (batch.spoken.lengths > 0).sum()

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.spoken is not None, "counted only where there are phones"
        there = batch.spoken.lengths > 0
        wanted = self.target(batch.spoken)[there]
        found = self.logits(states)[:, 0].float()[there]
        return nn.functional.smooth_l1_loss(found, wanted, reduction="sum"), there.sum()

    @torch.no_grad()
    def decode(self, states: States) -> list[float]:
        """Frames a phone, or semitones."""
        found = self.logits(states)[:, 0].float()
        return ((found * STEP).exp() if self.name == "tempo" else found.clamp(min=0)).tolist()
