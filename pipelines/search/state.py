"""State of a search as JSON in the store: the points of its trials and their reports.

    state = SearchState(store, "small-3f2a-1")
    state.save(TrialRecord("b31c0_00000", 0, {"trainer.learning_rate": 0.001}))
    state.trials()                              # in the order of their numbers

`--resume` reads only these files, in search/<name>/:

    plan.json                number of trials; written first
    trials/<id>.json         one TrialRecord; replaced as a whole with every report
    exchanges/<epoch>.json   members of a population after the exchange at this epoch (pbt.py)
    <id>/state/              last epochs of trials that have not ended (TrialState in trial.py)
    leaderboard.json         the result; written last

Ray Tune keeps its own state as pickle files, in a temporary folder of the driver: reading a pickle can run code, so no
pickle may be in a folder where others can write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.recipe import Recipe
from pipelines.search.scalar import COST, Scalar
from pipelines.search.trial import numbers, overrides_of
from pipelines.storage.store import Store, fingerprint

FORMAT = 1  # of these files; a plan without it was written by a version that stored Ray Tune's pickles
OWN = ("plan.json", "leaderboard.json", "trials/", "exchanges/")  # other files are deleted at the end


@dataclass
class TrialRecord:
    """One trial. `point` is its first point; points that an exchange assigns are stored with the exchange.

    reports: epoch, objective and each task's cost, one for each epoch. row: all numbers of the last report.
    seconds: run time, over all processes. ended: time of the last report, in seconds since 1970.
    """

    id: str
    number: int
    point: dict[str, Any]
    reports: list[dict[str, float]] = field(default_factory=list)
    row: dict[str, float] = field(default_factory=dict)
    parameters: int | None = None
    schedule: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    ended: float = 0.0
    over: bool = False
    error: str | None = None

    @property
    def epoch(self) -> int:
        """The last reported epoch."""
        return int(self.reports[-1]["epoch"]) if self.reports else 0

    def add(self, result: Mapping[str, Any]) -> None:
        """Adds a report of the trial. A resumed trial reports its last epoch again, which changes nothing."""
        self.seconds += float(result.get("time_this_iter_s", 0.0))
        self.over = self.over or bool(result.get("done"))
        if int(result["epoch"]) <= self.epoch:
            return
        figures = {key: float(result[key]) for key in result if key == "objective" or key.startswith(COST)}
        self.reports.append({"epoch": int(result["epoch"]), **figures})
        self.row = numbers(result)
        self.parameters = result.get("parameters")
        self.schedule = list(result.get("schedule") or [])
        self.ended = result.get("timestamp") or 0
        self.error = result.get("error")

    def leaderboard_row(self, recipe: Recipe, scalar: Scalar) -> dict[str, Any]:
        """Its row of SearchResult.leaderboard."""
        return {
            "trial": self.id,
            # A population's member may have been assigned another point after it last trained.
            "overrides": self.schedule[-1]["overrides"] if self.schedule else list(overrides_of(self.point)),
            "objective": self.row.get("objective", scalar.worst),
            "metrics": {key: value for key, value in self.row.items() if key.startswith(("valid/", "train/"))},
            "epochs": self.epoch,
            "seconds": self.seconds,
            "ended": self.ended,
            "parameters": self.parameters,
            "state": self._state(recipe.search.epochs),
            "error": self.error,
            "schedule": self.schedule,
        }

    def _state(self, epochs: int) -> str:
        if self.error:
            return "failed"
        if self.epoch >= epochs:
            return "finished"
        return "stopped" if self.over else "unfinished"


@dataclass(frozen=True)
class SearchState:
    """Reads and writes the files of one search. Every file is replaced atomically."""

    store: Store
    name: str

    def trial_id(self, number: int) -> str:
        """The id of a trial, unique among all searches of a root; also the name of its MLflow run."""
        return f"{fingerprint(self.name)[:5]}_{number:05d}"

    def plan(self, trials: int) -> None:
        self._write("plan.json", {"trials": trials, "format": FORMAT})

    def planned(self) -> dict[str, Any]:
        plan: dict[str, Any] = self._read("plan.json")
        return plan

    def save(self, record: TrialRecord) -> None:
        self._write(f"trials/{record.id}.json", asdict(record))

    def trial(self, id: str) -> TrialRecord:
        return TrialRecord(**self._read(f"trials/{id}.json"))

    def trials(self) -> list[TrialRecord]:
        records = [TrialRecord(**self._read(path)) for path in self._paths("trials/")]
        return sorted(records, key=lambda record: record.number)

    def save_exchange(self, epoch: int, members: Mapping[str, Mapping[str, Any]]) -> None:
        """members: by id, the configuration that each member continues with."""
        self._write(f"exchanges/{epoch:04d}.json", {"epoch": epoch, "members": members})

    def last_exchange(self) -> tuple[int, dict[str, dict[str, Any]]]:
        """Epoch and members of the last exchange; (0, {}) if there was none."""
        paths = self._paths("exchanges/")
        if not paths:
            return 0, {}
        exchange = self._read(max(paths))
        return int(exchange["epoch"]), exchange["members"]

    def clear(self) -> None:
        """Deletes states of trials and files of older versions, which a finished search does not need."""
        folder = f"search/{self.name}/"
        for entry in self.store.list(folder):
            if not entry.key.removeprefix(folder).startswith(OWN):
                self.store.delete(entry.key)

    def _paths(self, prefix: str) -> list[str]:
        folder = f"search/{self.name}/"
        return [entry.key.removeprefix(folder) for entry in self.store.list(f"{folder}{prefix}")]

    def _read(self, path: str) -> Any:
        return json.loads(self.store.read_bytes(f"search/{self.name}/{path}"))

    def _write(self, path: str, content: Any) -> None:
        self.store.put_bytes(f"search/{self.name}/{path}", json.dumps(content).encode())


def recorder(state: SearchState) -> Any:
    """The callback that records every report of a trial, in the driver, the only writer of the records.

    It runs after the MLflow callback, so a recorded epoch is also in MLflow.
    """
    from ray import tune

    class Recorder(tune.Callback):
        def __init__(self) -> None:
            self.records: dict[str, TrialRecord] = {}

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            record = self.record(trial)
            record.add(result)
            state.save(record)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            record = self.record(trial)
            if not record.over:  # no report had `done`
                record.over = True
                state.save(record)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            record = self.record(trial)
            record.over, record.error = True, _error_of(trial)
            state.save(record)

        def record(self, trial: Any) -> TrialRecord:
            id = trial.config["trial"]["id"]
            if id not in self.records:
                self.records[id] = state.trial(id)
            return self.records[id]

    return Recorder()


def _error_of(trial: Any) -> str:
    """The traceback of a trial's last failure, from Tune's error file on the driver."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8")
    except (OSError, TypeError):
        return "the trial failed, and Ray Tune kept no error message"
    return re.split(r"^Failure # .*\n", text, flags=re.MULTILINE)[-1].strip()
