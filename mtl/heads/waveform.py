"""Vocoder: waveforms from log-mels, trained on short segments of recordings."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from mtl.answers import Measurement
from mtl.audio.features import FLOOR, FeatureSpec, log_mel
from mtl.config.model import ModelConfig, VocoderConfig
from mtl.heads.base import Head, States, drawn
from mtl.inputs.batch import Batch
from mtl.inputs.codec import Codec
from mtl.metrics.distortion import distortions, spectral_distances
from mtl.spec import TaskSpec
from mtl.tts.adversary import Adversary, PatchDiscriminator
from mtl.tts.vocoder import Generator

RESOLUTIONS = ((256, 64), (512, 128), (1024, 256))  # window and hop, samples
EDGE = 3  # frames at each end of a segment that the loss ignores: their neighbours are missing
LEAST = 1e-5  # lower limit of a magnitude
COMPRESSION = 0.3  # exponent of the magnitudes for the discriminators


class Waveform(Head):
    """The loss of a segment is the absolute error of its log-mel, plus the mean over resolutions of the spectral
    convergence and log distance (Yamamoto et al. 2020), plus the loss of discriminators, if any; summed over frames.

    The inputs are log-mels, without the trunk, and the pitch of each frame. Recordings shorter than a segment are
    ignored.
    """

    def __init__(self, spec: TaskSpec, config: VocoderConfig) -> None:
        super().__init__(spec)
        self.segment, self.weight = config.segment, config.adversarial
        self.generator = Generator(config)
        self.adversary: Adversary | None = None
        if config.adversarial:
            judges = [PatchDiscriminator(config.channels, planes=2) for _ in RESOLUTIONS]
            self.adversary = Adversary(judges, [_Spectrogram(*resolution) for resolution in RESOLUTIONS])

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        return cls(spec, config.vocoder)

    def rows(self, batch: Batch) -> Tensor:
        """(B,) bool: rows with a waveform that has enough frames."""
        assert batch.feature_lengths is not None, "waveforms come with features"
        assert batch.wave_lengths is not None, "and with their lengths"
        return (batch.wave_lengths > 0) & (batch.feature_lengths >= self.segment)

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        return lengths.new_zeros(()) if batch.waves is None else self.segment * self.rows(batch).sum()

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        logmel, hertz, true = self._segments(states.hidden, batch)
        sound = self.generator(logmel, hertz)
        with torch.autocast(sound.device.type, enabled=False):
            inner = slice(EDGE, -EDGE)
            error = (self._log_mel(sound)[:, inner] - logmel.float()[:, inner]).abs().mean(dim=(1, 2))
            edge = EDGE * self.generator.start.hop
            sound, true = sound[:, edge:-edge], true[:, edge:-edge]
            error = error + spectral_loss(sound, true)
        if self.adversary is not None:
            error = error + self.weight * self.adversary(sound, true)
        return self.segment * error.sum(), self.count(batch, states.lengths)

    def _segments(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-mels (R, S, F), pitch (R, S) and waveform (R, N) of a random segment of each of `rows`."""
        assert batch.waves is not None, "counted only where there are waveforms"
        rows = self.rows(batch).nonzero()[:, 0]
        assert batch.feature_lengths is not None, "which come with features"
        assert batch.hertz is not None, "and with pitch"
        frames = drawn(batch.feature_lengths[rows], self.segment)
        hop = self.generator.start.hop
        samples = self.generator.start.window + (self.segment - 1) * hop
        positions = hop * frames[:, :1] + torch.arange(samples, device=frames.device)
        waves = batch.waves[rows].gather(1, positions).float() / 32768
        return features[rows[:, None], frames], batch.hertz[rows[:, None], frames], waves

    def _log_mel(self, waves: Tensor) -> Tensor:
        """(R, N) -> (R, T, F), as mtl.audio.features defines it."""
        spectrum = self.generator.start.analyse(waves)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ self.generator.start.filters).clamp(min=FLOOR).log()

    @torch.no_grad()
    def sound(self, logmel: Tensor, hertz: Tensor, seed: int = 0) -> Tensor:
        """(T, F), (T,) -> (N,); seed: of the noise."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.generator(logmel[None], hertz[None])[0]

    def measure(self, states: States, batch: Batch, codec: Codec, spec: FeatureSpec) -> list[Measurement | None]:
        """lsd, mcd: of recordings resynthesised from their log-mels."""
        assert batch.waves is not None, "recordings with waveforms alone are measured"
        assert batch.wave_lengths is not None, "which have lengths"
        assert batch.hertz is not None, "and come with their pitch"
        measurements: list[Measurement | None] = [None] * len(batch)
        for row in batch.wave_lengths.nonzero()[:, 0].tolist():
            frames = int(states.lengths[row])
            mel = states.hidden[row, :frames].float()
            sound = self.sound(mel, batch.hertz[row, :frames]).float().cpu()
            true = batch.waves[row, : len(sound)].cpu().numpy().astype(np.float32) / 32768
            spectral = spectral_distances(sound.numpy(), true)
            cepstral = distortions(log_mel(sound, spec), mel.cpu().numpy())
            measurements[row] = Measurement(
                {"lsd": (float(spectral.sum()), len(spectral)), "mcd": (float(cepstral.sum()), len(cepstral))}
            )
        return measurements


def spectral_loss(sound: Tensor, true: Tensor) -> Tensor:
    """(B, N), (B, N) -> (B,): spectral convergence plus mean log distance, averaged over RESOLUTIONS."""
    total = sound.new_zeros(len(sound))
    for window, hop in RESOLUTIONS:
        one, other = (_stft(x, window, hop).abs().clamp(min=LEAST) for x in (sound, true))
        convergence = (one - other).norm(dim=(1, 2)) / other.norm(dim=(1, 2))
        total = total + convergence + (one.log() - other.log()).abs().mean(dim=(1, 2))
    return total / len(RESOLUTIONS)


class _Spectrogram:
    """(B, N) -> (B, 2, T, F): real and imaginary parts of a spectrogram with compressed magnitudes."""

    def __init__(self, window: int, hop: int) -> None:
        self.window, self.hop = window, hop

    def __call__(self, waves: Tensor) -> Tensor:
        spectrum = _stft(waves.float(), self.window, self.hop)
        parts = torch.view_as_real(spectrum).permute(0, 3, 2, 1)
        power = parts.square().sum(dim=1, keepdim=True).clamp(min=LEAST**2)
        return parts * power ** ((COMPRESSION - 1) / 2)


def _stft(waves: Tensor, window: int, hop: int) -> Tensor:
    """(B, N) -> (B, F, T)."""
    return torch.stft(waves, window, hop, window=torch.hann_window(window, device=waves.device), return_complex=True)
