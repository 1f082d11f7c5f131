"""Which sharing mode, which balancing method: the joint model in each of them, beside the single-task models.

    studies = study_variants(recipe, utterances, features, store, sharing=("mmoe",), balancing=("pcgrad",))
    compared = compared_of(studies)                          # plain data
    html = render(compared)

The recipe as it stands is the reference: its joint model and every task alone. Each variant is the joint model with
another sharing mode, at the recipe's balancing and as many parameters (mtl/analysis/equal_size.py changes the encoder's
feed-forward width, and its depth where it must), or with another balancing method, at the recipe's sharing. The cells
are those of any study (study.py): what another call has trained is not trained again, and what was killed goes on.
No variant is tuned: learning rate and task weights are the recipe's, which suit the reference best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.analysis.equal_size import count_parameters, fit_size
from mtl.analysis.transfer import relative_gain
from mtl.config.balancing import METHODS
from mtl.config.sharing import MODES
from mtl.inputs.codec import Codec
from mtl.metrics.scoring import METRICS
from pipelines.data.dataset import open_dataset
from pipelines.recipe import Recipe
from pipelines.report.builder import SYNTHETIC as SPOKEN
from pipelines.report.page import SYNTHETIC, environment
from pipelines.storage.store import Manifest, Store
from pipelines.study.cells import Study, StudyError, planned
from pipelines.study.page import Change, Measured, plain
from pipelines.study.study import train_missing
from pipelines.study.table import SEEDS, Split
from pipelines.training.prepare import PrepareError, labelled, model_config, prepare

if TYPE_CHECKING:
    from pipelines.core.progress import Report
    from pipelines.registry.tracking import Run


@dataclass(frozen=True)
class Compared:
    """Everything that the page shows. All of it is plain data.

    rows: one for each variant, the recipe as it stands first: variant, kind ("recipe", "sharing" or "balancing"),
    blocks, hidden (None: as the recipe has it), parameters, seconds (a model's, of all seeds in the mean), values (by
    task, percent), gains (by task: gain, low, high against the single-task model, percent), mean (delta_m, the mean of
    those gains), and over (the same mean against the recipe as it stands; None for itself).
    """

    recipe: str
    recipe_yaml: str
    split: str
    scored: int
    share: float
    seeds: list[int]
    epochs: int
    synthetic: bool
    tasks: list[str]
    metrics: dict[str, str]
    carriers: dict[str, list[str]]
    single: dict[str, float | None]
    rows: list[dict[str, Any]]
    identities: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Compared:
        return cls(**content)


def study_variants(
    recipe: Recipe,
    utterances: list[Manifest],
    features: list[Manifest],
    store: Store,
    sharing: Sequence[str] = (),
    balancing: Sequence[str] = (),
    seeds: int = SEEDS,
    split: Split = "valid",
    share: float = 1.0,
    tracking: Run | None = None,
    progress: Report | None = None,
) -> dict[str, Study]:
    """A finished study for each variant; the recipe as it stands, with every task alone, is the first.

    Raises:
        StudyError: a mode or method that is not known, a mode that cannot be made as small as the recipe's own, or
            what cells.planned and study.train_missing raise.
    """
    dataset = labelled(open_dataset(store, utterances, features), recipe)
    try:
        codec = prepare(recipe, dataset)[0]
    except PrepareError as error:
        raise StudyError(str(error)) from error
    recipes = variants(recipe, codec, sharing, balancing)
    found: dict[str, Study] = {}
    for name, variant in recipes.items():
        itself = not found
        found[name] = planned(
            variant, utterances, features, store, seeds, ("joint",), split, share,
            alone=None if itself else (), variant="" if itself else name,
        )  # fmt: skip
    train_missing(list(found.values()), utterances, features, tracking, progress)
    return found


def variants(recipe: Recipe, codec: Codec, sharing: Sequence[str], balancing: Sequence[str]) -> dict[str, Recipe]:
    """The recipe as it stands, then one variant for each other mode and method.

    Raises:
        StudyError: a mode or method that is not known, or a mode that cannot be made as small as the recipe's own.
    """
    for what, wanted, known in (("sharing mode", sharing, MODES), ("balancing method", balancing, METHODS)):
        if unknown := sorted(set(wanted) - set(known)):
            raise StudyError(f"{what} {', '.join(unknown)}: not known; expected some of {', '.join(known)}")
    found = {f"{recipe.sharing.mode}, {recipe.balancing.method}": recipe}
    target = count_parameters(model_config(recipe), codec)
    for mode in dict.fromkeys(sharing):
        if mode != recipe.sharing.mode:
            found[mode] = _in_mode(recipe, codec, mode, target)
    for method in dict.fromkeys(balancing):
        if method != recipe.balancing.method:
            found[method] = recipe.model_copy(update={"balancing": recipe.balancing.replace(method=method)})
    return found


def _in_mode(recipe: Recipe, codec: Codec, mode: str, target: int) -> Recipe:
    changed = recipe.model_copy(update={"sharing": recipe.sharing.replace(mode=mode)})
    try:
        fitted = fit_size(model_config(changed), codec, target)
    except ValueError as error:
        raise StudyError(str(error)) from error
    fitting = replace(recipe.model, blocks=fitted.blocks, hidden=fitted.hidden)
    return changed.model_copy(update={"model": fitting})


def compared_of(studies: Mapping[str, Study]) -> Compared:
    """What the studies of `study_variants` say.

    Raises:
        StudyError: they were not scored on the same rows.
    """
    base = next(iter(studies.values()))
    table = Measured(base)
    return Compared(
        recipe=base.recipe.name,
        recipe_yaml=base.recipe.to_yaml(),
        split=base.split,
        scored=base.rows,
        share=base.share,
        seeds=list(base.seeds),
        epochs=base.recipe.trainer.epochs,
        synthetic=any(corpus.kind == SPOKEN for corpus in base.recipe.corpora),
        tasks=list(base.tasks),
        metrics=table.metrics,
        carriers={task: sorted(table.alone(task) - {task}) for task in base.tasks},
        single={task: _first(table.draws[table.alone(task), task]) for task in base.tasks},
        rows=[_row(name, study, table) for name, study in studies.items()],
        identities=[study.identity for study in studies.values()],
    )


def _row(name: str, study: Study, base: Measured) -> dict[str, Any]:
    itself = study is base.study
    table = base if itself else Measured(study)
    if table.rows != base.rows:
        raise StudyError(f"the variant {name!r} was scored on other rows than the recipe as it stands")
    draws = {task: table.draws[study.joint, task] for task in study.tasks}
    gains = {task: _relative(base, task, draws[task], base.alone(task)) for task in study.tasks}
    over = {task: _relative(base, task, draws[task], base.study.joint) for task in study.tasks}
    records = [study.record(study.joint, seed) for seed in study.seeds]
    own = base.study.recipe
    other_mode = study.recipe.sharing.mode != own.sharing.mode
    return {
        "variant": name,
        "kind": "recipe" if itself else "sharing" if other_mode else "balancing",
        "blocks": study.recipe.model.blocks,
        "hidden": study.recipe.model.hidden,
        "parameters": records[0]["parameters"],
        "seconds": round(float(np.mean([record["seconds"] for record in records])), 1),
        "values": {task: _first(values) for task, values in draws.items()},
        "gains": {task: plain(gain) for task, gain in gains.items()},
        "mean": _mean(gains),
        "over": None if itself else _mean(over),
    }


def _relative(base: Measured, task: str, draws: np.ndarray, cell: frozenset[str]) -> np.ndarray:
    return relative_gain(draws, base.draws[cell, task], METRICS[base.metrics[task]].better)


def _mean(gains: Mapping[str, np.ndarray]) -> Change | None:
    usable = [draws for draws in gains.values() if np.isfinite(draws[0])]
    return plain(np.mean(usable, axis=0)) if usable else None


def _first(draws: np.ndarray) -> float | None:
    return round(float(draws[0]), 4) if np.isfinite(draws[0]) else None


def render(compared: Compared) -> str:
    """The page."""
    return environment().get_template("study_variants.html.j2").render(study=compared, note=SYNTHETIC)
