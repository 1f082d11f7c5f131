"""One label per utterance: intent, domain, speaker, emotion, language; dialogue.py adds those that need a context."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl.batch import Batch
from mtl.encoder import padding_mask
from mtl.tasks.base import States, Task, confidences, cross_entropy

AUDIO_ONLY = ("speaker", "emotion")  # what only a voice can tell


class Classification(Task):
    """Attentive pooling over the frames that exist (Okabe et al. 2018), then a linear layer.

    What only a voice can tell also has the long-term spectrum before it (`bins` mel bins): normalisation per utterance
    takes it from the states, and much of a voice is in it; of a microphone too, so compare voices on one channel.
    """

    def __init__(self, name: str, width: int, bins: int, classes: int, dropout: float) -> None:
        super().__init__(name)
        self.groups = ("audio",) if name in AUDIO_ONLY else ("audio", "text")  # type: ignore[misc]
        self.spectrum: nn.Module | None = None
        if name in AUDIO_ONLY:  # LayerNorm: louder is not another voice
            self.spectrum = nn.Sequential(nn.LayerNorm(2 * bins), nn.Linear(2 * bins, width, bias=False))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 1, bias=False)  # softmax would not see a bias
        self.hidden = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, classes)

    def embed(self, states: States) -> Tensor:
        """(B, D): from weighted mean and deviation of the states. For a speaker, the voice's embedding."""
        x = self.norm(states.hidden).float()
        mask = padding_mask(states.lengths, x.shape[1])[..., None]
        weight = torch.softmax(self.attention(x).float().masked_fill(~mask, -torch.inf), dim=1)  # (B, T, 1)
        mean = (weight * x).sum(dim=1)
        variance = (weight * (x - mean[:, None]).square()).sum(dim=1)
        embedding = self.hidden(torch.cat((mean, (variance + 1e-5).sqrt()), dim=-1))
        return embedding if self.spectrum is None else embedding + self.spectrum(states.spectrum)

    def logits(self, states: States) -> Tensor:
        return self.output(self.dropout(torch.nn.functional.silu(self.embed(states))))

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
