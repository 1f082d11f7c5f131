"""How few labels will do: the joint model against single-task models, by the share of the labels that training keeps.

    studies = study_by_labels(recipe, utterances, features, store, labels=(0.01, 0.1, 1.0))
    sparse = sparse_of(studies, utterances, features)        # plain data
    html = render(sparse)

For each share a study (study.py) of the recipe with so few labels of the sparse tasks, all of them at once, as when so
many utterances were annotated; all other labels stay. Its cells are those of any study of that recipe: what another
call has trained is not trained again, and what was killed goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from mtl.metrics.bootstrap import estimate
from pipelines.data.dataset import open_dataset
from pipelines.recipe import Recipe
from pipelines.report import charts
from pipelines.report.builder import SYNTHETIC as SPOKEN
from pipelines.report.page import SYNTHETIC, environment
from pipelines.storage.store import Manifest, Store
from pipelines.study.cells import Study, StudyError, planned
from pipelines.study.page import Measured
from pipelines.study.study import train_missing
from pipelines.study.table import SEEDS, SPARSE, Split
from pipelines.training.prepare import labelled, sampled, trainable

if TYPE_CHECKING:
    from pipelines.core.progress import Report
    from pipelines.registry.tracking import Run


@dataclass(frozen=True)
class Sparse:
    """Everything that the page shows. All of it is plain data.

    curves: by task its `metric`, `carrier` (what its single-task model trains beside it) and `points`, a row each
    share: share, labels (rows that train it), joint and single (value, low, high) and gain (gain, low, high; percent).
    """

    recipe: str
    recipe_yaml: str
    split: str
    rows: int
    part: float
    seeds: list[int]
    epochs: int
    synthetic: bool
    tasks: list[str]
    curves: dict[str, dict[str, Any]]
    identities: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Sparse:
        return cls(**content)


def study_by_labels(
    recipe: Recipe,
    utterances: list[Manifest],
    features: list[Manifest],
    store: Store,
    labels: Sequence[float],
    sparse: Sequence[str] = (),
    seeds: int = SEEDS,
    split: Split = "valid",
    share: float = 1.0,
    tracking: Run | None = None,
    progress: Report | None = None,
) -> dict[float, Study]:
    """A finished study for each share of the labels, the smallest first.

    sparse: the tasks whose labels are made few; those of SPARSE that the recipe has, if left out.
    progress: counts the cells of all studies.

    Raises:
        StudyError: a share that is none, a task that the recipe lacks, or what cells.planned and train_missing raise.
    """
    tasks = sparse_tasks(recipe, sparse)
    shares = sorted(set(labels))
    if not shares or not all(0 < part <= 1 for part in shares):
        raise StudyError(f"shares of the labels are {', '.join(map(str, labels))}; expected numbers above 0, up to 1")
    found = {
        part: planned(
            with_labels(recipe, tasks, part), utterances, features, store, seeds, ("joint",), split, share,
            alone=tasks, variant=f"labels-{part:g}",
        )
        for part in shares
    }  # fmt: skip
    train_missing(list(found.values()), utterances, features, tracking, progress)
    return found


def sparse_tasks(recipe: Recipe, wanted: Sequence[str]) -> list[str]:
    """Raises StudyError when the recipe has none of them."""
    if unknown := sorted(set(wanted) - set(recipe.tasks)):
        raise StudyError(
            f"recipe {recipe.name!r} has no task {', '.join(unknown)}; its tasks: {', '.join(recipe.tasks)}"
        )
    found = [str(task) for task in recipe.tasks if task in (wanted or SPARSE)]
    if not found:
        raise StudyError(f"recipe {recipe.name!r} has none of {', '.join(SPARSE)}; say whose labels are to be few")
    return found


def with_labels(recipe: Recipe, tasks: Sequence[str], share: float) -> Recipe:
    """The recipe with that share of the tasks' labels."""
    changed = {
        task: config.model_copy(update={"labels": share}) if task in tasks else config
        for task, config in recipe.tasks.items()
    }
    return recipe.model_copy(update={"tasks": changed})


def sparse_of(studies: Mapping[float, Study], utterances: list[Manifest], features: list[Manifest]) -> Sparse:
    """What the studies say of the tasks that had few labels."""
    one = next(iter(studies.values()))
    dataset = open_dataset(one.store, utterances, features)
    tasks = [task for task in one.tasks if all(study.recipe.tasks[task].labels == s for s, study in studies.items())]
    tables = {share: Measured(study) for share, study in studies.items()}
    measured = [task for task in tasks if all(table.alone(task) in table.study.cells for table in tables.values())]
    curves = {}
    for task in measured:
        points = []
        for share, table in tables.items():
            rows = labelled(dataset, table.study.recipe).split("train").rows
            if one.share < 1:
                rows = rows.take(sampled(rows, one.share))
            points.append({"share": share, "labels": pc.sum(trainable(rows, task)).as_py(), **_point(table, task)})
        carrier = sorted(tables[min(tables)].alone(task) - {task})
        curves[task] = {"metric": tables[min(tables)].metrics[task], "carrier": carrier, "points": points}
    return Sparse(
        recipe=one.recipe.name,
        recipe_yaml=one.recipe.to_yaml(),
        split=one.split,
        rows=one.rows,
        part=one.share,
        seeds=list(one.seeds),
        epochs=one.recipe.trainer.epochs,
        synthetic=any(corpus.kind == SPOKEN for corpus in one.recipe.corpora),
        tasks=list(one.tasks),
        curves=curves,
        identities=[study.identity for study in studies.values()],
    )


def _point(table: Measured, task: str) -> dict[str, Any]:
    joint, single = table.draws[table.study.joint, task], table.draws[table.alone(task), task]
    gain = table.relative(table.study.joint, table.alone(task), task)
    return {
        "joint": _figures(joint, "value"),
        "single": _figures(single, "value"),
        "gain": {"gain": None, "low": None, "high": None} if gain is None else _figures(gain, "gain"),
    }


def _figures(draws: Any, name: str) -> dict[str, float | None]:
    found = estimate(draws)
    values = {name: found.value, "low": found.low, "high": found.high}
    return {key: round(value, 4) if math.isfinite(value) else None for key, value in values.items()}


def render(sparse: Sparse) -> str:
    """The page."""
    from markupsafe import Markup

    figures = {task: Markup(figure(curve)) for task, curve in sparse.curves.items()}
    return environment().get_template("study_labels.html.j2").render(study=sparse, figures=figures, note=SYNTHETIC)


def figure(curve: Mapping[str, Any]) -> str:
    """Share of the labels against the metric, joint and single, as inline SVG."""
    named = {point["share"]: f"{100 * point['share']:g} %" for point in curve["points"]}
    series = {
        name: [
            (point["share"], *(math.nan if point[name][key] is None else point[name][key] for key in _KEYS))
            for point in curve["points"]
        ]
        for name in ("joint", "single")
    }
    return charts.interval_chart(series, "share of the labels", curve["metric"], named)


_KEYS = ("value", "low", "high")
