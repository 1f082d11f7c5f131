"""The study: the same training with every task alone, all together, in pairs, and each left out, over several seeds.

    found = study(recipe, utterances, features, store, seeds=3)
    found.scores(found.joint, seed=0).metrics["intent/accuracy"]

A cell is a set of tasks that one model trains: one Ray task for each seed. All cells have the same budget: the same
epochs of the same batches in the same order, as many optimiser steps. A row that no task of a cell is labelled for
stays in its batch and trains nothing there; so what differs between two cells is their tasks alone. The last epoch's
weights are scored, not the best one's, row by row, with the recogniser's best path. Where the recipe says
`decoding.reread`, a cell with the transcript reads what it heard; one without has heard no words.

Scored on valid unless asked otherwise: to choose task groups by the test rows would spend what the gate decides on.

A study that was killed goes on, and one with more seeds or other kinds of cells trains only what is new: cells.py says
where results lie.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from pipelines.storage.store import Manifest, Store
from pipelines.study.cells import Study, StudyError, Todo, cell_name, planned, result_key
from pipelines.study.table import KINDS, SEEDS, Split
from pipelines.training import train
from pipelines.training.prepare import Job, PrepareError, feature_spec, fit_config, labelled, prepare
from pipelines.training.resources import nodes, slots_of
from pipelines.training.vocabulary import stored_codec

if TYPE_CHECKING:
    from pipelines.core.progress import Report
    from pipelines.registry.tracking import Run

CELL_RETRIES = 1  # when its process died; an error of the cell itself is the study's

logger = logging.getLogger(__name__)


def study(
    recipe: Recipe,
    utterances: list[Manifest],
    features: list[Manifest],
    store: Store,
    seeds: int = SEEDS,
    kinds: Sequence[str] = KINDS,
    split: Split = "valid",
    share: float = 1.0,
    tracking: Run | None = None,
    progress: Report | None = None,
) -> Study:
    """Trains and scores every cell that has no result yet, and returns them all.

    kinds: of KINDS; single-task cells of every task are always there, since all others are compared with them.
    tracking: the parent MLflow run; each cell and seed becomes a run nested under it, written from this process alone.
    progress: counts cells.

    Raises:
        StudyError: a kind that is not known, one task alone, a task without labels, a language model that cannot be
            used, a cluster too small, or cells that failed; those that finished are kept.
    """
    found = planned(recipe, utterances, features, store, seeds, kinds, split, share)
    train_missing([found], utterances, features, tracking, progress)
    return found


def train_missing(
    studies: Sequence[Study],
    utterances: list[Manifest],
    features: list[Manifest],
    tracking: Run | None = None,
    progress: Report | None = None,
) -> None:
    """Trains and scores every cell of the studies that has no result yet, all of them side by side.

    Raises:
        StudyError: a language model that cannot be used, a cluster too small, or cells that failed.
    """
    wanted = [Todo(found, cell, seed) for found in studies for seed in found.seeds for cell in found.cells]
    done: list[Todo] = []
    todo: list[Todo] = []
    for one in wanted:
        (done if one.study.store.exists(f"{one.key}.json") else todo).append(one)
    if progress:
        progress(len(done), len(wanted), "")
    failed = []
    for number, (one, error) in enumerate(_fan_out(todo, utterances, features) if todo else (), start=len(done) + 1):
        if error:
            failed.append(f"{one.name}: {error}")
        elif tracking:
            _note(one, tracking)
        if progress:
            progress(number, len(wanted), one.name)
    if failed:
        raise StudyError(
            f"{len(failed)} of {len(wanted)} cells failed; the others are kept, and the same call trains these "
            f"again: {'; '.join(failed)[:2000]}"
        )
    if tracking:
        _note_missing(done, tracking)


def _codec(found: Study, utterances: list[Manifest], features: list[Manifest]) -> dict[str, Any]:
    """The vocabularies of all cells: those of the joint model, so that no cell reads its input differently."""

    def build() -> Codec:
        try:
            dataset = labelled(open_dataset(found.store, utterances, features), found.recipe)
            return prepare(_recipe_of(found.recipe, found.joint, found.recipe.seed), dataset)[0]
        except PrepareError as error:
            raise StudyError(str(error)) from error

    return stored_codec(found.store, f"study/{found.identity}/codec.json", build).to_json()


def _recipe_of(recipe: Recipe, cell: Tasks, seed: int) -> Recipe:
    """The recipe with the cell's tasks alone, at their own weights, and what concerns them of its curriculum.

    The epochs of a stage that concerns none of them go to the joint stage: the budget is the same.
    """
    tasks = {task: config for task, config in recipe.tasks.items() if task in cell}
    reread = recipe.decoding.reread and first_with_answer(cell, "text") is not None
    decoding = recipe.decoding.model_copy(update={"reread": reread})
    stages = tuple(
        stage.model_copy(update={"tasks": concerned})
        for stage in recipe.trainer.curriculum
        if (concerned := tuple(task for task in stage.tasks if task in cell))
    )
    trainer = recipe.trainer.model_copy(update={"curriculum": stages})
    return recipe.model_copy(update={"tasks": tasks, "seed": seed, "decoding": decoding, "trainer": trainer})


def _fan_out(todo: Sequence[Todo], utterances: list[Manifest], features: list[Manifest]) -> Iterator[tuple[Todo, str]]:
    """Trains the cells, as many at once as the cluster holds; yields each as it ends, with its error or ""."""
    train.quiet_ray()
    try:
        cluster.connect(cpus=1)
        # A search leaves room for what it learns on the way; a study knows all of its cells.
        slots = slots_of(nodes(), 2 * len(todo), todo[0].study.recipe.trainer.gpus)
    except cluster.ClusterError as error:
        raise StudyError(str(error)) from error
    import ray

    cpus, gpus = slots.share.cpus, 1 if slots.share.gpu else 0
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=CELL_RETRIES)(run_cell)
    jobs = {}
    for found in {one.study.identity: one.study for one in todo}.values():
        codec = _codec(found, utterances, features)
        job = Job(found.recipe, utterances, features, found.store, codec, threads=cpus, share=found.share)
        jobs[found.identity] = ray.put(job)
    waiting = list(todo)
    running: dict[Any, Todo] = {}
    try:
        while waiting or running:
            while waiting and len(running) < slots.concurrent:
                one = waiting.pop(0)
                found = one.study
                running[remote.remote(jobs[found.identity], found.identity, one.cell, one.seed, found.split)] = one
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            one = running.pop(ready)
            try:
                yield one, ray.get(ready)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                yield one, f"{type(cause).__name__}: {cause}"
    finally:
        for task in running:
            ray.cancel(task, force=True)


def run_cell(job: Job, identity: str, cell: Tasks, seed: int, split: Split) -> str:
    """One cell from its first step to its stored result: one Ray task. Returns why it has none, or ""."""
    import ray

    recipe = _recipe_of(job.recipe, cell, seed)
    whole = job.recipe
    job = replace(job, recipe=recipe)
    began = time.monotonic()
    model, loader, _ = job.open()
    device = "cuda" if ray.get_gpu_ids() else "cpu"  # what Ray lent, not what the machine has
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
    # Labels as the whole recipe has them: a cell is not asked about more than the others.
    rows = labelled(open_dataset(job.store, job.utterances, job.features), whole).split(split)
    predictor = Predictor(model, feature_spec(recipe), reread=recipe.decoding.reread)
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
    job.store.put_bytes(f"{key}.json", json.dumps(record).encode())  # last: without it the cell has not been trained
    return ""


def _note_missing(done: Sequence[Todo], tracking: Run) -> None:
    """Writes the cells that were finished, and that MLflow has not heard of: a kill may lie in between."""
    nested = f"tags.`{PARENT_TAG}` = '{tracking.run_id}' and attributes.status = 'FINISHED'"
    pages = tracking.client.search_runs([tracking.experiment_id], nested, max_results=10_000)
    written = {run.info.run_name for run in pages}
    for one in done:
        if one.name not in written:
            _note(one, tracking)


def _note(one: Todo, tracking: Run) -> None:
    found, record = one.study, one.study.record(one.cell, one.seed)
    params = {name: record[name] for name in ("tasks", "seed", "parameters", "device")}
    try:
        run = start_child(found.store.root, tracking, one.name, params)
        for row in record["history"]:
            run.log(row, step=int(row["epoch"]))
        scored = {f"{found.split}/{metric}": value for metric, value in record["metrics"].items()}
        run.log({**scored, "seconds": record["seconds"]}, step=record["epochs"])
        run.finish()
    except Exception as error:  # an MLflow that is away must not end a study; the next call writes it
        logger.warning("cell %s is not in MLflow: %s", one.name, error)
