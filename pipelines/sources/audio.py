"""Decodes recordings to mono float32 waveforms: any format of libsndfile, any sample rate and channel count.

    waveform = decode("a.flac", 16000)                      # (N,) float32, within [-1, 1] for integer formats
    waveform, rate = read(data, start=1.5, duration=2.0)     # a segment at its own rate
    check(waveform, rate, quality.min_seconds, quality.max_seconds)

The format is detected from the content, not the suffix. An unusable recording raises SoundError
with the reason under which ingest quarantines the row.
"""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from pipelines.core.faults import InvalidRow

SEGMENT_SLACK = 0.05  # s by which a segment may exceed the recording: manifests round their times
RESAMPLE_QUALITY = "HQ"  # soxr's 20-bit setting: stop band below the noise of 16-bit recordings


class SoundError(InvalidRow):
    """An unusable recording."""


def decode(
    source: bytes | str | Path, sample_rate: int, start: float = 0.0, duration: float | None = None
) -> np.ndarray:
    """A recording, or its segment of `duration` s from `start` s, as (N,) float32 at `sample_rate` Hz, mono.

    Raises:
        SoundError: missing_file, undecodable, empty, not_finite, all_zero; too_short if the segment
            ends after the recording.
    """
    waveform, rate = read(source, start, duration)
    check(waveform, rate)
    return resample(waveform, rate, sample_rate)


def read(source: bytes | str | Path, start: float = 0.0, duration: float | None = None) -> tuple[np.ndarray, int]:
    """(N,) float32 at the recording's own rate, channels averaged, and that rate in Hz.

    Raises:
        SoundError: missing_file, undecodable, empty, or too_short (see `decode`).
    """
    if isinstance(source, bytes):
        if not source:
            raise SoundError("empty", "0 bytes")
        return _read(io.BytesIO(source), "recording", start, duration)
    try:
        # A descriptor has no name, so libsndfile cannot use its suffix.
        descriptor = os.open(source, os.O_RDONLY)
    except OSError as error:
        raise SoundError("missing_file", f"{source}: {error.strerror}") from None
    try:
        if os.fstat(descriptor).st_size == 0:
            raise SoundError("empty", f"{source}: 0 bytes")
        return _read(descriptor, str(source), start, duration)
    finally:
        os.close(descriptor)


def check(waveform: np.ndarray, rate: int, min_seconds: float | None = None, max_seconds: float | None = None) -> None:
    """Raises SoundError for an unusable waveform: empty, not_finite, all_zero, too_short, too_long."""
    seconds = len(waveform) / rate
    if not len(waveform):
        raise SoundError("empty", "no samples")
    if min_seconds is not None and seconds < min_seconds:
        raise SoundError("too_short", f"{seconds:.3f} s, expected at least {min_seconds:g} s")
    if max_seconds is not None and seconds > max_seconds:
        raise SoundError("too_long", f"{seconds:.3f} s, expected at most {max_seconds:g} s")
    # min and max detect NaN, infinity and silence without a temporary array.
    low, high = float(waveform.min()), float(waveform.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int(np.count_nonzero(~np.isfinite(waveform)))
        raise SoundError("not_finite", f"{bad} of {len(waveform)} samples are NaN or infinite")
    if low == high == 0.0:
        raise SoundError("all_zero", f"{seconds:.3f} s of digital silence")


def resample(waveform: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """(N,) float32 from `rate` to `sample_rate` Hz (soxr); the same array where they are equal."""
    if rate == sample_rate:
        return waveform
    resampled = soxr.resample(waveform, rate, sample_rate, quality=RESAMPLE_QUALITY)
    if not len(resampled):
        raise SoundError("empty", f"{len(waveform)} samples at {rate} Hz are none at {sample_rate} Hz")
    return resampled


def flac(waveform: np.ndarray, rate: int) -> bytes:
    """(N,) float32 within [-1, 1] as a 16-bit FLAC file."""
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _read(file: io.BytesIO | int, name: str, start: float, duration: float | None) -> tuple[np.ndarray, int]:
    try:
        with soundfile.SoundFile(file, closefd=False) as sound:
            begin, count = _segment(sound, name, start, duration)
            if begin:
                sound.seek(begin)
            samples = sound.read(count, dtype="float32")
            rate = int(sound.samplerate)
            decoder = sound.format
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise SoundError("undecodable", f"{name}: {error}") from None
    # The header of an MP3 only estimates its length; in other formats fewer samples mean a truncated file.
    if len(samples) < count and decoder != "MPEG":
        raise SoundError("undecodable", f"{name}: {count} samples by the header, {len(samples)} could be decoded")
    if not len(samples):
        raise SoundError("empty", f"{name}: no samples")
    mono = samples if samples.ndim == 1 else np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32))
    return mono, rate


def _segment(sound: soundfile.SoundFile, name: str, start: float, duration: float | None) -> tuple[int, int]:
    """First sample and number of samples of a segment."""
    rate, total = sound.samplerate, sound.frames
    if total <= 0:
        raise SoundError("empty", f"{name}: no samples")
    begin = round(start * rate)
    end = total if duration is None else round((start + duration) * rate)
    if begin < 0 or end > total + SEGMENT_SLACK * rate or begin >= total:
        segment = f"segment {start:g} s to {end / rate:g} s"
        raise SoundError("too_short", f"{name}: {segment} requested, the recording ends at {total / rate:.3f} s")
    return begin, min(end, total) - begin
