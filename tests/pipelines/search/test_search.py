"""Search on Ray Tune: killed and resumed it repeats nothing, and its winner is a recipe that can be trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pyarrow as pa
import pytest
import torch

from mtl.config.sharing import MODES
from pipelines.core.cluster import ClusterError
from pipelines.recipe import Recipe, parse
from pipelines.registry import tracking
from pipelines.search.baselines import single_task
from pipelines.search.proposals import Space
from pipelines.search.scalar import Scalar
from pipelines.search.search import SearchError, SearchResult, search
from pipelines.search.state import SearchState
from pipelines.search.trial import TrialState, overrides_of, with_overrides
from pipelines.stages.context import Context
from pipelines.storage.store import Store
from pipelines.study.study import study
from pipelines.training.prepare import sampled
from pipelines.training.resources import Share, Slots, slots_of
from tests.support import small_night
from tests.support.pickles import pickles, plant

pytest.importorskip("espeakng_loader", reason="the small night is spoken by eSpeak NG: install motet[espeak]")


# What Ray Tune reads as a pickle when it restores a search from a folder; some are called JSON.
TUNE_FILES = (
    "tuner.pkl",
    "trainable.pkl",
    "searcher-state-2026-01-01_00-00-00.pkl",
    "search_gen_state-2026-01-01_00-00-00.json",
    "callback-states-2026-01-01_00-00-00.pkl",
    "experiment_state-2026-01-01_00-00-00.json",
    "3f2a1_00000/params.pkl",
    "3f2a1_00000/error.pkl",
)


def children(run: tracking.Run) -> dict[str, Any]:
    """Nested MLflow runs by trial."""
    found = run.client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    return {child.info.run_name: child for child in found}


def seconds_of(run: tracking.Run, child: Any) -> dict[int, set[float]]:
    """Wall time of each epoch of a trial; an epoch that was trained twice has two."""
    found: dict[int, set[float]] = {}
    for metric in run.client.get_metric_history(child.info.run_id, "seconds"):
        found.setdefault(metric.step, set()).add(metric.value)
    return found


def test_a_killed_search_goes_on_where_it_was(ray_session: Any, tmp_path: Path) -> None:
    store, recipe = Store(str(tmp_path / "store")), small_night.recipe()
    context = Context(store, recipe, *small_night.data(store))
    with pytest.raises(SearchError, match="start it without --resume"):
        search(context, resume=True)

    with small_night.killed_driver("search", store.root) as driver:
        assert driver.stdout is not None
        lines = iter(driver.stdout.readline, "")
        next(line for line in lines if line.rstrip().isdigit())  # progress has no label when a trial is complete
    assert pickles(store.root) == []
    folder = next(Path(store.root, "search").iterdir())
    for name in TUNE_FILES:  # whoever can write to the root leaves them there
        plant(folder / name, tmp_path / "was read")
    run = tracking.start(store.root, recipe, "search")
    before = children(run)
    done = [name for name, child in before.items() if child.info.status == "FINISHED"]
    assert done
    assert len(before) <= 3

    counted: list[tuple[int, int]] = []
    result = search(
        context,
        resume=True,
        tracking=run,
        progress=lambda done, total, _: counted.append((done, total)),
    )
    assert not (tmp_path / "was read").exists()
    assert pickles(store.root) == []
    everything = children(run)
    after = {row["trial"]: everything[row["trial"]] for row in result.leaderboard}
    assert len(after) == 3
    assert {child.info.status for child in after.values()} == {"FINISHED"}
    # A trial may have been proposed in the very second of the kill; it is closed, not left running.
    assert {child.info.status for name, child in everything.items() if name not in after} <= {"KILLED"}
    for name in done:
        assert after[name].info.run_id == before[name].info.run_id
        assert all(len(times) == 1 for times in seconds_of(run, after[name]).values())
    assert counted[-1] == (9, 9)

    for row in result.leaderboard:
        assert {"transcript/wer", "intent/accuracy", "slots/f1"} <= {
            key[6:] for key in row["metrics"] if "valid/" in key
        }
        assert row["objective"] == pytest.approx(Scalar("mean")(row["metrics"]))
        assert row["state"] == ("finished" if row["epochs"] == 3 else "stopped")
        assert after[row["trial"]].data.params == dict(override.split("=", 1) for override in row["overrides"])
        assert after[row["trial"]].data.metrics["objective"] == pytest.approx(row["objective"])
    objectives = [row["objective"] for row in result.leaderboard]
    assert objectives == sorted(objectives)
    baseline = overrides_of(Space.of(recipe).baseline(recipe) or {})
    assert list(baseline) in [row["overrides"] for row in result.leaderboard]

    winner = with_overrides(recipe, result.winner)
    assert winner.trainer.epochs == recipe.trainer.epochs
    assert f"trainer.learning_rate={winner.trainer.learning_rate:.4g}" in result.winner
    assert not [entry for entry in store.list("search/") if "/state/" in entry.key]
    assert search(context, resume=True) == result


def test_single_task_models_are_trained_once_and_trials_are_measured_by_them(ray_session: Any, tmp_path: Path) -> None:
    recipe = with_overrides(small_night.two_tasks(), ("search.objective=gain", "search.trials=2", "search.epochs=1"))
    store = Store(str(tmp_path / "store"))
    context = Context(store, recipe, *small_night.data(store))
    run = tracking.start(store.root, recipe, "search")
    result = search(context, tracking=run)
    cells = {entry.key: entry.modified for entry in store.list("study/")}
    assert {Path(key).name for key in cells if key.endswith("-0.json")} == {"transcript-0.json", "intent-0.json"}

    # A study of this budget, and the next search, find them.
    budget = replace(recipe.trainer, epochs=1)
    found = study(context.with_recipe(recipe.model_copy(update={"trainer": budget})), seeds=1, kinds=("single",))
    again = single_task(context)
    assert {entry.key: entry.modified for entry in store.list("study/")} == cells
    single = {task: found.scores(frozenset({task}), 0).metrics for task in found.tasks}
    expected = {"transcript/wer": single["transcript"]["transcript/wer"]}
    expected |= {"intent/accuracy": single["intent"]["intent/accuracy"]}
    expected = {metric: value for metric, value in expected.items() if value}
    assert again.base == pytest.approx(expected)
    assert result.objective["base"] == again.base
    assert again.words == result.objective["words"]

    objectives = [row["objective"] for row in result.leaderboard]
    assert objectives == [pytest.approx(again(row["metrics"])) for row in result.leaderboard]
    assert objectives == sorted(objectives, reverse=again.mode == "max")
    assert result.front["metrics"] == {"transcript": "transcript/wer", "intent": "intent/accuracy"}
    assert set(result.front["costs"]) == {row["trial"] for row in result.leaderboard}
    assert result.front["trials"]
    logged = run.client.get_metric_history(run.run_id, "hypervolume")
    assert [metric.value for metric in logged] == pytest.approx(result.front["history"])


def test_a_member_of_a_population_goes_on_with_the_better_ones_weights(ray_session: Any, tmp_path: Path) -> None:
    store, recipe = Store(str(tmp_path / "store")), small_night.members()
    result = search(Context(store, recipe, *small_night.data(store)))
    check_population(result, recipe)
    assert not [entry for entry in store.list("search/") if "/state/" in entry.key]
    assert pickles(store.root) == []


def check_population(result: SearchResult, recipe: Recipe) -> None:
    assert len(result.leaderboard) == 2
    names = {row["trial"] for row in result.leaderboard}
    for row in result.leaderboard:
        assert (row["state"], row["epochs"]) == ("finished", 3)
        assert row["overrides"] == row["schedule"][-1]["overrides"]
        assert row["schedule"][-1]["trial"] == row["trial"]
        assert row["schedule"][0]["after"] == 0
        after = [part["after"] for part in row["schedule"]]
        assert after == sorted(after)
        assert after[-1] < recipe.search.epochs
    # After the first epoch one took the other's weights, and stands a step of 0.8 or 1.2 away from its settings.
    taken = [row["schedule"] for row in result.leaderboard if row["schedule"][0]["trial"] != row["trial"]]
    assert taken
    for before, after in zip(taken[0], taken[0][1:], strict=False):
        assert {before["trial"], after["trial"]} <= names
        if before["trial"] != after["trial"]:
            old, new = (with_overrides(recipe, part["overrides"]) for part in (before, after))
            ratio = new.trainer.learning_rate / old.trainer.learning_rate
            low, high = recipe.search.learning_rate
            assert round(ratio, 2) in (0.8, 1.2) or new.trainer.learning_rate in (low, high)
            assert new.tasks["transcript"] == old.tasks["transcript"]
            assert new.sharing == old.sharing == recipe.sharing


@pytest.mark.slow
def test_a_killed_population_goes_on_where_it_was(ray_session: Any, tmp_path: Path) -> None:
    store, recipe = Store(str(tmp_path / "store")), small_night.members()
    context = Context(store, recipe, *small_night.data(store))
    with small_night.killed_driver("population", store.root) as driver:
        assert driver.stdout is not None
        lines = iter(driver.stdout.readline, "")
        next(line for line in lines if line.startswith("3 "))  # of six epochs: past the first exchange
    assert pickles(store.root) == []
    run = tracking.start(store.root, recipe, "search")
    before = children(run)
    assert len(before) == 2
    result = search(context, resume=True, tracking=run)
    check_population(result, recipe)
    after = children(run)
    assert {name: child.info.run_id for name, child in after.items()} == {
        name: child.info.run_id for name, child in before.items()
    }
    assert {child.info.status for child in after.values()} == {"FINISHED"}
    for child in after.values():  # the first epoch, which had been exchanged, was not trained again
        times = seconds_of(run, child)
        assert set(times) == {1, 2, 3}
        assert len(times[1]) == 1
    assert search(context, resume=True) == result


def test_a_point_becomes_overrides_and_a_recipe() -> None:
    point = {"trainer.learning_rate": 0.00123456, "tasks.intent.weight": 7.0, "sharing.mode": "soft"}
    point["sharing.strength"] = 0.00001
    overrides = overrides_of(point)
    assert overrides == (
        "sharing.mode=soft",
        "sharing.strength=1.0e-05",
        "tasks.intent.weight=7",
        "trainer.learning_rate=0.001235",
    )
    changed = with_overrides(small_night.recipe(), overrides)
    assert (changed.sharing.mode, changed.sharing.strength) == ("soft", 1e-5)
    assert (changed.tasks["intent"].weight, changed.trainer.learning_rate) == (7.0, 0.001235)
    assert changed.tasks["slots"] == small_night.recipe().tasks["slots"]


def test_the_space_asks_for_a_strength_only_where_sharing_is_soft() -> None:
    space = Space.of(small_night.recipe())
    assert space.tasks == ("intent", "slots")  # the primary task's weight stays: only ratios matter
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(40):
        trial = study.ask()
        space(trial)
        assert ("sharing.strength" in trial.params) == (trial.params["sharing.mode"] == "soft")
        assert 3e-4 <= trial.params["trainer.learning_rate"] <= 3e-3
        assert all(0.1 <= trial.params[f"tasks.{task}.weight"] <= 10 for task in space.tasks)
    assert {trial.params["sharing.mode"] for trial in study.get_trials(deepcopy=False)} == {"hard", "soft"}
    far = small_night.recipe(learning_rate=0.1)
    assert Space.of(far).baseline(far) is None
    alone = parse({**small_night.RECIPE, "tasks": {"transcript": {}}})
    assert Space.of(alone).modes == ("hard",)  # nothing to share


def test_every_sharing_mode_may_be_searched() -> None:
    recipe = with_overrides(small_night.recipe(), (f"search.modes=[{', '.join(MODES)}]",))
    space = Space.of(recipe)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(60):
        trial = study.ask()
        space(trial)
        changed = with_overrides(recipe, overrides_of(trial.params))
        assert changed.sharing.mode == trial.params["sharing.mode"]
        assert ("sharing.strength" in trial.params) == (changed.sharing.mode == "soft")
        seen.add(changed.sharing.mode)
    assert seen == set(MODES)


def test_as_many_trials_at_once_as_fit() -> None:
    gib = 2**30
    assert slots_of([{"CPU": 2.0, "memory": 16.0 * gib}], 8, None) == Slots(2, Share(1, False))
    assert slots_of([{"CPU": 2.0, "memory": 3.0 * gib}], 8, None) == Slots(1, Share(2, False))  # by memory
    # Half of 16: TPE learns from the rest.
    assert slots_of([{"CPU": 64.0, "memory": 512.0 * gib}], 16, None) == Slots(8, Share(8, False))
    assert slots_of([{"CPU": 16.0, "GPU": 4.0}], 16, None) == Slots(4, Share(4, True))
    assert slots_of([{"CPU": 16.0, "GPU": 4.0}, {"CPU": 4.0}], 16, True) == Slots(4, Share(4, True))
    with pytest.raises(ClusterError, match=r"trainer\.gpus=false or add nodes"):
        slots_of([{"CPU": 2.0}], 8, True)


def test_trials_that_would_never_train_all_tasks_are_refused(tmp_path: Path) -> None:
    recipe = small_night.recipe(curriculum=[{"name": "ear", "tasks": ["transcript"], "epochs": 3}])
    with pytest.raises(SearchError, match=r"search.epochs is 3, but trainer.curriculum takes 3 epochs"):
        search(Context(str(tmp_path), recipe, []))


def test_a_trial_keeps_its_last_whole_epoch(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    state = TrialState(store, "search/s/t/state")
    assert state.load() == ({}, None)
    state.save({"epoch": 1.0}, {"w": torch.ones(2), "step": 5})
    state.save({"epoch": 2.0}, {"w": torch.zeros(2), "step": 10})
    row, kept = state.load()
    assert (row, kept["step"], kept["w"].tolist()) == ({"epoch": 2.0}, 10, [0.0, 0.0])  # type: ignore[index]
    assert {entry.key.split("/")[4] for entry in store.list("search/")} == {"epoch-0002"}
    store.put_bytes("search/s/t/state/epoch-0003/state.json", b"half of it")  # killed in mid-write
    assert state.load()[0] == {"epoch": 2.0}


def test_a_damaged_epoch_of_a_trial_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = TrialState(Store(str(tmp_path)), "search/s/t/state", keep=True)
    for epoch in (1.0, 2.0, 3.0):
        state.save({"epoch": epoch}, {"w": torch.ones(2)})
    folder = tmp_path / "search/s/t/state"
    small_night.truncate(folder / "epoch-0003/state.safetensors")
    assert state.load()[0] == state.load(3)[0] == {"epoch": 2.0}
    small_night.truncate(folder / "epoch-0002/history.json")
    assert state.load(1)[0] == state.load()[0] == {"epoch": 1.0}
    small_night.truncate(folder / "epoch-0001/state.json")
    assert state.load() == ({}, None)  # the trial begins again
    assert "epoch-0001 is skipped" in caplog.text


def test_another_search_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.search.search import _name, _planned

    store, recipe = Store(str(tmp_path)), small_night.recipe()
    data: Any = ([SimpleNamespace(address="a")], [SimpleNamespace(address="b")])
    context = Context(store, recipe, *data)
    first = _name(context, resume=False)
    state = SearchState(store, first)
    assert _planned(state, recipe, 8, resume=False) == 8
    assert _name(context, resume=True) == first
    assert _planned(state, recipe, None, resume=True) == 8
    with pytest.raises(SearchError, match="was started with 8 trials"):
        _planned(state, recipe, 16, resume=True)
    second = _name(context, resume=False)
    assert second == f"{first[:-1]}2"
    with pytest.raises(SearchError, match="no search of recipe 'small'"):
        _name(context.with_recipe(small_night.recipe(epochs=3)), resume=True)


def test_a_share_of_the_rows_is_fixed_and_nested() -> None:
    rows = pa.table({"id": [f"u{number}" for number in range(40)]})
    tenth, half = sampled(rows, 0.1), sampled(rows, 0.5)
    assert (len(tenth), len(half)) == (4, 20)
    assert set(tenth) < set(half)
    assert sampled(rows, 1e-6) == [position for position in tenth if position in sampled(rows, 0.025)]
    shuffled = rows.take(list(reversed(range(40))))
    assert {shuffled["id"][i].as_py() for i in sampled(shuffled, 0.1)} == {rows["id"][i].as_py() for i in tenth}
