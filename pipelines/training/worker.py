"""What every training worker of Ray Train runs: a rank of `mtl.fit`, whose reports become Ray's.

A worker finishes, or dies (Ray starts the group again from the last checkpoint), or raises `Lasting`, which the
controller takes as final (train.py).
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mtl import checkpoint as checkpoints
from mtl.fit import NonFiniteLoss, fit
from pipelines.recipe import Recipe
from pipelines.training.prepare import Job, fit_config

SCORE = "score"  # the primary metric of the epochs whose weights may be kept: those of a curriculum's last stage
HISTORY = "history.json"  # beside the state in every checkpoint: one row an epoch, from the first
# Errors that would come again from the same checkpoint: starting the workers again is a waste of time.
# Everything else (a lost worker, a broken connection, a full disk) may pass, and is retried.
LASTING = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, TypeError, ValueError)

Row = dict[str, float]


class Lasting(RuntimeError):
    """A worker's error that a retry would meet again. A plain message, since it travels between processes."""


def loop(config: dict[str, Any]) -> None:
    """Ray Train's training function; config["job"] is a prepare.Job.

    Raises:
        Lasting: a loss that is not finite, a GPU that is too small, or an error in the code or the data.
    """
    try:
        _fit(config["job"])
    except NonFiniteLoss as error:
        raise Lasting(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise Lasting(f"a micro-batch does not fit into GPU memory; lower loader.batch_seconds: {error}") from error
    except LASTING as error:
        raise Lasting(f"{type(error).__name__} in a training worker: {error}") from error


def _fit(job: Job) -> None:
    from ray import train as ray_train
    from ray.train.torch import get_device

    context = ray_train.get_context()
    model, loader, validate = job.open(context.get_world_rank(), context.get_world_size())
    report = Reporter(job.recipe)
    # Only here: the models of a search or a study have no report that would show it.
    looks = job.recipe.interpret.gradients
    settings = replace(fit_config(job.recipe), device=str(get_device()), look_every=looks)
    fit(model, loader, settings, report=report, validate=validate, resume=report.restore())


class Reporter:
    """mtl.fit's `report` for Ray Train; a checkpoint carries the history so far, so a resumed run repeats no row."""

    def __init__(self, recipe: Recipe) -> None:
        self.history: list[Row] = []
        self.primary = f"valid/{recipe.gates.primary}"
        self.first = sum(stage.epochs for stage in recipe.trainer.curriculum) + 1  # epoch that all tasks train in

    def restore(self) -> dict[str, Any] | None:
        """The state of the last checkpoint, if there is one."""
        from ray import train as ray_train

        latest = ray_train.get_checkpoint()
        if latest is None:
            return None
        with latest.as_directory() as folder:
            self.history = json.loads((Path(folder) / HISTORY).read_text(encoding="utf-8"))
            return checkpoints.load(folder)

    def scored(self, metrics: Row) -> Row:
        """With SCORE where this epoch's weights may be kept: before the last stage some heads have not been trained."""
        if metrics["epoch"] < self.first or self.primary not in metrics:
            return metrics
        return {**metrics, SCORE: metrics[self.primary]}

    def __call__(self, metrics: Row, state: dict[str, Any] | None) -> None:
        from ray import train as ray_train

        if metrics:
            self.history.append(metrics)
            metrics = self.scored(metrics)
        if state is None:
            ray_train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            checkpoints.save(folder, state)
            (Path(folder) / HISTORY).write_text(json.dumps(self.history), encoding="utf-8")
            ray_train.report(metrics, checkpoint=ray_train.Checkpoint.from_directory(folder))
