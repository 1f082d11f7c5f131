"""Ray Tune over learning rate, task weights, sharing mode and its strength: ASHA stops, Optuna proposes; or PBT.

    result = search(recipe, utterances, features, store, trials=8)
    for row in result.leaderboard: print(row["objective"], row["overrides"])
    winner = with_overrides(recipe, result.winner)          # train it in full, offer it to the gate

A trial is a plain function around `mtl.fit` on one device. One number stops and ranks trials, whatever the task weights
under search: the mean relative gain over single-task models of the same budget, or the mean error (scalar.py). Optuna's
TPE proposes by all tasks' errors at once, unless told otherwise, and hears of a stopped trial as it was when stopped;
since ASHA stops by the one number, the far ends of the front are tried and given little time. What the tasks trade is
told by the front (front.py). The first trial is the recipe as it stands. Population based training is in pbt.py.
A search that was killed goes on with `resume=True`: finished trials are not repeated, and a trial that was running goes
on from its last epoch. Tune keeps its own state in <root>/search/<name>/ (as pickle: restore only from a root that you
trust); what people read is leaderboard.json beside it.
"""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import cluster, lock
from pipelines.data.dataset import open_dataset
from pipelines.recipe import Recipe
from pipelines.registry.tracking import PARENT_TAG
from pipelines.search import pbt
from pipelines.search.baselines import single_task
from pipelines.search.front import front_of
from pipelines.search.scalar import COST, Scalar
from pipelines.search.scribe import listening, scribe
from pipelines.search.space import Space
from pipelines.search.trial import numbers, overrides_of, run_trial
from pipelines.store import Manifest, Store, fingerprint
from pipelines.study.cells import StudyError
from pipelines.training.prepare import Job, PrepareError, labelled, prepare
from pipelines.training.saved import storage
from pipelines.training.shares import Slots, nodes, slots_of
from pipelines.training.train import quiet_ray

if TYPE_CHECKING:
    from ray.tune import ResultGrid, Tuner

    from pipelines.progress import Report
    from pipelines.registry.tracking import Run

VERSION = 2
TRIAL_RETRIES = 1  # when its process died; an error of the trial itself is its result
STARTUP_TRIALS = 4  # proposed at random before TPE has something to model

logger = logging.getLogger(__name__)


class SearchError(RuntimeError):
    """A search that cannot start, go on, or name a winner; the message says what to do."""


@dataclass(frozen=True)
class SearchResult:
    """leaderboard: one row a trial, the best first: trial, overrides, objective, metrics, epochs, seconds, ended,
    parameters, state ("finished", "stopped" by ASHA, "failed"), error, schedule (of PBT, else empty).
    winner: `--set` strings of the first row. objective: what the number is, Scalar.to_json. front: Front.to_json.
    """

    name: str
    leaderboard: list[dict[str, Any]]
    winner: tuple[str, ...]
    method: str = "asha"
    objective: dict[str, Any] = field(default_factory=dict)
    front: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def search(
    recipe: Recipe,
    utterances: list[Manifest],
    features: list[Manifest],
    store: Store,
    trials: int | None = None,
    resume: bool = False,
    tracking: Run | None = None,
    progress: Report | None = None,
) -> SearchResult:
    """Runs the trials, or with `resume` goes on with the last search of this recipe on these data.

    `tracking` is the parent MLflow run; each trial becomes a run nested under it, written from this process alone.
    `progress` counts epochs of all trials.

    Raises:
        SearchError: nothing to resume, another number of trials than the search was started with, a task without
            labels, a language model that cannot be used, search.epochs too few for trainer.curriculum, a cluster too
            small, an interruption, or no trial that finished an epoch.
    """
    name, old = _name(recipe, utterances, features, store, resume)
    result = _finished(store, name) if old else None
    if result is None:
        _has_room_for_stages(recipe)
        trials = _planned(store, recipe, name, trials or recipe.search.trials, old, trials)
        quiet_ray()
        try:
            cluster.connect(cpus=1)
            # A population trains all at once; elsewhere proposals have to learn from what has ended.
            together = trials if recipe.search.method == "asha" else 2 * trials
            slots = slots_of(nodes(), together, recipe.trainer.gpus)
            codec = prepare(recipe, labelled(open_dataset(store, utterances, features), recipe))[0]
        except (cluster.ClusterError, PrepareError) as error:
            raise SearchError(str(error)) from error
        scalar = _scalar(recipe, utterances, features, store, progress)
        job = Job(recipe, utterances, features, store, codec.to_json(), slots.share.cpus, recipe.search.share)
        tuner = _tuner(job, scalar, slots, name, trials, tracking, old)
        with listening(name, progress):
            grid = tuner.fit()
        result = _rank(grid, recipe, scalar, name)
        lock.check(store.root)
        store.put_bytes(f"search/{name}/leaderboard.json", json.dumps(result.to_json()).encode())
        _clear(store, name)
    tasks = [str(task) for task in recipe.tasks]
    front = front_of(result.leaderboard, tasks, {str(k): value for k, value in recipe.search.reference.items()})
    result = replace(result, front=front.to_json())
    if tracking:
        _close(tracking, result.leaderboard)
        tracking.log_text(json.dumps(result.leaderboard, indent=1), "leaderboard.json")
        tracking.log({"objective": result.leaderboard[0]["objective"]}, step=0)
        for number, volume in enumerate(front.history, start=1):
            tracking.log({"hypervolume": volume}, step=number)
    return result


