"""Speakers dealt into folds: nobody is on both sides, every recording is answered once, figures by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipelines.data.dataset import open_dataset
from pipelines.evaluation.evaluate import Cost, Scores
from pipelines.recipe import Recipe, parse
from pipelines.stages.context import Context
from pipelines.storage.store import Store
from pipelines.study.cells import Study, StudyError
from pipelines.study.folds import result_of, study_by_folds, with_fold
from pipelines.study.result import render
from pipelines.training.folds import FoldError, held_out, speakers_of
from pipelines.training.prepare import labelled
from tests.pipelines.report.test_page import read
from tests.pipelines.study.test_study import small  # noqa: F401
from tests.support import small_night

TASKS: dict[str, Any] = {"emotion": {}, "intent": {}}


def recipe(**trainer: Any) -> Recipe:
    settings = {**small_night.RECIPE["trainer"], "epochs": 1, **trainer}
    return parse({**small_night.RECIPE, "tasks": TASKS, "trainer": settings, "gates": {"primary": "emotion/accuracy"}})


def test_a_speaker_is_held_out_once_and_never_on_both_sides(small: SimpleNamespace) -> None:  # noqa: F811
    dataset = open_dataset(small.store, small.utterances, small.features)
    known = speakers_of(dataset.rows)
    folds = [held_out(dataset, number, 3) for number in range(3)]
    held: list[str] = []
    for fold in folds:
        mine, others = speakers_of(fold.split("valid").rows), speakers_of(fold.split("train").rows)
        assert set(mine) | set(others) == set(known)
        assert not set(mine) & set(others)
        assert len(fold.split("test")) == 0
        held += mine
    assert sorted(held) == known
    assert len({fold.identity for fold in folds} | {dataset.identity}) == 4
    read_alone = dataset.rows.filter(pa.compute.is_null(dataset.rows["audio"]))
    assert len(read_alone) > 0
    text = folds[0].rows.filter(pa.compute.is_null(folds[0].rows["audio"]))
    assert set(text["split"].to_pylist()) == {"train"}


def test_folds_that_cannot_be_dealt(small: SimpleNamespace) -> None:  # noqa: F811
    dataset = open_dataset(small.store, small.utterances, small.features)
    with pytest.raises(FoldError, match="fold 3 of 3"):
        held_out(dataset, 3, 3)
    with pytest.raises(FoldError, match="of 99, and"):
        held_out(dataset, 0, 99)
    context = Context(small.store, recipe(), small.utterances, small.features)
    for folds in (1, 99):
        with pytest.raises(StudyError, match=f"{folds} folds of"):
            study_by_folds(context, folds=folds)


def test_the_fold_is_part_of_the_recipe(small: SimpleNamespace) -> None:  # noqa: F811
    one, other = with_fold(recipe(), 0, 2), with_fold(recipe(), 1, 2)
    assert len({recipe().address(), one.address(), other.address()}) == 3
    dataset = open_dataset(small.store, small.utterances, small.features)
    assert labelled(dataset, one).identity == labelled(held_out(dataset, 0, 2), recipe()).identity


def fold_by_hand(
    store: Store, number: int, answers: dict[str, list[list[str]]], speaker: str, wanted: list[str]
) -> Study:
    """A finished study of one fold: cell -> seed -> answer by row."""
    tasks = ("emotion", "intent")
    for cell, by_seed in {"intent": answers["emotion"], **answers}.items():  # of which no row says the intent
        for seed, got in enumerate(by_seed):
            reference = [json.dumps({"emotion": label, "speaker": speaker}) for label in wanted]
            prediction = [json.dumps({"emotion": {"value": label, "confidence": 1.0}}) for label in got]
            scored = pa.table(
                {"id": [f"{speaker}{row}" for row in range(len(wanted))], "reference": reference,
                 "prediction": prediction, "counts": ["{}"] * len(wanted)}
            )  # fmt: skip
            cost = Cost(5, len(wanted), 1.0, 1.0, 1.0, "cpu")
            Scores("rows", cost, scored).save(store, f"study/f{number}/{cell}-{seed}.parquet")
    cells = tuple(frozenset(cell.split("+")) for cell in answers)
    needs: dict[str, frozenset[str]] = dict.fromkeys(tasks, frozenset())
    return Study(store, f"f{number}", recipe(), tasks, needs, cells, (0, 1), "valid", 1.0, len(wanted))


def test_figures_by_hand(tmp_path: Path) -> None:
    """Speaker x: three happy, one sad; y: one sad. Together all but x's sad one are right in the first seed, and all in
    the second: recall (100 + 50 and 100)/2, accuracy 9 of 10. Alone all are called happy: recall 50, accuracy 60."""
    store = Store(str(tmp_path))
    h, s = "happy", "sad"
    studies = [
        fold_by_hand(
            store, 0, {"emotion": [[h, h, h, h]] * 2, "emotion+intent": [[h, h, h, h], [h, h, h, s]]}, "x", [h, h, h, s]
        ),
        fold_by_hand(store, 1, {"emotion": [[h]] * 2, "emotion+intent": [[s], [s]]}, "y", [s]),
    ]
    found = result_of(studies)
    joint, alone = found.figures["rows"]
    assert (joint["model"], joint["trained"], alone["trained"]) == ("joint", "emotion+intent", "emotion")
    assert joint["accuracy"] == pytest.approx(90)
    assert joint["recall"] == pytest.approx((100 + 75) / 2)
    assert alone["accuracy"] == pytest.approx(60)
    assert alone["recall"] == pytest.approx(50)
    assert joint["recall_low"] <= joint["recall"] <= joint["recall_high"] <= 100
    assert found.figures["by_speaker"]["emotion"] == [
        {"speaker": "x", "rows": 4, "accuracy": pytest.approx(87.5)},
        {"speaker": "y", "rows": 1, "accuracy": pytest.approx(100)},
    ]
    assert found.figures["confusion"]["emotion"] == {"labels": [h, s], "counts": [[6, 0], [1, 3]]}
    assert (found.figures["folds"], found.figures["speakers"], found.figures["recordings"]) == (2, 2, 5)
    page = read(render(found))
    assert "87.5" in page.text
    assert found.table[0]["accuracy, %"].startswith("90.0 (")


def test_what_cannot_be_told_is_an_error(tmp_path: Path) -> None:
    study = fold_by_hand(Store(str(tmp_path)), 0, {"emotion": [["a"]] * 2, "emotion+intent": [["a"]] * 2}, "x", ["a"])
    with pytest.raises(StudyError, match="classifies recordings"):
        result_of([replace(study, tasks=("speaker", "transcript"))])


def test_two_folds_are_trained_and_pooled(ray_session: Any, small: SimpleNamespace) -> None:  # noqa: F811
    context = Context(small.store, recipe(), small.utterances, small.features)
    counted: list[tuple[int, int]] = []
    studies = study_by_folds(context, folds=2, seeds=1, progress=lambda done, total, _: counted.append((done, total)))
    assert counted[-1] == (6, 6)
    found = result_of(studies)
    dataset = open_dataset(*(small.store, small.utterances, small.features))
    heard = pa.compute.sum(pa.compute.is_valid(dataset.rows["audio"])).as_py()
    assert found.figures["recordings"] == heard  # each recording once
    assert found.figures["speakers"] == len(speakers_of(dataset.rows))
    assert {(row["task"], row["model"]) for row in found.figures["rows"]} == {
        (task, model) for task in TASKS for model in ("joint", "alone")
    }
