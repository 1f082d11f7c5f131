"""Log-mel spectrograms, fast on one core: frames, window, FFT, power, mel filters, natural logarithm.

    features = log_mel(waveform, FeatureSpec())      # (N,) float32 in [-1, 1] -> (T, F) float32

Definition (kaldi-native-fbank agrees to 1e-4 with the same settings): frames of `window_ms` every `hop_ms` (both cut to
whole samples) that lie wholly inside the signal, T = 1 + (N - window) // hop, with zeros behind a shorter signal; no
dither, no pre-emphasis, no removal of the mean; symmetric Hann window; FFT of the next power of two; power; triangular
filters of peak 1, evenly spaced and linear on mel(f) = 1127 ln(1 + f / 700) (O'Shaughnessy 1987, as in HTK and Kaldi);
ln(max(power, 1e-10)).

For the CPU's cache, chunks of frames go through all steps one after the other, in buffers that are reused between calls
(new ones cost more in page faults than the FFT).
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from mtl.config.features import FeatureSpec

FLOOR = 1e-10  # power of silence, 100 dB below the filter output of a full-scale sine
CHUNK = 512  # frames: 2.5 MB of buffers; smaller chunks cost calls, larger ones leave the cache
GROUPS = 5  # of neighbouring filters, each multiplied with only the FFT bins that it covers: 3x fewer products


def window_length(spec: FeatureSpec) -> int:
    """Samples in a frame."""
    return _samples(spec.window_ms, spec)


def hop_length(spec: FeatureSpec) -> int:
    """Samples from one frame to the next."""
    return max(1, _samples(spec.hop_ms, spec))


def frame_count(samples: int, spec: FeatureSpec) -> int:
    """T of a waveform of `samples` samples."""
    return 1 + max(0, samples - window_length(spec)) // hop_length(spec)


def mel_scale(hertz: np.ndarray | float) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(hertz, dtype=np.float64) / 700.0)


def bin_centres(spec: FeatureSpec) -> np.ndarray:
    """(F,) Hz: centre of each mel filter."""
    edges = np.linspace(mel_scale(spec.low_hz), mel_scale(spec.high_hz), spec.bins + 2)
    return 700.0 * np.expm1(edges[1:-1] / 1127.0)


def mel_filters(spec: FeatureSpec) -> np.ndarray:
    """(fft / 2 + 1, F) float32 weights; the FFT is the shortest power of two without an empty filter."""
    length = 1 << (window_length(spec) - 1).bit_length()
    while True:
        filters = _triangles(spec, length)
        if filters.any(axis=0).all():
            return filters
        length *= 2  # many bins at low frequencies lie between two FFT bins


def log_mel(waveform: np.ndarray | Tensor, spec: FeatureSpec, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """(N,) float32 at spec.sample_rate, full scale 1 -> (T, F) of `dtype`, float32 or float16.

    Raises:
        ValueError: the waveform is not one-dimensional, or empty.
    """
    signal = torch.as_tensor(waveform, dtype=torch.float32)
    if signal.ndim != 1 or not len(signal):
        raise ValueError(f"log_mel was given a waveform of shape {tuple(signal.shape)}, expected (N,) with N > 0")
    return _plan(spec).run(signal.contiguous(), dtype)


class _Plan:
    """Window, filters and buffers of one spec in one thread."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.window, self.hop, self.bins = window_length(spec), hop_length(spec), spec.bins
        filters = mel_filters(spec)
        length = 2 * (len(filters) - 1)
        self.hann = torch.hann_window(self.window, periodic=False, dtype=torch.float64).float()
        self.groups = _groups(filters)
        self.padded = torch.zeros(CHUNK, length)  # zero behind the window, and never written there
        self.spectrum = torch.empty(CHUNK, length // 2 + 1, dtype=torch.complex64)
        self.power = torch.empty(CHUNK, length // 2 + 1)
        self.mel = torch.empty(CHUNK, spec.bins)

    def run(self, signal: Tensor, dtype: type[np.floating]) -> np.ndarray:
        if len(signal) < self.window:
            signal = torch.nn.functional.pad(signal, (0, self.window - len(signal)))
        frames = signal.unfold(0, self.window, self.hop)  # (T, window), a view
        features = torch.empty(len(frames), self.bins, dtype=torch.float16 if dtype is np.float16 else torch.float32)
        for begin in range(0, len(frames), CHUNK):
            chunk = frames[begin : begin + CHUNK]
            features[begin : begin + len(chunk)] = self._chunk(chunk)
        return features.numpy()

    def _chunk(self, frames: Tensor) -> Tensor:
        """(T, window) -> (T, F), T at most CHUNK; the result is overwritten by the next call."""
        count = len(frames)
        padded, spectrum = self.padded[:count], self.spectrum[:count]
        power, mel = self.power[:count], self.mel[:count]
        torch.mul(frames, self.hann, out=padded[:, : self.window])
        torch.fft.rfft(padded, out=spectrum)
        # numpy adds neighbours twice as fast as torch adds real and imaginary views, and takes logarithms three times
        # as fast; torch.abs would take a root; torch multiplies matrices in several threads.
        parts = torch.view_as_real(spectrum).view(count, -1).numpy()
        np.multiply(parts, parts, out=parts)
        np.add(parts[:, 0::2], parts[:, 1::2], out=power.numpy())
        for filters, rows, weights in self.groups:
            torch.mm(power[:, rows], weights, out=mel[:, filters])
        logarithms = mel.numpy()
        np.maximum(logarithms, FLOOR, out=logarithms)
        np.log(logarithms, out=logarithms)
        return mel


_local = threading.local()


def _samples(milliseconds: float, spec: FeatureSpec) -> int:
    return int(milliseconds * spec.sample_rate / 1000 + 1e-6)  # cut as Kaldi does, but 0.1 + 0.2 is 0.3


def _plan(spec: FeatureSpec) -> _Plan:
    key = (spec.sample_rate, spec.bins, spec.window_ms, spec.hop_ms, spec.low_hz, spec.high_hz)
    plans: dict[tuple[float, ...], _Plan] = _local.__dict__.setdefault("plans", {})
    if key not in plans:
        plans[key] = _Plan(spec)
    return plans[key]


def _triangles(spec: FeatureSpec, length: int) -> np.ndarray:
    bins = mel_scale(np.arange(length // 2 + 1) * spec.sample_rate / length)[:, None]
    edges = np.linspace(mel_scale(spec.low_hz), mel_scale(spec.high_hz), spec.bins + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.maximum(np.minimum(rising, falling), 0).astype(np.float32)


def _groups(filters: np.ndarray) -> list[tuple[slice, slice, Tensor]]:
    """Ranges of filters, the FFT bins that they cover, and the weights between the two."""
    groups = []
    for columns in np.array_split(np.arange(filters.shape[1]), GROUPS):
        part = slice(int(columns[0]), int(columns[-1]) + 1)
        rows = np.flatnonzero(filters[:, part].any(axis=1))
        covered = slice(int(rows[0]), int(rows[-1]) + 1)
        groups.append((part, covered, torch.from_numpy(filters[covered, part]).contiguous()))
    return groups
