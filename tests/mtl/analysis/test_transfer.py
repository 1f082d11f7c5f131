"""Relative gains and their intervals against values worked by hand, and groupings against an exhaustive reading."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from mtl.analysis.transfer import Model, groupings, partitions, relative_gain, suggested
from mtl.metrics.bootstrap import estimate, pigeonhole_bootstrap
from mtl.metrics.scoring import METRICS

WER, ACCURACY = METRICS["transcript/wer"], METRICS["intent/accuracy"]


def test_a_gain_is_relative_to_the_single_task_model_and_positive_for_better() -> None:
    assert relative_gain(np.array([9.0]), np.array([10.0]), "lower") == pytest.approx([10.0])
    assert relative_gain(np.array([12.0]), np.array([10.0]), "lower") == pytest.approx([-20.0])
    assert relative_gain(np.array([92.0]), np.array([80.0]), "higher") == pytest.approx([15.0])
    # Maninis et al. 2019: delta_m is the mean over tasks, here (10 + 15) / 2.
    gains = [
        relative_gain(np.array([9.0]), np.array([10.0]), "lower"),
        relative_gain(np.array([92.0]), np.array([80.0]), "higher"),
    ]
    assert np.mean(gains) == pytest.approx(12.5)
    assert math.isnan(relative_gain(np.array([1.0]), np.array([0.0]), "lower")[0])
    assert f"{relative_gain(np.array([7.0]), np.array([7.0]), 'lower')[0]:+.1f}" == "+0.0"


def test_the_first_draw_is_what_was_observed() -> None:
    # Two seeds, three rows of (errors, words): seed 1 errs 3 of 10, seed 2 errs 1 of 10.
    counts = np.array([[[1, 4], [2, 4], [0, 2]], [[0, 4], [1, 4], [0, 2]]], dtype=float)
    assert pigeonhole_bootstrap({"a": counts}, {"a": WER.value})["a"][0] == pytest.approx((30.0 + 10.0) / 2)


def test_intervals_are_those_of_every_possible_resample() -> None:
    base = np.array([[[1, 2], [2, 2]], [[1, 2], [1, 2]]], dtype=float)
    cell = np.array([[[0, 2], [2, 2]], [[1, 2], [0, 2]]], dtype=float)
    drawn = pigeonhole_bootstrap({"cell": cell, "base": base}, {"cell": WER.value, "base": WER.value}, resamples=40_000)
    gains = relative_gain(drawn["cell"], drawn["base"], "lower")
    exact = []
    for rows in product(range(2), repeat=2):
        for seeds in product(range(2), repeat=2):
            ours, theirs = (
                np.mean([100 * table[s][list(rows), 0].sum() / table[s][list(rows), 1].sum() for s in seeds])
                for table in (cell, base)
            )
            exact.append(100 * (theirs - ours) / theirs)
    assert gains[0] == pytest.approx(100 * (5 - 3) / 5)  # 3 errors instead of 5, over as many words
    for value in set(np.round(exact, 6)):
        share = np.mean(np.abs(np.array(exact) - value) < 1e-5)
        assert np.mean(np.abs(gains[1:] - value) < 1e-5) == pytest.approx(share, abs=0.01)


def test_what_two_keys_have_in_common_drops_out() -> None:
    rng = np.random.default_rng(0)
    base = np.stack([rng.integers(0, 3, (50, 1)), np.full((50, 1), 10)], axis=2).reshape(1, 50, 2).astype(float)
    same = pigeonhole_bootstrap({"a": base, "b": base.copy()}, {"a": WER.value, "b": WER.value}, resamples=200)
    assert np.array_equal(same["a"], same["b"])
    better = base.copy()
    better[..., 0] *= 0.5  # half of the errors on every row: 50 % whatever is drawn
    drawn = pigeonhole_bootstrap({"a": better, "b": base}, {"a": WER.value, "b": WER.value}, resamples=200)
    found = estimate(relative_gain(drawn["a"], drawn["b"], "lower"))
    assert (found.value, found.low, found.high) == pytest.approx((50, 50, 50))
    assert found.sign == 1


def test_many_rows_are_drawn_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(1).integers(0, 2, (2, 30, 1)).astype(float)
    counts = np.concatenate([counts, np.ones_like(counts)], axis=2)
    whole = pigeonhole_bootstrap({"a": counts}, {"a": ACCURACY.value}, resamples=2000)["a"]
    monkeypatch.setattr("mtl.metrics.bootstrap.WEIGHTS_AT_ONCE", 30 * 7)
    chunks = pigeonhole_bootstrap({"a": counts}, {"a": ACCURACY.value}, resamples=2000)["a"]
    assert len(chunks) == len(whole) == 2001
    assert chunks[0] == whole[0] == pytest.approx(100 * counts[..., 0].mean())
    assert chunks.std() == pytest.approx(whole.std(), rel=0.1)


def test_an_interval_needs_a_value() -> None:
    draws = np.array([2.0, 1.0, np.nan, 3.0])
    assert estimate(draws, 0.9).low == pytest.approx(1.1)
    assert math.isnan(estimate(np.array([np.nan, 1.0, 2.0])).value)
    assert estimate(np.array([np.nan, 1.0, 2.0])).sign == 0
    assert [estimate(np.array([0.0, low, high]), 0.99).sign for low, high in ((1, 2), (-2, -1), (-1, 1))] == [1, -1, 0]


def test_partitions_are_counted_by_the_bell_numbers() -> None:
    assert [len(list(partitions(tuple("abcdef"[:size])))) for size in range(1, 7)] == [1, 2, 5, 15, 52, 203]
    assert list(partitions(("a", "b"))) == [(("a",), ("b",)), (("a", "b"),)]


# What training with the row's task does to the column's, in percent: a and b help each other, c hurts both,
# and a helps c although c hurts a.
MATRIX = {"a": {"b": 10.0, "c": 4.0}, "b": {"a": 6.0, "c": -2.0}, "c": {"a": -8.0, "b": -6.0}}


def gain_of(trained: frozenset[str], task: str) -> np.ndarray:
    others = [MATRIX[other][task] for other in trained if other != task]
    return np.full(3, np.mean(others) if others else 0.0)


def test_groups_of_a_matrix_made_by_hand() -> None:
    one, two, three = groupings(("a", "b", "c"), gain_of, lambda tasks: tasks)
    # All together: a (6 - 8) / 2, b (10 - 6) / 2, c (4 - 2) / 2.
    assert one.models == (Model(("a", "b", "c"), ("a", "b", "c")),)
    assert one.draws[0] == pytest.approx((-1 + 2 + 1) / 3)
    # a and b together; c is served by a model that trains a beside it, and a is not taken from there.
    assert two.models == (Model(("a", "b"), ("a", "b")), Model(("c",), ("a", "c")))
    assert two.draws[0] == pytest.approx((6 + 10 + 4) / 3)
    assert three.draws[0] == pytest.approx(two.draws[0])
    assert suggested([one, two, three]) is two


def test_a_set_is_trained_with_all_that_it_needs() -> None:
    def closed(tasks: frozenset[str]) -> frozenset[str]:
        return tasks | {"a"} if "c" in tasks else tasks

    found = groupings(("a", "b", "c"), gain_of, closed)
    assert found[-1].models[-1] == Model(("c",), ("a", "c"))
    assert all("a" in model.trains for grouping in found for model in grouping.models if "c" in model.trains)


def test_what_is_not_known_is_not_suggested() -> None:
    def partly(trained: frozenset[str], task: str) -> np.ndarray | None:
        return gain_of(trained, task) if len(trained) < 3 else None

    assert [len(grouping.models) for grouping in groupings(("a", "b", "c"), partly, lambda tasks: tasks)] == [2, 3]


def test_fewer_models_are_suggested_where_more_are_not_shown_to_be_better() -> None:
    noise = np.concatenate([[0.0], np.random.default_rng(0).normal(0, 20, 500)])

    def unsure(trained: frozenset[str], task: str) -> np.ndarray:
        return gain_of(trained, task)[0] + (noise if len(trained) > 1 and task == "a" else 0 * noise)

    found = groupings(("a", "b"), unsure, lambda tasks: tasks)
    assert suggested(found) is found[0]
    hurt = groupings(("a", "b"), lambda trained, task: -gain_of(trained, task) / 2, lambda tasks: tasks)
    assert [len(grouping.models) for grouping in hurt] == [1, 2]
    assert len(suggested(hurt).models) == 2  # each alone
