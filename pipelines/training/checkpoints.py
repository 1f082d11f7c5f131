"""Checkpoints of a training run in the store: reading, validation, and the one to resume from.

    with local_folder(store, "train/night-1/checkpoint_2026-…") as folder:
        state, history = read(folder)              # raises mtl.training.checkpoint.Damaged
    resume_from(store, "night-1")                  # before Ray Train starts, in the driver
    whole, damaged = survey(store, "night-1")      # after it has ended

Ray resumes from the latest checkpoint of its snapshot (a JSON file beside the checkpoints), even if that is damaged,
and does not start if the snapshot is damaged. So the driver checks both first. If one cannot be used, it deletes the
snapshot and damaged checkpoints, and the workers start from the newest whole checkpoint. Checkpoints that are not in
the new snapshot stay until the run has ended; one of them may be the best.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl.training import checkpoint as checkpoints
from pipelines.storage.store import Store

SCORE = "score"  # in the metrics that Ray receives: what it ranks checkpoints by (checkpoint_scores.py)
HISTORY = "history.json"  # in every checkpoint: one row per epoch, from the first
SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's own state

Row = dict[str, float]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint. key: its folder in the store. step: of the optimiser. history: of the epochs before it."""

    key: str
    step: int
    history: list[Row]

    @property
    def row(self) -> Row:
        """Metrics of the epoch that it ends; empty in mid-epoch."""
        return self.history[-1] if self.history and int(self.history[-1]["step"]) == self.step else {}

    @property
    def age(self) -> tuple[int, int, str]:
        """Sort key, larger for newer checkpoints; names alone do not suffice, since clocks of machines differ."""
        return self.step, len(self.history), self.key


@contextmanager
def local_folder(store: Store, key: str) -> Iterator[Path]:
    """The files below a key as a local folder, which is a copy unless the store is a folder itself."""
    if not store.root.startswith("s3://"):
        yield Path(store.root) / key
        return
    with tempfile.TemporaryDirectory() as scratch:
        for entry in store.list(f"{key}/"):
            (Path(scratch) / entry.key.rpartition("/")[2]).write_bytes(store.read_bytes(entry.key))
        yield Path(scratch)


def read(folder: Path | str) -> tuple[dict[str, Any], list[Row]]:
    """State and history of a checkpoint. Raises mtl.training.checkpoint.Damaged."""
    return checkpoints.load(folder), checkpoints.read_json(folder, HISTORY)


def survey(store: Store, name: str) -> tuple[list[Saved], dict[str, str]]:
    """The run's whole checkpoints, newest first, and the problem of each damaged one by its key."""
    whole, damaged = [], {}
    for key in folders(store, name):
        try:
            with local_folder(store, key) as folder:
                state, history = read(folder)
        except checkpoints.Damaged as error:
            damaged[key] = str(error)
        else:
            whole.append(Saved(key, int(state["step"]), history))
    return sorted(whole, key=lambda saved: saved.age, reverse=True), damaged


def folders(store: Store, name: str) -> list[str]:
    """Keys of the run's checkpoints, damaged ones included."""
    top = f"train/{name}/"
    below = [entry.key[len(top) :].split("/") for entry in store.list(f"{top}checkpoint_")]
    return sorted({top + parts[0] for parts in below if len(parts) > 1})  # Ray's snapshot begins with the same word


def resume_from(store: Store, name: str) -> str | None:
    """Key of the checkpoint that workers start from; None for Ray's latest, or for a new run."""
    keys, snapshot = folders(store, name), f"train/{name}/{SNAPSHOT}"
    known = store.exists(snapshot)
    if not known and not keys:
        return None
    problem = _problem(store, name) if known else f"{snapshot} is missing"
    if not problem:
        return None
    whole, damaged = survey(store, name)
    for key, reason in damaged.items():
        logger.warning("training %s: a damaged checkpoint is removed: %s", name, reason)
        for entry in store.list(f"{key}/"):
            store.delete(entry.key)
    store.delete(snapshot)
    if not whole:
        logger.warning("training %s starts from the beginning, no whole checkpoint is left: %s", name, problem)
        return None
    logger.warning("training %s resumes from %s (step %d): %s", name, whole[0].key, whole[0].step, problem)
    return whole[0].key


def _problem(store: Store, name: str) -> str:
    """Why Ray cannot resume from its snapshot, or "". Errors of the network or the file system are raised."""
    from ray.train import Result

    options = storage(store, "train")
    try:
        known = Result.from_path(f"{options['storage_path']}/{name}", options.get("storage_filesystem"))
        latest = Path(known.checkpoint.path).name if known.checkpoint else ""
    except OSError:
        raise
    except Exception as error:  # Ray raises assertions and errors of many types
        return f"Ray's {SNAPSHOT} cannot be used: {error}"
    if not all(isinstance(metrics.get(SCORE), int | float) for _, metrics in known.best_checkpoints or []):
        return f"Ray's {SNAPSHOT} was written by an older version of Motet: it has checkpoints without a score"
    try:
        with local_folder(store, f"train/{name}/{latest}") as folder:
            read(folder)
    except checkpoints.Damaged as error:
        return str(error)
    return ""


def storage(store: Store, folder: str) -> dict[str, Any]:
    """`storage_path` and `storage_filesystem` of a Ray RunConfig for a folder of the store."""
    if not store.root.startswith("s3://"):
        return {"storage_path": str(Path(store.root) / folder)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    from pipelines.storage.roots import s3_filesystem

    base = store.root.removeprefix("s3://")
    return {"storage_path": f"{base}/{folder}", "storage_filesystem": PyFileSystem(FSSpecHandler(s3_filesystem()))}
