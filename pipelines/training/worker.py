"""The training function of a Ray Train worker: one rank of `mtl.training.fit`, whose reports go to Ray.

A worker that dies is restarted with its group from the last checkpoint. A `FatalError` ends the training (train.py).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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

# Errors that occur again from the same checkpoint, so that a retry would waste time. Everything else (a lost worker, a
# broken connection, a full disk) is retried.
LASTING = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, TypeError, ValueError)
# Messages of torch's RuntimeErrors about tensors of two devices in one operation: a fault in the code.
MIXED_DEVICES = re.compile(r"same device|expected device|No backend type associated with device type")


class FatalError(RuntimeError):
    """An error of a worker that would occur again in a retry. Only a message, because it is pickled."""


class Unusable(FatalError):
    """The checkpoint to resume from is damaged, so the driver chooses another one (train.py)."""


def loop(config: dict[str, Any]) -> None:
    """The training function of Ray Train.

    config: "job", a prepare.Job; "resume", the store's key of a checkpoint to start from where Ray has none, or None.

    Raises:
        FatalError, Unusable: see `final_errors`.
    """
    from ray import train as ray_train
    from ray.train.torch import get_device

    job: Job = config["job"]
    with final_errors():
        context = ray_train.get_context()
        model, loader, validate = job.open(context.get_world_rank(), context.get_world_size())
        report = Reporter(job.recipe)
        # Models of a search or a study have no report that shows the gradients.
        gradients = job.recipe.interpret.gradients
        settings = replace(fit_config(job.recipe), device=str(get_device()), inspect_every=gradients)
        state = report.restore(job, config.get("resume"))
        fit(model, loader, settings, report=report, validate=validate, resume=state)


@contextmanager
def final_errors() -> Iterator[None]:
    """Marks the errors that Ray Train must not retry.

    Raises:
        FatalError: a loss that is not finite, a GPU that is too small, damaged data, or an error in the code or the
            data.
        Unusable: the checkpoint to resume from is damaged.
    """
    try:
        yield
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


class Reporter:
    """`report` of `mtl.training.fit` for Ray Train; a checkpoint contains the history up to it."""

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
