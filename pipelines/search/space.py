"""Search space of a recipe.

space = Space.of(recipe)
space(optuna_trial)                     # asks the trial for each setting: `--set` keys and values
space.baseline(recipe)                  # the recipe's own point
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.recipe import Recipe

if TYPE_CHECKING:
    from optuna.trial import Trial as OptunaTrial


@dataclass(frozen=True)
class Space:
    """A conditional search space: the strength of soft sharing exists only for soft sharing.

    The primary task keeps its weight: under Adam only the ratios of the weights matter.
    """

    learning_rate: tuple[float, float]
    tasks: tuple[str, ...]
    task_weight: tuple[float, float]
    modes: tuple[str, ...]
    strength: tuple[float, float]

    def __call__(self, trial: OptunaTrial) -> None:
        trial.suggest_float("trainer.learning_rate", *self.learning_rate, log=True)
        for task in self.tasks:
            trial.suggest_float(f"tasks.{task}.weight", *self.task_weight, log=True)
        if trial.suggest_categorical("sharing.mode", self.modes) == "soft":
            trial.suggest_float("sharing.strength", *self.strength, log=True)

    @classmethod
    def of(cls, recipe: Recipe) -> Space:
        primary = recipe.gates.primary.split("/")[0]
        space = recipe.search
        tasks = tuple(str(task) for task in recipe.tasks if task != primary)
        modes = space.modes if len(recipe.tasks) > 1 else ("hard",)
        return cls(space.learning_rate, tasks, space.task_weight, modes, space.strength)

    def baseline(self, recipe: Recipe) -> dict[str, Any] | None:
        """The recipe's own point, or None if it is outside the space."""
        point: dict[str, Any] = {"trainer.learning_rate": recipe.trainer.learning_rate}
        point |= {f"tasks.{task}.weight": config.weight for task, config in recipe.tasks.items() if task in self.tasks}
        point["sharing.mode"] = recipe.sharing.mode
        if recipe.sharing.mode == "soft":
            point["sharing.strength"] = recipe.sharing.strength
        ranges = {"trainer.learning_rate": self.learning_rate, "sharing.strength": self.strength}
        inside = all(
            low <= point[key] <= high
            for key in point
            if key != "sharing.mode"
            for low, high in [ranges.get(key, self.task_weight)]
        )
        return point if inside and recipe.sharing.mode in self.modes else None
