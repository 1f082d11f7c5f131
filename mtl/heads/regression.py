"""Numbers about a recording as a whole.

`Regression` predicts a numeric column of the utterance table. The targets of `Tempo` and `Intonation` are measured from
the phones of a recording; emotions differ in both (Murray and Arnott 1993).
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from mtl.answers import Number
from mtl.config.model import ModelConfig
from mtl.heads.base import PLAIN, Decoding, Reading, States, speech_code_of
from mtl.heads.pooling import Pooled
from mtl.inputs.batch import Batch
from mtl.inputs.codec import Codec
from mtl.inputs.tts import Scale, TTSBatch
from mtl.layers.encoder import padding_mask
from mtl.metrics.distortion import SEMITONES
from mtl.spec import TaskSpec

STEP = 0.1  # of tempo, in ln: a tenth longer or shorter
FRAMES_PER_PHONE, DEVIATION = 8, 2.0  # initial predictions: frames, semitones


class Regression(Pooled):
    """Pooled states through a linear layer, with the Huber loss of the standardised label.

    The codec stores mean and standard deviation of the labels of the training rows.
    """

    def __init__(self, spec: TaskSpec, width: int, bins: int, scale: Scale, dropout: float) -> None:
        super().__init__(spec, width, bins, 1, dropout)
        self.scale = scale

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        if spec.name not in codec.scales:
            raise ValueError(
                f"task {spec.name!r} has no numbers in the training split; leave it out of the recipe's tasks"
            )
        return cls(spec, config.width, config.bins, codec.scales[spec.name], config.dropout)

    def labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B,) standardised labels and (B,) bool: rows that have one."""
        target = batch.targets[self.name]
        return (target.values - self.scale.mean) / self.scale.deviation, target.labelled()

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        return batch.targets[self.name].labelled().sum()

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        labels, known = self.labels(batch)
        predicted = self.logits(states)[:, 0].float()[known]
        return nn.functional.smooth_l1_loss(predicted, labels[known], reduction="sum"), known.sum()

    @torch.no_grad()
    def decode(self, states: States, options: Decoding = PLAIN) -> list[float]:
        return self.scale.up(self.logits(states)[:, 0].float().cpu().numpy()).tolist()

    def answer(self, output: float, reading: Reading) -> Number:
        return Number(output, self.spec.unit)


class PhoneRegression(Regression):
    """Base of numbers that are measured from phones. start: initial prediction."""

    start: float

    def __init__(self, spec: TaskSpec, width: int, bins: int, scale: Scale, dropout: float) -> None:
        super().__init__(spec, width, bins, scale, dropout)
        nn.init.constant_(self.output.bias, self.start)

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        return cls(spec, config.width, config.bins, speech_code_of(spec, codec).pitch, config.dropout)

    def target(self, spoken: TTSBatch) -> Tensor:
        """(B,); undefined for rows without phones."""
        raise NotImplementedError

    def labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.spoken is not None, "counted only where there are phones"
        return self.target(batch.spoken), batch.spoken.lengths > 0

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        return lengths.new_zeros(()) if batch.spoken is None else (batch.spoken.lengths > 0).sum()


class Tempo(PhoneRegression):
    """ln(frames per phone) / STEP; the answer is in phones per second."""

    start = math.log(FRAMES_PER_PHONE) / STEP

    def target(self, spoken: TTSBatch) -> Tensor:
        phones = spoken.lengths.clamp(min=1)
        return (spoken.durations.sum(dim=1).clamp(min=1) / phones).log() / STEP

    @torch.no_grad()
    def decode(self, states: States, options: Decoding = PLAIN) -> list[float]:
        """Frames per phone."""
        return (self.logits(states)[:, 0].float() * STEP).exp().tolist()

    def answer(self, output: float, reading: Reading) -> Number:
        return Number(1000 / (reading.hop_ms * output), self.spec.unit)


class Intonation(PhoneRegression):
    """Standard deviation of the pitch over phones, in semitones."""

    start = DEVIATION

    def target(self, spoken: TTSBatch) -> Tensor:
        phones = spoken.lengths.clamp(min=1)
        mask = padding_mask(spoken.lengths, spoken.phones.shape[1])
        mean = (spoken.pitch * mask).sum(dim=1) / phones
        variance = ((spoken.pitch - mean[:, None]).square() * mask).sum(dim=1) / phones
        return variance.sqrt() * self.scale.deviation * SEMITONES

    @torch.no_grad()
    def decode(self, states: States, options: Decoding = PLAIN) -> list[float]:
        return self.logits(states)[:, 0].float().clamp(min=0).tolist()
