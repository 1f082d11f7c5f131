"""Recognition: characters or pieces, by CTC."""

from __future__ import annotations

from torch import Tensor

from mtl.batch import Batch
from mtl.tasks.ctc import CTC


class Transcript(CTC):
    @staticmethod
    def targets(batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.units, batch.unit_lengths * batch.mask("transcript")
