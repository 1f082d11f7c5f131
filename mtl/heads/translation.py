"""Translation by an attention decoder, of recordings and of text (Bérard et al. 2016, Weiss et al. 2017)."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from mtl.answers import Label
from mtl.config.decoding import DecoderConfig
from mtl.config.model import ModelConfig
from mtl.decoding.generation import Generated, beam_search, greedy
from mtl.heads.base import PLAIN, Decoding, Head, Reading, States
from mtl.inputs.batch import IGNORE, Batch, Target
from mtl.inputs.codec import Codec
from mtl.layers.decoder import BOS_EOS, Decoder
from mtl.spec import TaskSpec


class Translation(Head):
    """Teacher forcing with label smoothing; the items are target units and ends."""

    def __init__(self, spec: TaskSpec, width: int, units: int, config: DecoderConfig) -> None:
        super().__init__(spec)
        self.config = config
        self.decoder = Decoder(units, width, config)

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        if codec.targets is None:
            raise ValueError(f"task {spec.name!r} has no labels in the training split; leave it out of the recipe")
        return cls(spec, config.width, len(codec.targets), config.decoder)

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        lengths = _lengths(batch.targets[self.name])
        return ((lengths + 1) * (lengths > 0)).sum()

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        target = batch.targets[self.name]
        rows = target.labelled()
        targets, lengths = target.values[rows], _lengths(target)[rows]
        logits = self.decoder(states.hidden[rows], states.lengths[rows], F.pad(targets, (1, 0), value=BOS_EOS))
        return smoothed_cross_entropy(logits, with_end(targets, lengths), self.config.smoothing), (lengths + 1).sum()

    @torch.no_grad()
    def decode(self, states: States, options: Decoding = PLAIN) -> list[Generated]:
        config = self.config
        if options.search and config.beam > 1:
            return beam_search(
                self.decoder, states.hidden, states.lengths, config.beam, config.length_penalty, config.longest
            )
        return greedy(self.decoder, states.hidden, states.lengths, config.longest)

    def answer(self, output: Generated, reading: Reading) -> Label:
        assert reading.codec.targets is not None, "the head was built with its units"
        return Label(reading.codec.targets.decode(output.units), output.confidence)


def _lengths(target: Target) -> Tensor:
    assert target.lengths is not None, "a translation is a sequence of units"
    return target.lengths


def with_end(targets: Tensor, lengths: Tensor) -> Tensor:
    """targets (B, Y) padded, lengths (B,) -> (B, Y + 1): the units of each row, the end, then IGNORE."""
    positions = torch.arange(targets.shape[1] + 1, device=targets.device)
    labels = F.pad(targets, (0, 1)).masked_fill(positions == lengths[:, None], BOS_EOS)
    return labels.masked_fill(positions > lengths[:, None], IGNORE)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Summed over labels that are not IGNORE; the target has probability 1 - e + e / V, other units e / V."""
    flat = logits.flatten(0, -2).float()
    return F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing)
