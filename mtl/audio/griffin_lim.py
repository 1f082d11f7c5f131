"""Log-mels to sound. Griffin-Lim (1984; Perraudin et al. 2013) at once, without training.

    samples = GriffinLim(spec)(logmel)             # (T, F) natural log of mel power -> (N,) float32 at spec.sample_rate

The mel filters are undone by non-negative least squares: multiplicative updates (Lee and Seung 2001) from the clipped
pseudo-inverse, which alone is 1.4 dB of mel-cepstral distortion off; ten of them leave 0.3. Phases are found by going
back and forth between spectrogram and signal, with momentum. Where the pitch is known, a source of pulses and noise
gives the first phases, and its harmonics to a log-mel that is too smooth to have them.

The frames of mtl.audio.features begin at sample 0 and are not centred; here they are overlapped and added
where they lie.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mtl.audio.features import hop_length, mel_filters, window_length
from mtl.config.features import FeatureSpec

ITERATIONS = 32
MOMENTUM = 0.99
UPDATES = 10  # of the spectrum behind a log-mel
FLOOR = 1e-3  # of the filters' own spread: what an update starts from where the pseudo-inverse is not above zero
TINY = 1e-16
BREATH = 1e-3  # of noise beneath the pulses, so that no phase is undefined
SHAPINGS = 3
GAINS = (1e-6, 1e6)
LEAST_WEIGHT = 1e-3  # of windows over a sample: at the very ends there is next to none


class GriffinLim(nn.Module):
    """One spec's filters, window and overlap; nothing in it is trained."""

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

        hertz (T,): pitch, 0 where unvoiced; without it all phases are found from nothing. seed: of noise and phases.
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
            # Half the time of `ahead.abs()`, which takes care never to overflow.
            power = ahead.real.square() + ahead.imag.square()
            spectrum = ahead * (magnitude * torch.rsqrt(power + TINY))
            before = now
        return self._signal(spectrum, weight)

    def spectrum(self, logmel: Tensor, hertz: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, T, F), (B, T) Hz -> (B, T, bins): pulses and noise with the log-mel's envelope, to begin from.

        generator: of the noise; torch's own where it is left out.
        """
        source = torch.stack([self.source(row, generator) for row in hertz.float().cpu()]).to(logmel.device)
        return self._shaped(self.power(logmel).sqrt() * self.analyse(source), logmel)

    def source(self, hertz: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(T,) Hz -> (N,): a pulse a period where there is a voice, noise where there is none, of unit power both."""
        frames = torch.arange(self.window + (len(hertz) - 1) * self.hop, dtype=torch.float64) - self.window / 2
        nearest = (frames / self.hop).round().long().clamp(0, len(hertz) - 1)
        noise = torch.randn(len(frames), generator=generator)
        if not (hertz > 0).any():
            return noise
        # Without a voice the pitch goes on as it was, so that pulses do not begin anew with every phone.
        known = (hertz > 0).nonzero()[:, 0].numpy()
        line = np.interp(frames.numpy() / self.hop, known, hertz[hertz > 0].numpy())
        turns = np.floor(np.cumsum(line / self.rate))
        pulses = torch.from_numpy(np.diff(turns, prepend=0.0) * np.sqrt(self.rate / line)).float()
        return torch.where(hertz[nearest] > 0, pulses + BREATH * noise, noise)

    def _shaped(self, spectrum: Tensor, logmel: Tensor) -> Tensor:
        """The spectrum (..., T, bins), each frame scaled smoothly over its bins until it has the log-mel."""
        spread, wanted = self.filters.sum(dim=1) + TINY, logmel.float().exp()
        for _ in range(SHAPINGS):
            mel = (spectrum.abs().square() @ self.filters).clamp(min=TINY)
            gain = (wanted / mel) @ self.filters.T / spread
            spectrum = spectrum * gain.clamp(*GAINS).sqrt()
        return spectrum

    def power(self, logmel: Tensor) -> Tensor:
        """(..., T, F) -> (..., T, bins): a power spectrum, nowhere below zero, that nearly has this log-mel."""
        mel = logmel.float().exp()
        spread = mel @ self.filters.T
        found = (mel @ self.inverse).clamp(min=0) + FLOOR * spread
        for _ in range(UPDATES):
            found = found * (spread / ((found @ self.filters) @ self.filters.T + TINY))
        return found

    def analyse(self, signal: Tensor) -> Tensor:
        """(..., N) -> (..., T, bins), as mtl.audio.features cuts its frames."""
        return torch.fft.rfft(signal.unfold(-1, self.window, self.hop) * self.hann, self.length)

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """(..., T, bins) -> (..., N): the signal whose frames are nearest to these (Griffin and Lim 1984, eq. 6)."""
        return self._signal(spectrum, window_weight(self.hann, spectrum.shape[-2], self.hop))

    def _signal(self, spectrum: Tensor, weight: Tensor) -> Tensor:
        frames = torch.fft.irfft(spectrum, self.length)[..., : self.window] * self.hann
        return overlap_add(frames, self.hop) / weight


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Frames (..., T, window) laid over one another: (..., N) with N = window + (T - 1) x hop.

    A hop of each at a time, which is five times as fast as torch's fold.
    """
    count, window = frames.shape[-2:]
    hops = -(-window // hop)
    pieces = torch.nn.functional.pad(frames, (0, hops * hop - window)).unflatten(-1, (hops, hop))
    total = frames.new_zeros(*frames.shape[:-2], count + hops - 1, hop)
    for number in range(hops):
        total[..., number : number + count, :] += pieces[..., number, :]
    return total.flatten(-2)[..., : window + (count - 1) * hop]


def window_weight(window: Tensor, frames: int, hop: int) -> Tensor:
    """(N,): the squares of windows (W,) over each sample, by which an overlap of windowed frames is divided."""
    return overlap_add(window.square().expand(frames, -1), hop).clamp(min=LEAST_WEIGHT)
