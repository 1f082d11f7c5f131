"""Settings of mtl.training.fit, and the stages of a curriculum."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mtl.config.balancing import METHODS
from mtl.config.setting import REQUIRED, Selection, TaskName, setting


@dataclass(frozen=True)
class Stage:
    """Some epochs of training before all tasks train together; see mtl.training.curriculum."""

    name: str = setting(REQUIRED, "Name of the stage, in reports.", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    tasks: tuple[TaskName, ...] = setting(REQUIRED, "Tasks that are trained in this stage.", min_length=1)
    epochs: int = setting(REQUIRED, "Length of the stage, in epochs.", ge=1)
    train: Literal["all", "heads"] = setting(
        "all", "Parameters that are trained: all, or only those of the tasks' heads."
    )


@dataclass(frozen=True)
class Training:
    """Settings of the training loop that a recipe states."""

    epochs: int = setting(20, "Length of the training, in passes over the training rows.", ge=1)
    curriculum: tuple[Stage, ...] = setting(
        (), "Stages before the joint one, which takes the remaining epochs; see mtl/training/curriculum.py."
    )
    restart: bool = setting(False, "Restart the learning rate's schedule in each stage.")
    learning_rate: float = setting(1e-3, "Peak learning rate of AdamW.", gt=0)
    warmup: float = setting(0.1, "Length of the linear warm-up, as a share of all steps.", ge=0, lt=1)
    weight_decay: float = setting(1e-2, "Weight decay of AdamW, on matrices.", ge=0)
    clip_norm: float = setting(5.0, "Maximum norm of a step's gradient.", gt=0)
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "Precision of the forward and backward pass; auto: bf16 where the device multiplies it faster."
    )
    ema: float = setting(
        0.0, "Decay of the exponential moving average of the weights that is validated and kept; 0: none.", ge=0, lt=1
    )


@dataclass(frozen=True)
class FitConfig(Training):
    """Settings of `fit`.

    task_weights: factor of each task's loss, 1 where it is not named. inspect_every: steps between two measurements of
    the tasks' gradients, 0 for none. checkpoint_seconds: between two checkpoints within an epoch. device: None for CUDA
    if available.
    """

    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    task_weights: dict[str, float] = field(default_factory=dict)
    balancing: Selection = field(default_factory=METHODS.select)
    inspect_every: int = 0
    checkpoint_seconds: float = 120.0
    seed: int = 0
    device: str | None = None
