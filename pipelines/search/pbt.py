"""Population based training (Jaderberg et al. 2017) over learning rate and task weights, on Ray Tune.

All members train at the same time, `interval` epochs at a time. Then the worst quarter copies weights, optimiser and
sampler of members of the best quarter, with their learning rate and task weights times 0.8 or 1.2. The result is a
model and the schedule of settings it was trained with; every report contains the schedule so far of its weights.

The store holds every epoch of each member until the search ends, and every exchange (what each member continues with),
written before training continues, so a search can be killed and resumed at any time. Tune's own checkpoints are not
used: they are stored with pickle files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from mtl.training.fit import with_settings
from pipelines.recipe import Recipe
from pipelines.search.proposals import Space
from pipelines.search.scalar import Scalar
from pipelines.search.state import SearchState, TrialRecord
from pipelines.search.trial import (
    TrialState,
    at_point,
    overrides_of,
    settings_of,
    state_folder,
    train_trial,
)
from pipelines.storage.store import Store
from pipelines.training.prepare import Job

if TYPE_CHECKING:
    from ray.tune.schedulers import PopulationBasedTraining

FACTORS = (0.8, 1.2)  # of the paper
QUANTILE = 0.25  # share of members that is replaced, and share that is copied

Schedule = list[dict[str, Any]]  # {"after": epochs trained before, "trial": id, "overrides": [...]}


def ranges_of(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Settings that are perturbed, with their ranges. The primary task keeps its weight: only ratios matter."""
    primary = recipe.gates.primary.split("/")[0]
    weights = {f"tasks.{task}.weight": recipe.search.task_weight for task in recipe.tasks if task != primary}
    return {"trainer.learning_rate": recipe.search.learning_rate, **weights}


@dataclass
class Perturb:
    """Multiplies each setting by one of FACTORS, within its range."""

    ranges: Mapping[str, tuple[float, float]]
    seed: int
    drawn: int = field(default=0)

    def __call__(self, point: Mapping[str, Any]) -> dict[str, Any]:
        self.drawn += 1  # two members that copy the same one must differ
        random = Random(f"{self.seed}/{self.drawn}/{json.dumps(point, sort_keys=True)}")
        nearby = dict(point)
        for key, (low, high) in self.ranges.items():
            nearby[key] = min(max(point[key] * random.choice(FACTORS), low), high)
        return nearby


def extended(schedule: Schedule, after: int, trial: str, overrides: Sequence[str]) -> Schedule:
    """The schedule with the settings of `trial` from now on, if they are new."""
    if schedule and (schedule[-1]["trial"], schedule[-1]["overrides"]) == (trial, list(overrides)):
        return schedule
    return [*schedule, {"after": after, "trial": trial, "overrides": list(overrides)}]


def first_points(recipe: Recipe, members: int) -> list[dict[str, float]]:
    """First points of the members: the recipe's own point, if it is in the space, and random ones."""
    ranges = ranges_of(recipe)
    random = Random(f"members/{recipe.seed}")
    points = [
        {key: math.exp(random.uniform(math.log(low), math.log(high))) for key, (low, high) in ranges.items()}
        for _ in range(members)
    ]
    baseline = Space.of(recipe).baseline(recipe) or {}
    if baseline.keys() >= ranges.keys():
        points[0] = {key: baseline[key] for key in ranges}
    return points


def members_of(recipe: Recipe, state: SearchState, members: int) -> list[dict[str, Any]]:
    """Configurations of the members that have not ended: id, point and, after an exchange, their start."""
    records = {record.number: record for record in state.trials()}
    for number, point in enumerate(first_points(recipe, members)):
        if number not in records:
            records[number] = TrialRecord(state.trial_id(number), number, point)
            state.save(records[number])
    exchanged = state.last_exchange()[1]
    return [
        {"id": record.id, "point": record.point, **exchanged.get(record.id, {})}
        for record in records.values()
        if not record.over
    ]


