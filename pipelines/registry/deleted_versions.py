"""Champions whose version was deleted from MLflow: their lines in the ledger and their copies in the store.

    record(ledger, state, exists)             # appends a line per deleted champion; True if there was any
    stored_copy(store, "assistant", 3)        # the weights that the night stored, to compare candidates with

When a person or a retention job deletes a version in MLflow, the newest remaining champion takes its place. Candidates
are still compared with the deleted one as long as the store holds its weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.packaging.package import describe
from pipelines.registry.version import Version

if TYPE_CHECKING:
    from pipelines.registry.ledger import Ledger, State
    from pipelines.storage.store import Manifest, Store

BY = "motet"  # author of these lines


@dataclass(frozen=True)
class StoredVersion(Version):
    """A version that was deleted from MLflow. folder: its Predictor, in the store or a local copy."""

    folder: Path = Path()


def record(ledger: Ledger, state: State, exists: Callable[[int], bool], spare: int | None = None) -> bool:
    """Appends a line for every current or former champion that does not exist; returns whether there was any.

    spare: a version to skip.
    """
    deleted = [number for number in dict.fromkeys(reversed(state.champions)) if number != spare and not exists(number)]
    for number in deleted:
        before = ledger.state()
        remaining = [version for version in before.champions if version != number]
        successor = f"version {remaining[-1]} is champion" if remaining else f"{ledger.name} has no champion"
        reason = f"version {number} is not in MLflow any more; {successor}"
        ledger.append("lost", number, before.champion, reason, BY)
    return bool(deleted)


def stored_copy(store: Store, name: str, number: int, until: str | None = None) -> StoredVersion | None:
    """The version as its night stored it; None if there is no such night or no weights.

    until: when it was deleted (ISO 8601, UTC); a later version with the same number is another one.
    """
    uri = f"models:/{name}/{number}"
    for night in reversed(store.versions(f"nights/{name}")):
        if night.meta["outcome"]["model"] == uri and (until is None or night.created <= until):
            return _copy(store, name, number, night)
    return None


def _copy(store: Store, name: str, number: int, night: Manifest) -> StoredVersion | None:
    key = f"train/{night.meta['outcome']['name']}/result.json"
    files = json.loads(store.read_bytes(key))["files"] if store.exists(key) else []
    if not files or not all(store.exists(file) for file in files):
        return None
    folder = store.fetch_folder(files)
    described = describe(folder)
    return StoredVersion(name, number, (), 0, None, described.address, described.parameters, folder=folder)


def warning(store: Store, name: str, state: State) -> str | None:
    """Message about a deleted champion, until another version is promoted; None if none was deleted."""
    line = state.deletion
    if line is None or line.expects is None:
        return None
    old, new = f"version {line.expects}", f"version {state.champion}"
    if stored_copy(store, name, line.expects, line.time):
        comparison = f"candidates are compared with {old} itself, from the store's copy"
    elif state.champion is not None:
        comparison = f"the store has no copy of {old}, so candidates are compared with {new}"
    else:
        comparison = f"the store has no copy of {old}, so the next model is judged as a first one"
    current = f"{new} is champion" if state.champion is not None else "no version is champion"
    return (
        f"{name}: {old}, the champion, was deleted from MLflow (ledger line {line.number}); {current}, "
        f"and {comparison}. `motet promote {name} VERSION --force` takes your word instead"
    )
