"""The channel probe on planted cases: other texts through one channel, the same texts through two; and its parts."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

from mtl.analysis.channel_probe import Separability, channel_statistics, logistic, separability, word_presence
from pipelines import recipe
from pipelines.adhoc.prediction import channel_rows
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.features import extract
from pipelines.evaluation.channel import Pair, probe
from pipelines.storage.store import Store
from tests.support.small_corpus import commit
from tests.support.tiny import BINS

RATE = 16000
WORDS = {"kitchen": ("light", "lamp", "oven", "dim"), "music": ("play", "jazz", "song", "louder")}
SPEAKERS, EACH = 10, 4


def speech(words: list[str], pitch: float, seed: int) -> np.ndarray:
    """Bursts of harmonics, a timbre for each word, with pauses: speech to a microphone, if to nobody else."""
    time = np.arange(int(0.12 * RATE)) / RATE
    pieces = [np.zeros(RATE // 8)]
    for word in words:
        timbre = Random(word)
        tones = [timbre.random() * np.sin(2 * np.pi * pitch * k * time) for k in range(1, 25)]
        pieces += [0.05 * np.sum(tones, axis=0) * np.hanning(len(time)), np.zeros(RATE // 12)]
    wave = np.concatenate(pieces)
    return wave + np.random.default_rng(seed).normal(0, 1e-3, len(wave))


def telephone(wave: np.ndarray) -> np.ndarray:
    """Through a band of 3.4 kHz and back."""
    return np.asarray(soxr.resample(soxr.resample(wave, RATE, 6800), 6800, RATE))[: len(wave)]


def recorded(folder: Path, corpus: str, words: tuple[str, ...], filtered: bool, first: int) -> list[dict[str, Any]]:
    rows = []
    (folder / corpus).mkdir(parents=True, exist_ok=True)
    for speaker in range(SPEAKERS):
        for take in range(EACH):
            said = Random(f"{speaker}/{take}").choices(words, k=3)
            # Speakers are others in each corpus, and their voices are drawn alike.
            wave = speech(said, Random(f"{corpus}{speaker}").uniform(90, 220), first + speaker * EACH + take)
            wave = telephone(wave) if filtered else wave
            path = folder / corpus / f"{speaker}-{take}.wav"
            soundfile.write(path, wave.astype(np.float32), RATE)
            row = {"id": f"{corpus}/{speaker}-{take}", "corpus": corpus, "split": "train", "text": " ".join(said)}
            sound = {"audio": str(path), "start": 0.0, "duration": len(wave) / RATE, "sample_rate": RATE}
            rows.append({**row, **sound, "digest": row["id"], "speaker": f"{corpus}{speaker}"})
    return rows


def dataset(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> Dataset:
    store = Store(folder / "store")
    tables = [commit(store, name, content) for name, content in rows.items()]
    return open_dataset(store, tables, extract(tables, recipe.Features(bins=BINS), store, "local"))


def test_other_texts_through_one_channel_are_no_reason_to_warn(tmp_path: Path) -> None:
    rows = {
        name: recorded(tmp_path, name, words, False, 1000 * number)
        for number, (name, words) in enumerate(WORDS.items())
    }
    (pair,) = probe(dataset(tmp_path, rows), "corpus")
    assert (pair.one, pair.other) == ("kitchen", "music")
    assert pair.words is not None
    assert pair.words.accuracy == 1.0
    assert pair.channel is not None
    assert pair.channel.rows == 80
    assert pair.channel.speakers == 20
    assert pair.channel.low < 0.6
    assert pair.warning is None


def test_the_same_texts_through_two_channels_are(tmp_path: Path) -> None:
    rows = {name: recorded(tmp_path, name, WORDS["music"], name == "phone", ord(name[0])) for name in ("phone", "room")}
    found = dataset(tmp_path, rows)
    (pair,) = probe(found, "corpus")
    assert pair.channel is not None
    assert pair.channel.low > 0.9
    assert pair.words is not None
    assert pair.words.accuracy < 0.6
    assert pair.warning is not None
    assert pair.warning.startswith("domains 'phone' and 'room' can be told apart by the microphone alone: 100 %")
    assert "of 80 recordings, chance 50 %; by their words alone" in pair.warning
    (line,) = channel_rows([pair])
    assert (line["domains"], line["channel, %"], line["speakers"]) == ("phone - room", "100.0", 20)

    kept = [entry.key for entry in found.store.list("channel/")]
    assert len(kept) == 1
    assert probe(found, "corpus") == [pair]
    found.store.delete(kept[0])
    found.store.put_bytes(kept[0], b"[]")
    assert probe(found, "corpus") == []  # it was read, not made again
    assert probe(found, "domain") == []  # nobody has such a label


def test_with_too_few_speakers_nothing_is_said() -> None:
    x, labels = torch.randn(40, 3, dtype=torch.float64), [False, True] * 20
    assert separability(x, labels, ["ana", "bob"] * 20) is None
    told = separability(x, labels, [f"{number % 8}" for number in range(40)])
    assert told is not None
    assert told.speakers == 8
    assert told.rows == 40
    assert Pair("a", "b", None, None).warning is None
    assert channel_rows([Pair("a", "b", None, None)])[0]["speakers"] == "too few"


def test_noise_tells_nothing_and_its_interval_says_so() -> None:
    """Of 40 draws with nothing to tell, all but few intervals hold one half; the mean is one half too."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _seed in range(40):
        x = torch.randn(80, 6, dtype=torch.float64, generator=generator)
        found.append(
            separability(x, [number < 40 for number in range(80)], [f"s{number // 4}" for number in range(80)])
        )
    told = [one for one in found if one is not None]
    assert len(told) == 40
    assert np.mean([one.accuracy for one in told]) == pytest.approx(0.5, abs=0.05)
    assert sum(one.low > 0.6 for one in told) == 0


