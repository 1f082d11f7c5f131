"""Speaker verification: error rates worked by hand and by scikit-learn, trials that are what they are said to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.answers import Label, Prediction
from mtl.metrics.floors import ScoredRows
from mtl.metrics.scoring import METRICS, score_rows, summarise
from mtl.metrics.verification import (
    BINS,
    UTTERANCES,
    built_trials,
    detection_cost,
    equal_error_rate,
    listed_trials,
    ranks_of,
    verification_counts,
)


def counted(targets: list[float], others: list[float]) -> tuple[np.ndarray, np.ndarray]:
    places = ranks_of(np.array([*targets, *others]))
    return (
        np.bincount(places[: len(targets)], minlength=places.max() + 1),
        np.bincount(places[len(targets) :], minlength=places.max() + 1),
    )


def test_rates_worked_by_hand() -> None:
    # Accepting from 0.6 on misses one target of four (0.3) and lets in one other of four (0.7).
    counts = counted([0.9, 0.8, 0.6, 0.3], [0.7, 0.4, 0.2, 0.1])
    assert equal_error_rate(*counts) == pytest.approx(0.25)
    # Misses at thresholds from low to high: 0 0 0 1/2 1/2 1; false alarms: 1 2/3 1/3 1/3 0 0. The lines cross at 1/3,
    # and the cost, misses + 19 x false alarms, is lowest where nothing false is accepted.
    counts = counted([0.9, 0.5], [0.7, 0.3, 0.1])
    assert equal_error_rate(*counts) == pytest.approx(1 / 3)
    assert detection_cost(*counts) == pytest.approx(0.5)
    assert detection_cost(*counts, p_target=0.5) == pytest.approx(1 / 3)


def test_extremes() -> None:
    assert equal_error_rate(*counted([0.8, 0.9], [0.1, 0.2])) == 0
    assert equal_error_rate(*counted([0.1, 0.2], [0.8, 0.9])) == 1
    assert equal_error_rate(*counted([0.5, 0.5], [0.5, 0.5])) == pytest.approx(0.5)  # a model that hears nothing
    assert np.isnan(equal_error_rate(np.zeros(4), np.ones(4)))
    assert np.isnan(detection_cost(np.ones(4), np.zeros(4)))


def test_equal_error_rate_is_that_of_scikit_learn() -> None:
    from scipy.optimize import brentq
    from sklearn.metrics import roc_curve

    rng = np.random.default_rng(0)
    for shift in (0.3, 1.0, 2.0):
        targets, others = rng.normal(shift, 1, 150), rng.normal(0, 1, 800)
        alarms, hits, _ = roc_curve([1] * 150 + [0] * 800, [*targets, *others], drop_intermediate=False)
        crossing = brentq(lambda x, a=alarms, h=hits: 1.0 - x - np.interp(x, a, h), 0.0, 1.0)
        assert equal_error_rate(*counted([*targets], [*others])) == pytest.approx(crossing, abs=2e-3)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40), st.integers(1, 39))
def test_a_monotone_change_of_the_scores_changes_nothing(scores: list[float], cut: int) -> None:
    rounded = np.round(scores, 3)
    cut = min(cut, len(rounded) - 1)
    before = equal_error_rate(*counted([*rounded[:cut]], [*rounded[cut:]]))
    after = equal_error_rate(*counted([*np.exp(rounded[:cut])], [*np.exp(rounded[cut:])]))
    assert before == pytest.approx(after)
    assert 0 <= before <= 1


def test_more_scores_than_places_keep_their_order() -> None:
    places = ranks_of(np.linspace(-1, 1, 5 * BINS))
    assert places.max() == BINS - 1
    assert (np.diff(places) >= 0).all()
    assert np.bincount(places).tolist() == [5] * BINS


def row(name: str, speaker: str, language: str = "en", **more: Any) -> dict[str, Any]:
    return {"id": f"c/{name}", "corpus": "c", "audio": "a.wav", "speaker": speaker, "language": language, **more}


def heard(*voice: float) -> Prediction:
    return Prediction({"speaker": Label("x", 1.0, np.array(voice))})


def test_built_trials_pair_a_speaker_with_itself_and_with_others_of_its_language() -> None:
    rows = [row(f"{name}{n}", name, "de" if name == "d" else "en") for name in "abd" for n in range(8)]
    rows.append(row("lonely", "e"))
    trials = built_trials(rows, range(len(rows)))
    targets = [t for t in trials if t.target]
    assert len(targets) == 3 * UTTERANCES * (UTTERANCES - 1) / 2
    assert all(rows[t.enrolled]["speaker"] == rows[t.tested]["speaker"] for t in targets)
    others = [t for t in trials if not t.target]
    assert {frozenset((rows[t.enrolled]["speaker"], rows[t.tested]["speaker"])) for t in others} == {frozenset("ab")}
    assert [rows[t.enrolled]["speaker"] for t in others] == ["a", "b"] * (UTTERANCES // 2)
    shuffled = list(reversed(rows))
    ids = {frozenset((shuffled[t.enrolled]["id"], shuffled[t.tested]["id"])) for t in built_trials(shuffled, range(25))}
    assert ids == {frozenset((rows[t.enrolled]["id"], rows[t.tested]["id"])) for t in trials}


def test_listed_trials_come_before_built_ones() -> None:
    rows = [
        row("x/1", "x", trials=["1 x/2", "0 y/1", "0 z/9"]),  # z/9 is not among the rows
        row("x/2", "x"),
        row("y/1", "y", trials=["0 x/1", "1 y/2"]),
        row("y/2", "y"),
    ]
    voices = [heard(1, 0), heard(1, 0.1), heard(0, 1), heard(0.9, 0.3)]
    assert [tuple(t) for t in listed_trials(rows, range(4))] == [
        (0, 1, True),
        (0, 2, False),
        (2, 0, False),
        (2, 3, True),
    ]
    counts = verification_counts(rows, voices)
    # Scores: x1x2 .995 target, x1y1 0, y1x1 0 others, y1y2 .316 target; each speaker's stand at its first row.
    assert list(counts) == [0, 2]
    assert np.flatnonzero(counts[0]).tolist() == [2, BINS]
    assert np.flatnonzero(counts[2]).tolist() == [1, BINS]
    assert summarise(score_rows(rows, voices)) == {"speaker/eer": 0.0, "speaker/min_dcf": 0.0}


def test_only_unseen_speakers_are_judged_and_lower_is_better() -> None:
    rows = [row(f"{name}{n}", name) for name in "abc" for n in range(3)]
    rng = np.random.default_rng(1)
    voices = [heard(*rng.normal(size=4)) for _ in rows]
    every, unseen = score_rows(rows, voices), score_rows(rows, voices, known_speakers=["c"])
    assert len(every["speaker/eer"].rows) == 3
    assert {rows[position]["speaker"] for position in unseen["speaker/eer"].rows} == {"a", "b"}
    assert unseen["speaker/eer"].counts.sum() == 2 * 3 + 3
    assert "speaker/eer" not in score_rows(rows, voices, known_speakers=["b", "c"])
    assert METRICS["speaker/eer"].better == METRICS["speaker/min_dcf"].better == "lower"


def test_the_gate_blocks_a_model_whose_voices_became_worse() -> None:
    from pipelines.evaluation.gates import RowCounts, ScoredModel, decide
    from pipelines.recipe import Gates

    def contender(name: str, spread: float) -> ScoredModel:
        rng = np.random.default_rng(0)
        rows = [row(f"{s}{n}", str(s)) for s in range(40) for n in range(4)]
        means = rng.normal(size=(40, 8))
        voices = [heard(*(means[int(r["speaker"])] + spread * rng.normal(size=8))) for r in rows]
        scored = score_rows(rows, voices)
        return ScoredModel(
            name, {m: RowCounts([str(i) for i in c.rows], c.counts) for m, c in scored.items()}, parameters=100
        )

    good, bad = contender("good", 0.2), contender("bad", 1.5)
    gates = Gates(primary="speaker/accuracy", tolerance={"speaker/accuracy": 100})
    worse = decide(bad, good, gates, METRICS)
    assert any(objection.startswith("speaker/eer is worse by") for objection in worse.objections)
    better = decide(good, bad, Gates(primary="speaker/eer"), METRICS)
    assert better.promote, better.reason
    floor = ScoredModel(
        "the floor",
        {
            name: RowCounts(rows.ids, METRICS[name].floor.counts(ScoredRows(speakers, rows.counts)))
            for name, rows in bad.counts.items()
            for speakers in [[{"corpus": "c", "speaker": id_} for id_ in rows.ids]]
        },
        parameters=0,
    )
    with_limit = decide(bad, None, Gates(primary="speaker/eer", minimum={"speaker/eer": 1}), METRICS, floor=floor)
    assert with_limit.comparisons[1].floor == pytest.approx(50)
    assert "expected at most 1 %" in with_limit.reason


def test_balanced_accuracy_counts_every_language_alike() -> None:

    def said(language: str) -> Prediction:
        return Prediction({"language": Label(language, 0.9)})

    rows = [row(str(n), "s", language) for n, language in enumerate(["en"] * 8 + ["de"] * 2)]
    found = summarise(score_rows(rows, [said("en")] * 9 + [said("de")]))
    assert found["language/accuracy"] == pytest.approx(90.0)
    assert found["language/balanced_accuracy"] == pytest.approx((100 + 50) / 2)
