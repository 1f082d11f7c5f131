"""The floor of every metric, by hand: what a model that knows nothing reaches on the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mtl.answers import Label, Prediction
from mtl.metrics.distortion import CENTS, DECIBELS, SEMITONES
from mtl.metrics.floors import Floor, ScoredRows, most_frequent
from mtl.metrics.scoring import METRICS, metric_of, score_rows
from mtl.metrics.verification import BINS


def floor(name: str, counts: Sequence[Sequence[float]], rows: Sequence[dict[str, Any]] = (), **more: Any) -> float:
    """The floor's value over rows on which a model had these counts."""
    metric = metric_of(name)
    scored = np.asarray(counts, dtype=float)
    found = metric.floor.counts(ScoredRows(rows or [{}] * len(scored), scored, **more))
    assert found.shape == scored.shape
    return float(metric.value(found.sum(axis=0)))


def labelled(column: str, *values: str) -> list[dict[str, Any]]:
    return [{column: value, "corpus": "c"} for value in values]


def test_every_metric_declares_its_floor_and_says_what_it_answers() -> None:
    for name, metric in METRICS.items():
        assert isinstance(metric.floor, Floor), name
        assert metric.floor.answer, name
    assert metric_of("transcript/wer@digits").floor is METRICS["transcript/wer"].floor


@pytest.mark.parametrize(
    "name", [name for name in METRICS if name.endswith(("wer", "cer", "/per")) and "added" not in name]
)
def test_an_empty_transcript_misses_every_word(name: str) -> None:
    assert floor(name, [[1, 4], [7, 5]]) == 100.0


@pytest.mark.parametrize("name", ["mel/added_wer", "waveform/added_wer"])
def test_speech_without_a_word_adds_what_the_recording_had_right(name: str) -> None:
    # 3 and 2 errors of 4 and 6 words; 1 and 0 of them on the recordings: 9 of 10 words can still be lost.
    heard = {name.replace("added_", ""): np.array([[3, 4], [2, 6]])}
    assert floor(name, [[2, 4], [2, 6]], other=heard.get) == pytest.approx(90.0)


@pytest.mark.parametrize("name", [name for name in METRICS if name.endswith("f1")])
def test_no_slot_matches_nothing(name: str) -> None:
    assert floor(name, [[1, 2, 2], [0, 0, 3]]) == 0.0
    assert math.isnan(floor(name, [[0, 1, 0]]))  # rows without a slot: nothing to find


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in METRICS
        if name.endswith(("/accuracy", "/text_accuracy", "mel/emotion", "mel/speaker", "waveform/emotion"))
        and name != "speaker/accuracy"
    ],
)
def test_the_majority_class_is_right_as_often_as_it_occurs(name: str) -> None:
    task, _, figure = name.partition("/")
    column = figure if figure in ("emotion", "speaker") else task
    assert floor(name, [[0, 1]] * 5, labelled(column, "b", "a", "b", "a", "b")) == pytest.approx(60.0)


def test_of_equally_frequent_labels_the_first_is_taken() -> None:
    assert most_frequent(["b", "a", "a", "b", "c"]) == "a"


def test_speakers_of_two_corpora_are_two_speakers() -> None:
    rows = [{"corpus": corpus, "speaker": "1"} for corpus in ("a", "a", "b", "b", "b")]
    assert floor("speaker/accuracy", [[1, 1]] * 5, rows) == pytest.approx(60.0)