def run_member(config: dict[str, Any], job: Job, search: str, scalar: Scalar) -> None:
    """Trains a member with its own settings, from its own last epoch or from the one that an exchange assigned."""
    from ray import tune

    member = config["trial"]
    job = at_point(job, member["point"])
    settings = settings_of(job.recipe)
    row, fitted = start_of(member, job.store, search)
    epoch = int(row.get("epoch", 0))

    def send(row: dict[str, Any]) -> None:
        # No exchange after the last epoch: no training follows it.
        tune.report({**row, **({"done": True} if row["epoch"] >= settings.epochs else {})})

    if epoch > member.get("start", {}).get("epoch", 0):  # the driver may not have received this report
        send(row)
    if fitted is not None:
        fitted = with_settings(fitted, settings, tuple(job.recipe.tasks))
    schedule = extended(row.get("schedule", []), epoch, member["id"], overrides_of(member["point"]))
    state = TrialState(job.store, state_folder(search, member["id"]), keep=True)
    train_trial(job, scalar, state, row, fitted, send, schedule=schedule)


def start_of(member: Mapping[str, Any], store: Store, search: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Report and state from which a member continues; ({}, None) for a new member.

    Its own last epoch, if that is later than the last exchange, else the epoch that the exchange assigned.
    """
    row, fitted = TrialState(store, state_folder(search, member["id"])).load()
    start = member.get("start")
    if start is None or row.get("epoch", 0) > start["epoch"]:
        return row, fitted
    row, fitted = TrialState(store, state_folder(search, start["trial"])).load(start["epoch"])
    if fitted is None:
        raise FileNotFoundError(f"epoch {start['epoch']} of trial {start['trial']} is not in {store.root}")
    return row, fitted


def population(recipe: Recipe, scalar: Scalar, state: SearchState) -> PopulationBasedTraining:
    """The scheduler, which exchanges when all members have reached the same epoch.

    Tune's own class copies checkpoints. This one sets the trial and epoch from which a member continues.
    """
    from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

    interval, perturb = recipe.search.interval, Perturb(ranges_of(recipe), recipe.seed)

    class Population(PopulationBasedTraining):
        exchanged = state.last_exchange()[0]  # epoch of the last exchange
        saved = True  # whether that is in the store

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_add(tune_controller, trial)
            progress = self._trial_state[trial]
            progress.last_perturbation_time = progress.last_train_time = self.exchanged
            self._next_perturbation_sync = self.exchanged + interval

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            before = self._next_perturbation_sync
            decision = super().on_trial_result(tune_controller, trial, result)
            if self._next_perturbation_sync != before:
                self.exchanged, self.saved = int(result["epoch"]), False
            if decision == TrialScheduler.PAUSE:
                tune_controller.pause_trial(trial, should_checkpoint=False)
                return str(TrialScheduler.NOOP)
            return str(decision)

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
            self._continue_without(tune_controller, trial)

        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            if not trial.is_finished():  # else Tune is about to start it again
                self._continue_without(tune_controller, trial)

        def _continue_without(self, tune_controller: Any, ended: Any) -> None:
            """Lets the others exchange if they wait for an ended member; Tune's own class waits forever."""
            ended_state = self._trial_state[ended]
            ended_state.last_score, ended_state.last_train_time = None, int(self._next_perturbation_sync)
            others = [one for one in tune_controller.get_live_trials() if one is not ended]
            if others and all(self._trial_state[one].last_train_time >= ended_state.last_train_time for one in others):
                self.on_trial_result(tune_controller, others[0], self._trial_state[others[0]].last_result or {})

        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            """Stores an exchange: called before a trial starts, and after the report that led to the exchange."""
            if not self.saved:
                members = [one.config["trial"] for one in tune_controller.get_live_trials()]
                state.save_exchange(self.exchanged, {member["id"]: member for member in members})
                self.saved = True
            return super().choose_trial_to_run(tune_controller)

        def _checkpoint_or_exploit(self, trial: Any, tune_controller: Any, upper: list[Any], lower: list[Any]) -> None:
            if trial.is_finished():
                return
            epoch = int(self._trial_state[trial].last_train_time)
            source = (
                Random(f"{recipe.seed}/{epoch}/{trial.config['trial']['id']}").choice(upper)
                if trial in lower
                else trial
            )
            point = trial.config["trial"]["point"] if source is trial else perturb(source.config["trial"]["point"])
            start = {"trial": source.config["trial"]["id"], "epoch": epoch}
            trial.set_config({"trial": {**trial.config["trial"], "point": point, "start": start}})
            self._num_perturbations += source is not trial

    return Population(
        time_attr="epoch",
        metric="objective",
        mode=scalar.mode,
        perturbation_interval=interval,
        custom_explore_fn=perturb,
        quantile_fraction=QUANTILE,
        synch=True,
        log_config=False,  # the reports contain it
    )
