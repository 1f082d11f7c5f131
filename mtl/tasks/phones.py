"""Which phones are heard, by CTC: the content of a recording, without who says it or how."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl.batch import Batch
from mtl.tasks.ctc import CTC


class Phones(CTC):
    """Units are the numbers of the speech code, whose 0, its padding, is the blank."""

    @staticmethod
    def targets(batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.spoken is None:
            none = torch.zeros(len(batch), dtype=torch.long, device=batch.word_lengths.device)
            return none[:, None], none
        return batch.spoken.phones, batch.spoken.lengths
