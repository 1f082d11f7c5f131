"""A stage: one function of a pipeline, with its name, inputs, dataset kinds and version.

    FEATURES = Stage("features", extract_features, inputs=("ingest",), kinds=("features",), version=1, unit="rec")
    result = FEATURES.run(context)          # shows a progress bar, then prints one line; result.value, result.text

A stage reads the values of earlier stages from the context and changes nothing in it, so it can be run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.core import progress


@dataclass(frozen=True)
class StageResult:
    """The value of a stage for later stages, and its line in the terminal and in the report."""

    stage: str
    text: str
    seconds: float
    value: Any

    def summary(self) -> tuple[str, str, float]:
        return self.stage, self.text, self.seconds


def always(recipe: Any) -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """A function `(context, *arguments) -> (text, value)`; with a `unit`, also `report=`, see `progress.Screen.bar`.

    An empty text prints no line.

    Attributes:
        inputs: stages whose values the function reads from the context.
        kinds: kinds of datasets that the stage writes (pipelines/storage/kinds.py).
        version: part of the identity of a night; raised when the same inputs would give another output. None for a
            stage whose output does not change the trained model, or whose datasets carry its version in their address.
        label: the stage's name in the terminal and in the report; `name` if empty.
        unit: what the progress bar counts; no bar if empty.
        retries: how often a task runner may repeat the stage after a transient error.
        needed: whether a recipe has this stage.
        parts: arguments of the independent calls that make up the stage, for instance one for each corpus.
    """

    name: str
    function: Callable[..., tuple[str, Any]]
    inputs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    version: int | None = None
    label: str = ""
    unit: str = ""
    retries: int = 2
    needed: Callable[[Any], bool] = always
    parts: Callable[[Any], Sequence[str]] | None = None

    def run(self, context: Any, *arguments: Any) -> StageResult:
        """Runs the function once.

        Raises:
            LookupError: an input is missing because its stage has not run.
        """
        if missing := [name for name in self.inputs if name not in context.values]:
            raise LookupError(f"stage {self.name} reads the result of {', '.join(missing)}, which has not run")
        label = self.label or self.name
        with timed(label) as line:
            if self.unit:
                title = " ".join([label, *arguments]) if self.parts else label
                with progress.current().bar(title, self.unit) as report:
                    line.text, value = self.function(context, *arguments, report=report)
            else:
                line.text, value = self.function(context, *arguments)
        return StageResult(label, line.text, round(line.seconds, 2), value)


class Line:
    """The text of a line in the terminal, and the seconds that the work took."""

    def __init__(self) -> None:
        self.text, self.seconds = "", 0.0


@contextmanager
def timed(label: str) -> Iterator[Line]:
    """Measures the time of a block and prints its line when it ends without an error; no line without a text."""
    line, start = Line(), time.monotonic()
    yield line
    line.seconds = time.monotonic() - start
    if line.text:
        progress.current().line(label, line.text, line.seconds)
