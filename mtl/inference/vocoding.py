"""Log-mels to sound in use: by a model's own vocoder where it has one, by another model's, or by Griffin-Lim.

sounding = Sounding.of(Predictor.load("vocoder"))
samples = sounding(mel, hertz)          # (T, F), (T,) Hz -> (N,) float32 within [-1, 1]
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
    """learned: the trained vocoder, None for Griffin-Lim."""

    def __init__(self, features: FeatureSpec, learned: Waveform | None = None) -> None:
        self.features, self.learned = features, learned
        self._griffin_lim = GriffinLim(features)  # on the CPU: its many small steps wait for each other

    @classmethod
    def of(cls, predictor: Predictor, other: Predictor | None = None) -> VocoderWrapper:
        """The sound of a model's log-mels, by the vocoder of another one where it is given.

        Raises:
            PredictorError: the other one has no vocoder, or one for other log-mels.
        """
        if other is None:
            return cls(predictor.features, first_head(predictor.model.tasks.values(), Waveform))
        vocoder = first_head(other.model.tasks.values(), Waveform)
        if vocoder is None:
            has = ", ".join(other.model.config.tasks)
            raise PredictorError(f"the vocoder is no model with the task waveform; it has {has}")
        ours, theirs = asdict(predictor.features), asdict(other.features)
        if odd := [f"{name} {theirs[name]:g}, expected {ours[name]:g}" for name in ours if ours[name] != theirs[name]]:
            raise PredictorError(
                f"the vocoder was trained on other log-mels: {', '.join(odd)}; train one with this model's features"
            )
        return cls(predictor.features, vocoder)

    def __call__(self, mel: Tensor, hertz: Tensor | None = None) -> np.ndarray:
        """(T, F) log-mel -> (N,) float32; hertz (T,): its pitch, 0 where unvoiced. Without it a trained vocoder
        whispers, and Griffin-Lim finds one by itself."""
        if self.learned is None:
            return self.griffin_lim(mel, hertz)
        line = hertz if hertz is not None else torch.zeros(len(mel))
        return _within(self.learned.sound(mel.to(next(self.learned.parameters()).device), line))

    def griffin_lim(self, mel: Tensor, hertz: Tensor | None = None) -> np.ndarray:
        """The same by Griffin-Lim, whatever there is."""
        return _within(self._griffin_lim(mel.cpu(), hertz))


def _within(samples: Tensor) -> np.ndarray:
    """(N,), made softer where its peak would not fit into a file."""
    peak = float(samples.abs().max())
    return np.asarray((samples * min(1.0, PEAK / max(peak, 1e-9))).cpu().numpy(), dtype=np.float32)
