"""Log-mels to sound, learned: after Vocos (Siuzdak 2023), small enough to be trained on a CPU.

    wave = Generator(VocoderConfig(spec))(logmel)      # (B, T, F) -> (B, N), N = window + (T - 1) x hop

ConvNeXt blocks (Liu et al. 2022) over frames, all at the frames' own rate, and a head that gives each frame's spectrum,
magnitude and phase, for the inverse Fourier transform. The magnitude corrects what the filters' pseudo-inverse gives
(Lv et al. 2024), so that little is left to be learned but the harmonics between the bins, and the phase.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mtl.audio import FeatureSpec, Spec, hop_length, mel_filters, window_length
from mtl.vocoder import overlap_add, window_weight

KERNEL = 7  # frames that a block sees at once
QUIETEST = 1e-10  # power, as in mtl.audio
LOUDEST = 7.0  # ln of a magnitude; a window of full-scale samples has 5.5


@dataclass(frozen=True)
class VocoderConfig:
    """Shape of a generator, and how it is trained; see mtl.tasks.waveform.

    features: what its log-mels are made with. segment: frames of each recording that a step trains on. adversarial:
    weight of what the discriminators say, 0 for none of them; channels: of their layers.
    """

    features: FeatureSpec = field(default_factory=FeatureSpec)
    width: int = 192
    blocks: int = 6
    expansion: int = 3
    segment: int = 50
    adversarial: float = 1.0
    channels: int = 8

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> VocoderConfig:
        return cls(**{**content, "features": FeatureSpec(**content.get("features", {}))})


class Generator(nn.Module):
    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        spec: Spec = config.features
        filters = torch.from_numpy(mel_filters(spec)).double()  # (bins of the FFT, F)
        self.window, self.hop, self.length = window_length(spec), hop_length(spec), 2 * (len(filters) - 1)
        self.register_buffer("inverse", torch.linalg.pinv(filters).float(), persistent=False)  # (F, bins of the FFT)
        self.register_buffer("spread", filters.float().T, persistent=False)
        self.register_buffer("hann", torch.hann_window(self.window, periodic=False), persistent=False)
        self.enter = nn.Conv1d(spec.bins, config.width, KERNEL, padding=KERNEL // 2)
        self.norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.leave = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 2 * len(filters))

    inverse: Tensor
    spread: Tensor
    hann: Tensor

    def forward(self, logmel: Tensor) -> Tensor:
        logmel = logmel.float()
        x = self.norm(self.enter(logmel.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        louder, phase = self.head(self.leave(x)).float().chunk(2, dim=-1)
        with torch.autocast(logmel.device.type, enabled=False):
            magnitude = (self.power(logmel).log() / 2 + louder).clamp(max=LOUDEST).exp()
            frames = torch.fft.irfft(torch.polar(magnitude, phase), self.length)[..., : self.window] * self.hann
            return overlap_add(frames, self.hop) / window_weight(self.hann, logmel.shape[1], self.hop)

    def power(self, logmel: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, bins of the FFT): above zero, and roughly what has that log-mel."""
        mel = logmel.exp()
        return torch.maximum(mel @ self.inverse, 1e-3 * (mel @ self.spread)).clamp(min=QUIETEST)


class _Block(nn.Module):
    """x + what a convolution over neighbours and two layers make of it, little at first: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width = config.width
        self.neighbours = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, config.expansion * width)
        self.narrow = nn.Linear(config.expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1 / config.blocks))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.neighbours(x.transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.narrow(nn.functional.gelu(self.widen(self.norm(seen))))
