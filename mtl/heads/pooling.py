"""Attentive statistics pooling (Okabe et al. 2018): one vector per utterance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl.heads.base import Head, States
from mtl.layers.encoder import padding_mask
from mtl.spec import TaskSpec


class Pooled(Head):
    """Base of heads that read an utterance as a whole.

    With `spec.spectral` the long-term spectrum (`bins` mel bins) is an input too, which the front-end normalises. It
    depends on the voice and on the microphone, so compare voices on one channel.
    """

    def __init__(self, spec: TaskSpec, width: int, bins: int, outputs: int, dropout: float) -> None:
        super().__init__(spec)
        self.spectrum: nn.Module | None = None
        if spec.spectral:  # LayerNorm, so that the level has no effect
            self.spectrum = nn.Sequential(nn.LayerNorm(2 * bins), nn.Linear(2 * bins, width, bias=False))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 1, bias=False)  # softmax is invariant to a bias
        self.hidden = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, outputs)

    def embed(self, states: States) -> Tensor:
        """(B, D): from weighted mean and deviation of the states. For a speaker task, the embedding of the voice."""
        x = self.norm(states.hidden).float()
        mask = padding_mask(states.lengths, x.shape[1])[..., None]
        weight = torch.softmax(self.attention(x).float().masked_fill(~mask, -torch.inf), dim=1)  # (B, T, 1)
        mean = (weight * x).sum(dim=1)
        variance = (weight * (x - mean[:, None]).square()).sum(dim=1)
        embedding = self.hidden(torch.cat((mean, (variance + 1e-5).sqrt()), dim=-1))
        return embedding if self.spectrum is None else embedding + self.spectrum(states.spectrum)

    def logits(self, states: States) -> Tensor:
        """(B, outputs)."""
        return self.output(self.dropout(torch.nn.functional.silu(self.embed(states))))
