"""What a search keeps as JSON is enough to go on as if it had not been interrupted; older searches are not read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.recipe import Recipe
from pipelines.search import pbt, proposals
from pipelines.search.scalar import Scalar
from pipelines.search.search import SearchError, _name, search
from pipelines.search.state import SearchState, TrialRecord, recorder
from pipelines.search.trial import TrialState, state_folder, with_overrides
from pipelines.stages.context import Context
from pipelines.storage.store import Store
from tests.support import small_night
from tests.support.pickles import pickles, plant

MEAN = Scalar("mean")
DATA: Any = ([SimpleNamespace(address="a")], [SimpleNamespace(address="b")])


def result_of(point: dict[str, Any], epoch: int, **more: Any) -> dict[str, Any]:
    """What a trial would report: better with the learning rate and with every epoch."""
    objective = 50 - 1e4 * point["trainer.learning_rate"] - epoch
    costs = {f"cost/{task}": objective + number for number, task in enumerate(("transcript", "intent", "slots"))}
    metrics = {"valid/transcript/wer": objective, "time_this_iter_s": 2.0, "timestamp": 100 + epoch}
    return {"epoch": epoch, "objective": objective, **costs, **metrics, **more}


def tried(recipe: Recipe, state: SearchState, count: int) -> list[dict[str, Any]]:
    """Proposes and ends `count` trials, one after the other, as Ray Tune would have it; returns their points."""
    searcher, points = proposals.searcher(recipe, MEAN, state), []
    for number in range(count):
        trial = searcher.suggest(f"tune{number}")["trial"]  # type: ignore[index]
        result = result_of(trial["point"], 3, done=True)
        record = state.trial(trial["id"])
        record.add(result)
        state.save(record)
        searcher.on_trial_complete(f"tune{number}", result)
        points.append(trial["point"])
    return points


@pytest.mark.parametrize("proposals_by", ["tasks", "objective"])
def test_a_resumed_search_proposes_what_it_would_have_proposed(store: Store, proposals_by: str) -> None:
    recipe = with_overrides(small_night.recipe(), (f"search.proposals={proposals_by}",))
    whole = tried(recipe, SearchState(store, "whole"), 9)
    state = SearchState(store, "parts")
    parts = [point for count in (3, 4, 2) for point in tried(recipe, state, count)]  # killed after 3 and after 7
    assert parts == whole
    assert len({json.dumps(point) for point in whole}) == 9
    assert [record.number for record in state.trials()] == list(range(9))
    assert [record.point for record in state.trials()] == whole


def test_an_interrupted_trial_comes_first_with_its_own_point(store: Store) -> None:
    recipe, state = small_night.recipe(), SearchState(store, "s")
    tried(recipe, state, 2)
    first = proposals.searcher(recipe, MEAN, state)
    open_trials = [first.suggest(name) for name in ("a", "b")]  # proposed; then the driver is killed
    resumed = proposals.searcher(recipe, MEAN, state)
    assert [resumed.suggest(name) for name in ("c", "d")] == open_trials
    resumed.on_trial_complete("d", result_of(open_trials[1]["trial"]["point"], 1))  # type: ignore[index]
    later = resumed.suggest("e")
    assert later not in open_trials
    assert len(state.trials()) == 5


def test_the_rungs_of_asha_hold_what_was_recorded(store: Store) -> None:
    recipe, state = small_night.recipe(), SearchState(store, "s")
    for number, rate in enumerate((1e-3, 2e-3, 3e-3)):
        record = TrialRecord(state.trial_id(number), number, {"trainer.learning_rate": rate})
        record.add(result_of(record.point, 1, done=number < 2))
        state.save(record)
    scheduler: Any = proposals.scheduler(recipe, MEAN, state)

    def decision(tune_id: str, trial: str, rate: float, epoch: int) -> str:
        tune_trial = SimpleNamespace(trial_id=tune_id, config={"trial": {"id": trial}})
        scheduler.on_trial_add(None, tune_trial)
        return str(scheduler.on_trial_result(None, tune_trial, result_of({"trainer.learning_rate": rate}, epoch)))

    # The third was not over: it repeats its epoch, of which the decision was made. No rung counts it twice.
    assert decision("x", state.trial_id(2), 3e-3, 1) == "CONTINUE"
    assert sorted(map(len, (recorded for _, recorded in scheduler._brackets[0]._rungs))) == [0, 3]
    # A third of the recorded trials goes on; without the records any first report would.
    assert decision("y", "new", 1.5e-3, 1) == "STOP"
    assert decision("z", "newer", 2.9e-3, 1) == "CONTINUE"


def test_a_record_is_a_row_of_the_leaderboard(store: Store) -> None:
    recipe, state = small_night.recipe(), SearchState(store, "s")
    record = TrialRecord("t", 0, {"trainer.learning_rate": 1e-3})
    assert record.leaderboard_row(recipe, MEAN)["state"] == "unfinished"
    record.add(result_of(record.point, 1, parameters=7))
    record.add(result_of(record.point, 1))  # repeated by a resumed trial
    record.add(result_of(record.point, 2))
    state.save(record)
    assert state.trials() == [record]
    row = record.leaderboard_row(recipe, MEAN)
    assert (row["state"], row["epochs"], row["objective"], row["seconds"], row["ended"]) == (
        "unfinished",
        2,
        pytest.approx(38),
        6,
        102,
    )
    assert row["metrics"] == {"valid/transcript/wer": pytest.approx(38)}
    record.add({"epoch": 2, "done": True})
    assert record.leaderboard_row(recipe, MEAN)["state"] == "stopped"
    record.error = "a loss that is not finite"
    assert record.leaderboard_row(recipe, MEAN)["state"] == "failed"


def test_members_go_on_from_the_last_exchange_or_from_their_own_later_epoch(store: Store) -> None:
    recipe, state = small_night.members(), SearchState(store, "s")
    first, second = pbt.members_of(recipe, state, 2)
    assert pbt.members_of(recipe, state, 2) == [first, second]
    assert first["point"]["trainer.learning_rate"] == recipe.trainer.learning_rate
    ranges = pbt.ranges_of(recipe)
    assert all(low <= second["point"][key] <= high for key, (low, high) in ranges.items())
    assert pbt.start_of(first, store, "s") == ({}, None)

    for member, weight in ((first, 1.0), (second, 2.0)):
        TrialState(store, state_folder("s", member["id"]), keep=True).save({"epoch": 1}, {"w": torch.tensor(weight)})
    changed = {**second, "point": {**first["point"]}, "start": {"trial": first["id"], "epoch": 1}}
    state.save_exchange(1, {first["id"]: {**first, "start": {"trial": first["id"], "epoch": 1}}, second["id"]: changed})
    assert pbt.members_of(recipe, state, 2)[1] == changed
    assert pbt.start_of(changed, store, "s")[1]["w"] == 1.0  # type: ignore[index]
    TrialState(store, state_folder("s", second["id"]), keep=True).save({"epoch": 2}, {"w": torch.tensor(3.0)})
    assert pbt.start_of(changed, store, "s")[1]["w"] == 3.0  # type: ignore[index]

    over = state.trial(first["id"])
    over.over = True
    state.save(over)
    assert [member["id"] for member in pbt.members_of(recipe, state, 2)] == [second["id"]]
    missing = {**second, "start": {"trial": "gone", "epoch": 9}}
    with pytest.raises(FileNotFoundError, match="epoch 9 of trial gone"):
        pbt.start_of(missing, store, "s")


def diverging(second: str, marker: Path) -> Callable[[dict[str, Any]], None]:
    """Three epochs; the second member's loss is not finite in its second one, for which the other waits already."""

    def member(config: dict[str, Any]) -> None:  # local, so that it travels to the workers by value
        import time

        from ray import tune

        own = config["trial"]
        for epoch in range(own.get("start", {}).get("epoch", 0) + 1, 4):
            if own["id"] == second and epoch == 2:
                while not marker.exists():
                    time.sleep(0.05)
                tune.report({"epoch": epoch, "objective": 100.0, "error": "not finite", "done": True})
                return
            tune.report({"epoch": epoch, "objective": float(own["id"] == second), "done": epoch == 3})

    return member


