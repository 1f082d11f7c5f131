"""Speed perturbation against the same done to the waveform; SpecAugment by its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from mtl.audio.augmentation import perturbed_length, spec_augment, speed
from mtl.audio.features import log_mel
from mtl.config.features import FeatureSpec
from pipelines.sources.audio import decode

SPEC = FeatureSpec()


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_is_what_resampling_the_waveform_does(data: Path, factor: float) -> None:
    waveform = decode(sorted((data / "LibriSpeech").rglob("*.flac"))[3], 16000)
    features = log_mel(waveform, SPEC)
    played = log_mel(soxr.resample(waveform, 16000 * factor, 16000), SPEC)  # more Hz in, so fewer samples out
    perturbed = speed(features, factor, SPEC).numpy()
    assert abs(len(perturbed) - len(played)) <= 2
    frames = min(len(perturbed), len(played))
    band = slice(0, 70)  # above, slower speech has no source and each method fills in its own way
    error = np.abs(perturbed[:frames, band] - played[:frames, band]).mean()
    stretched_only = torch.nn.functional.interpolate(torch.from_numpy(features).T[None], size=frames, mode="linear")
    without_warp = np.abs(stretched_only[0].T.numpy()[:, band] - played[:frames, band]).mean()
    assert error < 0.75
    assert error < 0.7 * without_warp


def test_speed_by_hand() -> None:
    ramp = np.repeat(np.arange(5, dtype=np.float32)[:, None], 80, axis=1)  # the same in all bins: only time moves
    np.testing.assert_allclose(speed(ramp, 5 / 9, SPEC)[:, 3].numpy(), np.arange(9) / 2, atol=1e-6)
    np.testing.assert_allclose(speed(ramp, 5 / 3, SPEC)[:, 79].numpy(), [0, 2, 4], atol=1e-6)
    assert perturbed_length(5, 5 / 9) == 9
    np.testing.assert_array_equal(speed(ramp.astype(np.float16), 1.0, SPEC).numpy(), ramp)
    with pytest.raises(ValueError, match="expected more than 0"):
        speed(ramp, 0.0, SPEC)


def test_a_tone_moves_up_by_the_factor() -> None:
    def tone(hertz: float) -> np.ndarray:
        return log_mel(np.sin(2 * np.pi * hertz * np.arange(16000) / 16000).astype(np.float32), SPEC)

    assert abs(int(speed(tone(1000), 1.2, SPEC)[40].argmax()) - int(tone(1200)[40].argmax())) <= 1


def masked(seed: int, **options: float) -> tuple[torch.Tensor, torch.Tensor]:
    before = torch.from_numpy(np.random.default_rng(7).normal(size=(4, 100, 80)).astype(np.float32))
    lengths = torch.tensor([100, 80, 60, 1])
    after = spec_augment(before.clone(), lengths, np.random.default_rng(seed), **options)  # type: ignore[arg-type]
    return before, after


def test_masks_stay_within_their_limits_and_hold_the_mean() -> None:
    for seed in range(20):
        before, after = masked(seed, time_masks=1, time_mask_fraction=0.1, freq_masks=1, freq_mask_bins=8)
        for row, length in zip(range(4), (100, 80, 60, 1), strict=True):
            changed = before[row] != after[row]
            assert not changed[length:].any()
            assert changed[:length].all(dim=0).sum() <= 8  # whole bins
            assert changed[:length].all(dim=1).sum() <= max(1, 0.1 * length)  # whole frames
            if changed.any():
                expected = before[row, :length].mean()
                assert torch.allclose(after[row][changed], expected, atol=1e-5)


def test_the_same_generator_gives_the_same_masks() -> None:
    options = {"time_masks": 2, "time_mask_fraction": 0.3, "freq_masks": 2}
    _, first = masked(3, **options)
    _, again = masked(3, **options)
    before, other = masked(4, **options)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(masked(3)[1], before)  # no masks asked for, none made


def test_half_precision_is_masked_in_place() -> None:
    features = torch.randn(1, 50, 80).half()
    result = spec_augment(features, torch.tensor([50]), np.random.default_rng(0), freq_masks=5)
    assert result is features
    assert result.dtype == torch.float16