def _scalar(
    recipe: Recipe,
    utterances: list[Manifest],
    features: list[Manifest],
    store: Store,
    progress: Report | None,
) -> Scalar:
    """What trials are compared by; trains the single-task models that the store does not have yet."""
    if recipe.search.objective == "mean" or len(recipe.tasks) < 2:
        return Scalar("mean")

    def shown(done: int, total: int, _: str) -> None:
        if progress:
            progress(0, 0, f"single-task models {done} of {total}")

    try:
        return single_task(recipe, utterances, features, store, shown)
    except StudyError as error:
        raise SearchError(str(error)) from error


def _has_room_for_stages(recipe: Recipe) -> None:
    before = sum(stage.epochs for stage in recipe.trainer.curriculum)
    if before and before >= recipe.search.epochs:
        raise SearchError(
            f"search.epochs is {recipe.search.epochs}, but trainer.curriculum takes {before} epochs before all tasks "
            "train together: no trial would come to them. Raise search.epochs, or set trainer.curriculum=[]"
        )


def _name(
    recipe: Recipe, utterances: list[Manifest], features: list[Manifest], store: Store, resume: bool
) -> tuple[str, bool]:
    """The search's name, and whether it was begun before. Each new search of the same thing gets the next number."""
    space = recipe.search.model_dump(mode="json", exclude={"trials", "reference"})
    address = fingerprint(VERSION, recipe.address(), space, [m.address for m in (*utterances, *features)])
    stem = f"search/{recipe.name}-{address}-"
    begun = [int(entry.key[len(stem) :].split("/")[0]) for entry in store.list(stem) if entry.key.endswith("plan.json")]
    last = max(begun, default=0)
    if resume and not last:
        raise SearchError(
            f"no search of recipe {recipe.name!r} on these data was begun in {store.root}; start it without --resume "
            "(another recipe, search space or version of the data is another search)"
        )
    number = last if resume else last + 1
    return f"{recipe.name}-{address}-{number}", resume


def _planned(store: Store, recipe: Recipe, name: str, trials: int, old: bool, asked: int | None) -> int:
    """Number of trials: of the search that is resumed, or as asked, which is then written down."""
    key = f"search/{name}/plan.json"
    if trials < 2 and recipe.search.method == "pbt":
        raise SearchError(
            "a population of one has nobody to learn from; take --trials 4 or more, or search.method=asha"
        )
    if not old:
        store.put_bytes(key, json.dumps({"trials": trials}).encode())
        return trials
    planned = int(json.loads(store.read_bytes(key))["trials"])
    if asked not in (None, planned):
        raise SearchError(f"search {name} was started with {planned} trials; resume it without --trials")
    return planned


def _finished(store: Store, name: str) -> SearchResult | None:
    key = f"search/{name}/leaderboard.json"
    if not store.exists(key):
        return None
    content = json.loads(store.read_bytes(key))
    return SearchResult(**{**content, "winner": tuple(content["winner"])})


def _tuner(job: Job, scalar: Scalar, slots: Slots, name: str, trials: int, tracking: Run | None, old: bool) -> Tuner:
    import optuna
    from ray import tune

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A resumed trial says its last epoch again, since Tune may not have heard of it.
    warnings.filterwarnings("ignore", "The reported value is ignored because this `step=", UserWarning)
    asha = job.recipe.search.method == "asha"
    function = tune.with_parameters(run_trial if asha else pbt.run_member, job=job, search=name, scalar=scalar)
    trainable = tune.with_resources(function, slots.share.resources())
    place = storage(job.store, "search")
    path = f"{place['storage_path']}/{name}"
    if old and tune.Tuner.can_restore(path, place.get("storage_filesystem")):
        return tune.Tuner.restore(path, trainable, storage_filesystem=place.get("storage_filesystem"))
    return tune.Tuner(
        trainable,
        param_space=None if asha else _population_space(job.recipe),
        tune_config=tune.TuneConfig(
            num_samples=trials,
            # A population is there as a whole, and takes turns where the cluster does not hold it.
            max_concurrent_trials=slots.concurrent if asha else None,
            reuse_actors=not asha,  # a member that takes its turn needs no new process
            trial_dirname_creator=_trial_id,
            **(_independent if asha else _population)(job.recipe, scalar),
        ),
        run_config=tune.RunConfig(
            name=name,
            **place,
            verbose=0,
            callbacks=[scribe(job.store.root, name, trials, job.recipe.search.epochs, tracking)],
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
        ),
    )


