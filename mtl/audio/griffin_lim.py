"""Waveforms from log-mels without training: Griffin-Lim (1984; fast version of Perraudin et al. 2013).

    samples = GriffinLim(spec)(logmel)             # (T, F) natural log of mel power -> (N,) float32 at spec.sample_rate

The mel filters are inverted by non-negative least squares: multiplicative updates (Lee and Seung 2001) from the clipped
pseudo-inverse, which alone is 1.4 dB of mel-cepstral distortion off; ten updates leave 0.3 dB. Phases are estimated by
alternating between spectrogram and signal, with momentum. If the pitch is known, a source of pulses and noise gives the
initial phases, and adds harmonics to a log-mel that is too smooth to have them.

As in mtl.audio.features, frames begin at sample 0 and are not centred.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mtl.audio.features import hop_length, mel_filters, window_length
from mtl.config.features import FeatureSpec

ITERATIONS = 32
MOMENTUM = 0.99
UPDATES = 10  # of the inversion of the mel filters
FLOOR = 1e-3  # added to the clipped pseudo-inverse, relative to the filters' own spread
TINY = 1e-16
BREATH = 1e-3  # noise added to the pulses, so that no phase is undefined
SHAPINGS = 3
GAINS = (1e-6, 1e6)
LEAST_WEIGHT = 1e-3  # of the windows over a sample; at either end it is almost 0


class GriffinLim(nn.Module):
    """Filters, window and overlap of one feature setting; nothing is trained."""

    def __init__(self, spec: FeatureSpec, iterations: int = ITERATIONS) -> None:
        super().__init__()
        self.window, self.hop, self.iterations = window_length(spec), hop_length(spec), iterations
        filters = torch.from_numpy(mel_filters(spec)).double()  # (bins of the FFT, F)
        self.length = 2 * (len(filters) - 1)
        self.rate = spec.sample_rate
        self.register_buffer("filters", filters.float(), persistent=False)
        self.register_buffer("inverse", torch.linalg.pinv(filters).float(), persistent=False)  # (F, bins of the FFT)
        self.register_buffer("hann", torch.hann_window(self.window, periodic=False), persistent=False)

    filters: Tensor
    inverse: Tensor
    hann: Tensor

    def forward(self, logmel: Tensor, hertz: Tensor | None = None, seed: int = 0) -> Tensor:
        """(T, F) -> (N,) with N = window + (T - 1) x hop.

        hertz (T,): pitch, 0 where unvoiced; without it the initial phases are random. seed: of noise and phases.
        """
        generator = torch.Generator().manual_seed(seed)
        if hertz is None:
            magnitude = self.power(logmel).sqrt()  # (T, bins)
            spectrum = torch.polar(magnitude, torch.rand(magnitude.shape, generator=generator) * 2 * torch.pi)
        else:
            spectrum = self.spectrum(logmel[None], hertz[None], generator)[0]
            magnitude = spectrum.abs()
        before = torch.zeros_like(spectrum)
        weight = window_weight(self.hann, len(magnitude), self.hop)
        for _ in range(self.iterations):
            now = self.analyse(self._signal(spectrum, weight))
            ahead = now + MOMENTUM * (now - before)
            # Takes half the time of `ahead.abs()`, which guards against overflow.
            power = ahead.real.square() + ahead.imag.square()
            spectrum = ahead * (magnitude * torch.rsqrt(power + TINY))
            before = now
        return self._signal(spectrum, weight)

    def spectrum(self, logmel: Tensor, hertz: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Initial spectrum (B, T, bins): pulses and noise with the envelope of the log-mel.

        logmel (B, T, F), hertz (B, T). generator: of the noise; torch's own by default.
        """
        source = torch.stack([self.source(row, generator) for row in hertz.float().cpu()]).to(logmel.device)
        return self._shaped(self.power(logmel).sqrt() * self.analyse(source), logmel)

    def source(self, hertz: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(T,) Hz -> (N,): one pulse per period where voiced, noise where unvoiced, both of unit power."""
        frames = torch.arange(self.window + (len(hertz) - 1) * self.hop, dtype=torch.float64) - self.window / 2
        nearest = (frames / self.hop).round().long().clamp(0, len(hertz) - 1)
        noise = torch.randn(len(frames), generator=generator)
        if not (hertz > 0).any():
            return noise
        # The pitch is interpolated across unvoiced frames, so that pulses do not start again at every phone.
        known = (hertz > 0).nonzero()[:, 0].numpy()
        periodic = np.interp(frames.numpy() / self.hop, known, hertz[hertz > 0].numpy())
        turns = np.floor(np.cumsum(periodic / self.rate))
        pulses = torch.from_numpy(np.diff(turns, prepend=0.0) * np.sqrt(self.rate / periodic)).float()
        return torch.where(hertz[nearest] > 0, pulses + BREATH * noise, noise)

    def _shaped(self, spectrum: Tensor, logmel: Tensor) -> Tensor:
        """Scales each frame of a spectrum (..., T, bins) smoothly over its bins until it has the log-mel."""
        spread, target = self.filters.sum(dim=1) + TINY, logmel.float().exp()
        for _ in range(SHAPINGS):
            mel = (spectrum.abs().square() @ self.filters).clamp(min=TINY)
            gain = (target / mel) @ self.filters.T / spread
            spectrum = spectrum * gain.clamp(*GAINS).sqrt()
        return spectrum

    def power(self, logmel: Tensor) -> Tensor:
        """(..., T, F) -> (..., T, bins): a non-negative power spectrum with approximately this log-mel."""
        mel = logmel.float().exp()
        spread = mel @ self.filters.T
        power = (mel @ self.inverse).clamp(min=0) + FLOOR * spread
        for _ in range(UPDATES):
            power = power * (spread / ((power @ self.filters) @ self.filters.T + TINY))
        return power

    def analyse(self, signal: Tensor) -> Tensor:
        """(..., N) -> (..., T, bins), with the frames of mtl.audio.features."""
        return torch.fft.rfft(signal.unfold(-1, self.window, self.hop) * self.hann, self.length)

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """(..., T, bins) -> (..., N): the least-squares signal of these frames (Griffin and Lim 1984, eq. 6)."""
        return self._signal(spectrum, window_weight(self.hann, spectrum.shape[-2], self.hop))

    def _signal(self, spectrum: Tensor, weight: Tensor) -> Tensor:
        frames = torch.fft.irfft(spectrum, self.length)[..., : self.window] * self.hann
        return overlap_add(frames, self.hop) / weight


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Overlap-add of frames (..., T, window): (..., N) with N = window + (T - 1) x hop.

    One hop of all frames at a time, which is five times as fast as torch's fold.
    """
    count, window = frames.shape[-2:]
    hops = -(-window // hop)
    pieces = torch.nn.functional.pad(frames, (0, hops * hop - window)).unflatten(-1, (hops, hop))
    total = frames.new_zeros(*frames.shape[:-2], count + hops - 1, hop)
    for number in range(hops):
        total[..., number : number + count, :] += pieces[..., number, :]
    return total.flatten(-2)[..., : window + (count - 1) * hop]


def window_weight(window: Tensor, frames: int, hop: int) -> Tensor:
    """(N,): sum of the squared windows (W,) over each sample, the divisor of an overlap-add of windowed frames."""
    return overlap_add(window.square().expand(frames, -1), hop).clamp(min=LEAST_WEIGHT)
