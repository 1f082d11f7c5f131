"""Log-mel against Kaldi's implementation, against lhotse's, and against values worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl.audio.features import CHUNK, FLOOR, frame_count, log_mel, mel_filters, mel_scale
from mtl.config.features import FeatureSpec
from pipelines import recipe
from pipelines.sources.audio import decode

SPEC = FeatureSpec()


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def kaldi(waveform: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """The same features by kaldi-native-fbank."""
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.frame_opts.samp_freq = spec.sample_rate
    options.frame_opts.frame_length_ms = spec.window_ms
    options.frame_opts.frame_shift_ms = spec.hop_ms
    options.frame_opts.window_type = "hanning"
    options.frame_opts.dither = 0.0
    options.frame_opts.preemph_coeff = 0.0
    options.frame_opts.remove_dc_offset = False
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = spec.bins
    options.mel_opts.low_freq = spec.low_hz
    options.mel_opts.high_freq = spec.high_hz
    options.use_power = True
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(spec.sample_rate, waveform.tolist())
    bank.input_finished()
    return np.stack([bank.get_frame(frame) for frame in range(bank.num_frames_ready)])


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        FeatureSpec(bins=40, low_hz=0.0, high_hz=8000.0),
        FeatureSpec(sample_rate=8000, bins=23, high_hz=3800.0),
        FeatureSpec(sample_rate=22050, window_ms=50.0, hop_ms=12.5, high_hz=8000.0),
    ],
)
@pytest.mark.parametrize("samples", [1600, 16000 * 3 + 17, 400 + 160 * (CHUNK - 1), 400 + 160 * CHUNK])
def test_agrees_with_kaldi(spec: FeatureSpec, samples: int) -> None:
    waveform = noise(samples)
    expected = kaldi(waveform, spec)
    features = log_mel(waveform, spec)
    assert features.shape == expected.shape == (frame_count(samples, spec), spec.bins)
    np.testing.assert_allclose(features, expected, atol=2e-4)


def test_agrees_with_kaldi_and_lhotse_on_speech(data: Path) -> None:
    from lhotse.features.kaldi.layers import Wav2LogFilterBank

    waveform = decode(sorted((data / "LibriSpeech").rglob("*.flac"))[0], 16000)
    features = log_mel(waveform, SPEC)
    np.testing.assert_allclose(features, kaldi(waveform, SPEC), atol=2e-3)
    import torch

    layer = Wav2LogFilterBank(
        sampling_rate=16000, frame_length=0.025, frame_shift=0.01, remove_dc_offset=False, preemph_coeff=0.0,
        window_type="hanning", dither=0.0, snip_edges=True, num_filters=80, low_freq=20.0, high_freq=7600.0,
    )  # fmt: skip
    expected = layer(torch.from_numpy(waveform)[None])[0].numpy()
    assert features.shape == expected.shape
    # lhotse floors at float32's epsilon and takes the root before the square; speech lies above both.
    loud = expected > -10
    assert loud.mean() > 0.5
    np.testing.assert_allclose(features[loud], expected[loud], atol=5e-3)


def test_an_impulse_by_hand() -> None:
    # One sample of height a at window position p: |X(f)| = a w[p] at every f, so each bin is
    # ln(a^2 w[p]^2 sum of the filter's weights), with w[p] = 0.5 - 0.5 cos(2 pi p / 399).
    waveform = np.zeros(400, dtype=np.float32)
    waveform[100] = 0.5
    weight = 0.5 - 0.5 * np.cos(2 * np.pi * 100 / 399)
    expected = np.log(0.25 * weight**2 * mel_filters(SPEC).sum(axis=0))
    np.testing.assert_allclose(log_mel(waveform, SPEC)[0], expected, atol=1e-5)


def test_a_tone_peaks_in_the_filter_over_it() -> None:
    assert mel_scale(1000.0) == pytest.approx(1000, abs=0.02)  # the scale's anchor
    edges = np.linspace(mel_scale(20.0), mel_scale(7600.0), 82)
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    expected = int(np.abs(edges[1:-1] - 1000).argmin())
    assert (log_mel(tone, SPEC).argmax(axis=1) == expected).all()


def test_silence_is_the_floor_and_half_precision_is_rounding() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(16000, dtype=np.float32), SPEC), np.log(FLOOR), rtol=1e-6)
    waveform = noise(50000)
    half = log_mel(waveform, SPEC, np.float16)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, log_mel(waveform, SPEC).astype(np.float16))


def test_short_signals_are_padded_to_one_frame() -> None:
    short = noise(123)
    features = log_mel(short, SPEC)
    assert features.shape == (1, 80) == (frame_count(123, SPEC), 80)
    np.testing.assert_array_equal(features, log_mel(np.pad(short, (0, 277)), SPEC))
    with pytest.raises(ValueError, match="expected \\(N,\\)"):
        log_mel(np.zeros(0, dtype=np.float32), SPEC)


def test_no_filter_is_empty_and_the_recipe_section_serves_as_a_spec() -> None:
    assert mel_filters(FeatureSpec(bins=256)).any(axis=0).all()
    assert mel_filters(SPEC).shape == (257, 80)
    waveform = noise(8000)
    np.testing.assert_array_equal(log_mel(waveform, recipe.Features()), log_mel(waveform, SPEC))


def test_results_do_not_share_buffers() -> None:
    first = log_mel(noise(8000, 1), SPEC)
    kept = first.copy()
    log_mel(noise(8000, 2), SPEC)
    np.testing.assert_array_equal(first, kept)
