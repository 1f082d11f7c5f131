"""Progress of a search: an MLflow run for each trial, and a count of epochs.

callbacks = [tune_callback(root, name, trials, epochs, tracking, {})]   # of Tune's RunConfig
with reporting(name, progress):
    tuner.fit()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipelines.search.trial import numbers, overrides_of
from pipelines.storage import lock
from pipelines.storage.store import Store

if TYPE_CHECKING:
    from pipelines.core.progress import Report
    from pipelines.registry.tracking import Run

_reports: dict[str, Report] = {}  # by search; outside of the callback, because Tune pickles its callbacks
logger = logging.getLogger(__name__)


@contextmanager
def reporting(name: str, progress: Report | None) -> Iterator[None]:
    """In this context, the callback of the search of this name reports to `progress`."""
    if progress:
        _reports[name] = progress
    try:
        yield
    finally:
        _reports.pop(name, None)


def tune_callback(
    root: str, name: str, trials: int, epochs: int, tracking: Run | None, reported: Mapping[str, int] | None = None
) -> Any:
    """The callback of a search of so many trials with so many epochs each.

    tracking: the parent MLflow run. reported: by trial, epochs that an interrupted search has logged to MLflow.
    """
    from ray import tune

    from pipelines.registry.tracking import start_child
    from pipelines.search import callbacks as here

    class TrackingCallback(tune.Callback):
        """Runs in the driver, the only writer of the trials' MLflow runs, which are named by the trial's id."""

        def __init__(self) -> None:
            self.epochs: dict[str, int] = dict(reported or {})
            self.runs: dict[str, Any] = {}

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            id = trial.config["trial"]["id"]
            params = dict(override.split("=", 1) for override in overrides_of(trial.config["trial"]["point"]))
            if tracking:
                self.attempt(lambda: self.runs.update({id: start_child(root, tracking, id, params)}))

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            lock.check(Store(root).root)  # ends the search if this process has lost the lock of its root
            id, epoch = trial.config["trial"]["id"], int(result["epoch"])
            if epoch > self.epochs.get(id, 0):  # a resumed trial reports its last epoch again
                self.epochs[id] = epoch
                self.write(id, lambda run: run.log(numbers(result), step=epoch))
            self.show(f"{result['objective']:.1f} %")

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            id = trial.config["trial"]["id"]
            self.epochs[id] = epochs  # epochs saved by early stopping count as done
            self.write(id, lambda run: run.finish("FINISHED"))
            self.show("")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            id = trial.config["trial"]["id"]
            self.epochs[id] = epochs
            self.write(id, lambda run: run.finish("FAILED"))

        def write(self, id: str, act: Callable[[Run], None]) -> None:
            if id in self.runs:
                self.attempt(lambda: act(self.runs[id]))

        def attempt(self, act: Callable[[], None]) -> None:
            try:
                act()
            except Exception as error:  # an unreachable MLflow must not end a search
                logger.warning("a trial is not fully in MLflow: %s", error)

        def show(self, label: str) -> None:
            report = here._reports.get(name)
            if report:
                report(sum(self.epochs.values()), trials * epochs, label)

    return TrackingCallback()
