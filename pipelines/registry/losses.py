"""Champions that were deleted from MLflow: what the ledger says of them, and the copy that the store still holds.

    record(ledger, state, exists)             # a line for each champion of now or before that is gone; True if any
    stored_copy(store, "assistant", loss)     # its weights as a night left them in the store, to be compared with

A person or a retention job deletes a version on MLflow's page. Then the newest champion before it that is still
there reigns, and candidates are still compared with the one that is gone, as long as the store can score it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.registry.ledger import Ledger, State
from pipelines.registry.package import describe
from pipelines.registry.version import Version
from pipelines.storage.store import Manifest, Store

BY = "motet"  # who writes these lines


@dataclass(frozen=True)
class StoredVersion(Version):
    """A version that MLflow has no more. folder: its Predictor, in the store or copied from it."""

    folder: Path = Path()


def record(ledger: Ledger, state: State, exists: Callable[[int], bool], spare: int | None = None) -> bool:
    """Writes a line for every champion of now or before that does not exist; says whether it wrote any.

    spare: a version that is about to be left anyway.
    """
    gone = [number for number in dict.fromkeys(reversed(state.champions)) if number != spare and not exists(number)]
    for number in gone:
        champions = [version for version in ledger.state().champions if version != number]
        left = f"version {champions[-1]} is champion" if champions else f"{ledger.name} has no champion"
        reason = f"version {number} is not in MLflow any more; {left}"
        ledger.append("lost", number, ledger.state().champion, reason, BY)
    return bool(gone)


def stored_copy(store: Store, name: str, number: int, until: str | None = None) -> StoredVersion | None:
    """A version as the night that trained it left it in the store; None where there is no such night, or no weights.

    until: the time (ISO 8601, UTC) when it was lost; a version that got the same number later is another one.
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
    """What people are told as long as a lost champion has no successor; None where none was lost."""
    loss = state.loss
    if loss is None or loss.expects is None:
        return None
    old, new = f"version {loss.expects}", f"version {state.champion}"
    if stored_copy(store, name, loss.expects, loss.time):
        bar = f"candidates are compared with {old} itself, from the store's copy"
    elif state.champion is not None:
        bar = f"the store has no copy of {old}, so candidates are compared with {new}"
    else:
        bar = f"the store has no copy of {old}, so the next model is judged as a first one"
    now = f"{new} is champion" if state.champion is not None else "no version is champion"
    return (
        f"{name}: {old}, the champion, was deleted from MLflow (ledger line {loss.number}); {now}, and {bar}. "
        f"`motet promote {name} VERSION --force` takes your word instead"
    )
