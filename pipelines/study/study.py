"""Trains and scores the cells of a study: every task alone, all together, in pairs, and each left out, over seeds.

    plan = study(context, seeds=3)
    plan.scores(plan.joint, seed=0).metrics["intent/accuracy"]

A cell is a set of tasks that one model trains, in one Ray task for each seed. All cells have the same budget: the same
epochs of the same batches in the same order. A row that no task of a cell is labelled for stays in its batch and trains
nothing there, so two cells differ only in their tasks. The weights of the last epoch are scored row by row, with greedy
decoding.

The valid split is scored by default: choosing task groups on the test rows would bias the gate.

An interrupted study resumes, and one with more seeds or other kinds of cells trains only the new cells.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from mtl.analysis.transfer import Tasks
from mtl.inference.predictor import Predictor
from mtl.inputs.codec import Codec
from mtl.spec import first_with_answer
from mtl.training.fit import NonFiniteLoss, fit
from pipelines.core import cluster
from pipelines.data.dataset import open_dataset
from pipelines.evaluation import evaluate
from pipelines.recipe import Recipe
from pipelines.registry.tracking import PARENT_TAG, start_child
from pipelines.stages.context import Context
from pipelines.study.cells import CellRun, Study, StudyError, cell_name, planned, result_key
from pipelines.study.options import KINDS, SEEDS, Split
from pipelines.training import train
from pipelines.training.prepare import Job, PrepareError, fit_config, labelled, prepare
from pipelines.training.resources import nodes, slots_of
from pipelines.training.vocabulary import stored_codec

if TYPE_CHECKING:
    from pipelines.core.progress import Report
    from pipelines.registry.tracking import Run

CELL_RETRIES = 1  # if its process died; an error of the cell itself is reported

logger = logging.getLogger(__name__)


def study(
    context: Context,
    seeds: int = SEEDS,
    kinds: Sequence[str] = KINDS,
    split: Split = "valid",
    share: float = 1.0,
    tracking: Run | None = None,
    progress: Report | None = None,
) -> Study:
    """Trains and scores every cell that has no result yet, and returns the finished study.

    kinds: of KINDS; single-task cells of every task are always included as the baseline.
    tracking: the parent MLflow run; each cell and seed becomes a run nested under it, written from this process alone.
    progress: counts cells.

    Raises:
        StudyError: an unknown kind, a single task, a task without labels, an unusable language model, a cluster that is
            too small, or cells that failed; finished cells are kept.
    """
    plan = planned(context, seeds, kinds, split, share)
    train_missing([plan], tracking, progress)
    return plan


def train_missing(studies: Sequence[Study], tracking: Run | None = None, progress: Report | None = None) -> None:
    """Trains and scores every cell of the studies that has no result yet, in parallel.

    Raises:
        StudyError: an unusable language model, a cluster that is too small, or cells that failed.
    """
    runs = [CellRun(one, cell, seed) for one in studies for seed in one.seeds for cell in one.cells]
    done: list[CellRun] = []
    todo: list[CellRun] = []
    for run in runs:
        (done if run.study.store.exists(f"{run.key}.json") else todo).append(run)
    if progress:
        progress(len(done), len(runs), "")
    failed = []
    for number, (run, error) in enumerate(_fan_out(todo) if todo else (), start=len(done) + 1):
        if error:
            failed.append(f"{run.name}: {error}")
        elif tracking:
            _log(run, tracking)
        if progress:
            progress(number, len(runs), run.name)
    if failed:
        raise StudyError(
            f"{len(failed)} of {len(runs)} cells failed; the others are stored, and the same call trains these "
            f"again: {'; '.join(failed)[:2000]}"
        )
    if tracking:
        _log_missing(done, tracking)


def _codec(plan: Study) -> dict[str, Any]:
    """The vocabularies of the joint model, which all cells use."""

    def build() -> Codec:
        try:
            return prepare(_recipe_of(plan.recipe, plan.joint, plan.recipe.seed), plan.dataset())[0]
        except PrepareError as error:
            raise StudyError(str(error)) from error

    return stored_codec(plan.store, f"study/{plan.identity}/codec.json", build).to_json()


def _recipe_of(recipe: Recipe, cell: Tasks, seed: int) -> Recipe:
    """The recipe restricted to the cell's tasks, and to the stages of its curriculum that train them.

    The epochs of the other stages go to the joint stage, so the budget is the same.
    """
    tasks = {task: config for task, config in recipe.tasks.items() if task in cell}
    reread = recipe.decoding.reread and first_with_answer(cell, "text") is not None
    decoding = replace(recipe.decoding, reread=reread)
    stages = tuple(
        replace(stage, tasks=concerned)
        for stage in recipe.trainer.curriculum
        if (concerned := tuple(task for task in stage.tasks if task in cell))
    )
    trainer = replace(recipe.trainer, curriculum=stages)
    return recipe.model_copy(update={"tasks": tasks, "seed": seed, "decoding": decoding, "trainer": trainer})


def _fan_out(todo: Sequence[CellRun]) -> Iterator[tuple[CellRun, str]]:
    """Trains the cells, as many at once as the cluster holds; yields each as it ends, with its error or ""."""
    train.quiet_ray()
    try:
        cluster.connect(cpus=1)
        # A search trains fewer trials at once, so that proposals learn from finished ones; a study knows its cells.
        slots = slots_of(nodes(), 2 * len(todo), todo[0].study.recipe.trainer.gpus)
    except cluster.ClusterError as error:
        raise StudyError(str(error)) from error
    import ray

    cpus, gpus = slots.share.cpus, 1 if slots.share.gpu else 0
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=CELL_RETRIES)(run_cell)
    jobs = {}
    for plan in {run.study.identity: run.study for run in todo}.values():
        data = (list(plan.utterances), list(plan.features), plan.store)
        jobs[plan.identity] = ray.put(Job(plan.recipe, *data, _codec(plan), threads=cpus, share=plan.share))
    waiting = iter(todo)
    running: dict[Any, CellRun] = {}
    # No task is cancelled after an error: Ray 2.60 may abort the driver if one ends at that moment (cluster.over).
    while True:
        for run in islice(waiting, slots.concurrent - len(running)):
            identity = run.study.identity
            running[remote.remote(jobs[identity], identity, run.cell, run.seed, run.study.split)] = run
        if not running:
            return
        (ready, *_), _ = ray.wait(list(running), num_returns=1)
        run = running.pop(ready)
        try:
            yield run, ray.get(ready)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            yield run, f"{type(cause).__name__}: {cause}"


def run_cell(job: Job, identity: str, cell: Tasks, seed: int, split: Split) -> str:
    """Trains, scores and stores one cell, in one Ray task. Returns an error message, or ""."""
    import ray

    recipe = _recipe_of(job.recipe, cell, seed)
    whole = job.recipe
    job = replace(job, recipe=recipe)
    began = time.monotonic()
    model, loader, _ = job.open()
    device = "cuda" if ray.get_gpu_ids() else "cpu"  # the GPUs that Ray assigned
    history: list[dict[str, float]] = []
    try:
        fit(
            model,
            loader,
            replace(fit_config(recipe), checkpoint_seconds=math.inf, device=device),
            report=lambda row, _: history.append(row),
        )
    except NonFiniteLoss as error:
        return str(error)
    # Labels of the whole recipe, so that all cells are scored on the same ones.
    rows = labelled(open_dataset(job.store, job.utterances, job.features), whole).split(split)
    predictor = Predictor(model, recipe.features, reread=recipe.decoding.reread)
    scores = evaluate.evaluate(predictor, rows, recipe.loader)
    tasks = tuple(str(task) for task in recipe.tasks)
    record = {
        "tasks": list(tasks),
        "seed": seed,
        "epochs": len(history),
        "steps": int(history[-1]["step"]),
        "parameters": scores.cost.parameters,
        "seconds": round(time.monotonic() - began, 2),
        "device": scores.cost.device,
        "metrics": scores.metrics,
        "history": history,
    }
    key = result_key(identity, cell_name(tasks, cell), seed)
    scores.save(job.store, f"{key}.parquet")
    job.store.put_bytes(f"{key}.json", json.dumps(record).encode())  # written last: marks the cell as trained
    return ""


def _log_missing(done: Sequence[CellRun], tracking: Run) -> None:
    """Logs finished cells that an interrupted call did not log to MLflow."""
    nested = f"tags.`{PARENT_TAG}` = '{tracking.run_id}' and attributes.status = 'FINISHED'"
    pages = tracking.client.search_runs([tracking.experiment_id], nested, max_results=10_000)
    logged = {run.info.run_name for run in pages}
    for run in done:
        if run.name not in logged:
            _log(run, tracking)


def _log(run: CellRun, tracking: Run) -> None:
    plan, record = run.study, run.study.record(run.cell, run.seed)
    params = {name: record[name] for name in ("tasks", "seed", "parameters", "device")}
    try:
        child = start_child(plan.store.root, tracking, run.name, params)
        for row in record["history"]:
            child.log(row, step=int(row["epoch"]))
        scored = {f"{plan.split}/{metric}": value for metric, value in record["metrics"].items()}
        child.log({**scored, "seconds": record["seconds"]}, step=record["epochs"])
        child.finish()
    except Exception as error:  # an unreachable MLflow must not end a study; the next call logs the cell
        logger.warning("cell %s is not in MLflow: %s", run.name, error)
