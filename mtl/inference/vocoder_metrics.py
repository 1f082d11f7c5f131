"""What a model's vocoder is worth: recordings' log-mels turned back into sound, beside the recordings themselves.

found = resound(model, batch)            # one Resynthesis a row, None where there is no waveform
spectral_distance(made, true)                 # dB
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mtl.audio.features import log_mel
from mtl.config.features import FeatureSpec
from mtl.heads.waveform import Waveform
from mtl.inputs.batch import Batch
from mtl.metrics.distortion import distortions
from mtl.models.joint import SpeechModel

WINDOW, HOP = 1024, 256  # samples of the spectral distance
DYNAMICS = 60.0  # dB under a recording's loudest: what is fainter counts as that


@dataclass(frozen=True)
class Resynthesis:
    """distortion: sum over frames of the mel-cepstral distortion, dB; frames: their number.

    distance: sum over windows of the log-spectral distance, dB; windows: their number.
    """

    distortion: float
    frames: int
    distance: float
    windows: int


@torch.no_grad()
def resynthesize(model: SpeechModel, batch: Batch, spec: FeatureSpec) -> list[Resynthesis | None]:
    found: list[Resynthesis | None] = [None] * len(batch)
    if "waveform" not in model.config.tasks or batch.waves is None or batch.features is None:
        return found
    assert batch.feature_lengths is not None, "features have lengths"
    assert batch.wave_lengths is not None, "and so have waveforms"
    assert batch.hertz is not None, "which come with their pitch"
    vocoder = cast(Waveform, model.task("waveform"))
    for row in batch.wave_lengths.nonzero()[:, 0].tolist():
        frames = int(batch.feature_lengths[row])
        mel = batch.features[row, :frames].float()
        made = vocoder.sound(mel, batch.hertz[row, :frames]).float()
        true = batch.waves[row, : len(made)].float() / 32768
        far = spectral_distances(made, true)
        again = torch.from_numpy(log_mel(made.cpu(), spec))
        off = distortions(again, mel.cpu())
        found[row] = Resynthesis(float(off.sum()), len(off), float(far.sum()), len(far))
    return found


def spectral_distances(made: Tensor, true: Tensor) -> Tensor:
    """(N,), (N,) -> (T,): the log-spectral distance of each window, dB (Gray and Markel 1976), whatever the phases.

    Root mean square over bins of the difference of 10 log10 of the power, none of them more than DYNAMICS under the
    loudest bin of the true signal.
    """
    count = min(len(made), len(true))
    other = _decibels(true[:count])
    floor = other.max() - DYNAMICS
    return (_decibels(made[:count]).clamp(min=floor) - other.clamp(min=floor)).square().mean(dim=0).sqrt()


def clamped_decibels(true: Tensor) -> Tensor:
    """(N,) -> (bins, T): the spectrum of a recording as `spectral_distances` compares it."""
    found = _decibels(true)
    return found.clamp(min=found.max() - DYNAMICS)


def _decibels(wave: Tensor) -> Tensor:
    """(N,) -> (bins, T)."""
    padded = torch.nn.functional.pad(wave, (0, max(0, WINDOW - len(wave))))
    window = torch.hann_window(WINDOW, device=wave.device)
    spectrum = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)
    return 10 * (spectrum.abs().square() + 1e-12).log10()


def spectral_distance(made: np.ndarray, true: np.ndarray) -> float:
    """Mean of `spectral_distances` of two sounds (N,)."""
    return float(spectral_distances(torch.from_numpy(made), torch.from_numpy(true)).mean())
