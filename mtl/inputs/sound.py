"""The input group "sound": waveforms and pitch of recordings, for vocoders, without front-end and trunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mtl.inputs.audio import AudioInputs
from mtl.inputs.group import FrontendStates, InputGroup, Inputs, pad_frames
from mtl.spec import AUDIO

if TYPE_CHECKING:
    from mtl.inputs.batch import Batch


@dataclass(frozen=True)
class SoundInputs(Inputs):
    """waves (B, N) int16, aligned with the features; lengths (B,) in samples, 0 if unknown; hertz (B, T): pitch of each
    frame, 0 where unvoiced."""

    waves: Tensor
    hertz: Tensor


class SoundGroup(InputGroup):
    """Arrays of a row: waveform (N,) and pitch (T,). The states are the log-mels."""

    def collate(self, arrays: Sequence[tuple[np.ndarray, np.ndarray]]) -> SoundInputs:
        waves, lengths = pad_frames([wave for wave, _ in arrays])
        return SoundInputs(lengths, waves, pad_frames([hertz for _, hertz in arrays])[0].float())

    def states(self, model: Any, batch: Batch) -> FrontendStates:
        recordings = batch.inputs[AUDIO]
        assert isinstance(recordings, AudioInputs)
        return FrontendStates(recordings.features, recordings.lengths)
