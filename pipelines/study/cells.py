"""Cells of a study: sets of tasks that are trained together, and the location of their results.

    plan = planned(context, seeds=3)
    [plan.name(cell) for cell in plan.cells]               # "transcript", ..., "transcript+intent+slots"

Some tasks need another one for answers from audio (TaskSpec.needs): slots need the transcript, which aligns words with
the audio. If training rows have such labels, every cell with slots trains the transcript too, including the
"single-task" model of slots, so the effect of the transcript on slots cannot be measured.

The result of a cell is <root>/study/<identity>/<tasks>-<seed>.json, with its scores beside it as .parquet. The
identity is a hash of recipe, data, share of the rows, split and VERSION.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pyarrow.compute as pc

from mtl.analysis.transfer import Tasks
from mtl.spec import task as task_spec
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.evaluation import evaluate
from pipelines.evaluation.evaluate import Scores
from pipelines.recipe import Recipe
from pipelines.stages.context import Context
from pipelines.storage.store import Manifest, Store, fingerprint
from pipelines.study.options import KINDS, SEEDS, Split
from pipelines.training import train
from pipelines.training.prepare import labelled, trainable

VERSION = 2  # raise when the same cell would get another result


class StudyError(RuntimeError):
    """A study that cannot start, or cells that could not be trained; the message says what to do."""


@dataclass(frozen=True)
class Study:
    """A planned or finished study.

    identity: folder of the cells' results. tasks: in the recipe's order. needs: tasks without which a task cannot be
    trained. cells: sets of tasks, one model for each of `seeds`. rows: number of scored rows. utterances, features:
    the data. variant: distinguishes studies that share an MLflow run.
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
    utterances: Sequence[Manifest] = ()
    features: Sequence[Manifest] = ()
    variant: str = ""

    @property
    def joint(self) -> Tasks:
        return frozenset(self.tasks)

    def dataset(self) -> Dataset:
        """The rows with the labels that the recipe trains on."""
        return labelled(open_dataset(self.store, self.utterances, self.features), self.recipe)

    def name(self, cell: Tasks) -> str:
        return cell_name(self.tasks, cell)

    def key(self, cell: Tasks, seed: int) -> str:
        return result_key(self.identity, self.name(cell), seed)

    def scores(self, cell: Tasks, seed: int) -> Scores:
        return Scores.load(self.store, f"{self.key(cell, seed)}.parquet")

    def record(self, cell: Tasks, seed: int) -> dict[str, Any]:
        """tasks, seed, epochs, steps, parameters, seconds, device, metrics, history."""
        content: dict[str, Any] = json.loads(self.store.read_bytes(f"{self.key(cell, seed)}.json"))
        return content


@dataclass(frozen=True)
class CellRun:
    """One cell of a study with one seed: trained by one Ray task."""

    study: Study
    cell: Tasks
    seed: int

    @property
    def key(self) -> str:
        return self.study.key(self.cell, self.seed)

    @property
    def name(self) -> str:
        """Name of its MLflow run."""
        parts = (self.study.name(self.cell), str(self.seed), self.study.variant)
        return "-".join(part for part in parts if part)


def needs_of(rows: Any, tasks: Sequence[str]) -> dict[str, Tasks]:
    """Tasks that each task needs: those of its spec, if any training row is labelled for both."""

    def needed(task: str, other: str) -> bool:
        if other not in tasks:
            return False
        return bool(pc.any(pc.and_(trainable(rows, other), pc.is_valid(rows[task_spec(task).label]))).as_py())

    return {task: frozenset(other for other in task_spec(task).needs if needed(task, other)) for task in tasks}


def closed(tasks: Tasks, needs: Mapping[str, Tasks]) -> Tasks:
    """The tasks and those that they need."""
    return tasks.union(*(needs[task] for task in tasks))


def cells_of(
    tasks: Sequence[str],
    needs: Mapping[str, Tasks],
    kinds: Sequence[str] = KINDS,
    alone: Sequence[str] | None = None,
) -> tuple[Tasks, ...]:
    """The distinct sets of tasks of these kinds, the smaller ones first."""
    everything = frozenset(tasks)
    cells = {closed(frozenset({task}), needs) for task in (tasks if alone is None else alone)}
    if "pairs" in kinds:
        cells |= {closed(frozenset(pair), needs) for pair in combinations(tasks, 2)}
    if "leave-one-out" in kinds:
        cells |= {closed(everything - {task}, needs) for task in tasks}
    if "joint" in kinds or "leave-one-out" in kinds:  # compared with the joint model
        cells.add(everything)
    order = {task: position for position, task in enumerate(tasks)}
    return tuple(sorted(cells, key=lambda cell: (len(cell), sorted(order[task] for task in cell))))


def cell_name(tasks: Sequence[str], cell: Tasks) -> str:
    return "+".join(task for task in tasks if task in cell)


def planned(
    context: Context,
    seeds: int = SEEDS,
    kinds: Sequence[str] = KINDS,
    split: Split = "valid",
    share: float = 1.0,
    alone: Sequence[str] | None = None,
    variant: str = "",
) -> Study:
    """Plans a study without training anything. Arguments and errors as for `study`.

    alone: tasks with a single-task cell; by default all of them.
    variant: name of this variant of a recipe, where one MLflow run holds several.
    """
    recipe, store = context.recipe, context.store
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise StudyError(f"kinds of cells {', '.join(unknown)} are not known; expected some of {', '.join(KINDS)}")
    tasks = tuple(str(task) for task in recipe.tasks)
    if len(tasks) < 2:
        raise StudyError(f"recipe {recipe.name!r} has one task; a study compares tasks alone with tasks together")
    dataset = labelled(open_dataset(store, context.utterances, context.features), recipe)
    scored = dataset.split(split).rows
    for task in tasks:
        if not pc.any(trainable(scored, task)).as_py():
            raise StudyError(
                f"no row of the {split} split is labelled for the task {task!r}, so nothing can be compared; "
                f"remove tasks.{task}, or choose another split"
            )
    data = sorted((manifest.dataset, manifest.address) for manifest in context.data)
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
        utterances=context.utterances,
        features=context.features,
        variant=variant,
    )


def result_key(identity: str, name: str, seed: int) -> str:
    """Key of a cell's result in the store, without its extension."""
    return f"study/{identity}/{name}-{seed}"
