"""Population based training (Jaderberg et al. 2017) over learning rate and task weights, on Ray Tune.

All members train at once, `interval` epochs at a time. Then the worst quarter goes on with the weights, optimiser and
sampler of members of the best quarter, at their learning rate and task weights times 0.8 or 1.2. What comes out is a
model and the schedule it was trained by; every report carries the schedule so far, which follows the weights.

A member's state lies in the store, an epoch each, until the search ends. Tune's own checkpoints are pointers to it of a
few bytes, of which none is ever deleted, so that a search killed at any moment can be restored.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from mtl.fit import NonFiniteLoss, fit, with_settings
from pipelines.recipe import Recipe
from pipelines.search.scalar import Scalar
from pipelines.search.trial import TrialState, figures, not_finite, overrides_of, settings_of, with_overrides
from pipelines.training.prepare import Job

if TYPE_CHECKING:
    from ray.tune.schedulers import PopulationBasedTraining

FACTORS = (0.8, 1.2)  # of the paper
QUANTILE = 0.25  # that is replaced, and as many that are copied
POINTER = "pointer.json"

Schedule = list[dict[str, Any]]  # {"after": epochs that were trained before, "trial": whose, "overrides": [...]}


def ranges_of(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """What is perturbed, and how far it may go. The primary task keeps its weight: only ratios matter."""
    primary = recipe.gates.primary.split("/")[0]
    weights = {f"tasks.{task}.weight": recipe.search.task_weight for task in recipe.tasks if task != primary}
    return {"trainer.learning_rate": recipe.search.learning_rate, **weights}


@dataclass
class Perturb:
    """A nearby point inside of the ranges: each setting times one of FACTORS."""

    ranges: Mapping[str, tuple[float, float]]
    seed: int
    drawn: int = field(default=0)

    def __call__(self, point: Mapping[str, Any]) -> dict[str, Any]:
        self.drawn += 1  # two that copy the same member are not to become twins
        random = Random(f"{self.seed}/{self.drawn}/{json.dumps(point, sort_keys=True)}")
        nearby = dict(point)
        for key, (low, high) in self.ranges.items():
            nearby[key] = min(max(point[key] * random.choice(FACTORS), low), high)
        return nearby


def extended(schedule: Schedule, after: int, trial: str, overrides: Sequence[str]) -> Schedule:
    """The schedule with what `trial` trains by from now on, if that is anything new."""
    if schedule and (schedule[-1]["trial"], schedule[-1]["overrides"]) == (trial, list(overrides)):
        return schedule
    return [*schedule, {"after": after, "trial": trial, "overrides": list(overrides)}]


def run_member(config: dict[str, Any], job: Job, search: str, scalar: Scalar) -> None:
    """Trains a member from where Tune's pointer says, its own last epoch or another member's, with its own settings."""
    from ray import tune

    trial, overrides = tune.get_context().get_trial_id(), overrides_of(config)
    job = replace(job, recipe=with_overrides(job.recipe, overrides))
    tasks = tuple(str(task) for task in job.recipe.tasks)
    model, loader, validate = job.open()
    settings = settings_of(job.recipe)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    row, fitted = _pointed_at(job, search)
    if fitted is not None:
        fitted = with_settings(fitted, settings, model.config.tasks)
    schedule = extended(row.get("schedule", []), int(row.get("epoch", 0)), trial, overrides)
    state = TrialState(job.store, _folder(search, trial), keep=True)

    def report(metrics: dict[str, float], reached: dict[str, Any] | None) -> None:
        nonlocal row
        row = {**metrics, **figures(metrics, scalar, tasks), "parameters": parameters, "schedule": schedule}
        state.save(row, reached or {})
        # The last epoch is no time for an exchange: nobody would train with what it gives.
        over = {"done": True} if metrics["epoch"] >= settings.epochs else {}
        with tempfile.TemporaryDirectory() as folder:
            pointer = {"trial": trial, "epoch": int(metrics["epoch"])}
            (Path(folder) / POINTER).write_text(json.dumps(pointer), encoding="utf-8")
            tune.report({**row, **over}, checkpoint=tune.Checkpoint.from_directory(folder))

    try:
        fit(model, loader, settings, report=report, validate=validate, resume=fitted)
    except NonFiniteLoss as error:
        last = not_finite(error, row.get("epoch", 0) + 1, scalar, tasks)
        tune.report({**last, "schedule": schedule, "parameters": parameters})


def _pointed_at(job: Job, search: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The report and state that Tune's checkpoint points at, or those of an earlier epoch where they are damaged.

    Nothing for a member that begins, or of which no whole epoch is left.
    """
    from ray import tune

    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return {}, None
    with checkpoint.as_directory() as folder:
        pointer = json.loads((Path(folder) / POINTER).read_text(encoding="utf-8"))
    return TrialState(job.store, _folder(search, pointer["trial"])).load(pointer["epoch"])


def _folder(search: str, trial: str) -> str:
    return f"search/{search}/{trial}/state"


def population(recipe: Recipe, scalar: Scalar) -> PopulationBasedTraining:
    """The scheduler: exchanges when all members have reached the same epoch, so that it compares like with like."""
    from ray.tune.schedulers import PopulationBasedTraining
    from ray.tune.utils import flatten_dict

    class Population(PopulationBasedTraining):
        """Tune saves no scheduler (Ray 2.60): a restored search asks each trial's last checkpoint where it was."""

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_add(tune_controller, trial)
            kept = trial.latest_checkpoint_result
            if kept is None or trial.is_finished():
                return
            metrics, state = flatten_dict(kept.metrics), self._trial_state[trial]
            self._save_trial_state(state, metrics["epoch"], metrics, trial)
            state.last_perturbation_time = metrics["epoch"] // recipe.search.interval * recipe.search.interval
            trial.set_status(trial.PAUSED)  # it is for `choose_trial_to_run` to say who is due
            self._next_perturbation_sync = next_exchange(
                [self._trial_state[one].last_train_time for one in self._trial_state if not one.is_finished()],
                recipe.search.interval,
            )

    return Population(
        time_attr="epoch",
        metric="objective",
        mode=scalar.mode,
        perturbation_interval=recipe.search.interval,
        custom_explore_fn=Perturb(ranges_of(recipe), recipe.seed),
        quantile_fraction=QUANTILE,
        synch=True,
        log_config=False,  # the reports carry it
    )


def next_exchange(epochs: Sequence[float], interval: int) -> int:
    """When members at these epochs meet: at the epoch where the foremost wait for the others, else an interval on."""
    foremost = int(max(epochs))
    waiting = min(epochs) < foremost and foremost % interval == 0
    return foremost if waiting else (foremost // interval + 1) * interval
