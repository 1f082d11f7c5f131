"""Search space, Optuna proposals and ASHA early stopping; a resumed search rebuilds the latter two from its records.

    Proposer(space, baseline, seed, ["minimize"]).propose(number=0)     # a point of the space
    searcher(recipe, scalar, state), scheduler(recipe, scalar, state)   # of Ray Tune's TuneConfig

A trial's configuration is {"trial": {"id": ..., "point": {...}}}. The id is not Tune's, which differs in every process:
the trial's last epoch and its MLflow run are stored under it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from pipelines.recipe import Recipe
from pipelines.search.scalar import COST, Scalar
from pipelines.search.state import SearchState, TrialRecord

if TYPE_CHECKING:
    from optuna.trial import Trial as OptunaTrial
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import Searcher

STARTUP_TRIALS = 4  # proposed at random before TPE has something to model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Space:
    """A conditional search space: the strength of soft sharing exists only for soft sharing.

    The primary task keeps its weight: under Adam only the ratios of the weights matter.
    """

    learning_rate: tuple[float, float]
    tasks: tuple[str, ...]
    task_weight: tuple[float, float]
    modes: tuple[str, ...]
    strength: tuple[float, float]

    def __call__(self, trial: OptunaTrial) -> None:
        trial.suggest_float("trainer.learning_rate", *self.learning_rate, log=True)
        for task in self.tasks:
            trial.suggest_float(f"tasks.{task}.weight", *self.task_weight, log=True)
        if trial.suggest_categorical("sharing.mode", self.modes) == "soft":
            trial.suggest_float("sharing.strength", *self.strength, log=True)

    @classmethod
    def of(cls, recipe: Recipe) -> Space:
        primary = recipe.gates.primary.split("/")[0]
        space = recipe.search
        tasks = tuple(str(task) for task in recipe.tasks if task != primary)
        modes = space.modes if len(recipe.tasks) > 1 else ("hard",)
        return cls(space.learning_rate, tasks, space.task_weight, modes, space.strength)

    def baseline(self, recipe: Recipe) -> dict[str, Any] | None:
        """The recipe's own point, or None if it is outside the space."""
        point: dict[str, Any] = {"trainer.learning_rate": recipe.trainer.learning_rate}
        point |= {f"tasks.{task}.weight": config.weight for task, config in recipe.tasks.items() if task in self.tasks}
        point["sharing.mode"] = recipe.sharing.mode
        if recipe.sharing.mode == "soft":
            point["sharing.strength"] = recipe.sharing.strength
        ranges = {"trainer.learning_rate": self.learning_rate, "sharing.strength": self.strength}
        inside = all(
            low <= point[key] <= high
            for key in point
            if key != "sharing.mode"
            for low, high in [ranges.get(key, self.task_weight)]
        )
        return point if inside and recipe.sharing.mode in self.modes else None


class Proposer:
    """Optuna's TPE over a space.

    A proposal depends only on the seed, its number and the results so far, so a rebuilt proposer makes the same ones.
    """

    def __init__(
        self,
        space: Space,
        baseline: Mapping[str, Any] | None,
        seed: int,
        directions: Sequence[Literal["minimize", "maximize"]],
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.baseline, self.seed = space, baseline, seed
        self.study = optuna.create_study(directions=list(directions))
        self.asked: dict[int, Any] = {}

    def propose(self, number: int, point: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The point of this number. point: what it was in an earlier process, which Optuna records."""
        import optuna

        known = point or (self.baseline if number == 0 else None)
        if known:
            self.study.enqueue_trial(dict(known))
        seed = Random(f"{self.seed}/{number}").getrandbits(32)
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        trial = self.asked[number] = self.study.ask()
        self.space(trial)
        return dict(trial.params)

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """Records the result of a trial; None: it failed."""
        import optuna

        state = optuna.trial.TrialState.COMPLETE if values else optuna.trial.TrialState.FAIL
        try:
            self.study.tell(self.asked[number], list(values) if values else None, state=state)
        except ValueError as error:  # a value that is not a number
            logger.warning("Optuna rejects the result of trial %d: %s", number, error)


def proposer(recipe: Recipe, scalar: Scalar, records: Sequence[TrialRecord]) -> Proposer:
    """A proposer rebuilt from the records, in their order."""
    space = Space.of(recipe)
    directions: list[Literal["minimize", "maximize"]] = ["minimize" if scalar.mode == "min" else "maximize"]
    if _proposes_by_task(recipe):
        directions = ["minimize"] * len(recipe.tasks)
    rebuilt = Proposer(space, space.baseline(recipe), recipe.seed, directions)
    for record in records:
        rebuilt.propose(record.number, record.point)
        if record.over:
            rebuilt.tell(record.number, _values(recipe, record.reports[-1]) if record.reports else None)
    return rebuilt


def searcher(recipe: Recipe, scalar: Scalar, state: SearchState) -> Searcher:
    """Returns interrupted trials first, each with its own point, then new points."""
    from ray.tune.search import Searcher

    class Proposals(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="objective", mode=scalar.mode)
            records = state.trials()
            self.proposer = proposer(recipe, scalar, records)
            self.interrupted = [record for record in records if not record.over]
            self.proposed = len(records)
            self.numbers: dict[str, int] = {}  # by Tune's trial id

        def suggest(self, trial_id: str) -> dict[str, Any]:
            record = self.interrupted.pop(0) if self.interrupted else self._new()
            self.numbers[trial_id] = record.number
            return {"trial": {"id": record.id, "point": record.point}}

        def _new(self) -> TrialRecord:
            number, self.proposed = self.proposed, self.proposed + 1
            record = TrialRecord(state.trial_id(number), number, self.proposer.propose(number))
            state.save(record)  # before it runs, so that a resumed search knows every trial
            return record

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            self.proposer.tell(self.numbers[trial_id], _values(recipe, result) if result else None)

        def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
            """Does nothing: the records suffice."""

    return Proposals()


def scheduler(recipe: Recipe, scalar: Scalar, state: SearchState) -> ASHAScheduler:
    """ASHA with rungs rebuilt from the recorded reports of all trials."""
    from ray.tune.schedulers import ASHAScheduler

    records = {record.id: record for record in state.trials()}

    class Rungs(ASHAScheduler):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            no_controller: Any = None  # ASHA does not use it
            for record in records.values():
                if record.over and record.reports:
                    ended: Any = SimpleNamespace(trial_id=record.id, config={"trial": {"id": record.id}})
                    self.on_trial_add(no_controller, ended)
                    self.on_trial_complete(no_controller, ended, record.reports[-1])

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_add(tune_controller, trial)
            record = records.get(trial.config["trial"]["id"])
            for report in record.reports if record else ():
                super().on_trial_result(tune_controller, trial, report)

    # The metric is not set in TuneConfig: searcher and scheduler may use different ones.
    return Rungs(
        time_attr="epoch",
        metric="objective",
        mode=scalar.mode,
        max_t=recipe.search.epochs,
        grace_period=1,
        reduction_factor=recipe.search.reduction,
    )


def _proposes_by_task(recipe: Recipe) -> bool:
    return recipe.search.proposals == "tasks" and len(recipe.tasks) > 1


def _values(recipe: Recipe, report: Mapping[str, Any]) -> list[float]:
    """The values of a trial for Optuna."""
    if _proposes_by_task(recipe):
        return [float(report[COST + str(task)]) for task in recipe.tasks]
    return [float(report["objective"])]