def test_a_population_goes_on_without_a_member_that_has_ended(ray_session: Any, store: Store, tmp_path: Path) -> None:
    from ray import tune

    class Waits(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            if trial.config["trial"]["id"] != second and result["epoch"] == 2:
                (tmp_path / "waits").touch()

    recipe, state = small_night.members(), SearchState(store, "s")
    members = pbt.members_of(recipe, state, 2)
    first, second = (member["id"] for member in members)
    tune.Tuner(
        tune.with_resources(diverging(second, tmp_path / "waits"), {"CPU": 1}),
        param_space={"trial": tune.grid_search(members)},
        tune_config=tune.TuneConfig(
            scheduler=pbt.population(recipe, MEAN, state), reuse_actors=True, time_budget_s=120
        ),
        run_config=tune.RunConfig(
            name="s", storage_path=str(tmp_path / "tune"), verbose=0, callbacks=[Waits(), recorder(state)]
        ),
    ).fit()
    ends = {record.id: (record.epoch, record.over, record.error) for record in state.trials()}
    assert ends == {first: (3, True, None), second: (2, True, "not finite")}
    assert state.last_exchange()[0] == 2
    assert set(state.last_exchange()[1]) == {first}


def older(store: Store, name: str, marker: Path) -> Path:
    """A search as versions before left it: a plan, and Ray Tune's files."""
    folder = Path(store.root) / "search" / name
    store.put_bytes(f"search/{name}/plan.json", json.dumps({"trials": 3}).encode())
    plant(folder / "tuner.pkl", marker)
    plant(folder / "3f2a1_00000" / "params.pkl", marker)
    return folder


def test_an_unfinished_search_of_an_older_version_is_not_read(store: Store, tmp_path: Path) -> None:
    recipe = small_night.recipe()
    context = Context(store, recipe, *DATA)
    name = _name(context, resume=False)
    older(store, name, tmp_path / "was read")
    with pytest.raises(SearchError, match=r"another version of Motet.*without --resume"):
        search(context, resume=True)
    assert not (tmp_path / "was read").exists()
    assert _name(context, resume=False) == f"{name[:-1]}2"  # a new search is free to start


def test_a_finished_search_of_an_older_version_is_shown(store: Store, tmp_path: Path) -> None:
    recipe = small_night.recipe()
    context = Context(store, recipe, *DATA)
    name = _name(context, resume=False)
    folder = older(store, name, tmp_path / "was read")
    record = TrialRecord("3f2a1_00000", 0, {"trainer.learning_rate": 1e-3})
    record.add(result_of(record.point, 3))
    row = record.leaderboard_row(recipe, MEAN)
    content = {"name": name, "leaderboard": [row], "winner": row["overrides"], "method": "asha", "objective": {}}
    (folder / "leaderboard.json").write_text(json.dumps(content))
    assert search(context, resume=True).leaderboard == [row]
    assert not (tmp_path / "was read").exists()
    assert pickles(store.root) == []
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"plan.json", "leaderboard.json"}
