"""One label per utterance: intent, domain, speaker, emotion, language; dialogue.py adds those that need a context."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl.batch import Batch
from mtl.tasks.base import States, confidences, cross_entropy
from mtl.tasks.pooling import Pooled

AUDIO_ONLY = ("speaker", "emotion")  # what only a voice can tell


class Classification(Pooled):
    """Pooled states through a linear layer. What only a voice can tell has the long-term spectrum before it too."""

    def __init__(self, name: str, width: int, bins: int, classes: int, dropout: float) -> None:
        super().__init__(name, width, bins, classes, dropout, spectral=name in AUDIO_ONLY)
        self.groups = ("audio",) if name in AUDIO_ONLY else ("audio", "text")  # type: ignore[misc]

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        return batch.mask(self.name).sum()

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        return cross_entropy(self.logits(states), batch.labels[self.name])

    @torch.no_grad()
    def decode(self, states: States, second: Tensor | None = None) -> list[tuple[int, float]]:
        """Class and probability of each row; `second` (B, classes) are logits of another view, added to these."""
        logits = self.logits(states).float()
        label, probability = confidences(logits if second is None else logits + second)
        return list(zip(label.tolist(), probability.tolist(), strict=True))
