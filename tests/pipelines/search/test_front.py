"""From a leaderboard to its front, its table, its page; the scalar that ranks trials; what a population does next."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mtl.training.fit import NonFiniteLoss
from pipelines.recipe import RecipeError, parse
from pipelines.search.front import front_of
from pipelines.search.front_charts import axis_label, parallel, scatter, steps
from pipelines.search.front_table import PickError, front_lines, front_rows, picked, schedule_lines
from pipelines.search.pbt import Perturb, extended, ranges_of
from pipelines.search.scalar import Scalar, costs
from pipelines.search.search import SearchError, SearchResult, search
from pipelines.search.stage import render
from pipelines.search.trial import figures, not_finite, with_overrides
from pipelines.stages.context import Context
from tests.support import small_night

TASKS = ["transcript", "intent"]
SINGLE = {"transcript/wer": 20.0, "intent/accuracy": 80.0}


def row(trial: str, wer: float, accuracy: float, ended: int = 0, **more: Any) -> dict[str, Any]:
    metrics = {"valid/transcript/wer": wer, "valid/intent/accuracy": accuracy, "train/intent/loss": 1.0}
    return {
        "trial": trial,
        "overrides": [f"tasks.intent.weight={ended}"],
        "objective": Scalar.gain(SINGLE)(metrics),
        "metrics": {key: value for key, value in metrics.items() if not math.isnan(value)},
        "epochs": 3,
        "seconds": 1.0,
        "ended": ended,
        "parameters": 10,
        "state": "finished",
        "error": None,
        "schedule": [],
        **more,
    }


# Errors (10, 10), (12, 2), (30, 1) are the front; (13, 10) and (40, 40) are not.
BOARD = [
    row("b", 12.0, 98.0, 3),
    row("a", 10.0, 90.0, 1),
    row("d", 13.0, 90.0, 4),
    row("c", 30.0, 99.0, 5),
    row("e", 40.0, 60.0, 2),
]


def result(board: list[dict[str, Any]] | None = None, **settings: Any) -> dict[str, Any]:
    board = BOARD if board is None else board
    front = front_of(board, TASKS, **settings).to_json()
    found = SearchResult("small-1", board, tuple(board[0]["overrides"]), "asha", Scalar.gain(SINGLE).to_json(), front)
    return found.to_json()


def test_the_scalar_is_the_mean_relative_gain_or_the_mean_error() -> None:
    gain = Scalar.gain(SINGLE, budget="3 epochs of all training rows")
    # WER 20 -> 15 is a quarter better, accuracy 80 -> 84 a twentieth.
    assert gain({"valid/transcript/wer": 15.0, "valid/intent/accuracy": 84.0}) == pytest.approx((25 + 5) / 2)
    assert gain({"valid/transcript/wer": 22.0, "valid/intent/accuracy": 80.0}) == pytest.approx((-10 + 0) / 2)
    # Inserted words make no error worse than all wrong; a task without a figure is all wrong.
    assert gain({"valid/transcript/wer": 250.0, "valid/intent/accuracy": 80.0}) == pytest.approx((-400 + 0) / 2)
    assert gain({"valid/transcript/wer": 20.0}) == pytest.approx((0 - 100) / 2)
    assert (gain.worst, gain.mode) == (pytest.approx((-400 - 100) / 2), "max")
    assert "3 epochs of all training rows" in gain.words
    assert "transcript/wer 20.00, intent/accuracy 80.00" in gain.words
    mean = Scalar("mean")
    metrics = {"valid/transcript/wer": 12.0, "valid/transcript/cer": 3.0, "valid/intent/accuracy": 96.0}
    assert mean(metrics) == pytest.approx((12 + 4) / 2)
    assert mean({**metrics, "valid/intent/text_accuracy": 50.0, "weight/intent": 9.0}) == pytest.approx(8)
    assert mean({**metrics, "valid/slots/text_f1": 91.0}) == pytest.approx((12 + 4 + 9) / 3)
    assert mean({"valid/transcript/wer": 250.0, "valid/intent/accuracy": 90.0}) == pytest.approx((100 + 10) / 2)
    assert (mean({"train/intent/loss": 1.0}), mean.worst, mean.mode) == (100.0, 100.0, "min")


def test_a_single_task_figure_of_zero_is_left_out_of_the_gain() -> None:
    gain = Scalar.gain({**SINGLE, "slots/f1": 0.0})
    assert set(gain.base) == set(SINGLE)
    assert "without slots: its single-task slots/f1 is 0" in gain.words
    nothing = Scalar.gain({"slots/f1": 0.0, "transcript/wer": 0.0})
    assert (nothing.kind, nothing.mode) == ("mean", "min")
    assert "mean error" in nothing.words
    assert "transcript/wer is 0" in nothing.words


def test_what_is_reported_to_tune_is_finite_whatever_was_measured() -> None:
    found = figures({"valid/intent/accuracy": 90.0, "valid/slots/f1": math.nan}, Scalar.gain(SINGLE), [*TASKS, "slots"])
    assert found == {
        "objective": pytest.approx((-400 + 12.5) / 2),
        "cost/transcript": 100.0,
        "cost/intent": 10.0,
        "cost/slots": 100.0,
    }
    last = not_finite(NonFiniteLoss("intent", 7, ["u1"]), 2.0, Scalar.gain(SINGLE), TASKS)
    assert (last["objective"], last["cost/transcript"], last["cost/intent"], last["done"]) == (-250.0, 100, 100, True)
    assert costs({"valid/transcript/wer": 120.0}, ["transcript"]) == {"transcript": 100.0}


def test_the_front_its_knee_and_its_hypervolume() -> None:
    front = front_of(BOARD, TASKS)
    assert front.metrics == {"transcript": "transcript/wer", "intent": "intent/accuracy"}
    assert front.trials == ["b", "a", "c"]  # in the leaderboard's order
    assert list(front.costs) == ["a", "e", "b", "d", "c"]  # in the order in which they ended
    assert front.costs["b"] == {"transcript": 12.0, "intent": 2.0}
    assert front.knee == "b"
    # Of the box of 100 x 100: a alone 90 x 90, b adds 88 x 8, c adds 70 x 1.
    assert front.history == pytest.approx([81.0, 81.0, 88.04, 88.04, 88.74])
    assert front.hypervolume == pytest.approx(88.74)
    # Below WER 20 and above 80 %: 10 x 10 and 8 x 8 more, and c counts nothing; of a box of 20 x 20.
    near = front_of(BOARD, TASKS, {"transcript": 20.0, "intent": 80.0})
    assert near.hypervolume == pytest.approx(100 * (100 + 64) / 400)
    assert near.trials == front.trials


def test_a_front_of_what_there_is() -> None:
    nan = math.nan
    partial = front_of([*BOARD, row("x", nan, 99.9)], TASKS)
    assert partial.notes == ["left out, without a figure for some task: x."]
    assert "x" not in partial.costs
    failed = front_of([row("x", 1.0, 99.0, state="failed")], TASKS)
    assert (failed.trials, failed.knee, failed.hypervolume, failed.history) == ([], None, 0.0, [])
    assert "no trial can be placed on a front." in failed.notes
    nowhere = front_of([row("x", nan, 90.0), row("y", nan, 80.0)], TASKS)
    assert (nowhere.metrics, nowhere.trials, nowhere.knee) == ({"intent": "intent/accuracy"}, ["x"], "x")
    assert nowhere.notes[0].startswith("transcript is left out")
    assert "one task alone: its front is its best trial." in nowhere.notes
    unreached = front_of(BOARD, TASKS, {"transcript": 5.0})
    assert unreached.hypervolume == 0
    assert any("no trial beats the reference point" in note for note in unreached.notes)
    empty_box = front_of(BOARD, TASKS, {"intent": 100.0})
    assert (empty_box.hypervolume, empty_box.trials) == (0.0, ["b", "a", "c"])
    two = front_of([row("x", 10.0, 90.0), row("y", 20.0, 95.0)], TASKS)
    assert two.knee is None
    assert any("no knee" in note for note in two.notes)


def test_a_trial_is_picked_by_what_it_is_or_by_its_name() -> None:
    found = result()
    assert [picked(found, what)["trial"] for what in ("best", "knee", "c", "e")] == ["b", "b", "c", "e"]
    with pytest.raises(PickError, match="no trial 'z'; expected best, knee, or one of b, a, d, c, e"):
        picked(found, "z")
    with pytest.raises(PickError, match=r"front of 2 trials has no knee; pick one of them by its name \(x, y\)"):
        picked(result([row("x", 10.0, 90.0), row("y", 20.0, 95.0)]), "knee")


def test_the_table_shows_metrics_as_they_are() -> None:
    rows = front_rows(result())
    assert [(line["trial"], line["transcript/wer"], line["intent/accuracy"], line[""]) for line in rows] == [
        ("b", "12.00", "98.00", "knee"),
        ("a", "10.00", "90.00", ""),
        ("c", "30.00", "99.00", ""),
    ]
    assert rows[0]["mean gain, %"] == "31.25"  # 40 % fewer word errors, 22.5 % more right intents
    lines = front_lines(result())
    assert lines[0][0] == "objective"
    assert lines[0][1].startswith("mean over tasks of the change relative to single-task models")
    told = "88.74 % of the box between no errors and transcript/wer 100, intent/accuracy 0"
    assert lines[1:] == [("hypervolume", told)]
    parts = [{"after": 0, "trial": "a", "overrides": ["x=1"]}, {"after": 2, "trial": "b", "overrides": ["x=2"]}]
    found = front_lines(result([row("b", 12.0, 98.0, schedule=parts)]))
    assert ("schedule", "epoch 3: b, from the weights of a: x=2") in found


def test_steps_and_scatter_of_two_tasks() -> None:
    assert steps([(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.5, 2.5)]) == [(1, 3), (2, 3), (2, 2), (3, 2), (3, 1)]
    assert steps([(1.0, 1.0), (1.0, 1.0)]) == [(1, 1)]
    drawn = scatter({"a": (10.0, 10.0), "b": (12.0, 2.0), "<e>": (40.0, 40.0)}, {"a", "b"}, "b", "wer", "100 − acc")
    assert drawn.count("<title>") == 3
    assert "&lt;e&gt;: wer 40, 100 − acc 40" in drawn
    assert drawn.count('class="s1"') == 1  # the knee
    assert drawn.count("fill-opacity") == 1  # what is off the front
    points = next(iter(re.findall(r'points="([^"]+)"', drawn))).split()
    assert len(points) == 3
    assert axis_label("intent/accuracy") == "100 − intent/accuracy"
    assert scatter({"a": (5.0, 5.0)}, {"a"}, None, "x", "y").count("<title>") == 1  # one point has no range


def test_parallel_coordinates_beyond_three_tasks() -> None:
    metrics = {task: f"{task}/accuracy" for task in ("intent", "domain", "speaker", "emotion")}
    values = {"a": dict.fromkeys(metrics, 1.0), "b": {**dict.fromkeys(metrics, 3.0), "intent": 0.0}, "c": {}}
    assert parallel(values, dict(list(metrics.items())[:3]), {"a", "b"}, "b") == ""
    drawn = parallel(values, metrics, {"a", "b"}, "b")
    assert drawn.count("<polyline") == 2
    assert "b, the knee" in drawn


class Balanced(HTMLParser):
    """Fails where a tag is closed that was not open."""

    VOID = ("meta", "br", "circle", "line", "rect", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_shows_the_front() -> None:
    schedule = [
        {"after": 0, "trial": "a", "overrides": ["trainer.learning_rate=0.001"]},
        {"after": 1, "trial": "b", "overrides": ["trainer.learning_rate=0.0012"]},
    ]
    board = [row("b", 12.0, 98.0, 3, schedule=schedule), *BOARD[1:], row("f", 1.0, 1.0, state="failed", error="<b>no")]
    page = render(result(board), small_night.recipe())
    assert not re.search(r"https?://|@import|url\(", page)
    parser = Balanced()
    parser.feed(page.partition("<body>")[2].partition("</body>")[0])
    assert parser.open == []
    assert page.count('<span class="verdict yes">knee</span>') == 1
    assert "88.74 % of the box" in page
    assert "epoch 2: b, from the weights of a: trainer.learning_rate=0.0012" in page
    assert "&lt;b&gt;no" in page
    assert "synthetic speech" in page
    alone = [row("x", math.nan, 90.0)]
    assert "Trade-offs between tasks" not in render(result(alone), small_night.recipe())


def test_a_population_steps_within_the_space() -> None:
    recipe = small_night.recipe()
    ranges = ranges_of(recipe)
    assert list(ranges) == ["trainer.learning_rate", "tasks.intent.weight", "tasks.slots.weight"]
    point = {"trainer.learning_rate": 2.9e-3, "tasks.intent.weight": 1.0, "tasks.slots.weight": 0.1}
    perturb = Perturb(ranges, seed=0)
    drawn = [perturb(point) for _ in range(40)]
    assert {round(one["tasks.intent.weight"], 6) for one in drawn} == {0.8, 1.2}
    assert {round(one["trainer.learning_rate"], 6) for one in drawn} == {2.32e-3, 3e-3}  # not beyond the space
    assert {round(one["tasks.slots.weight"], 6) for one in drawn} == {0.1, 0.12}
    again = Perturb(ranges, seed=0)
    assert [again(point) for _ in range(40)] == drawn
    assert point["tasks.intent.weight"] == 1.0


def test_a_schedule_follows_the_weights() -> None:
    first = extended([], 0, "a", ["x=1"])
    assert extended(first, 1, "a", ["x=1"]) == first  # restored after a kill: nothing new
    taken = extended(first, 2, "b", ["x=2"])
    assert schedule_lines(taken) == ["epoch 1: a: x=1", "epoch 3: b, from the weights of a: x=2"]
    assert first == [{"after": 0, "trial": "a", "overrides": ["x=1"]}]


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="interval 3 is not below epochs 3"):
        with_overrides(small_night.recipe(), ["search.method=pbt", "search.interval=3"])
    with pytest.raises(RecipeError, match=r"search\.reference names speaker"):
        parse({**small_night.RECIPE, "search": {"reference": {"speaker": 50}}})
    with pytest.raises(RecipeError, match=r"search\.reference\.intent"):
        parse({**small_night.RECIPE, "search": {"reference": {"intent": 101}}})
    with pytest.raises(RecipeError, match="did you mean 'gain'"):
        parse({**small_night.RECIPE, "search": {"objective": "gains"}})
    lonely = with_overrides(small_night.recipe(), ["search.method=pbt"])
    with pytest.raises(SearchError, match="population of one"):
        search(Context(str(tmp_path), lonely, []), trials=1)
