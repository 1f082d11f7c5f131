"""The input group "text": words of a sentence, through embeddings of words and characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mtl.inputs.codec import PADDING, UNKNOWN, Codec, tokens_of
from mtl.inputs.group import InputGroup, Inputs
from mtl.inputs.targets import pad
from mtl.layers.encoder import padding_mask


class TextArrays(NamedTuple):
    """One sentence: words (L,) and their characters (L, C) as numbers of the codec."""

    words: np.ndarray
    characters: np.ndarray


@dataclass(frozen=True)
class TextInputs(Inputs):
    """words (B, L), characters (B, L, C), lengths (B,): 0 is padding."""

    words: Tensor
    characters: Tensor


class TextGroup(InputGroup):
    def encode(self, row: Mapping[str, Any], codec: Codec) -> TextArrays:
        tokens = tokens_of(row)
        return TextArrays(codec.number(tokens), codec.spell(tokens))

    def collate(self, arrays: Sequence[TextArrays]) -> TextInputs:
        words, lengths = pad([one.words for one in arrays], 0)
        return TextInputs(lengths, words, pad([one.characters for one in arrays], 0)[0])

    def modules(self, config: Any, codec: Codec) -> dict[str, nn.Module]:
        drops = drop_shares(len(codec.words), codec.counts, config.word_dropout, config.rare_words)
        return {self.name: TextFrontend(drops, len(codec.characters), config.width, config.dropout, config.lstm)}


def drop_shares(words: int, counts: Sequence[int], least: float, rare: float) -> Tensor:
    """Word dropout probability of each word, (words + 2,): max(least, rare / (rare + count)).

    Unknown words resemble rare words, so rare words are dropped more often (Kiperwasser and Goldberg 2016, alpha =
    0.25). counts: of the `words` in training; () if unknown, which means `least` for all words.
    """
    shares = torch.full((words + 2,), least, device="cpu")  # read below, whatever the model's device
    if counts and rare:
        shares[2:] = (rare / (rare + torch.tensor(counts, dtype=torch.float32, device="cpu"))).clamp(min=least)
    shares[[PADDING, UNKNOWN]] = 0.0
    return shares


class TextFrontend(nn.Module):
    """Word embedding plus a character CNN (Ma and Hovy 2016).

    drops (words + 2,): see drop_shares.
    lstm: layers of a bidirectional LSTM over the concatenation of both, which learns better than attention alone from a
        few thousand sentences; 0 for the sum of both, without LSTM.
    """

    drops: Tensor

    def __init__(self, drops: Tensor, characters: int, width: int, dropout: float, lstm: int = 0) -> None:
        super().__init__()
        self.drops_words = bool(drops.any())
        self.register_buffer("drops", drops, persistent=False)
        self.word = nn.Embedding(len(drops), width, padding_idx=PADDING)
        self.character = nn.Embedding(characters + 2, width // 2, padding_idx=0)
        self.convolution = nn.Conv1d(width // 2, width, kernel_size=3, padding=1)
        self.norm = nn.LayerNorm(2 * width if lstm else width)
        self.dropout = nn.Dropout(dropout)
        self.reader = SentenceReader(2 * width, width, lstm, dropout) if lstm else None

    def forward(self, words: Tensor, characters: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """words (B, L), characters (B, L, C), lengths (B,) -> states (B, L, D), lengths (B,)."""
        if self.training and self.drops_words:
            words = words.masked_fill(torch.rand(words.shape, device=words.device) < self.drops[words], UNKNOWN)
        exists = padding_mask(lengths, words.shape[1])  # (B, L)
        # Each spelling once: most words of a batch occur repeatedly, and the convolution takes a fifth of a text step.
        spellings, which = torch.unique(characters[exists], dim=0, return_inverse=True)  # (N, C), no padding
        letters = self.character(spellings)  # (N, C, D/2)
        convolved = self.convolution(letters.transpose(1, 2)).amax(dim=2)[which]  # one row per word, (words, D)
        x = self.word(words)
        spelled = torch.zeros_like(x)
        spelled[exists] = convolved.to(x.dtype)
        if self.reader is None:
            return self.dropout(self.norm(x + spelled)), lengths
        return self.reader(self.dropout(self.norm(torch.cat((x, spelled), dim=-1))), lengths), lengths


class SentenceReader(nn.Module):
    """A bidirectional LSTM over the words: (B, L, E) -> (B, L, D).

    Without dropout and norm behind it, which the next layer begins with. With dropout at every step, ATIS was learned
    half as fast and exact match was two points lower (tests/bench/LOG.md).
    """

    def __init__(self, entering: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(entering, width, layers, batch_first=True, bidirectional=True, dropout=between)
        self.merge = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        # Packed, or the backward direction would begin in the padding. cuDNN needs the lengths on the CPU.
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.merge(read)
