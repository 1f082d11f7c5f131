"""A neural vocoder after Vocos (Siuzdak 2023), small enough to be trained on a CPU.

    wave = Generator(VocoderConfig(features=spec))(logmel, hertz)      # (B, T, F), (B, T) -> (B, N)

N = window + (T - 1) x hop samples.

ConvNeXt blocks (Liu et al. 2022) over frames predict corrections of magnitude and phase of each frame's spectrum for
the inverse Fourier transform. The spectrum that they correct is that which Griffin-Lim begins with: pulses at the pitch
and noise, with the envelope of the log-mel (a source and its harmonics, as in Li et al. 2023; an envelope by the
filters' inverse, as in Lv et al. 2024). A vocoder of this size that predicts phases without it is still unvoiced in a
third of its frames after minutes of training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl.audio.griffin_lim import GriffinLim
from mtl.config.model import VocoderConfig

KERNEL = 7  # frames
QUIETEST = 1e-5  # magnitude, the root of mtl.audio.features's floor
NATS = 4.0  # typical spread of a log spectrum
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
        with torch.no_grad():  # almost no correction at first
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def forward(self, logmel: Tensor, hertz: Tensor) -> Tensor:
        """hertz (B, T): of each frame, 0 where unvoiced."""
        device, logmel = logmel.device.type, logmel.float()
        with torch.no_grad(), torch.autocast(device, enabled=False):
            start = self.start.spectrum(logmel, hertz)
            magnitude = start.abs().clamp(min=QUIETEST)
            log_magnitude = magnitude.log()
        x = self.mel(logmel.transpose(1, 2)) + self.spectrum(log_magnitude.transpose(1, 2) / NATS)
        x = self.norm(x.transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        gain, phase = self.head(self.leave(x)).float().chunk(2, dim=-1)
        with torch.autocast(device, enabled=False):
            spectrum = start / magnitude * torch.polar((log_magnitude + gain).clamp(max=LOUDEST).exp(), phase)
            return self.start.synthesise(spectrum)


class _Block(nn.Module):
    """Residual block of a depthwise convolution and two linear layers, scaled: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width = config.width
        self.neighbours = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, config.expansion * width)
        self.narrow = nn.Linear(config.expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1 / config.blocks))

    def forward(self, x: Tensor) -> Tensor:
        convolved = self.neighbours(x.transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.narrow(nn.functional.gelu(self.widen(self.norm(convolved))))
