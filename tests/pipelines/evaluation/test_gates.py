"""The gate: values worked by hand, scipy as the independent bootstrap, and what chance alone must not achieve."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtl.metrics.bootstrap import GateError, paired_bootstrap
from pipelines.evaluation.gates import Decision, RowCounts, ScoredModel, decide
from pipelines.recipe import Gates


@dataclass(frozen=True)
class Share:
    """100 x first count / second count."""

    better: str

    def value(self, counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return 100 * np.asarray(counts)[..., 0] / np.asarray(counts)[..., 1]


WER, ACCURACY = Share("lower"), Share("higher")
METRICS = {"transcript/wer": WER, "intent/accuracy": ACCURACY}


def rows(counts: list[list[int]] | np.ndarray, prefix: str = "u") -> RowCounts:
    return RowCounts([f"{prefix}{number}" for number in range(len(counts))], np.asarray(counts, dtype=float))


def right(correct: int, total: int) -> RowCounts:
    return rows([[1, 1]] * correct + [[0, 1]] * (total - correct))


def words(wrong: list[int], total: int = 10) -> RowCounts:
    return rows([[errors, total] for errors in wrong])


def model(name: str, wrong: list[int], correct: int = 98, parameters: int = 1000) -> ScoredModel:
    counts = {"transcript/wer": words(wrong), "intent/accuracy": right(correct, 100)}
    return ScoredModel(name, counts, parameters)


# What knows nothing: ten errors in ten words, and an accuracy of 25 %.
FLOOR = model("the floor", [10] * 60, correct=25)
GATES = Gates(primary="transcript/wer", tolerance={"transcript/wer": 1.0, "intent/accuracy": 2.0})


def test_gain_is_the_difference_of_ratios_over_all_rows() -> None:
    # 6 errors in 20 words -> 30 %; 3 in 20 -> 15 %. (The mean of the rows' ratios would say 25 and 10.)
    champion, candidate = np.array([[1, 10], [5, 10]]), np.array([[1, 10], [2, 10]])
    assert paired_bootstrap(candidate, champion, WER, 0.05, 200).gain == pytest.approx(15.0)
    assert paired_bootstrap(candidate, champion, ACCURACY, 0.05, 200).gain == pytest.approx(-15.0)


def test_bounds_are_those_of_all_resamples_written_out() -> None:
    champion, candidate = np.array([[4, 10], [1, 5], [3, 4]]), np.array([[1, 10], [2, 5], [1, 4]])
    gains = [
        WER.value(champion[list(drawn)].sum(axis=0)) - WER.value(candidate[list(drawn)].sum(axis=0))
        for drawn in itertools.product(range(3), repeat=3)
    ]
    found = paired_bootstrap(candidate, champion, WER, 0.2, 20_000)
    low, high = np.quantile(gains, [0.2, 0.8])  # both fall well inside a run of equal gains
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_bounds_agree_with_scipy() -> None:
    rng = np.random.default_rng(7)
    length = rng.integers(3, 15, 250)
    champion = np.stack([rng.binomial(length, 0.12), length], axis=1)
    candidate = np.stack([rng.binomial(length, 0.09), length], axis=1)

    def gain(chosen: np.ndarray) -> float:
        return WER.value(champion[chosen].sum(axis=0)) - WER.value(candidate[chosen].sum(axis=0))

    theirs = stats.bootstrap(
        (np.arange(250),), gain, vectorized=False, n_resamples=4000, confidence_level=0.9, method="percentile", rng=1
    )
    ours = paired_bootstrap(candidate, champion, WER, 0.05, 4000)
    # Two Monte Carlo estimates of the same quantile: at 4,000 resamples each is good to about 4 % of the spread.
    slack = 0.1 * theirs.standard_error
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=slack)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=slack)


def test_permutation_p_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    champion = np.stack([rng.binomial(8, 0.2, 60), np.full(60, 8)], axis=1)
    candidate = np.stack([rng.binomial(8, 0.15, 60), np.full(60, 8)], axis=1)
    theirs = stats.permutation_test(
        (champion[:, 0], candidate[:, 0]),
        lambda a, b: a.sum() - b.sum(),
        permutation_type="samples",
        alternative="greater",
        n_resamples=8000,
        rng=1,
    )
    assert paired_bootstrap(candidate, champion, WER, 0.05, 8000).p == pytest.approx(theirs.pvalue, abs=0.02)


@pytest.mark.parametrize("differing", [3, 5, 7])
def test_p_of_rows_that_all_improve_is_a_power_of_two(differing: int) -> None:
    candidate, champion = np.array([[1, 1]] * differing), np.array([[0, 1]] * differing)
    found = paired_bootstrap(candidate, champion, ACCURACY, 0.05, 20_000)
    assert found.p == pytest.approx(0.5**differing, rel=0.15)
    assert found.low == 100.0  # the bootstrap alone is certain from any number of rows; hence the second test


def test_three_lucky_rows_are_not_significant_and_seven_are() -> None:
    assert not decide(model("b", [0] * 3), model("a", [1] * 3), GATES, METRICS).promote
    assert decide(model("b", [0] * 7), model("a", [1] * 7), GATES, METRICS).promote


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=60))
def test_an_identical_model_is_never_significantly_better(counts: list[tuple[int, int]]) -> None:
    same = ScoredModel("same", {"transcript/wer": rows(np.array(counts))}, 10)
    decision = decide(same, same, Gates(resamples=100), METRICS)
    (comparison,) = decision.comparisons
    assert (comparison.gain, comparison.low, comparison.high, comparison.p) == (0, 0, 0, 1)
    assert comparison.verdict != "better"
    assert not decision.promote


@pytest.mark.parametrize("size", [12, 200])
def test_chance_is_promoted_no_more_often_than_alpha(size: int) -> None:
    rng = np.random.default_rng(size)
    gates = Gates(primary="intent/accuracy", resamples=400)
    promoted = 0
    for trial in range(300):
        answers = rng.random((2, size)) < 0.8  # both models are right on four rows of five, by luck
        ours, theirs = (rows(np.stack([row, np.ones(size)], axis=1)) for row in answers)
        contenders = (ScoredModel("b", {"intent/accuracy": ours}, 1), ScoredModel("a", {"intent/accuracy": theirs}, 1))
        promoted += decide(*contenders, gates, METRICS, seed=trial).promote
    assert promoted <= 300 * 0.05 + 3 * np.sqrt(300 * 0.05 * 0.95)


def test_clear_gain_promotes_and_records_every_number() -> None:
    decision = decide(model("b", [0] * 40 + [1] * 20), model("a", [1] * 60), GATES, METRICS, n_comparisons=2)
    assert decision.promote
    wer = decision.comparisons[0]
    # 60 errors in 600 words against 20 in 600.
    assert (wer.champion, wer.candidate, wer.gain) == (
        pytest.approx(10),
        pytest.approx(100 / 30),
        pytest.approx(200 / 30),
    )
    assert (wer.rows, wer.unpaired, wer.verdict) == (60, 0, "better")
    assert decision.alpha == pytest.approx(0.025)
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision


def test_a_gain_does_not_buy_a_worse_task() -> None:
    decision = decide(model("b", [0] * 60, correct=95), model("a", [1] * 60, correct=98), GATES, METRICS)
    assert not decision.promote
    assert decision.objections == ("intent/accuracy is worse by 3.00 points, tolerance 2",)
    assert "significantly better" in decision.reason
    assert "worse by 3.00" in decision.reason


def test_a_loss_within_tolerance_passes_and_is_called_inconclusive() -> None:
    decision = decide(model("b", [0] * 60, correct=97), model("a", [1] * 60, correct=98), GATES, METRICS)
    assert decision.promote
    assert decision.comparisons[1].verdict == "inconclusive"
    assert "100 rows cannot rule out" in decision.caveats[0]


def test_a_missed_minimum_blocks_with_and_without_champion() -> None:
    gates = GATES.model_copy(update={"minimum": {"transcript/wer": 8.0, "intent/accuracy": 98.0}})
    candidate = model("b", [1] * 60, correct=98)
    for champion in (None, model("a", [3] * 60)):
        decision = decide(candidate, champion, gates, METRICS)
        assert not decision.promote
        assert decision.objections == ("transcript/wer is 10.00 %, expected at most 8 %",)
    assert decide(model("b", [0] * 60), None, gates, METRICS, floor=FLOOR).promote


def test_a_first_model_that_knows_nothing_is_refused_with_the_reason() -> None:
    decision = decide(model("b", [10] * 60, correct=25), None, GATES, METRICS, floor=FLOOR)
    assert not decision.promote
    assert decision.reason == (
        "first model: transcript/wer 100.00 % is not significantly better than the floor of 100.00 %, "
        "gain +0.00 (at least 0.00, p 1, 60 rows)"
    )
    assert [(row.verdict, row.floor, row.champion) for row in decision.comparisons] == [
        ("at_floor", 100, None),
        ("at_floor", 25, None),
    ]
    without = decide(model("b", [0] * 60), None, GATES, METRICS)
    assert not without.promote
    assert "neither a champion nor a floor" in without.reason


def test_a_first_model_that_beats_the_floor_is_promoted_by_the_rule_for_champions() -> None:
    decision = decide(model("b", [1] * 60, correct=98), None, GATES, METRICS, floor=FLOOR)
    assert decision.promote
    assert decision.champion is None
    assert "transcript/wer 10.00 % is significantly better than the floor of 100.00 %" in decision.reason
    wer = decision.comparisons[0]
    assert (wer.verdict, wer.gain, wer.candidate, wer.floor) == ("better", 90, 10, 100)
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision
    # Four rows that improve can give no p below 1/16; six can.
    for rows_better, promoted in ((4, False), (6, True)):
        candidate = model("b", [9] * rows_better + [10] * (60 - rows_better))
        assert decide(candidate, None, GATES, METRICS, floor=FLOOR).promote is promoted
    # The sixth attempt on the same rows needs more evidence, as against a champion.
    candidate = model("b", [9] * 6 + [10] * 54)
    assert not decide(candidate, None, GATES, METRICS, n_comparisons=6, floor=FLOOR).promote


def test_what_a_first_model_must_show_on_its_other_metrics() -> None:
    worse = decide(model("b", [1] * 60, correct=22), None, GATES, METRICS, floor=FLOOR)
    assert not worse.promote
    assert worse.objections == ("intent/accuracy is worse than the floor of 25.00 % by 3.00 points, tolerance 2",)
    alike = decide(model("b", [1] * 60, correct=25), None, GATES, METRICS, floor=FLOOR)
    assert alike.promote
    assert alike.caveats == ("intent/accuracy 25.00 % is not shown to be better than the floor of 25.00 %",)


def test_a_metric_that_the_champion_lacks_is_compared_with_the_floor() -> None:
    champion = ScoredModel("a", {"transcript/wer": words([2] * 60)}, 1000)
    for correct, verdict, promoted in ((98, "new", True), (25, "at_floor", True), (10, "worse", False)):
        decision = decide(model("b", [1] * 60, correct), champion, GATES, METRICS, floor=FLOOR)
        assert decision.promote is promoted
        assert decision.comparisons[1].verdict == verdict
    assert decision.comparisons[0].floor == 100  # shown beside a champion too
    assert decision.objections[0].startswith("intent/accuracy is worse than the floor of 25.00 %")


def test_rows_without_anything_to_count_are_no_objection_and_a_figure_that_is_no_number_is_one() -> None:
    empty, broken = rows([[0, 0]] * 40), rows([[np.nan, 10]] * 40)
    nothing = ScoredModel("the floor", {"transcript/wer": words([10] * 40), "intent/accuracy": empty}, 0)
    candidate = ScoredModel("b", {"transcript/wer": words([1] * 40), "intent/accuracy": empty}, 1000)
    assert decide(candidate, None, GATES, METRICS, floor=nothing).promote
    assert decide(candidate, nothing, GATES, METRICS).promote
    alarmed = ScoredModel("b", {**candidate.counts, "intent/accuracy": right(0, 40)}, 1000)
    assert decide(alarmed, None, GATES, METRICS, floor=nothing).promote
    silent = ScoredModel("b", {"transcript/wer": words([1] * 60), "intent/accuracy": broken}, 1000)
    floor = ScoredModel("the floor", {"transcript/wer": words([10] * 60), "intent/accuracy": right(10, 40)}, 0)
    assert decide(silent, None, GATES, METRICS, floor=floor).objections == ("intent/accuracy is not a number",)


def test_decisions_made_before_there_were_floors_are_read() -> None:
    decision = decide(model("b", [0] * 60), model("a", [1] * 60), GATES, METRICS)
    old = json.loads(json.dumps(decision.to_json()))
    for row in old["comparisons"]:
        del row["floor"], row["floor_answer"]
    assert Decision.from_json(old) == decision


def test_a_smaller_model_is_promoted_when_shown_to_be_not_worse() -> None:
    champion = model("a", [1] * 60)
    assert decide(model("b", [1] * 60, parameters=900), champion, GATES, METRICS).promote
    assert not decide(model("b", [1] * 60, parameters=990), champion, GATES, METRICS).promote
    # The same answers on 20 rows show nothing.
    assert not decide(model("b", [1] * 20, parameters=500), model("a", [1] * 20), GATES, METRICS).promote


def test_a_task_that_disappears_blocks_and_a_new_one_does_not() -> None:
    full, bare = model("full", [0] * 60), ScoredModel("bare", {"transcript/wer": words([0] * 60)}, 1000)
    worse = ScoredModel("worse", {"transcript/wer": words([1] * 60)}, 1000)
    assert decide(bare, model("a", [1] * 60), GATES, METRICS).objections == (
        "intent/accuracy is missing: the champion has it at 98.00 %",
    )
    decision = decide(full, worse, GATES, METRICS)
    assert decision.promote
    assert decision.comparisons[1].verdict == "new"


def test_rows_are_paired_by_id_and_strangers_are_counted() -> None:
    # Reversed order and one row of its own: 59 pairs remain, and their gain is that of the pairs.
    champion = ScoredModel("a", {"transcript/wer": words([1] * 59 + [9])}, 1000)
    counts = np.array([[0, 10]] * 59 + [[9, 10]])[::-1]
    ids = [f"u{number}" for number in range(59)][::-1]
    candidate = ScoredModel("b", {"transcript/wer": RowCounts(["stranger", *ids], counts.astype(float))}, 1000)
    (wer,) = decide(candidate, champion, GATES, METRICS).comparisons
    assert (wer.rows, wer.unpaired, wer.gain) == (59, 2, pytest.approx(10))


def test_later_looks_need_more_evidence() -> None:
    # Six rows that all improve: p = 1/64 passes 0.05 and fails 0.05 / 5.
    contenders = (model("b", [0] * 6 + [1] * 34), model("a", [1] * 40))
    assert decide(*contenders, GATES, METRICS, n_comparisons=1).promote
    later = decide(*contenders, GATES, METRICS, n_comparisons=5)
    assert not later.promote
    assert later.resamples == 2000


def test_a_resample_without_labels_is_left_out() -> None:
    # One row of three holds all the labelled items; resamples without it have no value.
    counts = np.array([[1, 4], [0, 0], [0, 0]])
    found = paired_bootstrap(counts, counts, ACCURACY, 0.05, 300)
    assert (found.gain, found.low, found.high) == (0, 0, 0)


def test_what_cannot_be_compared_says_so() -> None:
    with pytest.raises(GateError, match="no scored rows for transcript/wer"):
        decide(ScoredModel("b", {}, 1), None, GATES, METRICS)
    with pytest.raises(GateError, match="the gates name the metric 'slots/f2'"):
        decide(model("b", [0]), None, Gates(primary="transcript/wer", minimum={"slots/f2": 1.0}), METRICS)
    apart = ScoredModel("a", {"transcript/wer": rows([[1, 10]] * 40, prefix="other")}, 1000)
    decision = decide(model("b", [0] * 40), apart, GATES, METRICS)
    assert not decision.promote
    assert "no row was scored by both" in decision.reason
