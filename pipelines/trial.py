"""What one trial of a search runs: `mtl.fit` at one point of the space, reported to Ray Tune every epoch.

overrides_of({"trainer.learning_rate": 0.00123456})      # ("trainer.learning_rate=0.001235",)
with_overrides(recipe, overrides)                        # what the trial trains, exactly
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mtl import checkpoint as checkpoints
from mtl.fit import NonFiniteLoss, fit
from mtl.metrics import METRICS
from pipelines.prepare import Job, fit_config
from pipelines.recipe import Recipe, parse
from pipelines.worker import HISTORY

WORST = 100.0  # objective of a trial whose loss was not finite: every answer wrong
KEPT = ("epoch", "step", "seconds", "utterances_per_second", "padding", "gradient_norm", "learning_rate", "objective")


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with `a.b=value` settings of a search put in."""
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
    """A point of the space as `--set` strings; a trial trains exactly what they say."""
    return tuple(
        # Four digits are more than a search can tell apart; the "." makes YAML 1.1 read 1.0e-05 as a number.
        f"{key}={value}" if isinstance(value, str) else f"{key}={_number(value)}"
        for key, value in sorted(point.items())
    )


def objective(metrics: Mapping[str, float]) -> float:
    """Mean error in percent over the tasks validated, each by its first metric; at most WORST a task."""
    errors: dict[str, float] = {}
    for name, metric in METRICS.items():  # in their order: WER before CER, from audio before from text
        value = metrics.get(f"valid/{name}")
        if value is not None:
            errors.setdefault(name.split("/")[0], value if metric.better == "lower" else 100.0 - value)
    if not errors:
        return WORST
    return sum(min(error, WORST) for error in errors.values()) / len(errors)


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """What mtl.fit and the objective gave, without Tune's own bookkeeping."""
    return {
        key: float(value)
        for key, value in result.items()
        if (key in KEPT or key.startswith(("train/", "valid/", "weight/"))) and isinstance(value, int | float)
    }


def _number(value: float) -> str:
    text = f"{float(value):.4g}"
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def run_trial(config: dict[str, Any], job: Job) -> None:
    """Trains one point of the space, and reports every epoch with a checkpoint to go on from."""
    from ray import tune

    job = replace(job, recipe=with_overrides(job.recipe, overrides_of(config)))
    model, loader, validate = job.open()
    # Checkpoints come with epochs alone: ASHA and Optuna want an objective in every report.
    settings = replace(fit_config(job.recipe), epochs=job.recipe.search.epochs, checkpoint_seconds=math.inf)
    report = _Reporter(sum(parameter.numel() for parameter in model.parameters()))
    resume = report.restore(settings.epochs)
    try:
        fit(model, loader, settings, report=report, validate=validate, resume=resume)
    except NonFiniteLoss as error:  # a bad point, and worth knowing: the searcher hears that it is the worst
        tune.report({"epoch": report.epoch + 1, "objective": WORST, "error": str(error), "done": True})


class _Reporter:
    """mtl.fit's `report` for Ray Tune."""

    def __init__(self, parameters: int) -> None:
        self.parameters = parameters
        self.epoch = 0

    def restore(self, epochs: int) -> dict[str, Any] | None:
        """The state of the trial's last epoch, if it was killed after one."""
        from ray import tune

        latest = tune.get_checkpoint()
        if latest is None:
            return None
        with latest.as_directory() as folder:
            row = json.loads((Path(folder) / HISTORY).read_text(encoding="utf-8"))
            state = checkpoints.load(folder)
        self.epoch = int(row["epoch"])
        if self.epoch >= epochs:  # killed between its last epoch and Tune's note of it: fit has nothing left to say
            tune.report(row)
        return state

    def __call__(self, metrics: dict[str, float], state: dict[str, Any] | None) -> None:
        from ray import tune

        self.epoch = int(metrics["epoch"])
        row = {**metrics, "objective": objective(metrics), "parameters": self.parameters}
        with tempfile.TemporaryDirectory() as folder:
            if state is not None:
                checkpoints.save(folder, state)
            (Path(folder) / HISTORY).write_text(json.dumps(row), encoding="utf-8")
            tune.report(row, checkpoint=tune.Checkpoint.from_directory(folder))
