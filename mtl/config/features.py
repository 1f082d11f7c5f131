"""Settings of the log-mel features; mtl/audio/features.py computes them."""

from __future__ import annotations

from dataclasses import dataclass

from mtl.config.setting import setting


@dataclass(frozen=True)
class FeatureSpec:
    """Settings of a log-mel spectrogram; a packaged model carries them."""

    sample_rate: int = setting(16000, "Sampling rate that recordings are converted to, in Hz.", ge=4000)
    bins: int = setting(80, "Number of mel filters.", ge=8, le=256)
    window_ms: float = setting(25.0, "Length of a frame, in milliseconds.", gt=0)
    hop_ms: float = setting(10.0, "Time from one frame to the next, in milliseconds.", gt=0)
    low_hz: float = setting(20.0, "Lower edge of the first mel filter, in Hz.", ge=0)
    high_hz: float = setting(7600.0, "Upper edge of the last mel filter, in Hz.", gt=0)

    def __post_init__(self) -> None:
        if not self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ValueError(f"low_hz < high_hz <= sample_rate / 2 does not hold: {self.low_hz}, {self.high_hz}")
