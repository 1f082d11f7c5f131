"""The input group "audio": log-mel frames of a recording, through strided convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl.inputs.group import InputGroup, Inputs, pad_frames
from mtl.layers.encoder import padding_mask

if TYPE_CHECKING:
    from mtl.inputs.codec import Codec

# Time strides of the convolutions for each subsampling factor; the mel axis is halved by each.
STRIDES = {2: (2,), 3: (3,), 4: (2, 2), 6: (2, 3), 8: (2, 2, 2)}
CHANNELS_PER_WIDTH = 1 / 8  # of the convolutions: at 1/4 they cost a quarter of a small model's training step
MIN_CHANNELS = 8
MIN_DEVIATION = 0.1  # of a mel bin within an utterance, in nats, so that a constant bin is not amplified


@dataclass(frozen=True)
class AudioInputs(Inputs):
    """features (B, T, F) of any float type, lengths (B,) in frames."""

    features: Tensor


class AudioGroup(InputGroup):
    """Arrays of a row: features (T, F), which the loader reads in every epoch."""

    def collate(self, arrays: Sequence[np.ndarray]) -> AudioInputs:
        features, lengths = pad_frames(arrays)
        return AudioInputs(lengths, features)

    def modules(self, config: Any, codec: Codec) -> dict[str, nn.Module]:
        return {self.name: AudioFrontend(config.bins, config.width, config.subsampling, config.dropout)}

    def lengths(self, model: Any, inputs: Inputs) -> Tensor:
        lengths: Tensor = model.audio.lengths(inputs.lengths)
        return lengths


@dataclass(frozen=True)
class SpeakerStatistics:
    """Mean and deviation (F,) of each mel bin over many recordings of a speaker.

    Statistics of a short utterance (the normalisation of Viikki and Laurila 1998) depend on its words as much as on
    voice and microphone, so they are pooled with these, which count as `frames` frames.
    """

    mean: Tensor
    deviation: Tensor
    frames: float

    def pooled(self, statistics: tuple[Tensor, Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (B, F) of each utterance's frames pooled with these; lengths (B,)."""
        mean, deviation = statistics
        own = (lengths / (lengths + self.frames))[:, None]
        pooled = own * mean + (1 - own) * self.mean
        variance = own * (deviation.square() + (mean - pooled).square()) + (1 - own) * (
            self.deviation.square() + (self.mean - pooled).square()
        )
        return pooled, variance.sqrt()


class AudioFrontend(nn.Module):
    """Per-utterance mean and variance normalisation, then 2-D convolutions that shorten time by `subsampling`.

    speaker: statistics of the speaker, if known; see mtl.inference.adaptation.
    """

    speaker: SpeakerStatistics | None = None

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

        The spectrum is the mean and deviation of each bin, which the normalisation removes from the states.
        """
        features = features.float()
        statistics = bin_statistics(features, lengths)
        pooled = self.speaker.pooled(statistics, lengths) if self.speaker else statistics
        x = normalise_bins(features, lengths, pooled)[:, None]  # (B, 1, T, F)
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            x = F.relu(convolution(x))
            lengths = (lengths - 1) // stride + 1
            x = x * padding_mask(lengths, x.shape[2])[:, None, :, None]
        x = self.project(x.transpose(1, 2).flatten(2))  # (B, T', C x F') -> (B, T', D)
        return self.dropout(x), lengths, torch.cat(statistics, dim=-1)


def normalise_bins(features: Tensor, lengths: Tensor, statistics: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Scales each mel bin to zero mean and unit variance over its utterance's own frames; padding becomes 0.

    statistics: of `bin_statistics`, by default computed here.
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
