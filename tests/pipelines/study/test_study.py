"""The study: killed and gone on with it trains no cell twice, and what it says follows from the rows' scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtl.metrics.scoring import METRICS
from pipelines.evaluation.evaluate import Cost, Scores
from pipelines.recipe import Recipe, parse
from pipelines.registry import tracking
from pipelines.stages.context import Context
from pipelines.storage.store import Store
from pipelines.study.cells import Study, StudyError, cells_of, closed, needs_of
from pipelines.study.comparison import Comparison
from pipelines.study.pairs import result_of, sections, transfer_chart
from pipelines.study.result import StudyResult, render
from pipelines.study.study import run_cell, study
from pipelines.training.prepare import Job
from tests.pipelines.report.test_page import read
from tests.support import small_night
from tests.support.pickles import pickles

TASKS = ("transcript", "intent", "slots", "domain")
FREE: dict[str, frozenset[str]] = {task: frozenset() for task in TASKS}
CARRIED = {**FREE, "slots": frozenset({"transcript"})}


def named(cells: Any) -> list[str]:
    return ["+".join(task for task in TASKS if task in cell) for cell in cells]


def test_every_set_of_tasks_is_trained_once() -> None:
    assert named(cells_of(TASKS[:2], FREE)) == ["transcript", "intent", "transcript+intent"]
    assert len(cells_of(TASKS[:3], FREE)) == 7  # what is left of three is a pair
    assert len(cells_of(TASKS, FREE)) == 4 + 6 + 4 + 1
    assert named(cells_of(TASKS, FREE, ("joint",)))[-1] == "transcript+intent+slots+domain"
    assert len(cells_of(TASKS, FREE, ("joint",))) == 5
    assert len(cells_of(TASKS, FREE, ("pairs",))) == 10
    assert len(cells_of(TASKS, FREE, ("leave-one-out",))) == 4 + 4 + 1


def test_a_cell_with_slots_on_audio_carries_the_transcript() -> None:
    cells = named(cells_of(TASKS, CARRIED))
    assert cells == [
        "transcript", "intent", "domain",
        "transcript+intent", "transcript+slots", "transcript+domain", "intent+domain",
        "transcript+intent+slots", "transcript+intent+domain", "transcript+slots+domain",
        "transcript+intent+slots+domain",
    ]  # fmt: skip
    assert closed(frozenset({"slots", "intent"}), CARRIED) == {"transcript", "slots", "intent"}


def test_slots_need_the_transcript_where_they_are_labelled_on_audio() -> None:
    rows: dict[str, Any] = {"audio": ["a.wav", None], "text": ["on", "off"], "slots": [None, ["O"]]}
    assert needs_of(table(rows), TASKS)["slots"] == frozenset()
    assert needs_of(table({**rows, "slots": [["O"], ["O"]]}), TASKS)["slots"] == {"transcript"}
    assert needs_of(table({**rows, "slots": [["O"], ["O"]], "text": [None, "off"]}), TASKS)["slots"] == frozenset()
    assert needs_of(table({**rows, "slots": [["O"], ["O"]]}), ("intent", "slots"))["slots"] == frozenset()


def table(columns: Mapping[str, Any]) -> pa.Table:
    kinds = {"slots": pa.list_(pa.string())}
    return pa.table({name: pa.array(values, kinds.get(name, pa.string())) for name, values in columns.items()})


def handmade(
    tmp_path: Path,
    errors: Mapping[str, Mapping[str, list[list[int]]]],
    needs: Mapping[str, frozenset[str]] | None = None,
    recipe: Recipe | None = None,
) -> Study:
    """A study whose cells made these errors: cell -> metric -> seed -> row."""
    store, recipe = Store(str(tmp_path)), recipe or small_night.recipe()
    tasks = tuple(str(task) for task in recipe.tasks)
    cells = tuple(frozenset(name.split("+")) for name in errors)
    seeds = tuple(range(len(next(iter(next(iter(errors.values())).values())))))
    rows = 0
    for name, metrics in errors.items():
        for seed in seeds:
            rows = len(next(iter(metrics.values()))[seed])
            counts = [
                {
                    metric: [by_seed[seed][row], 10]
                    if METRICS[metric].better == "lower"
                    else [10 - by_seed[seed][row], 10]
                    for metric, by_seed in metrics.items()
                }
                for row in range(rows)
            ]
            ids = [f"r{row}" for row in range(rows)]
            scored = pa.table({"id": ids, "counts": [json.dumps(row) for row in counts]})
            Scores("rows", Cost(5, rows, 1.0, 1.0, 1.0, "cpu"), scored).save(store, f"study/hand/{name}-{seed}.parquet")
            record = {"steps": 7, "epochs": 1, "seconds": 2.0, "parameters": 5, "device": "cpu"}
            store.put_bytes(f"study/hand/{name}-{seed}.json", json.dumps(record).encode())
    needs = needs or dict.fromkeys(tasks, frozenset())
    return Study(store, "hand", recipe, tasks, needs, cells, seeds, "valid", 1.0, rows)


def two_tasks(**tasks: Any) -> Recipe:
    return parse({**small_night.RECIPE, "tasks": {"transcript": {}, "intent": {}, **tasks}})


def test_gains_by_hand(tmp_path: Path) -> None:
    # Ten words a row. Alone: 5 and 3 errors of 20 by seed, so WER 20 %; together 3 and 3: 15 %, a quarter less.
    # Intent alone: 12 and 16 of 20 right, 70 %; together 18 and 17: 87.5 %, a quarter more.
    found = result_of(
        handmade(
            tmp_path,
            {
                "transcript": {"transcript/wer": [[3, 2], [2, 1]]},
                "intent": {"intent/accuracy": [[4, 4], [2, 2]]},
                "transcript+intent": {"transcript/wer": [[2, 1], [2, 1]], "intent/accuracy": [[1, 1], [2, 1]]},
            },
            recipe=two_tasks(),
        )
    )
    assert [(row["task"], row["value"], row["single"], row["gain"]) for row in found.figures["gains"]] == [
        ("transcript", 15.0, 20.0, 25.0),
        ("intent", 87.5, 70.0, 25.0),
    ]
    assert found.figures["means"][0]["gain"] == 25.0
    assert found.figures["matrix"]["transcript"]["intent"]["gain"] == 25.0
    assert found.figures["matrix"]["intent"]["transcript"]["gain"] == 25.0
    assert found.figures["matrix"]["intent"]["intent"] is None
    assert (
        found.figures["left_out"] == found.figures["matrix"]
    )  # of two tasks, the joint model without one is the other alone
    row = found.figures["gains"][0]
    # The seeds alone give 0 % (second seed twice) to 40 % (first seed twice).
    assert 0 <= row["low"] <= 25 <= row["high"] <= 100 * (1 - 2 / 6) + 1e-6
    assert found.lines[3].endswith("+25.00 %: transcript, intent  <- suggested")
    assert found.table[0]["gain, %"] == "+25.00"
    assert any("2 seed(s)" in note for note in found.notes)


def study_of_four_seeds(tmp_path: Path, joint: Mapping[str, int], pair: Mapping[str, int] | None = None) -> StudyResult:
    """20 rows alike: every intent and slots error alone is 4 of 10; `joint` (and the pair) say how many together."""

    def errors(**counts: int) -> dict[str, list[list[int]]]:
        names = {"transcript": "transcript/wer", "intent": "intent/accuracy", "domain": "domain/accuracy"}
        return {names[task]: [[count] * 20] * 4 for task, count in counts.items()}

    cells = {name: errors(**{name: 4}) for name in ("transcript", "intent", "domain")}
    if pair:
        cells["+".join(pair)] = errors(**pair)
    cells["transcript+intent+domain"] = errors(**joint)
    return result_of(handmade(tmp_path, cells, recipe=two_tasks(domain={})))


def test_a_task_that_the_joint_model_harms_is_to_train_alone_or_with_what_helps_it(tmp_path: Path) -> None:
    found = study_of_four_seeds(tmp_path, {"transcript": 2, "intent": 5, "domain": 4}, {"intent": 3, "domain": 5})
    assert found.figures["advice"]["transcript"] == (
        "transcript: train it jointly; joint training changes it by +50.0 % (+50.0 … +50.0)."
    )
    assert found.figures["advice"]["intent"].startswith("intent: train it with domain, from which it gains +16.7 %")
    assert found.figures["advice"]["domain"].startswith(
        "domain: no set that was tried is shown to help it or to harm it"
    )
    alone = study_of_four_seeds(tmp_path / "alone", {"transcript": 2, "intent": 5, "domain": 4})
    assert alone.figures["advice"]["intent"] == (
        "intent: train it alone; joint training changes it by -16.7 % (-16.7 … -16.7), "
        "and no set that was tried is shown to help it."
    )
    # Transcript from the joint model; intent from one with domain beside; domain alone or jointly: no worse.
    best = [group for group in found.figures["groups"] if group["suggested"]]
    assert len(best) == 1
    assert {(tuple(model["serves"]), tuple(model["trains"])) for model in best[0]["models"]} == {
        (("transcript", "domain"), ("transcript", "intent", "domain")),
        (("intent",), ("intent", "domain")),
    }
    assert best[0]["gain"] == pytest.approx((50 + 100 / 6 + 0) / 3, abs=1e-3)


def test_what_a_carried_task_does_is_measured_beside_its_carrier(tmp_path: Path) -> None:
    def errors(**counts: int) -> dict[str, list[list[int]]]:
        names = {"transcript": "transcript/wer", "intent": "intent/accuracy", "slots": "slots/frame_accuracy"}
        return {names[task]: [[count, count]] * 2 for task, count in counts.items()}

    needs = {"transcript": frozenset[str](), "intent": frozenset[str](), "slots": frozenset({"transcript"})}
    cells = {
        "transcript": errors(transcript=4),
        "intent": errors(intent=5),
        "transcript+intent": errors(transcript=4, intent=4),
        "transcript+slots": errors(transcript=2, slots=5),
        "transcript+intent+slots": errors(transcript=2, intent=1, slots=2),
    }
    found = result_of(handmade(tmp_path, cells, needs))
    gain = {
        i: {j: change and change["gain"] for j, change in row.items()} for i, row in found.figures["matrix"].items()
    }
    assert gain["slots"]["transcript"] == 50.0
    assert gain["transcript"]["slots"] is None  # slots are never without it
    assert gain["slots"]["intent"] == 50.0  # 9 of 10 instead of 6, which it is with the transcript; not of 5
    assert gain["intent"]["slots"] == 60.0  # 8 instead of 5
    assert found.figures["left_out"]["transcript"] == dict.fromkeys(needs)  # cannot be left out
    assert found.figures["left_out"]["slots"]["intent"]["gain"] == 50.0
    assert any("slots on audio needs transcript" in note for note in found.notes)


def test_no_change_is_relative_to_zero(tmp_path: Path) -> None:
    cells = {
        "transcript": {"transcript/wer": [[0, 0]]},
        "intent": {"intent/accuracy": [[5, 5]]},
        "transcript+intent": {"transcript/wer": [[1, 0]], "intent/accuracy": [[5, 5]]},
    }
    found = result_of(handmade(tmp_path, cells, recipe=two_tasks()))
    assert found.figures["gains"][0]["gain"] is None
    assert any("transcript/wer of the single-task model is 0" in note for note in found.notes)
    assert found.figures["advice"]["transcript"] == "transcript: no recommendation; see the notes."
    assert "–" in render(found)


def test_the_page_stands_alone_and_survives_its_json(tmp_path: Path) -> None:
    found = study_of_four_seeds(tmp_path, {"transcript": 2, "intent": 5, "domain": 4}, {"intent": 3, "domain": 5})
    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    page = render(found)
    structure = read(page)
    text = " ".join(" ".join(structure.text).split())
    assert structure.sources == []
    assert "script" not in structure.tags
    assert "train it with domain" in text
    assert "suggested" in text
    assert "training with intent changes domain by -16.7 %" in text
    assert "synthetic speech" in text
    assert "+50.00" in text
    assert "Transfer between tasks" in text
    nothing: dict[str, dict[str, Any]] = {task: dict.fromkeys(found.tasks) for task in found.tasks}
    without = sections({**found.figures, "matrix": nothing, "left_out": nothing})
    assert "Transfer between tasks" not in render(replace(found, sections=without))


def test_the_transfer_chart_shows_every_value_it_has() -> None:
    changes: dict[str, dict[str, Any]] = {
        "a": {"a": None, "b<": {"gain": -4.0, "low": -5.0, "high": -3.0}},
        "b<": {"a": {"gain": 2.0, "low": -1.0, "high": 3.0}, "b<": None},
    }
    drawn = transfer_chart(changes)
    assert read(f"<p>{drawn}</p>").text.count("–") == 2
    assert "-4.0*" in drawn
    assert "+2.0<" in drawn
    assert "training with b&lt; changes a by +2.0 %" in drawn


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    pytest.importorskip("espeakng_loader", reason="the small night is spoken by eSpeak NG: install motet[espeak]")
    store = Store(str(tmp_path_factory.mktemp("study") / "store"))
    utterances, features = small_night.data(store)
    return SimpleNamespace(store=store, utterances=utterances, features=features)


def results(store: Store) -> dict[str, Any]:
    return {entry.key: entry.modified for entry in store.list("study/") if entry.key.endswith(("0.json", "1.json"))}


def test_a_killed_study_goes_on_and_trains_nothing_twice(ray_session: Any, small: SimpleNamespace) -> None:
    store, recipe = small.store, small_night.two_tasks()
    with small_night.killed_driver("study", store.root) as driver:
        assert driver.stdout is not None
        next(line for line in iter(driver.stdout.readline, "") if line.startswith(("2 ", "3 ", "4 ")))
    before = results(store)
    assert 2 <= len(before) < 6

    run = tracking.start(store.root, recipe, "study")
    counted: list[int] = []
    context = Context(store, recipe, small.utterances, small.features)
    found = study(context, seeds=2, tracking=run, progress=lambda done, *_: counted.append(done))
    after = results(store)
    assert len(after) == 6
    assert pickles(store.root) == []
    assert {key: after[key] for key in before} == before
    assert counted == list(range(len(before), 7))
    nested = f"tags.`mlflow.parentRunId` = '{run.run_id}'"
    children = run.client.search_runs([run.experiment_id], nested)
    finished = [child.info.run_name for child in children if child.info.status == "FINISHED"]
    assert sorted(finished) == sorted(f"{found.name(cell)}-{seed}" for cell in found.cells for seed in (0, 1))

    records = [found.record(cell, seed) for cell in found.cells for seed in found.seeds]
    assert len({record["steps"] for record in records}) == 1  # the same budget
    assert {tuple(record["tasks"]) for record in records} == {("transcript",), ("intent",), ("transcript", "intent")}
    assert found.scores(found.joint, 0).table["id"].equals(found.scores(found.cells[0], 1).table["id"])
    assert records[0]["metrics"] != records[1]["metrics"] or records[0]["history"] != records[1]["history"]

    # Asked again, it trains nothing; with fewer kinds of cells neither; what it says is the same.
    again = study(context, seeds=2, kinds=("joint",))
    assert results(store) == after
    assert again.cells == found.cells
    findings = result_of(found)
    assert result_of(again) == findings
    assert findings.figures["metrics"] == {"transcript": "transcript/wer", "intent": "intent/accuracy"}
    assert all(math.isfinite(row["low"]) for row in findings.figures["gains"])

    # Other labels are another study; one more seed is three more cells of this one.
    sparse = parse({**small_night.RECIPE, "tasks": {"transcript": {}, "intent": {"labels": 0.1}}})
    with pytest.raises(StudyError, match="kinds of cells triples are not known"):
        study(context.with_recipe(sparse), kinds=("triples",))
    assert not [key for key in results(store) if key.split("/")[1] != found.identity]


def test_a_cell_is_the_same_wherever_it_runs(ray_session: Any, small: SimpleNamespace) -> None:
    from pipelines.study.cells import planned
    from pipelines.study.study import _codec

    recipe = parse({**small_night.RECIPE, "tasks": {"transcript": {}, "intent": {"labels": 0.1}}})
    recipe = recipe.model_copy(update={"trainer": replace(recipe.trainer, epochs=1)})
    data = (small.utterances, small.features)
    plan = planned(Context(small.store, recipe, *data), 1, ("joint",), "valid", 0.5)
    job = Job(recipe, *data, small.store, _codec(plan), share=0.5)
    cell = frozenset({"intent"})
    histories = []
    for _ in range(2):
        assert ray_session.get(ray_session.remote(run_cell).remote(job, plan.identity, cell, 0, "valid")) == ""
        histories.append(plan.record(cell, 0)["history"][0]["train/intent/loss"])
    assert histories[0] == histories[1]
    diverging = recipe.model_copy(update={"trainer": replace(recipe.trainer, learning_rate=math.inf)})
    assert "not finite" in run_cell(replace(job, recipe=diverging), "diverged", cell, 0, "valid")
    assert not small.store.list("study/diverged")


def test_a_cell_with_the_transcript_reads_what_it_heard(small: SimpleNamespace, monkeypatch: Any) -> None:
    from pipelines.study import study as module
    from pipelines.study.cells import planned

    tasks = {"transcript": {}, "intent": {}}
    recipe = parse(
        {**small_night.RECIPE, "tasks": tasks, "decoding": {"reread": True}, "understanding": {"read": True}}
    )
    recipe = recipe.model_copy(update={"trainer": replace(recipe.trainer, epochs=1)})
    data, made = (small.utterances, small.features), []

    class Spy(module.Predictor):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            made.append((set(self.model.config.tasks), self.reread))

    monkeypatch.setattr(module, "Predictor", Spy)
    plan = planned(Context(small.store, recipe, *data), 1, ("joint",))
    job = Job(recipe, *data, small.store, module._codec(plan))
    for cell in (frozenset({"intent"}), plan.joint):
        assert run_cell(job, plan.identity, cell, 0, "valid") == ""
    assert made == [({"intent"}, False), ({"transcript", "intent"}, True)]


def test_what_cannot_be_studied_is_refused_before_anything_is_trained(small: SimpleNamespace) -> None:
    context = Context(small.store, small_night.recipe(), small.utterances, small.features)
    with pytest.raises(StudyError, match="has one task"):
        study(context.with_recipe(parse({**small_night.RECIPE, "tasks": {"transcript": {}}})))
    with pytest.raises(StudyError, match="no row of the valid split is labelled for the task 'intent'"):
        study(
            context.with_recipe(parse({**small_night.RECIPE, "tasks": {"transcript": {}, "intent": {"corpora": []}}}))
        )
    absent = Path(small.store.root) / "absent.arpa"
    with pytest.raises(StudyError, match=r"decoding\.arpa: .*absent\.arpa"):
        study(context.with_recipe(parse({**small_night.RECIPE, "decoding": {"arpa": str(absent)}})))
    lonely = handmade_without_figures(small.store)
    with pytest.raises(StudyError, match="has a score for the task 'intent'"):
        Comparison(lonely)


def handmade_without_figures(store: Store) -> Study:
    cells = {"transcript": {"transcript/wer": [[1, 1]]}, "intent": {"transcript/cer": [[1, 1]]}}
    return handmade(Path(store.root) / "without", cells, recipe=two_tasks())


def test_resamples_are_those_asked_for(tmp_path: Path) -> None:
    cells = {"transcript": {"transcript/wer": [[1, 3]]}, "intent": {"intent/accuracy": [[1, 1]]}}
    drawn = Comparison(handmade(tmp_path, cells, recipe=two_tasks()), resamples=50).draws
    assert {len(values) for values in drawn.values()} == {51}
    assert set(np.round(drawn[frozenset({"transcript"}), "transcript"], 6)) == {10.0, 20.0, 30.0}
