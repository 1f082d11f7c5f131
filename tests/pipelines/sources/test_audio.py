"""Decoding: formats by their bytes, segments, channels, rates, and every reason to refuse."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.sources.audio import SoundError, check, decode, read
from pipelines.utterances.schema import REASONS

RATE = 16000


def tone(seconds: float = 0.5, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "tolerance"), [("WAV", 1e-4), ("FLAC", 1e-4), ("AIFF", 1e-4), ("OGG", 0.05), ("MP3", 0.05)]
)
@pytest.mark.parametrize("as_path", [False, True])
def test_the_format_is_told_from_the_bytes(form: str, tolerance: float, as_path: bool, tmp_path: Path) -> None:
    data = encoded(tone(), form=form)
    path = tmp_path / "misleading.raw"
    path.write_bytes(data)
    waveform = decode(path if as_path else data, RATE)
    assert waveform.dtype == np.float32
    assert waveform.shape[0] == pytest.approx(RATE // 2, abs=1200)  # lossy formats pad to whole frames
    middle = slice(2000, 6000)
    assert np.abs(waveform[middle]).max() == pytest.approx(0.5, abs=max(tolerance, 1e-3))


def test_channels_are_averaged() -> None:
    left, right = tone(), np.zeros(RATE // 2, dtype=np.float32)
    waveform, rate = read(encoded(np.stack([left, right], axis=1), subtype="FLOAT"))
    assert rate == RATE
    np.testing.assert_allclose(waveform, left / 2, atol=1e-7)


def test_resampling_keeps_the_tone() -> None:
    waveform = decode(encoded(tone(1.0, 44100), 44100), RATE)
    assert len(waveform) == RATE
    np.testing.assert_allclose(waveform[1000:15000], tone(1.0)[1000:15000], atol=2e-3)


def test_a_segment_is_the_slice_of_the_whole() -> None:
    data = encoded(tone(1.0), form="FLAC")
    whole = decode(data, RATE)
    np.testing.assert_array_equal(decode(data, RATE, start=0.25, duration=0.5), whole[4000:12000])
    np.testing.assert_array_equal(decode(data, RATE, start=0.25), whole[4000:])
    np.testing.assert_array_equal(decode(data, RATE, start=0.5, duration=0.52), whole[8000:])  # within the slack


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"this is no recording" * 100, "undecodable"),
        (cut(encoded(np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32), form="FLAC")), "undecodable"),
        (encoded(np.zeros(0, dtype=np.float32)), "empty"),
        (encoded(np.zeros(RATE, dtype=np.float32)), "all_zero"),
        (encoded(np.full(RATE, np.nan, dtype=np.float32), subtype="FLOAT"), "not_finite"),
        (encoded(np.append(tone(), np.float32(np.inf)), subtype="FLOAT"), "not_finite"),
    ],
)
def test_what_cannot_be_used_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(SoundError) as caught:
        decode(data, RATE)
    assert caught.value.reason == reason
    assert reason in REASONS


def test_a_missing_file_and_a_segment_past_the_end(tmp_path: Path) -> None:
    with pytest.raises(SoundError, match=r"missing_file: .*nowhere\.wav"):
        decode(tmp_path / "nowhere.wav", RATE)
    with pytest.raises(SoundError) as caught:
        decode(encoded(tone()), RATE, start=0.4, duration=1.0)
    assert caught.value.reason == "too_short"
    assert "0.500 s" in caught.value.detail


def test_length_limits() -> None:
    check(tone(0.5), RATE, 0.2, 1.0)
    with pytest.raises(SoundError, match="too_short"):
        check(tone(0.1), RATE, 0.2, 1.0)
    with pytest.raises(SoundError, match="too_long"):
        check(tone(1.5), RATE, 0.2, 1.0)


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(SoundError("all_zero", "a.wav")))
    assert (error.reason, error.detail) == ("all_zero", "a.wav")


def test_real_flac(data: Path) -> None:
    path = sorted((data / "LibriSpeech").rglob("*.flac"))[0]
    expected, rate = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(decode(path, rate), expected)
    np.testing.assert_array_equal(decode(path.read_bytes(), rate), expected)
