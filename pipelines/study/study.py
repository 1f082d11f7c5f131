"""The study: the same training with every task alone, all together, in pairs, and each left out, over several seeds.

    found = study(recipe, utterances, features, store, seeds=3)
    found.scores(found.joint, seed=0).metrics["intent/accuracy"]

A cell is a set of tasks that one model trains: one Ray task for each seed. All cells have the same budget: the same
epochs of the same batches in the same order, as many optimiser steps. A row that no task of a cell is labelled for
stays in its batch and trains nothing there; so what differs between two cells is their tasks alone. The last epoch's
weights are scored, not the best one's, row by row, with the recogniser's best path. Where the recipe says
`decoding.reread`, a cell with the transcript reads what it heard; one without has heard no words.

Scored on valid unless asked otherwise: to choose task groups by the test rows would spend what the gate decides on.

Slots in audio need the recogniser, which says where the words are. Where a recipe's training rows have such slots,
every cell with slots trains the transcript too: its "single-task" model of slots is slots with the transcript as their
carrier. What the transcript does for slots can then not be measured, nor the transcript be left out.

A cell's result lies in <root>/study/<identity>/<tasks>-<seed>.json, and beside it its scores as .parquet; the identity
is what it was made from: recipe, data, share of the rows, split, VERSION. A study that was killed goes on, and one
with more seeds or other kinds of cells trains only what is new.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from mtl.fit import NonFiniteLoss, fit
from mtl.predictor import Predictor
from pipelines import cluster
from pipelines.data.dataset import open_dataset
from pipelines.evaluation import evaluate
from pipelines.evaluation.evaluate import Scores
from pipelines.recipe import Recipe
from pipelines.registry.tracking import PARENT_TAG, start_child
from pipelines.search.search import SearchError, slots_of
from pipelines.store import Manifest, Store, fingerprint
from pipelines.study.table import KINDS, SEEDS, Split
from pipelines.training import train
from pipelines.training.prepare import Job, PrepareError, feature_spec, fit_config, labelled, prepare, trainable

if TYPE_CHECKING:
    from pipelines.registry.tracking import Run

VERSION = 2  # bump when the same cell would get another result
CELL_RETRIES = 1  # when its process died; an error of the cell itself is the study's

Progress = Callable[[int, int, str], None]
Tasks = frozenset[str]
logger = logging.getLogger(__name__)


class StudyError(RuntimeError):
    """A study that cannot start, or cells that could not be trained; the message says what to do."""


@dataclass(frozen=True)
class Study:
    """A finished study: where its cells lie, and what each of them trained.

    tasks: in the recipe's order. needs: what a task cannot be trained without. seeds: of the cells.
    cells: every set of tasks that was trained. rows: how many were scored. variant: what tells it from other studies
    that are noted in the same MLflow run.
    """

    store: Store
    identity: str
    recipe: Recipe
    tasks: tuple[str, ...]
    needs: Mapping[str, Tasks]
    cells: tuple[Tasks, ...]
    seeds: tuple[int, ...]
    split: Split
    share: float
    rows: int
    variant: str = ""

    @property
    def joint(self) -> Tasks:
        return frozenset(self.tasks)

    def name(self, cell: Tasks) -> str:
        return cell_name(self.tasks, cell)

    def scores(self, cell: Tasks, seed: int) -> Scores:
        return Scores.load(self.store, f"{_key(self.identity, self.name(cell), seed)}.parquet")

    def record(self, cell: Tasks, seed: int) -> dict[str, Any]:
        """tasks, seed, epochs, steps, parameters, seconds, device, metrics, history."""
        content: dict[str, Any] = json.loads(
            self.store.read_bytes(f"{_key(self.identity, self.name(cell), seed)}.json")
        )
        return content


@dataclass(frozen=True)
class Todo:
    """One cell of a study with one seed: what one Ray task trains."""

    study: Study
    cell: Tasks
    seed: int

    @property
    def key(self) -> str:
        return _key(self.study.identity, self.study.name(self.cell), self.seed)

    @property
    def name(self) -> str:
        """Its name in MLflow, where studies of several variants of a recipe may be nested in one run."""
        parts = (self.study.name(self.cell), str(self.seed), self.study.variant)
        return "-".join(part for part in parts if part)


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
    progress: Progress | None = None,
    alone: Sequence[str] | None = None,
    variant: str = "",
) -> Study:
    """Trains and scores every cell that has no result yet, and returns them all.

    kinds: of KINDS; single-task cells are always there, since all others are compared with them: those of the tasks
        `alone`, of every task if left out.
    variant: the name of this variant of a recipe, where one MLflow run holds several.
    tracking: the parent MLflow run; each cell and seed becomes a run nested under it, written from this process alone.
    progress: counts cells.

    Raises:
        StudyError: a kind that is not known, one task alone, a task without labels, a language model that cannot be
            used, a cluster too small, or cells that failed; those that finished are kept.
    """
    found = planned(recipe, utterances, features, store, seeds, kinds, split, share, alone, variant)
    train_missing([found], utterances, features, tracking, progress)
    return found


def train_missing(
    studies: Sequence[Study],
    utterances: list[Manifest],
    features: list[Manifest],
    tracking: Run | None = None,
    progress: Progress | None = None,
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


def needs_of(rows: Any, tasks: Sequence[str]) -> dict[str, Tasks]:
    """What each task needs beside it, given the training rows: slots on audio need the transcript."""
    needs: dict[str, Tasks] = {task: frozenset() for task in tasks}
    if "slots" in tasks and "transcript" in tasks:
        placed = pc.and_(trainable(rows, "transcript"), pc.is_valid(rows["slots"]))
        if pc.any(placed).as_py():
            needs["slots"] = frozenset({"transcript"})
    return needs


def closed(tasks: Tasks, needs: Mapping[str, Tasks]) -> Tasks:
    """The tasks with all that they need."""
    return tasks.union(*(needs[task] for task in tasks))


def cells_of(
    tasks: Sequence[str],
    needs: Mapping[str, Tasks],
    kinds: Sequence[str] = KINDS,
    alone: Sequence[str] | None = None,
) -> tuple[Tasks, ...]:
    """The sets of tasks to train, each once although it may be of several kinds, the smaller ones first."""
    everything = frozenset(tasks)
    chosen = {closed(frozenset({task}), needs) for task in (tasks if alone is None else alone)}
    if "pairs" in kinds:
        chosen |= {closed(frozenset(pair), needs) for pair in combinations(tasks, 2)}
    if "leave-one-out" in kinds:
        chosen |= {closed(everything - {task}, needs) for task in tasks}
    if "joint" in kinds or "leave-one-out" in kinds:  # what was left out is missed by the joint model
        chosen.add(everything)
    order = {task: position for position, task in enumerate(tasks)}
    return tuple(sorted(chosen, key=lambda cell: (len(cell), sorted(order[task] for task in cell))))


def cell_name(tasks: Sequence[str], cell: Tasks) -> str:
    return "+".join(task for task in tasks if task in cell)


def planned(
    recipe: Recipe,
    utterances: list[Manifest],
    features: list[Manifest],
    store: Store,
    seeds: int = SEEDS,
    kinds: Sequence[str] = KINDS,
    split: Split = "valid",
    share: float = 1.0,
    alone: Sequence[str] | None = None,
    variant: str = "",
) -> Study:
    """The study as it will be; nothing is trained yet. Arguments and errors as for `study`."""
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise StudyError(f"kinds of cells {', '.join(unknown)} are not known; expected some of {', '.join(KINDS)}")
    tasks = tuple(str(task) for task in recipe.tasks)
    if len(tasks) < 2:
        raise StudyError(f"recipe {recipe.name!r} has one task; a study compares tasks alone with tasks together")
    dataset = labelled(open_dataset(store, utterances, features), recipe)
    scored = dataset.split(split).rows
    for task in tasks:
        if not pc.any(trainable(scored, task)).as_py():
            raise StudyError(
                f"no row of the {split} split is labelled for the task {task!r}, so nothing could be compared; "
                f"remove tasks.{task}, or take another split"
            )
    data = sorted((manifest.dataset, manifest.address) for manifest in (*utterances, *features))
    versions = [VERSION, train.VERSION, evaluate.VERSION]
    needs = needs_of(dataset.split("train").rows, tasks)
    return Study(
        store=store,
        identity=f"{recipe.name}-{fingerprint(versions, recipe.address(), data, split, share)}",
        recipe=recipe,
        tasks=tasks,
        needs=needs,
        cells=cells_of(tasks, needs, kinds, alone),
        seeds=tuple(recipe.seed + number for number in range(seeds)),
        split=split,
        share=share,
        rows=len(scored),
        variant=variant,
    )


def _codec(found: Study, utterances: list[Manifest], features: list[Manifest]) -> dict[str, Any]:
    """The vocabularies of all cells: those of the joint model, so that no cell reads its input differently."""
    key = f"study/{found.identity}/codec.json"
    if not found.store.exists(key):
        try:
            dataset = labelled(open_dataset(found.store, utterances, features), found.recipe)
            codec = prepare(_recipe_of(found.recipe, found.joint, found.recipe.seed), dataset)[0]
        except PrepareError as error:
            raise StudyError(str(error)) from error
        found.store.put_bytes(key, json.dumps(codec.to_json(), ensure_ascii=False).encode())
    content: dict[str, Any] = json.loads(found.store.read_bytes(key))
    return content


def _recipe_of(recipe: Recipe, cell: Tasks, seed: int) -> Recipe:
    """The recipe with the cell's tasks alone, at their own weights, and what concerns them of its curriculum.

    The epochs of a stage that concerns none of them go to the joint stage: the budget is the same.
    """
    tasks = {task: config for task, config in recipe.tasks.items() if task in cell}
    reread = recipe.decoding.reread and "transcript" in cell
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
        slots = slots_of(train.nodes(), 2 * len(todo), todo[0].study.recipe.trainer.gpus)
    except (cluster.ClusterError, SearchError) as error:
        raise StudyError(str(error)) from error
    import ray

    cpus, gpus = slots.share.cpus, 1 if slots.share.gpu else 0
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=CELL_RETRIES)(run_cell)
    jobs = {}
    for found in {one.study.identity: one.study for one in todo}.values():
        job = Job(found.recipe, utterances, features, found.store, _codec(found, utterances, features))
        jobs[found.identity] = ray.put(replace(job, share=found.share, threads=cpus))
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
    key = _key(identity, cell_name(tasks, cell), seed)
    scores.save(job.store, f"{key}.parquet")
    job.store.put_bytes(f"{key}.json", json.dumps(record).encode())  # last: without it the cell has not been trained
    return ""


def _key(identity: str, name: str, seed: int) -> str:
    return f"study/{identity}/{name}-{seed}"


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
