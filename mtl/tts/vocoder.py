"""Log-mels to sound, learned: after Vocos (Siuzdak 2023), small enough to be trained on a CPU.

    wave = Generator(VocoderConfig(features=spec))(logmel, hertz)      # (B, T, F), (B, T) -> (B, N)

N = window + (T - 1) x hop samples.

ConvNeXt blocks (Liu et al. 2022) over frames, all at the frames' own rate, and a head that gives each frame's spectrum,
magnitude and phase, for the inverse Fourier transform. Both correct the spectrum that Griffin-Lim begins from, pulses
at the pitch and noise under the log-mel's envelope (a source and its harmonics, as in Li et al. 2023; an envelope by
the filters' inverse, as in Lv et al. 2024). A vocoder of this size that has to find phases by itself whispers after
minutes of training: a third of its frames lose their voice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl.audio.griffin_lim import GriffinLim
from mtl.config.model import VocoderConfig

KERNEL = 7  # frames that a block sees at once
QUIETEST = 1e-5  # magnitude, the root of mtl.audio.features's floor
NATS = 4.0  # of a spectrum's spread
LOUDEST = 7.0  # ln of a magnitude; a window of full-scale samples has 5.5


class Generator(nn.Module):
    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.start = GriffinLim(config.features)
        bins = self.start.length // 2 + 1
        self.mel = nn.Conv1d(config.features.bins, config.width, KERNEL, padding=KERNEL // 2)
        self.spectrum = nn.Conv1d(bins, config.width, 3, padding=1)
        self.norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.leave = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 2 * bins)
        with torch.no_grad():  # at first next to no change
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def forward(self, logmel: Tensor, hertz: Tensor) -> Tensor:
        """hertz (B, T): of each frame, 0 where unvoiced."""
        device, logmel = logmel.device.type, logmel.float()
        with torch.no_grad(), torch.autocast(device, enabled=False):
            given = self.start.spectrum(logmel, hertz)
            size = given.abs().clamp(min=QUIETEST)
            loud = size.log()
        x = self.mel(logmel.transpose(1, 2)) + self.spectrum(loud.transpose(1, 2) / NATS)
        x = self.norm(x.transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        louder, turned = self.head(self.leave(x)).float().chunk(2, dim=-1)
        with torch.autocast(device, enabled=False):
            spectrum = given / size * torch.polar((loud + louder).clamp(max=LOUDEST).exp(), turned)
            return self.start.synthesise(spectrum)


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
