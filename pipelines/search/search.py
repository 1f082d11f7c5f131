"""Hyperparameter search with Ray Tune: Optuna proposes and ASHA stops trials, or population based training.

    result = search(context, trials=8)
    for row in result.leaderboard: print(row["objective"], row["overrides"])
    winner = with_overrides(recipe, result.winner)          # to be trained in full

A trial calls `mtl.training.fit` on one device. One objective stops and ranks trials, whatever the task weights under
search: the mean relative gain over single-task models of the same budget, or the mean error (scalar.py). Optuna's TPE
models the errors of all tasks at once by default; a stopped trial counts with its last report. front.py
computes the Pareto front. The first trial is the unchanged recipe. Population based training is in pbt.py.

With `resume=True` an interrupted search continues: finished trials are not repeated, and an unfinished trial continues
after its last epoch. That state is JSON in <root>/search/<name>/ (state.py); Tune's own files, which are pickles, are
in a temporary folder of this process until the search ends.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipelines.core import cluster
from pipelines.data.dataset import open_dataset
from pipelines.recipe import Recipe
from pipelines.registry.tracking import PARENT_TAG
from pipelines.search import pbt, proposals
from pipelines.search.baselines import single_task
from pipelines.search.callbacks import reporting, tune_callback
from pipelines.search.front import front_of
from pipelines.search.scalar import Scalar
from pipelines.search.state import FORMAT, SearchState, TrialRecord, recorder
from pipelines.search.trial import run_trial
from pipelines.stages.context import Context
from pipelines.storage import lock
from pipelines.storage.store import Store, fingerprint
from pipelines.study.cells import StudyError
from pipelines.training.prepare import Job, PrepareError, labelled, prepare
from pipelines.training.resources import Slots, nodes, slots_of
from pipelines.training.train import quiet_ray

if TYPE_CHECKING:
    from ray.tune import Tuner

    from pipelines.core.progress import Report
    from pipelines.registry.tracking import Run

VERSION = 2
TRIAL_RETRIES = 1  # if its process died; an error of the trial itself is its result


class SearchError(RuntimeError):
    """A search that cannot start, resume, or select a winner; the message says what to do."""


@dataclass(frozen=True)
class SearchResult:
    """Result of a search, as plain data.

    leaderboard: one row a trial, the best first: trial, overrides, objective, metrics, epochs, seconds, ended,
    parameters, state ("finished", "stopped" by ASHA, "failed"), error, schedule (of PBT, else empty).
    winner: `--set` strings of the first row. objective: Scalar.to_json. front: Front.to_json.
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
    context: Context,
    trials: int | None = None,
    resume: bool = False,
    tracking: Run | None = None,
    progress: Report | None = None,
) -> SearchResult:
    """Runs the trials, or with `resume` continues the last search of this recipe on these data.

    `tracking` is the parent MLflow run; each trial becomes a run nested under it, written from this process alone.
    `progress` counts epochs of all trials.

    Raises:
        SearchError: nothing to resume, a search of an older version, another number of trials than at the start, a task
            without labels, an unusable language model, too few search.epochs for trainer.curriculum, a cluster that
            is too small, an interruption, or no trial with a finished epoch.
    """
    recipe, store = context.recipe, context.store
    name = _name(context, resume)
    state = SearchState(store, name)
    result = _finished(store, name) if resume else None
    if result is None:
        _check_curriculum(recipe)
        trials = _planned(state, recipe, trials, resume)
        quiet_ray()
        try:
            cluster.connect(cpus=1)
            # A population trains at the same time; Optuna's proposals learn from finished trials.
            together = trials if recipe.search.method == "asha" else 2 * trials
            slots = slots_of(nodes(), together, recipe.trainer.gpus)
            dataset = open_dataset(store, context.utterances, context.features)
            codec = prepare(recipe, labelled(dataset, recipe))[0]
        except (cluster.ClusterError, PrepareError) as error:
            raise SearchError(str(error)) from error
        scalar = _scalar(context, progress)
        data = (context.utterances, context.features, store)
        job = Job(recipe, *data, codec.to_json(), slots.share.cpus, recipe.search.share)
        with reporting(name, progress), tempfile.TemporaryDirectory(prefix="motet-search-") as folder:
            if len(state.trials()) < trials or not all(record.over for record in state.trials()):
                _tuner(job, scalar, slots, state, trials, tracking, folder).fit()
        result = _rank(state.trials(), trials, recipe, scalar, name)
        lock.check(store.root)
        store.put_bytes(f"search/{name}/leaderboard.json", json.dumps(result.to_json()).encode())
    state.clear()  # a winner is trained again, in full
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


def _scalar(context: Context, progress: Report | None) -> Scalar:
    """The objective; trains the single-task models that the store does not have yet."""
    recipe = context.recipe
    if recipe.search.objective == "mean" or len(recipe.tasks) < 2:
        return Scalar("mean")

    def shown(done: int, total: int, _: str) -> None:
        if progress:
            progress(0, 0, f"single-task models {done} of {total}")

    try:
        return single_task(context, shown)
    except StudyError as error:
        raise SearchError(str(error)) from error


