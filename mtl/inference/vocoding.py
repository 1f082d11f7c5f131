"""Waveforms from log-mels, with a trained vocoder if there is one, else with Griffin-Lim.

vocoder = VocoderWrapper.of(Predictor.load("vocoder"))
samples = vocoder(mel, hertz)           # (T, F), (T,) Hz -> (N,) float32 within [-1, 1]
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from mtl.audio.griffin_lim import GriffinLim
from mtl.config.features import FeatureSpec
from mtl.heads import first_head
from mtl.heads.waveform import Waveform
from mtl.inference.predictor import Predictor, PredictorError

PEAK = 0.99


class VocoderWrapper:
    """learned: the trained vocoder; None for Griffin-Lim."""

    def __init__(self, features: FeatureSpec, learned: Waveform | None = None) -> None:
        self.features, self.learned = features, learned
        self._griffin_lim = GriffinLim(features)  # on the CPU: its many small steps wait for each other

    @classmethod
    def of(cls, predictor: Predictor, other: Predictor | None = None) -> VocoderWrapper:
        """The vocoder of a predictor, or of another one with the same features.

        Raises:
            PredictorError: the other one has no vocoder, or other features.
        """
        vocoder = first_head((other or predictor).model.tasks.values(), Waveform)
        if other is not None:
            if vocoder is None:
                names = ", ".join(other.model.config.tasks)
                raise PredictorError(f"the vocoder is no model with the task waveform; it has {names}")
            ours, theirs = asdict(predictor.features), asdict(other.features)
            if odd := [f"{key} {theirs[key]:g}, expected {ours[key]:g}" for key in ours if ours[key] != theirs[key]]:
                raise PredictorError(
                    f"the vocoder was trained on other log-mels: {', '.join(odd)}; train one with this model's features"
                )
        return cls(predictor.features, vocoder)

    def __call__(self, mel: Tensor, hertz: Tensor | None = None) -> np.ndarray:
        """Waveform (N,) of a log-mel (T, F); hertz (T,): pitch, 0 where unvoiced.

        Without pitch a trained vocoder gives unvoiced sound, and Griffin-Lim estimates all phases.
        """
        if self.learned is None:
            return self.griffin_lim(mel, hertz)
        hertz = hertz if hertz is not None else torch.zeros(len(mel))
        return _limited(self.learned.sound(mel.to(next(self.learned.parameters()).device), hertz))

    def griffin_lim(self, mel: Tensor, hertz: Tensor | None = None) -> np.ndarray:
        """As a call, but always with Griffin-Lim."""
        return _limited(self._griffin_lim(mel.cpu(), hertz))


def _limited(samples: Tensor) -> np.ndarray:
    """Samples (N,), scaled down if their peak exceeds PEAK."""
    peak = float(samples.abs().max())
    return np.asarray((samples * min(1.0, PEAK / max(peak, 1e-9))).cpu().numpy(), dtype=np.float32)
