"""Recognition by connectionist temporal classification (Graves et al. 2006)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl.batch import Batch
from mtl.decode import Path, best_path
from mtl.tasks.base import States, Task
from mtl.text import BLANK


class Transcript(Task):
    """CTC over characters or pieces. Counted per target unit, so that long utterances weigh what they hold."""

    groups = ("audio",)

    def __init__(self, name: str, width: int, units: int) -> None:
        super().__init__(name)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, units)

    def log_probs(self, states: States) -> Tensor:
        """(B, T, V), fp32: a sum over hundreds of frames needs it."""
        return torch.log_softmax(self.output(self.norm(states.hidden)).float(), dim=-1)

    @staticmethod
    def alignable(batch: Batch, lengths: Tensor) -> Tensor:
        """(B,) bool: transcribed rows that have a frame for each unit and a blank between repeats."""
        repeats = ((batch.units[:, 1:] == batch.units[:, :-1]) & (batch.units[:, 1:] != BLANK)).sum(dim=1)
        return batch.mask("transcript") & (batch.unit_lengths + repeats <= lengths)

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        return (batch.unit_lengths * self.alignable(batch, lengths)).sum()

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = self.alignable(batch, states.lengths)
        unit_lengths = batch.unit_lengths[rows]
        log_probs = self.log_probs(States(states.hidden[rows], states.lengths[rows]))
        loss = nn.functional.ctc_loss(
            log_probs.transpose(0, 1), batch.units[rows], states.lengths[rows], unit_lengths, BLANK, reduction="sum"
        )
        return loss, unit_lengths.sum()

    @torch.no_grad()
    def decode(self, states: States) -> list[Path]:
        return best_path(self.log_probs(states), states.lengths)
