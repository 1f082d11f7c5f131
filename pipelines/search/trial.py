"""A trial of a search: `mtl.training.fit` at one point of the space, reported to Ray Tune every epoch.

A report has the objective, each task's error as "cost/<task>", and the metrics of `fit`.

    overrides_of({"trainer.learning_rate": 0.00123456})      # ("trainer.learning_rate=0.001235",)
    with_overrides(recipe, overrides)                        # the recipe that the trial trains
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mtl.analysis.pareto import WORST
from mtl.config.training import FitConfig
from mtl.training import checkpoint as checkpoints
from mtl.training.fit import NonFiniteLoss, fit
from pipelines.recipe import Recipe, parse
from pipelines.search.scalar import COST, Scalar, costs
from pipelines.storage.store import Store
from pipelines.training.checkpoints import HISTORY, local_folder
from pipelines.training.prepare import Job, fit_config

logger = logging.getLogger(__name__)

LOGGED = ("epoch", "step", "seconds", "utterances_per_second", "padding", "gradient_norm", "learning_rate", "objective")


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with `a.b=value` settings applied."""
    content = recipe.model_dump(mode="json")
    for override in overrides:
        path, _, value = override.partition("=")
        *sections, key = path.split(".")
        section = content
        for part in sections:
            section = section[part]
        section[key] = yaml.safe_load(value)
    return parse(content, where=f"recipe {recipe.name!r} with {', '.join(overrides)}")


def overrides_of(point: Mapping[str, Any]) -> tuple[str, ...]:
    """A point of the space as `--set` strings, with which a trial is trained exactly."""
    return tuple(
        # Four digits are more than a search can resolve; the "." makes YAML 1.1 read 1.0e-05 as a number.
        f"{key}={value}" if isinstance(value, str) else f"{key}={_number(value)}"
        for key, value in sorted(point.items())
    )


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of mtl.training.fit and the objective, without Tune's own keys."""
    return {
        key: float(value)
        for key, value in result.items()
        if (key in LOGGED or key.startswith(("train/", "valid/", "weight/"))) and isinstance(value, int | float)
    }


def _number(value: float) -> str:
    text = f"{float(value):.4g}"
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def settings_of(recipe: Recipe) -> FitConfig:
    """A trial's budget, with one report for each epoch: Tune and Optuna need metrics in every report."""
    import ray

    return replace(
        fit_config(recipe),
        epochs=recipe.search.epochs,
        checkpoint_seconds=math.inf,
        device="cuda" if ray.get_gpu_ids() else "cpu",  # the GPUs that Ray assigned, not those of the machine
    )


def figures(metrics: Mapping[str, float], scalar: Scalar, tasks: Sequence[str]) -> dict[str, float]:
    """The values that Tune and Optuna use."""
    return {"objective": scalar(metrics), **{COST + task: cost for task, cost in costs(metrics, tasks).items()}}


def not_finite(error: NonFiniteLoss, epoch: float, scalar: Scalar, tasks: Sequence[str]) -> dict[str, Any]:
    """The last report of a diverged trial, with the worst objective so that the searcher avoids its point."""
    worst = {"objective": scalar.worst, **{COST + task: WORST for task in tasks}}
    return {"epoch": epoch, **worst, "error": str(error), "done": True}


def run_trial(config: dict[str, Any], job: Job, search: str, scalar: Scalar) -> None:
    """Trains one point of the space, reports every epoch to Tune, and resumes after the last stored epoch."""
    from ray import tune

    trial = config["trial"]
    state = TrialState(job.store, state_folder(search, trial["id"]))
    row, fitted = state.load()
    if row:  # the driver may have been killed before it received this report
        tune.report(row)
    train_trial(at_point(job, trial["point"]), scalar, state, row, fitted, tune.report)


def at_point(job: Job, point: Mapping[str, Any]) -> Job:
    """The job with its recipe at a point of the space."""
    return replace(job, recipe=with_overrides(job.recipe, overrides_of(point)))


def train_trial(
    job: Job,
    scalar: Scalar,
    state: TrialState,
    row: dict[str, Any],
    fitted: dict[str, Any] | None,
    send: Callable[[dict[str, Any]], None],
    **extra: Any,
) -> None:
    """Trains from the state `fitted`, whose last report is `row`; stores and sends a report of every epoch.

    extra: entries of every report.
    """
    tasks = tuple(str(task) for task in job.recipe.tasks)
    model, loader, validate = job.open()
    extra["parameters"] = sum(parameter.numel() for parameter in model.parameters())

    def report(metrics: dict[str, float], fitted: dict[str, Any] | None) -> None:
        nonlocal row
        row = {**metrics, **figures(metrics, scalar, tasks), **extra}
        state.save(row, fitted or {})
        send(row)

    try:
        fit(model, loader, settings_of(job.recipe), report=report, validate=validate, resume=fitted)
    except NonFiniteLoss as error:
        send({**not_finite(error, row.get("epoch", 0) + 1, scalar, tasks), **extra})


def state_folder(search: str, trial: str) -> str:
    """Folder of a trial's epochs in the store."""
    return f"search/{search}/{trial}/state"


class TrialState:
    """The last epoch of a trial in the store, or with `keep` every epoch.

    Not one of Tune's checkpoints, which are stored with pickle files. The new epoch is complete before the old one is
    deleted, so a search can be killed at any time.
    """

    def __init__(self, store: Store, prefix: str, keep: bool = False) -> None:
        self.store, self.prefix, self.keep = store, prefix, keep

    def save(self, row: dict[str, Any], state: dict[str, Any]) -> None:
        old = [entry.key for entry in self.store.list(f"{self.prefix}/")]
        folder = f"{self.prefix}/epoch-{int(row['epoch']):04d}"
        with tempfile.TemporaryDirectory() as scratch:
            checkpoints.save(scratch, state, {HISTORY: row})
            # HISTORY is written last and marks the epoch as complete.
            for path in sorted(Path(scratch).iterdir(), key=lambda path: path.name == HISTORY):
                self.store.put_file(path, f"{folder}/{path.name}")
        for key in old:
            if not self.keep and not key.startswith(f"{folder}/"):
                self.store.delete(key)

    def load(self, epoch: int | None = None) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Report and state of the last complete epoch, up to `epoch` if not None; ({}, None) if there is none.

        A damaged epoch is skipped with a warning.
        """
        keys = [entry.key for entry in self.store.list(f"{self.prefix}/")]
        folders = sorted(key.rpartition("/")[0] for key in keys if key.endswith(f"/{HISTORY}"))
        for key in reversed(folders):
            if epoch is not None and key > f"{self.prefix}/epoch-{epoch:04d}":
                continue
            try:
                with local_folder(self.store, key) as folder:
                    return checkpoints.read_json(folder, HISTORY), checkpoints.load(folder)
            except checkpoints.Damaged as error:
                logger.warning("%s is skipped, the trial resumes from an earlier epoch if any: %s", key, error)
        return {}, None
