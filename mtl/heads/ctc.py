"""Connectionist temporal classification (Graves et al. 2006): base of `transcript` and `phones`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl.decoding.greedy import Path, best_path
from mtl.heads.base import PLAIN, Decoding, Head, States
from mtl.inputs.batch import Batch
from mtl.spec import TaskSpec
from mtl.text.units import BLANK


class CTC(Head):
    """The items are target units. Unit 0 is the blank."""

    def __init__(self, spec: TaskSpec, width: int, units: int) -> None:
        super().__init__(spec)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, units)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Units (B, U) and their lengths (B,), 0 for unlabelled rows."""
        raise NotImplementedError

    def log_probs(self, states: States) -> Tensor:
        """(B, T, V), fp32 because the loss sums over hundreds of frames."""
        return torch.log_softmax(self.output(self.norm(states.hidden)).float(), dim=-1)

    def alignable(self, batch: Batch, lengths: Tensor) -> Tensor:
        """(B,) bool: labelled rows with enough frames; lengths (B,)."""
        return alignable(*self.targets(batch), lengths)

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        return (self.targets(batch)[1] * self.alignable(batch, lengths)).sum()

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = self.alignable(batch, states.lengths)
        units, unit_lengths = (some[rows] for some in self.targets(batch))
        log_probs = self.log_probs(States(states.hidden[rows], states.lengths[rows]))
        loss = nn.functional.ctc_loss(
            log_probs.transpose(0, 1), units, states.lengths[rows], unit_lengths, BLANK, reduction="sum"
        )
        return loss, unit_lengths.sum()

    @torch.no_grad()
    def decode(self, states: States, options: Decoding = PLAIN) -> list[Path]:
        return best_path(self.log_probs(states), states.lengths)


def alignable(units: Tensor, unit_lengths: Tensor, lengths: Tensor) -> Tensor:
    """(B,) bool: rows with units and a frame (lengths (B,)) for each of them and for a blank between repeats."""
    repeats = ((units[:, 1:] == units[:, :-1]) & (units[:, 1:] != BLANK)).sum(dim=1)
    return (unit_lengths > 0) & (unit_lengths + repeats <= lengths)
