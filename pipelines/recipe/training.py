"""Sections about training and what comes after it: budget, search, gates, what is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mtl.config.setting import setting
from mtl.config.training import Training
from pipelines.recipe.base import ModeName, Section, TaskName


@dataclass(frozen=True)
class Trainer(Training):
    """Training: its length, optimiser and devices."""

    micro_batches: int = setting(
        1, "Micro-batches of a step, distributed over the workers and accumulated; a multiple of workers.", ge=1
    )
    workers: int = setting(1, "Training processes.", ge=1, operational=True)
    gpus: bool | None = setting(None, "Give each worker a GPU; null: where the cluster has them.", operational=True)
    checkpoint_minutes: float = setting(
        2.0, "Minutes between two checkpoints, besides one after every epoch.", gt=0, operational=True
    )
    max_failures: int = setting(
        3, "How often a failed worker group is restarted from its checkpoint.", ge=0, operational=True
    )

    def __post_init__(self) -> None:
        if self.micro_batches % self.workers:
            raise ValueError(
                f"micro_batches {self.micro_batches} cannot be dealt evenly over {self.workers} workers; set "
                f"micro_batches to a multiple of {self.workers} (a step then takes that many micro-batches), or "
                "change workers"
            )


class Interpret(Section):
    """What is looked at beside the scores, for the report's "What the tasks share". No result depends on it."""

    gradients: int = Field(
        50,
        ge=0,
        description="steps between two looks at the tasks' gradients, each of about three steps' time; 0: none",
    )
    probes: bool = Field(True, description="read speaker, emotion and phones from every layer of the new model")
    rows: int = Field(400, ge=10, le=10_000, description="recordings of the valid split, and as many sentences")


class Search(Section):
    """`motet search`: trials on one device each, compared by `objective`, drawn as a front over the tasks."""

    method: Literal["asha", "pbt"] = Field(
        "asha",
        description="asha: independent points, the poor ones stopped early. pbt: a population of `trials` models whose "
        "poor ones go on with the weights of good ones, at a learning rate and task weights nearby; finds a schedule, "
        "keeps the recipe's sharing mode",
    )
    objective: Literal["gain", "mean"] = Field(
        "gain",
        description="what stops and ranks trials. gain: mean over tasks of the change relative to the single-task "
        "model of a trial's budget, in percent; asks of every task what it reaches alone, and trains these models "
        "first (once: they are kept). mean: mean error in percent; needs no such models, and the task with the most "
        "errors decides",
    )
    proposals: Literal["tasks", "objective"] = Field(
        "tasks",
        description="asha: what Optuna's TPE looks at. tasks: every task's error at once, which spreads trials along "
        "the front; objective: the objective alone. Either way the objective decides who is stopped",
    )
    trials: int = Field(16, ge=1, description="Number of trials; with pbt, size of the population.")
    epochs: int = Field(4, ge=1, description="budget of a trial that ASHA lets run to its end")
    interval: int = Field(1, ge=1, description="pbt: epochs between two exchanges")
    share: float = Field(1.0, gt=0, le=1, description="of the training rows, the same for every trial")
    reduction: int = Field(3, ge=2, description="ASHA's reduction factor")
    learning_rate: tuple[float, float] = Field((3e-4, 3e-3), description="Range of trainer.learning_rate.")
    task_weight: tuple[float, float] = Field((0.1, 10.0), description="Range of tasks.<task>.weight.")
    modes: tuple[ModeName, ...] = Field(("hard", "soft"), min_length=1, description="Sharing modes that are tried.")
    strength: tuple[float, float] = Field((1e-5, 1e-1), description="Range of sharing.strength.")
    reference: dict[TaskName, Annotated[float, Field(ge=0, le=100)]] = Field(
        default_factory=dict,
        description="the hypervolume's reference point: a figure of each task's own metric in percent, which a trial "
        "must beat to count; every answer wrong (WER 100, accuracy 0) if left out",
    )

    @model_validator(mode="after")
    def _exchanges(self) -> Search:
        if self.method == "pbt" and self.interval >= self.epochs:
            raise ValueError(
                f"interval {self.interval} is not below epochs {self.epochs}: nothing would ever be exchanged; raise "
                "epochs, or take method: asha"
            )
        return self


JUDGED = ("transcript", "emotion", "speaker")  # tasks of judge models


class Judges(Section):
    """Registered models that evaluate synthesised speech: trained separately, and never trained through."""

    transcript: str | None = Field(None, description="Model whose champion transcribes the speech (word error rate).")
    emotion: str | None = Field(None, description="Model whose champion recognises the emotion.")
    speaker: str | None = Field(None, description="Model whose champion recognises the speaker.")
    rows: int = Field(200, ge=2, description="Maximum number of test recordings that are synthesised again.")

    @property
    def models(self) -> dict[str, str]:
        """Task -> name of the model that judges it."""
        return {task: name for task in JUDGED if (name := getattr(self, task)) is not None}


class Gates(Section):
    """Conditions under which a candidate replaces the champion; metrics are named "<task>/<metric>"."""

    primary: str = Field("transcript/wer", description="Metric that must improve significantly.")
    tolerance: dict[str, float] = Field(
        default_factory=dict,
        description="How much worse a metric may become, in percentage points; 0.5 where left out.",
    )
    minimum: dict[str, float] = Field(
        default_factory=dict, description="Limit of a metric, in percent: a floor, or a ceiling where lower is better."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the paired bootstrap test.")
    resamples: int = Field(1000, ge=100, description="Resamples of the bootstrap.")
