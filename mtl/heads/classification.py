"""One label per utterance; dialogue.py adds the previous turns."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from mtl.answers import Label
from mtl.config.model import ModelConfig
from mtl.heads.base import PLAIN, Decoding, Reading, States, classes_of, confidences, cross_entropy
from mtl.heads.pooling import Pooled
from mtl.inputs.batch import Batch
from mtl.inputs.codec import Codec
from mtl.spec import TaskSpec


class Classification(Pooled):
    """Pooled states through a linear layer."""

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        return cls(spec, config.width, config.bins, classes_of(spec, codec), config.dropout)

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        return batch.targets[self.name].labelled().sum()

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        return cross_entropy(self.logits(states), batch.targets[self.name].values)

    @torch.no_grad()
    def decode(self, states: States, options: Decoding = PLAIN) -> list[tuple[int, float]]:
        """Class and probability of each row."""
        logits = self.logits(states).float()
        label, probability = confidences(logits if options.second is None else logits + options.second)
        return list(zip(label.tolist(), probability.tolist(), strict=True))

    def answer(self, output: tuple[int, float], reading: Reading) -> Label:
        label, probability = output
        return Label(reading.codec.labels[self.name][label], probability, reading.embedding)
