"""Classification of a turn of a dialogue, with attention to the previous turns.

The words of the previous turns pass the text front-end and the trunk like a sentence of text. The embedding of the
current turn attends to their states (multi-head attention, Vaswani et al. 2017) and to a learned state, which is the
only one for a turn without context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl.heads.base import States
from mtl.heads.classification import Classification
from mtl.layers.encoder import padding_mask
from mtl.spec import TaskSpec

HEADS = 4


class DialogueTask(Classification):
    """Classification of a turn, as text or audio, with the previous turns as context."""

    def __init__(self, spec: TaskSpec, width: int, bins: int, classes: int, dropout: float) -> None:
        super().__init__(spec, width, bins, classes, dropout)
        self.nothing = nn.Parameter(0.02 * torch.randn(width))
        self.before = nn.LayerNorm(width)
        self.asking = nn.LayerNorm(width)
        self.recall = nn.MultiheadAttention(width, HEADS, batch_first=True)

    def embed(self, states: States) -> Tensor:
        """(B, D): the embedding of the turn plus the attended context."""
        turn = super().embed(states)
        nothing = self.nothing.to(turn.dtype).expand(len(turn), 1, -1)
        if states.context is None or states.context_lengths is None:
            memory, absent = nothing, None
        else:
            memory = torch.cat((nothing, self.before(states.context).to(turn.dtype)), dim=1)
            absent = ~padding_mask(states.context_lengths + 1, memory.shape[1])
        before, _ = self.recall(self.asking(turn)[:, None], memory, memory, key_padding_mask=absent, need_weights=False)
        return turn + before[:, 0]
