"""What every training worker of Ray Train runs: a rank of `mtl.training.fit`, whose reports become Ray's.

A worker finishes, or dies (Ray starts the group again from the last checkpoint), or raises `FatalError`, which the
controller takes as final (train.py).
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from typing import Any

import torch

from mtl.training import checkpoint as checkpoints
from mtl.training.fit import NonFiniteLoss, fit
from pipelines.recipe import Recipe
from pipelines.storage.store import DamagedPart
from pipelines.training.checkpoint_scores import ranked
from pipelines.training.checkpoints import HISTORY, Row, local_folder, read
from pipelines.training.prepare import Job, fit_config

# Errors that would come again from the same checkpoint: starting the workers again is a waste of time.
# Everything else (a lost worker, a broken connection, a full disk) may pass, and is retried.
LASTING = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, TypeError, ValueError)
# torch's messages, all of them RuntimeErrors, about tensors of two devices in one operation: a fault in the code.
MIXED_DEVICES = re.compile(r"same device|expected device|No backend type associated with device type")


class FatalError(RuntimeError):
    """A worker's error that a retry would meet again. A plain message, since it travels between processes."""


class Unusable(FatalError):
    """The checkpoint to resume from is damaged: the driver has to choose another one (train.py)."""


def loop(config: dict[str, Any]) -> None:
    """Ray Train's training function.

    config: "job", a prepare.Job, and "resume", the store's key of a checkpoint to begin with where Ray has none, or
    None.

    Raises:
        FatalError: a loss that is not finite, a GPU that is too small, damaged data, or an error in the code
        or the data.
        Unusable: the checkpoint to resume from is damaged.
    """
    try:
        _fit(config["job"], config.get("resume"))
    except NonFiniteLoss as error:
        raise FatalError(str(error)) from error
    except checkpoints.Damaged as error:
        raise Unusable(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise FatalError(f"a micro-batch does not fit into GPU memory; lower loader.batch_seconds: {error}") from error
    except DamagedPart as error:
        raise FatalError(str(error)) from error
    except LASTING as error:
        raise FatalError(f"{type(error).__name__} in a training worker: {error}") from error
    except RuntimeError as error:
        if not MIXED_DEVICES.search(str(error)):
            raise
        raise FatalError(
            f"RuntimeError in a training worker: {error}. This is a fault in Motet, which other settings may avoid: "
            "report it with the recipe, or set trainer.gpus=false"
        ) from error


def _fit(job: Job, resume: str | None) -> None:
    from ray import train as ray_train
    from ray.train.torch import get_device

    context = ray_train.get_context()
    model, loader, validate = job.open(context.get_world_rank(), context.get_world_size())
    report = Reporter(job.recipe)
    # Only here: the models of a search or a study have no report that would show it.
    looks = job.recipe.interpret.gradients
    settings = replace(fit_config(job.recipe), device=str(get_device()), look_every=looks)
    fit(model, loader, settings, report=report, validate=validate, resume=report.restore(job, resume))


class Reporter:
    """`report` of mtl.fit for Ray Train; a checkpoint carries the history so far, so a resumed run repeats no row."""

    def __init__(self, recipe: Recipe) -> None:
        self.history: list[Row] = []
        self.recipe = recipe

    def restore(self, job: Job, resume: str | None) -> dict[str, Any] | None:
        """The state of Ray's latest checkpoint, else of the one that `resume` names, else None."""
        from ray import train as ray_train

        latest = ray_train.get_checkpoint()
        if latest is None and resume is None:
            return None
        with latest.as_directory() if latest is not None else local_folder(job.store, str(resume)) as folder:
            state, self.history = read(folder)
        return state

    def __call__(self, metrics: Row, state: dict[str, Any] | None) -> None:
        from ray import train as ray_train

        if metrics:
            self.history.append(metrics)
        metrics = ranked(metrics, self.recipe)
        if state is None:
            ray_train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            checkpoints.save(folder, state, {HISTORY: self.history})
            ray_train.report(metrics, checkpoint=ray_train.Checkpoint.from_directory(folder))
