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
    trials: int = Field(16, ge=1)
    epochs: int = Field(4, ge=1, description="budget of a trial that ASHA lets run to its end")
    interval: int = Field(1, ge=1, description="pbt: epochs between two exchanges")
    share: float = Field(1.0, gt=0, le=1, description="of the training rows, the same for every trial")
    reduction: int = Field(3, ge=2, description="ASHA's reduction factor")
    learning_rate: tuple[float, float] = (3e-4, 3e-3)
    task_weight: tuple[float, float] = (0.1, 10.0)
    modes: tuple[ModeName, ...] = Field(("hard", "soft"), min_length=1)
    strength: tuple[float, float] = (1e-5, 1e-1)
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


LISTENED = ("transcript", "emotion", "speaker")  # what other models are asked of speech


class Listening(Section):
    """Which registered models hear what a model says, when it is evaluated; trained apart, and asked by no gradient."""

    transcript: str | None = Field(None, description="the model whose champion writes down what was said")
    emotion: str | None = Field(None, description="the one that tells the emotion")
    speaker: str | None = Field(None, description="the one that tells the speaker")
    rows: int = Field(200, ge=2, description="test recordings that are said again, at most")

    @property
    def models(self) -> dict[str, str]:
        """Task -> the name of the model that listens for it."""
        return {task: name for task in LISTENED if (name := getattr(self, task)) is not None}


class Gates(Section):
    primary: str = Field("transcript/wer", description="metric that must improve, '<task>/<metric>'")
    tolerance: dict[str, float] = Field(
        default_factory=dict, description="how much worse each metric may be, in points of percent; 0.5 if left out"
    )
    minimum: dict[str, float] = Field(
        default_factory=dict, description="absolute limit of a metric in percent (a ceiling where lower is better)"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(1000, ge=100)