@pytest.mark.parametrize("name", ["language/balanced_accuracy", "emotion/balanced_accuracy"])
def test_the_same_label_for_all_is_right_for_one_of_c(name: str) -> None:
    # Three labels with 1, 2 and 1 rows; the model had two of them right.
    counts = [[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]
    assert floor(name, counts) == pytest.approx(100 / 3)


def test_the_same_score_for_every_trial_is_a_coin() -> None:
    counts = np.zeros((2, 2 * BINS))
    counts[:, 900], counts[:, BINS + 100] = 3, 5  # a perfect model: targets above all others
    assert METRICS["speaker/eer"].value(counts.sum(axis=0)) == 0
    assert floor("speaker/eer", counts.tolist()) == pytest.approx(50.0)
    assert floor("speaker/min_dcf", counts.tolist()) == pytest.approx(100.0)


def test_the_most_frequent_frame_is_the_whole_frame() -> None:
    on = {"tokens": ["light", "on"], "slots": ["B-device", "O"], "intent": "light"}
    off = {"tokens": ["lamp", "off"], "slots": ["B-device", "O"], "intent": "light"}
    rows = [on, on, off, {**off, "intent": "lamp"}]
    # With intents: "light" with light twice of four. Without: the slots of `on` twice, and of `off` twice.
    known = {"intent/accuracy": np.ones((4, 2)), "intent/text_accuracy": np.ones((4, 2))}
    assert floor("slots/frame_accuracy", [[0, 1]] * 4, rows, other=known.get) == 50.0
    assert floor("slots/frame_accuracy", [[0, 1]] * 4, rows) == 50.0
    # As spans, light and lamp are one slot in one place: three of four with their intent, all four without it.
    assert floor("slots/text_frame_accuracy", [[0, 1]] * 4, rows, other=known.get) == 75.0
    assert floor("slots/text_frame_accuracy", [[0, 1]] * 4, rows) == 100.0


@pytest.mark.parametrize("name", [name for name in METRICS if name.startswith("translation/")])
def test_one_translation_for_all_scores_as_that_prediction(name: str) -> None:
    """What a model would get that says "das Licht an" whatever it hears, by the path of any other model."""
    audio = None if "text_" in name else "x.wav"
    rows = [
        {"audio": audio, "translation": text}
        for text in ("das Licht aus bitte", "das Licht an bitte", "das Licht an bitte", "Musik")
    ]
    label = {"translation": Label("das Licht an bitte", 1.0)}
    constant = score_rows(rows, [Prediction(label)] * 4)[name]
    assert floor(name, np.zeros_like(constant.counts).tolist(), rows) == pytest.approx(
        float(METRICS[name].value(constant.counts.sum(axis=0)))
    )
    assert 0 < floor(name, np.zeros_like(constant.counts).tolist(), rows) < 100


def test_the_median_tempo() -> None:
    # 4, 5 and 10 phones a second: 5 is off by 25 %, by nothing and by 50 %.
    rows = [{"durations": [1] * count, "duration": 1.0} for count in (4, 5, 10)]
    assert floor("tempo/error", [[0, 1]] * 3, rows) == pytest.approx(25.0)


def test_the_median_intonation() -> None:
    rows = [{"pitch": [5 - off, 5 + off]} for off in (0.1, 0.2, 0.6)]  # deviations 0.1, 0.2, 0.6 in ln Hz
    assert floor("intonation/error", [[0, 1]] * 3, rows) == pytest.approx(SEMITONES * 0.5 / 3)


def test_the_median_duration_and_the_mean_pitch() -> None:
    # Of 2, 4, 9 frames of 10 ms the median is 4: off by 20, 0 and 50 ms.
    assert floor("prosody/duration", [[0, 2], [0, 1]], [{"durations": [2, 4]}, {"durations": [9]}]) == pytest.approx(
        70 / 3
    )
    # Pitches of 4.9, 5.0 and 5.1 ln Hz around their mean: sqrt(2/3) of a tenth.
    rows = [{"pitch": [4.9, 5.0]}, {"pitch": [5.1]}]
    assert floor("prosody/pitch", [[0, 2], [0, 1]], rows) == pytest.approx(CENTS * 0.1 * math.sqrt(2 / 3))


@pytest.mark.parametrize("name", ["mel/mcd", "waveform/mcd"])
def test_the_mean_log_mel(name: str) -> None:
    # Frames +x and -x of one cosine: the mean is silence, each frame's first coefficient is off by half of x.
    bins, x = 40, 0.8
    wave = x * np.cos(np.pi * (np.arange(bins) + 0.5) / bins)
    mels = [np.stack([wave, -wave, 5 * wave]), wave[None], -wave[None]]  # the third frame is not counted
    found = floor(name, [[0, 2], [0, 1], [0, 1]], features=lambda: mels)
    assert found == pytest.approx(DECIBELS * x / 2, rel=1e-4)


def test_the_mean_spectrum() -> None:
    # A steady tone, and the same ten times fainter, which is 20 dB: each is 10 dB off their mean, in every bin.
    rng = np.random.default_rng(0)
    noise = rng.normal(size=1024)
    loud, faint = (scale * np.tile(noise, 4) for scale in (8000, 800))
    found = floor("waveform/lsd", [[0, 1], [0, 1]], waveforms=lambda: [loud.astype(np.int16), faint.astype(np.int16)])
    assert found == pytest.approx(10.0, abs=0.1)
    assert floor("waveform/lsd", [[0, 1]], waveforms=lambda: [loud.astype(np.int16)]) == pytest.approx(0, abs=1e-4)