def test_speakers_are_held_out() -> None:
    """A feature that names the speaker and not the class is worth nothing on others."""
    speakers = [f"s{number // 5}" for number in range(100)]
    labels = [number // 5 % 2 == 0 for number in range(100)]
    voices = torch.eye(20, dtype=torch.float64).repeat_interleave(5, dim=0)
    told = separability(voices, labels, speakers)
    assert told is not None
    assert told.low < 0.6
    told = separability(torch.tensor(labels, dtype=torch.float64)[:, None], labels, speakers)
    assert told == Separability(1.0, 1.0, 1.0, 100, 20)


def test_the_regression_is_that_of_scipy() -> None:
    from scipy.optimize import minimize

    generator = np.random.default_rng(0)
    x = generator.normal(size=(30, 4))
    y = (x[:, 0] + generator.normal(size=30) > 0.5).astype(float)
    share = np.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y).mean())

    def loss(w: np.ndarray) -> float:
        z = x @ w[:4] + w[4]
        return float((share * (np.logaddexp(0, z) - y * z)).sum() + 0.5 * 3.0 * (w[:4] ** 2).sum())

    wanted = minimize(loss, np.zeros(5), options={"gtol": 1e-9}).x
    found = logistic(torch.from_numpy(x), torch.from_numpy(y), ridge=3.0)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4)


def test_statistics_are_of_the_quiet_frames() -> None:
    frames = torch.full((100, 3), 5.0)
    frames[:10] = torch.tensor([-3.0, -2.0, -11.0])  # nobody speaks
    frames[0, 0] = -5.0
    frames[10:, 2] = -9.0  # a channel without treble
    found = channel_statistics(frames)
    assert found.tolist() == pytest.approx(
        [-3.2, -2.0, -11.0, 0.6, 0.0, 0.0, -16.2 / 3, (8.2 + 7.0 + 2.0) / 3, 2 / 3], abs=1e-6
    )


def test_presence_of_words() -> None:
    assert word_presence(["a b a", "b c", "b"]).tolist() == [[1, 1, 0], [1, 0, 1], [1, 0, 0]]  # b, then a, c
