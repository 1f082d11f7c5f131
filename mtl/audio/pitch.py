"""Fundamental frequency of each frame of a log-mel, by Praat's autocorrelation method (Boersma 1993).

    hertz = pitch(waveform, spec)        # (T,) float32, 0 where unvoiced; T = frame_count

Needs the extra `motet[speech]` with praat-parselmouth, which is GPL-3.0-or-later; only this file imports it. YIN (de
Cheveigné and Kawahara 2002) in torch was as fast, but an octave off in a tenth of the frames of shouted speech.
"""

from __future__ import annotations

import numpy as np

from mtl.audio.features import frame_count, hop_length, window_length
from mtl.config.features import FeatureSpec

LOW, HIGH = 60.0, 500.0  # Hz, from creaky low voices to shouts
PERIODS = 3  # of the lowest pitch, in Praat's window


class PitchError(RuntimeError):
    """Praat is not installed."""


def pitch(waveform: np.ndarray, spec: FeatureSpec, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """(N,) float32 at spec.sample_rate -> (T,) float32 in Hz, 0 where unvoiced.

    Raises:
        PitchError: the extra is not installed.
    """
    try:
        import parselmouth
    except ImportError:
        raise PitchError("pitch needs Praat, which is not installed: pip install 'motet[speech]'") from None
    rate, frames = spec.sample_rate, frame_count(len(waveform), spec)
    hop, half = hop_length(spec) / rate, window_length(spec) / rate / 2
    # Praat analyses no frames in the half window at either end; added silence extends it to the first and last frame.
    margin = PERIODS / low
    silence = np.zeros(int(margin * rate), dtype=np.float64)
    padded = np.concatenate([silence, np.asarray(waveform, dtype=np.float64), silence])
    if not padded.any():
        return np.zeros(frames, dtype=np.float32)
    sound = parselmouth.Sound(padded, rate)
    track = sound.to_pitch_ac(time_step=hop, pitch_floor=low, pitch_ceiling=high)
    times, hertz = track.xs(), track.selected_array["frequency"]
    centres = len(silence) / rate + half + hop * np.arange(frames)
    nearest = np.clip(np.rint((centres - times[0]) / hop), 0, len(times) - 1).astype(np.int64)
    return np.asarray(hertz[nearest], dtype=np.float32)
