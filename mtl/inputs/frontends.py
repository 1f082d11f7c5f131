"""Into the shared encoder: log-mel frames through strided convolutions, words through embeddings and their letters.

Both end at (B, T, D) with lengths (B,); for text T is the number of words L.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mtl.inputs.codec import PADDING, UNKNOWN
from mtl.layers.encoder import padding_mask

# Time strides of the convolutions for each subsampling factor; the mel axis is halved by each.
STRIDES = {2: (2,), 3: (3,), 4: (2, 2), 6: (2, 3), 8: (2, 2, 2)}
CHANNELS_PER_WIDTH = 1 / 8  # of the convolutions: at 1/4 they cost a quarter of a small model's training step
MIN_CHANNELS = 8
MIN_DEVIATION = 0.1  # of a mel bin within an utterance, in nats: keeps a constant bin from being blown up


@dataclass(frozen=True)
class SpeakerStatistics:
    """How a known speaker's recordings usually are: mean and deviation of each mel bin, (F,), over many of them.

    Two seconds of speech hold too few sounds to tell a voice and a microphone from what was said, so an utterance's own
    statistics (the normalisation of Viikki and Laurila 1998) are pooled with `frames` frames of these.
    """

    mean: Tensor
    deviation: Tensor
    frames: float

    def pooled(self, statistics: tuple[Tensor, Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (B, F) of each utterance's frames and these together; lengths (B,)."""
        mean, deviation = statistics
        own = (lengths / (lengths + self.frames))[:, None]
        pooled = own * mean + (1 - own) * self.mean
        variance = own * (deviation.square() + (mean - pooled).square()) + (1 - own) * (
            self.deviation.square() + (self.mean - pooled).square()
        )
        return pooled, variance.sqrt()


class AudioFrontend(nn.Module):
    """Per-utterance mean and variance normalisation, then 2-D convolutions that shorten time by `subsampling`.

    usual: of the speaker whose recordings are heard, where that is known; see mtl.inference.adaptation.
    """

    usual: SpeakerStatistics | None = None

    def __init__(self, bins: int, width: int, subsampling: int, dropout: float) -> None:
        super().__init__()
        self.strides = STRIDES[subsampling]
        layers, before, height = [], 1, bins
        channels = max(MIN_CHANNELS, round(width * CHANNELS_PER_WIDTH))
        for stride in self.strides:
            layers.append(nn.Conv2d(before, channels, kernel_size=3, stride=(stride, 2), padding=1))
            before, height = channels, (height - 1) // 2 + 1
        self.convolutions = nn.ModuleList(layers)
        self.project = nn.Linear(channels * height, width)
        self.dropout = nn.Dropout(dropout)

    def lengths(self, lengths: Tensor) -> Tensor:
        """Frames after subsampling, (B,) -> (B,)."""
        for stride in self.strides:
            lengths = (lengths - 1) // stride + 1
        return lengths

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """features (B, T, F), lengths (B,) -> states (B, T', D), lengths (B,), spectrum (B, 2F).

        The spectrum is each bin's mean and deviation, which the normalisation takes out of the states.
        """
        features = features.float()
        statistics = bin_statistics(features, lengths)
        about = self.usual.pooled(statistics, lengths) if self.usual else statistics
        x = normalise_bins(features, lengths, about)[:, None]  # (B, 1, T, F)
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            x = F.relu(convolution(x))
            lengths = (lengths - 1) // stride + 1
            x = x * padding_mask(lengths, x.shape[2])[:, None, :, None]
        x = self.project(x.transpose(1, 2).flatten(2))  # (B, T', C x F') -> (B, T', D)
        return self.dropout(x), lengths, torch.cat(statistics, dim=-1)


def normalise_bins(features: Tensor, lengths: Tensor, statistics: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Each mel bin to zero mean and unit variance over its utterance's own frames; padding becomes zero.

    statistics: those of `bin_statistics`, where they are known.
    """
    mask = padding_mask(lengths, features.shape[1])[..., None]
    mean, deviation = statistics or bin_statistics(features, lengths)
    return (features - mean[:, None]) * mask / deviation[:, None].clamp(min=MIN_DEVIATION)


def bin_statistics(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each mel bin over its utterance's own frames: (B, T, F) -> two (B, F)."""
    mask = padding_mask(lengths, features.shape[1])[..., None]
    count = lengths[:, None].clamp(min=1)
    mean = (features * mask).sum(dim=1) / count
    variance = ((features - mean[:, None]) * mask).square().sum(dim=1) / count
    return mean, variance.sqrt()


def drop_shares(words: int, counts: Sequence[int], least: float, rare: float) -> Tensor:
    """How often training reads each word as unknown: max(least, rare / (rare + count)), (words + 2,).

    What a model knows of unknown words it learns from those that are dropped. Dropped evenly they are the frequent
    ones, which unknown words are not like; hence by count (Kiperwasser and Goldberg 2016, alpha = 0.25).

    counts: how often training has each of the `words`; () where that is not known, and `least` is for all of them.
    """
    shares = torch.full((words + 2,), least, device="cpu")  # looked at here, on whatever device the model is built
    if counts and rare:
        shares[2:] = (rare / (rare + torch.tensor(counts, dtype=torch.float32, device="cpu"))).clamp(min=least)
    shares[[PADDING, UNKNOWN]] = 0.0
    return shares


class TextFrontend(nn.Module):
    """A word is its embedding plus what a convolution over its letters finds (Ma and Hovy 2016).

    drops: how often training reads each word as unknown, (words + 2,): see drop_shares.
    lstm: layers of a bidirectional LSTM that then reads the sentence, which few thousand sentences train better than
    attention alone; it is given embedding and letters side by side. 0: none.
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
        # Each spelling once: most words of a batch come again, and the convolution is a fifth of a step of text.
        spellings, which = torch.unique(characters[exists], dim=0, return_inverse=True)  # (N, C), no padding
        letters = self.character(spellings)  # (N, C, D/2)
        found = self.convolution(letters.transpose(1, 2)).amax(dim=2)[which]  # one row per word, (words, D)
        x = self.word(words)
        spelled = torch.zeros_like(x)
        spelled[exists] = found.to(x.dtype)
        if self.reader is None:
            return self.dropout(self.norm(x + spelled)), lengths
        return self.reader(self.dropout(self.norm(torch.cat((x, spelled), dim=-1))), lengths), lengths


class SentenceReader(nn.Module):
    """A bidirectional LSTM over the words that exist: (B, L, E) -> (B, L, D).

    No dropout and no norm behind it: whatever is given these states begins with its own. With dropout at every step on
    the way, ATIS was learned half as fast and ended two points of whole sentences lower.
    """

    def __init__(self, entering: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(entering, width, layers, batch_first=True, bidirectional=True, dropout=between)
        self.merge = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        # Packed, or the backward direction would begin in the padding. Lengths on the CPU is what cuDNN asks for.
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.merge(read)
