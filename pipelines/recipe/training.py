"""Sections about training and evaluation: budget, search, judges, gates, measurements."""

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
    """Measurements for the section "What the tasks share" of the report. No result depends on them."""

    gradients: int = Field(
        50,
        ge=0,
        description="Steps between two measurements of the tasks' gradients, each about as long as three; 0: none.",
    )
    probes: bool = Field(True, description="Probe every layer of the new model for speaker, emotion and phones.")
    rows: int = Field(400, ge=10, le=10_000, description="Number of recordings of the valid split, and of sentences.")


class Search(Section):
    """`motet search`: trials on one device each, ranked by `objective`, with a Pareto front over tasks."""

    method: Literal["asha", "pbt"] = Field(
        "asha",
        description="asha: independent points; poor trials are stopped early. pbt: a population of `trials` models; "
        "poor ones copy the weights of good ones, with perturbed learning rate and task weights; finds a schedule, "
        "keeps the recipe's sharing mode.",
    )
    objective: Literal["gain", "mean"] = Field(
        "gain",
        description="What stops and ranks trials. gain: mean over tasks of the change relative to single-task models "
        "of the same budget, in percent; these are trained first, once. mean: mean error in percent; needs no such "
        "models, but is dominated by the task with the most errors.",
    )
    proposals: Literal["tasks", "objective"] = Field(
        "tasks",
        description="asha: what Optuna's TPE models. tasks: the errors of all tasks at once, which spreads trials "
        "along the front. objective: only the objective. Trials are stopped by the objective in both cases.",
    )
    trials: int = Field(16, ge=1, description="Number of trials; with pbt, size of the population.")
    epochs: int = Field(4, ge=1, description="Epochs of a trial that is not stopped.")
    interval: int = Field(1, ge=1, description="pbt: epochs between two exchanges.")
    share: float = Field(1.0, gt=0, le=1, description="Share of the training rows, the same for every trial.")
    reduction: int = Field(3, ge=2, description="Reduction factor of ASHA.")
    learning_rate: tuple[float, float] = Field((3e-4, 3e-3), description="Range of trainer.learning_rate.")
    task_weight: tuple[float, float] = Field((0.1, 10.0), description="Range of tasks.<task>.weight.")
    modes: tuple[ModeName, ...] = Field(("hard", "soft"), min_length=1, description="Sharing modes that are tried.")
    strength: tuple[float, float] = Field((1e-5, 1e-1), description="Range of sharing.strength.")
    reference: dict[TaskName, Annotated[float, Field(ge=0, le=100)]] = Field(
        default_factory=dict,
        description="Reference point of the hypervolume: a value of each task's metric in percent, which a trial must "
        "beat to count; all answers wrong (WER 100, accuracy 0) if left out.",
    )

    @model_validator(mode="after")
    def _exchanges(self) -> Search:
        if self.method == "pbt" and self.interval >= self.epochs:
            raise ValueError(
                f"interval {self.interval} is not below epochs {self.epochs}: nothing would ever be exchanged; raise "
                "epochs, or set method: asha"
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
