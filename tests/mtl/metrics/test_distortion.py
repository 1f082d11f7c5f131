"""Distortion and alignment: values worked by hand, and a search over every path."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch

from mtl.metrics.distortion import align, cepstra, compare, distortions


def cosine_mel(order: int, height: float, bins: int = 80) -> np.ndarray:
    """(1, F) log power whose log amplitude is `height` times the cosine of that order."""
    return (2 * height * np.cos(math.pi * order * (np.arange(bins) + 0.5) / bins))[None]


def test_cepstra_are_the_cosine_series_of_the_log_amplitude() -> None:
    found = cepstra(cosine_mel(3, 0.7) + cosine_mel(0, 5.0))[0]
    wanted = np.zeros(13)
    wanted[2] = 0.7  # the third; the 0th, loudness, is left out
    np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)


def test_distortion_by_hand() -> None:
    # One coefficient off by 0.5: 10 / ln 10 * sqrt(2 * 0.25) = 3.0709 dB; two of them: sqrt(2) times as much.
    silence = np.zeros((1, 80))
    assert distortions(cosine_mel(1, 0.5), silence).item() == pytest.approx(3.07092, abs=1e-5)
    both = cosine_mel(1, 0.5) + cosine_mel(13, 0.5)
    assert distortions(both, silence).item() == pytest.approx(4.34294, abs=1e-5)
    assert distortions(cosine_mel(14, 0.5), silence).item() == pytest.approx(0.0, abs=1e-9)
    assert distortions(both + 3.0, both).item() == pytest.approx(0.0, abs=1e-9)  # louder is not another voice


def cheapest(distance: np.ndarray) -> float:
    @cache
    def to(i: int, j: int) -> float:
        if i < 0 or j < 0:
            return math.inf
        before = 0.0 if i == j == 0 else min(to(i - 1, j - 1), to(i - 1, j), to(i, j - 1))
        return float(distance[i, j]) + before

    return to(distance.shape[0] - 1, distance.shape[1] - 1)


@pytest.mark.parametrize(("frames", "others"), [(1, 1), (1, 5), (6, 3), (7, 9)])
def test_the_alignment_is_the_cheapest_there_is(frames: int, others: int) -> None:
    torch.manual_seed(frames)
    one, other = torch.randn(frames, 3), torch.randn(others, 3)
    rows, columns = align(one.numpy(), other.numpy())
    distance = torch.cdist(one.double(), other.double()).numpy()
    assert distance[rows, columns].sum() == pytest.approx(cheapest(distance))
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, frames - 1, others - 1)
    steps = set(zip(np.diff(rows).tolist(), np.diff(columns).tolist(), strict=True))
    assert steps <= {(0, 1), (1, 0), (1, 1)}


def test_the_same_twice_as_slow_is_the_same() -> None:
    torch.manual_seed(0)
    true, hertz = torch.randn(20, 80).numpy(), np.where(np.arange(20) < 10, 100.0, 0.0)
    slow = compare(true.repeat(2, axis=0), true, hertz.repeat(2), hertz)
    assert (slow.mcd, slow.pitch, slow.voicing, slow.duration) == (0.0, 0.0, 0.0, 1.0)


def test_pitch_and_voicing_by_hand() -> None:
    mel = torch.randn(4, 80, generator=torch.Generator().manual_seed(0)).numpy()
    found = compare(mel, mel, np.array([200.0, 200.0, 0.0, 150.0]), np.array([100.0, 200.0, 100.0, 0.0]))
    assert found.pitch == pytest.approx(math.sqrt((1200**2 + 0) / 2))  # an octave, and none
    assert found.voicing == 0.5
    assert math.isnan(compare(mel, mel, np.zeros(4), np.zeros(4)).pitch)