def _check_curriculum(recipe: Recipe) -> None:
    before = sum(stage.epochs for stage in recipe.trainer.curriculum)
    if before and before >= recipe.search.epochs:
        raise SearchError(
            f"search.epochs is {recipe.search.epochs}, but trainer.curriculum takes {before} epochs before all tasks "
            "train together, so no trial would reach that stage. Raise search.epochs, or set trainer.curriculum=[]"
        )


def _name(context: Context, resume: bool) -> str:
    """Name of the last search of this recipe on these data, or of a new one with the next number."""
    recipe, store = context.recipe, context.store
    space = recipe.search.model_dump(mode="json", exclude={"trials", "reference"})
    address = fingerprint(VERSION, recipe.address(), space, [manifest.address for manifest in context.data])
    stem = f"search/{recipe.name}-{address}-"
    numbers = [
        int(entry.key[len(stem) :].split("/")[0]) for entry in store.list(stem) if entry.key.endswith("plan.json")
    ]
    last = max(numbers, default=0)
    if resume and not last:
        raise SearchError(
            f"no search of recipe {recipe.name!r} on these data was started in {store.root}; start it without --resume "
            "(another recipe, search space or version of the data is another search)"
        )
    number = last if resume else last + 1
    return f"{recipe.name}-{address}-{number}"


def _planned(state: SearchState, recipe: Recipe, asked: int | None, resume: bool) -> int:
    """Number of trials: that of the resumed search, else `asked` or the recipe's, which is then stored."""
    trials = asked or recipe.search.trials
    if trials < 2 and recipe.search.method == "pbt":
        raise SearchError(
            "a population of one has no other member to copy; set --trials 4 or more, or search.method=asha"
        )
    if not resume:
        state.plan(trials)
        return trials
    plan = state.planned()
    if plan.get("format") != FORMAT:
        raise SearchError(
            f"search {state.name} was interrupted under another version of Motet and cannot be resumed. Older versions "
            "stored its state as pickle files, which can run code and are no longer read. Start the search again "
            "without --resume; the trials that it had finished remain in MLflow"
        )
    planned = int(plan["trials"])
    if asked not in (None, planned):
        raise SearchError(f"search {state.name} was started with {planned} trials; resume it without --trials")
    return planned


def _finished(store: Store, name: str) -> SearchResult | None:
    key = f"search/{name}/leaderboard.json"
    if not store.exists(key):
        return None
    content = json.loads(store.read_bytes(key))
    return SearchResult(**{**content, "winner": tuple(content["winner"])})


def _tuner(
    job: Job, scalar: Scalar, slots: Slots, state: SearchState, trials: int, tracking: Run | None, folder: str
) -> Tuner:
    from ray import tune

    recipe, asha = job.recipe, job.recipe.search.method == "asha"
    records = state.trials()
    epochs = recipe.search.epochs
    reported = {record.id: epochs if record.over else record.epoch for record in records}
    function = tune.with_parameters(run_trial if asha else pbt.run_member, job=job, search=state.name, scalar=scalar)
    # All members of a population exist from the start; they take turns if the cluster is too small for all.
    members = {} if asha else {"trial": tune.grid_search(pbt.members_of(recipe, state, trials))}
    return tune.Tuner(
        tune.with_resources(function, slots.share.resources()),
        param_space=members,
        tune_config=tune.TuneConfig(
            num_samples=trials - sum(record.over for record in records) if asha else 1,
            max_concurrent_trials=slots.concurrent if asha else None,
            reuse_actors=not asha,  # the next member needs no new process
            trial_dirname_creator=_trial_id,
            search_alg=proposals.searcher(recipe, scalar, state) if asha else None,
            scheduler=(proposals.scheduler if asha else pbt.population)(recipe, scalar, state),
        ),
        run_config=tune.RunConfig(
            name=state.name,
            storage_path=folder,
            verbose=0,
            callbacks=[tune_callback(job.store.root, state.name, trials, epochs, tracking, reported), recorder(state)],
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
        ),
    )


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)


def _rank(records: list[TrialRecord], trials: int, recipe: Recipe, scalar: Scalar, name: str) -> SearchResult:
    rows = [record.leaderboard_row(recipe, scalar) for record in records]
    unfinished = trials - sum(row["state"] != "unfinished" for row in rows)
    if unfinished:
        raise SearchError(f"search {name} was interrupted with {unfinished} trials open; continue with --resume")
    rows.sort(key=lambda row: (row["state"] == "failed", scalar.key(row), row["trial"]))
    if not rows or rows[0]["state"] == "failed":
        errors = sorted({str(row["error"]) for row in rows})
        raise SearchError(f"none of {len(rows)} trials of search {name} produced a model: {'; '.join(errors)[:2000]}")
    return SearchResult(name, rows, tuple(rows[0]["overrides"]), recipe.search.method, scalar.to_json())


def _close(tracking: Run, leaderboard: list[dict[str, Any]]) -> None:
    """Ends MLflow runs that a killed driver left running, of this and of other searches."""
    trials = {row["trial"]: row["state"] for row in leaderboard}
    nested = f"tags.`{PARENT_TAG}` = '{tracking.run_id}' and attributes.status = 'RUNNING'"
    for child in tracking.client.search_runs([tracking.experiment_id], nested):
        state = trials.get(child.info.run_name)
        status = "KILLED" if state is None else "FAILED" if state == "failed" else "FINISHED"
        replace(tracking, run_id=child.info.run_id).finish(status)
