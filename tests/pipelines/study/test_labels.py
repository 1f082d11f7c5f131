"""Shares of the labels: the cells are those of the study, the curves follow from the rows' scores, the page stands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mtl.config.training import Stage
from mtl.training.curriculum import Curriculum
from pipelines.data.dataset import open_dataset
from pipelines.recipe import parse
from pipelines.report import charts
from pipelines.stages.context import Context
from pipelines.study.cells import Study, StudyError, cells_of
from pipelines.study.labels import figure, result_of, sparse_tasks, study_by_labels, with_labels
from pipelines.study.result import render
from pipelines.study.study import _recipe_of, study
from pipelines.training.prepare import fit_config
from tests.pipelines.report.test_page import read
from tests.pipelines.study.test_study import handmade, small, two_tasks  # noqa: F401
from tests.support import small_night

FREE: dict[str, frozenset[str]] = {"transcript": frozenset(), "intent": frozenset(), "slots": frozenset({"transcript"})}


def test_cells_are_the_joint_model_and_the_sparse_tasks_alone() -> None:
    cells = cells_of(tuple(FREE), FREE, ("joint",), alone=("intent", "slots"))
    assert [sorted(cell) for cell in cells] == [["intent"], ["slots", "transcript"], ["intent", "slots", "transcript"]]


def test_whose_labels_are_few(tmp_path: Path) -> None:
    recipe = parse(small_night.RECIPE)
    assert sparse_tasks(recipe, ()) == ["intent", "slots"]
    assert sparse_tasks(recipe, ("slots",)) == ["slots"]
    with pytest.raises(StudyError, match="has no task domain; its tasks: transcript, intent, slots"):
        sparse_tasks(recipe, ("domain",))
    few = with_labels(recipe, ("intent",), 0.1)
    assert {task: config.labels for task, config in few.tasks.items()} == {"transcript": 1, "intent": 0.1, "slots": 1}
    assert few.address() != recipe.address()
    assert with_labels(recipe, ("intent",), 1.0).address() == recipe.address()  # the cells of a plain study
    with pytest.raises(StudyError, match=r"shares of the labels are 0.1, 2; expected numbers above 0, up to 1"):
        study_by_labels(Context(str(tmp_path), recipe, []), (0.1, 2))


def test_a_cell_follows_what_concerns_it_of_a_curriculum() -> None:
    stages = [
        {"name": "ear", "tasks": ["transcript"], "epochs": 2},
        {"name": "heads", "tasks": ["intent", "slots"], "epochs": 1, "train": "heads"},
    ]
    recipe = small_night.recipe(curriculum=stages)
    ear, heads = Stage("ear", ("transcript",), 2), Stage("heads", ("intent", "slots"), 1, "heads")

    def of(*cell: str) -> tuple[Stage, ...]:
        config = fit_config(_recipe_of(recipe, frozenset(cell), 0))
        made = Curriculum(config.curriculum, cell, config.epochs).stages
        assert sum(stage.epochs for stage in made) == 6  # the same budget
        return made[:-1]

    assert of("transcript", "intent", "slots") == (ear, heads)
    assert of("transcript", "slots") == (ear, replace(heads, tasks=("slots",)))
    assert of("transcript") == (ear,)
    assert of("intent") == (replace(heads, tasks=("intent",)),)


def few(study: Study, share: float) -> Study:
    return replace(study, recipe=with_labels(study.recipe, ["intent"], share), identity=f"{study.identity}")


def test_curves_by_hand(tmp_path: Path, small: SimpleNamespace) -> None:  # noqa: F811
    # Ten asked a row, two rows, two seeds: joint 18 and 16 of 20 right, 85 %; alone 12 and 14, 65 %; then 95 and 90.
    def at(share: float, joint: list[list[int]], alone: list[list[int]]) -> Study:
        cells = {
            "intent": {"intent/accuracy": alone},
            "transcript+intent": {"transcript/wer": [[1, 1], [1, 1]], "intent/accuracy": joint},
        }
        made = handmade(tmp_path / str(share), cells, recipe=two_tasks())
        return few(replace(made, tasks=("transcript", "intent")), share)

    studies = {0.1: at(0.1, [[1, 1], [2, 2]], [[4, 4], [3, 3]]), 1.0: at(1.0, [[0, 1], [1, 0]], [[1, 1], [1, 1]])}
    dataset = open_dataset(small.store, small.utterances, small.features)
    # The scores lie in stores of their own, the rows in the small night's.
    data = {"utterances": small.utterances, "features": small.features}
    found = result_of({s: replace(one, store=_Both(one.store, small.store), **data) for s, one in studies.items()})
    points = found.figures["curves"]["intent"]["points"]
    assert list(found.figures["curves"]) == ["intent"]
    assert [point["share"] for point in points] == [0.1, 1.0]
    labelled_rows = sum(row["split"] == "train" and row["intent"] is not None for row in dataset.rows.to_pylist())
    assert [point["labels"] for point in points] == [round(0.1 * labelled_rows), labelled_rows]
    half = {s: replace(one, store=_Both(one.store, small.store), share=0.5, **data) for s, one in studies.items()}
    halved = result_of(half).figures["curves"]["intent"]["points"][1]["labels"]
    assert halved == labelled_rows / 2  # every training row of this corpus has an intent
    assert points[0]["joint"] == {"value": 85.0, "low": 80.0, "high": 90.0}  # both seeds the worse, or the better one
    assert points[0]["single"] == {"value": 65.0, "low": 60.0, "high": 70.0}
    assert points[0]["gain"]["gain"] == pytest.approx(100 * 20 / 65, abs=1e-4)
    assert points[1]["joint"]["value"] == 95.0
    assert [row["labels, %"] for row in found.table] == ["10", "100"]
    assert found.table[0]["gain, %"] == "+30.77"

    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    page = render(found)
    structure = read(page)
    text = " ".join(" ".join(structure.text).split())
    assert structure.sources == []
    assert "script" not in structure.tags
    assert "scores by share of the labels" in text
    assert "85.00" in text
    assert "+30.77" in text
    assert page.count("<polyline") == 2


class _Both:
    """Reads scores from one store and everything else from another."""

    def __init__(self, scores: Any, data: Any) -> None:
        self.scores, self.data = scores, data

    def read_bytes(self, key: str) -> bytes:
        return bytes((self.scores if key.startswith("study/") else self.data).read_bytes(key))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)


def test_the_figure_is_logarithmic_and_shows_every_interval() -> None:
    points = [
        {"share": share, "joint": {"value": 80, "low": 70, "high": 90}, "single": single}
        for share, single in (
            (0.01, {"value": 40, "low": 30, "high": 50}),
            (0.1, {"value": None, "low": None, "high": None}),
            (1.0, {"value": 60, "low": 50, "high": 70}),
        )
    ]
    drawn = figure({"metric": "intent/accuracy", "points": points})
    joint, single = drawn.split('<g class="s')[1:]
    assert (joint.count("<circle"), joint.count('class="bar"')) == (3, 3)
    assert (single.count("<circle"), single.count('class="bar"')) == (2, 2)
    xs = [float(part.split('"')[0]) for part in joint.split('cx="')[1:]]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)  # a tenth is as far from a hundredth as from one
    assert "10 %" in drawn
    assert charts.interval_chart({"a": []}, "x", "y", {1.0: "1"}) == ""


def test_shares_share_their_cells_with_any_study(ray_session: Any, small: SimpleNamespace) -> None:  # noqa: F811
    context = Context(small.store, small_night.two_tasks(), small.utterances, small.features)
    counted: list[tuple[int, int]] = []
    found = study_by_labels(
        context, labels=(1.0, 0.1), seeds=1, progress=lambda done, total, _: counted.append((done, total))
    )
    assert list(found) == [0.1, 1.0]
    assert counted[0] == (0, 4)
    assert counted[-1] == (4, 4)
    assert [found[0.1].name(cell) for cell in found[0.1].cells] == ["intent", "transcript+intent"]
    before = {entry.key: entry.modified for entry in small.store.list("study/")}
    plain = study(context, seeds=1, kinds=("joint",))
    assert plain.identity == found[1.0].identity
    after = {entry.key: entry.modified for entry in small.store.list("study/")}
    assert {key: after[key] for key in before} == before
    assert {key.rpartition("/")[2] for key in after.keys() - before.keys()} == {
        "transcript-0.json",
        "transcript-0.parquet",
    }
    curves = result_of(found).figures["curves"]
    assert [point["labels"] for point in curves["intent"]["points"]] == [7, 70]  # of 40 heard and 30 read
