"""The result of a night, and its text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtl import spec
from pipelines.core import environment
from pipelines.storage.store import Store

SYNTHETIC = "synthetic speech: the scores show that the system works, not how well it does on real voices"
COLUMNS = ("metric", "value", "low", "high", "champion", "floor", "limit", "rows", "verdict")


@dataclass(frozen=True)
class RunResult:
    """The result of a night. state: 'trained', or 'nothing new' with the results of the night that did the same."""

    state: str
    recipe: str
    identity: str
    name: str
    model: str | None = None  # models:/assistant/3
    promoted: bool | None = None
    reason: str = ""
    champion: str | None = None  # that it was compared with
    metrics: dict[str, float] = field(default_factory=dict)
    table: list[dict[str, Any]] = field(default_factory=list)
    synthetic: bool = False
    warnings: list[str] = field(default_factory=list)
    report: str | None = None
    night: int | None = None  # version of nights/<recipe>
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def nights_dataset(recipe: str) -> str:
    """Name of the dataset that holds the recipe's finished nights."""
    return f"nights/{recipe}"


def location(store: Store, key: str) -> str:
    """Path or URI of a key."""
    return f"{store.root}/{key}" if "://" in store.root else str(Path(store.root) / key)


def metrics_of(outcome: RunResult) -> list[dict[str, Any]]:
    """The table of a night with its columns in order, which a record in the store does not keep."""
    return [{column: row.get(column) for column in COLUMNS} for row in outcome.table]


def state_of(promoted: bool | None) -> str:
    return "promoted" if promoted else "not promoted"


def headline(outcome: RunResult) -> str:
    """The sentence above the table of a night."""
    state = state_of(outcome.promoted)
    if outcome.state == "nothing new":
        state = f"nothing new since the night of {outcome.name}, {state}"
    label = f"\n{SYNTHETIC}" if outcome.synthetic else ""
    warnings = "".join(f"\nwarning: {warning}" for warning in outcome.warnings)
    return f"{outcome.model}: {state} ({outcome.reason}){label}{warnings}"


def next_steps(outcome: RunResult, root: str) -> str:
    """Commands that a user may run next."""
    option = "" if root == environment.ROOT else f" --root {root}"
    return "\n".join(
        [
            "",
            f"report      {outcome.report}",
            f"try it      {_trial(outcome)}{option}",
            f"registry    motet leaderboard {outcome.recipe}{option}   motet history {outcome.recipe}{option}",
            f"pages       motet up{option}   (Prefect, MLflow, Ray)",
        ]
    )


def _trial(outcome: RunResult) -> str:
    """The command that tries the model, by the tasks that it was scored on.

    The name without a version means the champion, which may not exist if this model was not promoted.
    """
    model = outcome.recipe if outcome.promoted or not outcome.model else outcome.model.removeprefix("models:/")
    tasks = {metric.partition("/")[0] for metric in outcome.metrics} & {task.name for task in spec.tasks()}
    if spec.makes_frames(tasks):
        return f'motet say "TEXT" --model {model}'
    if spec.makes_sound(tasks):
        return f'motet say "TEXT" --vocoder {model}'
    reads_text = all("/text_" in metric for metric in outcome.metrics)
    return f"motet predict {'--text TEXT' if reads_text else 'FILE.wav'} --model {model}"