def _independent(recipe: Recipe, scalar: Scalar) -> dict[str, Any]:
    """Points that Optuna proposes and ASHA stops. Neither metric is named to Tune itself: they differ."""
    import optuna
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    space = Space.of(recipe)
    baseline = space.baseline(recipe)
    several = recipe.search.proposals == "tasks" and len(recipe.tasks) > 1
    watched = [COST + str(task) for task in recipe.tasks]
    return {
        "search_alg": OptunaSearch(
            space,
            metric=watched if several else "objective",
            mode=["min"] * len(watched) if several else scalar.mode,
            points_to_evaluate=[baseline] if baseline else None,
            sampler=optuna.samplers.TPESampler(seed=recipe.seed, n_startup_trials=STARTUP_TRIALS),
        ),
        "scheduler": ASHAScheduler(
            time_attr="epoch",
            metric="objective",
            mode=scalar.mode,
            max_t=recipe.search.epochs,
            grace_period=1,
            reduction_factor=recipe.search.reduction,
        ),
    }


def _population(recipe: Recipe, scalar: Scalar) -> dict[str, Any]:
    """Members that begin at random points of the space, the first at the recipe's own."""
    from ray.tune.search.basic_variant import BasicVariantGenerator

    baseline = Space.of(recipe).baseline(recipe) or {}
    ranges = pbt.ranges_of(recipe)
    own = {key: baseline[key] for key in ranges} if baseline.keys() >= ranges.keys() else None
    return {
        "search_alg": BasicVariantGenerator(points_to_evaluate=[own] if own else None, random_state=recipe.seed),
        "scheduler": pbt.population(recipe, scalar),
    }


def _population_space(recipe: Recipe) -> dict[str, Any]:
    from ray import tune

    return {key: tune.loguniform(low, high) for key, (low, high) in pbt.ranges_of(recipe).items()}


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)


def _rank(grid: ResultGrid, recipe: Recipe, scalar: Scalar, name: str) -> SearchResult:
    rows = [_row(grid[position], recipe, scalar) for position in range(len(grid))]
    running = [row["trial"] for row in rows if row["state"] == "unfinished"]
    if running:
        raise SearchError(f"search {name} was interrupted with {len(running)} trials open; go on with --resume")
    rows.sort(key=lambda row: (row["state"] == "failed", scalar.key(row), row["trial"]))
    if not rows or rows[0]["state"] == "failed":
        errors = sorted({str(row["error"]) for row in rows})
        raise SearchError(f"none of {len(rows)} trials of search {name} gave a model: {'; '.join(errors)[:2000]}")
    return SearchResult(name, rows, tuple(rows[0]["overrides"]), recipe.search.method, scalar.to_json())


def _row(result: Any, recipe: Recipe, scalar: Scalar) -> dict[str, Any]:
    metrics = result.metrics or {}
    error = str(result.error) if result.error else metrics.get("error")
    epochs = int(metrics.get("epoch", 0))
    if error:
        state = "failed"
    elif epochs >= recipe.search.epochs:
        state = "finished"
    else:
        state = "stopped" if metrics.get("done") else "unfinished"
    schedule = metrics.get("schedule") or []
    return {
        "trial": metrics.get("trial_id") or Path(result.path).name,
        # What a member of a population was last trained with: Tune may have given it another point since.
        "overrides": schedule[-1]["overrides"] if schedule else list(overrides_of(result.config or {})),
        "objective": float(metrics.get("objective", scalar.worst)),
        "metrics": {key: value for key, value in numbers(metrics).items() if key.startswith(("valid/", "train/"))},
        "epochs": epochs,
        "seconds": float(metrics.get("time_total_s", 0.0)),
        "ended": metrics.get("timestamp") or 0,
        "parameters": metrics.get("parameters"),
        "state": state,
        "error": error,
        "schedule": schedule,
    }


def _clear(store: Store, name: str) -> None:
    """Removes the trials' states: a winner is trained anew, in full."""
    for entry in store.list(f"search/{name}/"):
        if "/state/" in entry.key:
            store.delete(entry.key)


def _close(tracking: Run, leaderboard: list[dict[str, Any]]) -> None:
    """Marks the runs of trials that were proposed in the second before a kill, and of which Tune knows nothing."""
    trials = {row["trial"] for row in leaderboard}
    nested = f"tags.`{PARENT_TAG}` = '{tracking.run_id}' and attributes.status = 'RUNNING'"
    for child in tracking.client.search_runs([tracking.experiment_id], nested):
        if child.info.run_name not in trials:
            replace(tracking, run_id=child.info.run_id).finish("KILLED")
