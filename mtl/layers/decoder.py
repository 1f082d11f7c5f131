"""A Transformer decoder over the trunk's states (Vaswani et al. 2017), pre-norm, with tied embeddings.

    decoder = Decoder(units=500, width=144, config=DecoderConfig())
    logits = decoder(hidden, lengths, units)            # training: all positions at once
    state = decoder.begin(hidden, lengths)              # decoding: one unit at a time
    log_probs, state = decoder.step(units, state)       # see mtl.decoding.generation

Unit BOS_EOS precedes the first unit and follows the last. Self-attention is causal and has rotary positions;
cross-attention is masked. A logit depends neither on later units nor on padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl.config.decoding import DecoderConfig
from mtl.layers.encoder import Attention, FeedForward, attend, padding_mask, rotate

BOS_EOS = 0  # begins and ends every sequence; the number of CTC's blank
Pair = tuple[Tensor, Tensor]  # keys and values, each (B, H, L, D/H)


@dataclass(frozen=True)
class State:
    """Cache of decoding: mask (B, 1, 1, T); keys and values of each block, for the states and for the units so far."""

    mask: Tensor
    memory: tuple[Pair, ...]
    past: tuple[Pair | None, ...]

    def select(self, rows: Tensor) -> State:
        """The state of rows (N,), which may repeat."""
        memory = tuple((key[rows], value[rows]) for key, value in self.memory)
        return State(self.mask[rows], memory, self.select_past(rows).past)

    def select_past(self, rows: Tensor) -> State:
        """The units of rows (N,) for the same recordings, when a search replaces hypotheses."""
        return replace(self, past=tuple(None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self.past))


class CausalAttention(Attention):
    """Attention of each unit to itself and previous units."""

    def forward(self, x: Tensor, past: Pair | None = None) -> tuple[Tensor, Pair]:
        """x (B, L, D) -> (B, L, D), and the keys and values of all units, those of `past` first."""
        query, key, value = self.projected(x)
        start = 0 if past is None else past[0].shape[2]
        query, key = rotate(query, start), rotate(key, start)
        if past is not None:
            key, value = torch.cat((past[0], key), dim=2), torch.cat((past[1], value), dim=2)
        length = x.shape[1]
        mask = torch.ones(length, start + length, dtype=torch.bool, device=x.device).tril(start)
        return self.merged(attend(query, key, value, mask)), (key, value)


class CrossAttention(nn.Module):
    """Multi-head attention of each unit to the trunk's states, without the residual."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # softmax is invariant to a bias
        self.value = nn.Linear(width, width)
        self.merge = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def memory(self, hidden: Tensor) -> Pair:
        """Keys and values of the states (B, T, D), the same at every step."""
        batch, frames, width = hidden.shape
        shape = (batch, frames, self.heads, width // self.heads)
        return self.key(hidden).view(shape).transpose(1, 2), self.value(hidden).view(shape).transpose(1, 2)

    def forward(self, x: Tensor, memory: Pair, mask: Tensor) -> Tensor:
        """x (B, L, D), mask (B, 1, 1, T) -> (B, L, D)."""
        batch, length, width = x.shape
        query = self.query(self.norm(x)).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
        attended = attend(query, *memory, mask)
        return self.dropout(self.merge(attended.transpose(1, 2).reshape(batch, length, width)))


class DecoderBlock(nn.Module):
    """Causal attention, cross-attention, feed-forward; each pre-norm with a residual."""

    def __init__(self, width: int, config: DecoderConfig) -> None:
        super().__init__()
        self.itself = CausalAttention(width, config.heads, config.dropout)
        self.cross = CrossAttention(width, config.heads, config.dropout)
        self.feed = FeedForward(width, config.expansion, config.dropout)

    def forward(self, x: Tensor, memory: Pair, mask: Tensor, past: Pair | None) -> tuple[Tensor, Pair]:
        attended, past = self.itself(x, past)
        x = x + attended
        x = x + self.cross(x, memory, mask)
        return x + self.feed(x), past


class Decoder(nn.Module):
    """units: size of the vocabulary, BOS_EOS included."""

    def __init__(self, units: int, width: int, config: DecoderConfig) -> None:
        super().__init__()
        self.scale = width**0.5
        self.embedding = nn.Embedding(units, width)  # of inputs and outputs (Press and Wolf 2017)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.dropout = nn.Dropout(config.dropout)
        self.memory_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(DecoderBlock(width, config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, lengths: Tensor, units: Tensor) -> Tensor:
        """Logits (B, L, V) of the next units: hidden (B, T, D), lengths (B,); units (B, L), BOS_EOS first."""
        return self._run(units, self.begin(hidden, lengths))[0]

    def begin(self, hidden: Tensor, lengths: Tensor) -> State:
        """The state before the first step."""
        hidden = self.memory_norm(hidden)
        memory = tuple(block.cross.memory(hidden) for block in self._blocks())
        mask = padding_mask(lengths, hidden.shape[1])[:, None, None, :]
        return State(mask, memory, (None,) * len(memory))

    def step(self, units: Tensor, state: State) -> tuple[Tensor, State]:
        """Log-probabilities (B, V), fp32, of the next units, and the new state; units (B,): the last units."""
        logits, past = self._run(units[:, None], state)
        return torch.log_softmax(logits[:, 0].float(), dim=-1), replace(state, past=past)

    def _run(self, units: Tensor, state: State) -> tuple[Tensor, tuple[Pair, ...]]:
        x = self.dropout(self.embedding(units) * self.scale)
        past = []
        for block, memory, before in zip(self._blocks(), state.memory, state.past, strict=True):
            x, seen = block(x, memory, state.mask, before)
            past.append(seen)
        return F.linear(self.norm(x), self.embedding.weight), tuple(past)

    def _blocks(self) -> list[DecoderBlock]:
        return [block for block in self.blocks if isinstance(block, DecoderBlock)]
