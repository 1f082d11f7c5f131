"""Garbage collection: finds the objects of a store that no version of any dataset reaches, and deletes them.

    collect_garbage(store)                      # what could be deleted
    collect_garbage(store, dry_run=False)

It reads everything first and deletes afterwards: one listing, manifest or table that cannot be read, for whatever
reason, and nothing is deleted. While it deletes it holds the root's lock, so no night or other writer is at work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipelines.storage import lock
from pipelines.storage.kinds import AUDIO, COLLECTED
from pipelines.storage.roots import TEMPORARY, Entry, StoreError
from pipelines.storage.store import STORED, Manifest, Store

UNFINISHED_DAYS = 7  # after which a night that was killed is not expected to be resumed


@dataclass(frozen=True)
class Unfinished:
    """Work that was begun and has not ended well. since: of the marker, by the store's own clock, like all objects."""

    key: str
    what: str
    since: datetime

    @property
    def expired(self) -> bool:
        return self.since < datetime.now(UTC) - timedelta(days=UNFINISHED_DAYS)


def collect_garbage(
    store: Store,
    dry_run: bool = True,
    older_than_hours: float = 24.0,
    tell: Callable[[str], None] = lambda line: None,
    timing: lock.Timing | None = None,
) -> list[Entry]:
    """What no manifest reaches, and deletes it unless `dry_run`.

    A file is reached when a manifest lists it, or when an utterance table that a manifest lists names it as audio.
    Younger objects stay, and so do those that are younger than the oldest unfinished night: it goes on with them.
    Only the folders in COLLECTED are looked at. `tell` gets a line for each unfinished night.

    Raises:
        StoreError: something could not be read; nothing was deleted. OSError: a deletion failed.
        Busy: a night or another command is at work on the root; only without `dry_run`.
        Lost: this process was suspended, and somebody else began to work on the root. What was deleted until then
            was garbage.
    """
    if dry_run:
        return _garbage(store, older_than_hours, tell)
    with lock.alone(store.root, timing):
        garbage = _garbage(store, older_than_hours, tell)
        _delete(store, (entry.key for entry in garbage))
        _delete(store, (one.key for one in unfinished(store) if one.expired))
        _clear_temporary(store, datetime.now(UTC) - timedelta(hours=older_than_hours))
        return garbage


def unfinished(store: Store) -> list[Unfinished]:
    """Nights, searches and studies that were killed or failed; oldest first."""
    entries = sorted(store.list(f"{lock.UNFINISHED}/"), key=lambda entry: entry.modified)
    return [Unfinished(entry.key, _what(store, entry.key), entry.modified) for entry in entries]


def _garbage(store: Store, older_than_hours: float, tell: Callable[[str], None]) -> list[Entry]:
    try:
        return _unreached(store, older_than_hours, tell)
    except StoreError:
        raise
    except Exception as error:  # of the file system, or of a client library: each has errors of its own
        text = f"{store.root} could not be read as a whole: {type(error).__name__}: {error}"
        raise StoreError(f"{text}. Nothing was deleted; try again") from error


def _unreached(store: Store, older_than_hours: float, tell: Callable[[str], None]) -> list[Entry]:
    limit = datetime.now(UTC) - timedelta(hours=older_than_hours)
    for work in unfinished(store):
        if work.expired:
            tell(f"{work.what} has not ended since {work.since:%Y-%m-%d}: what it wrote is no longer spared")
        else:
            tell(f"{work.what} has not ended: what was written since {work.since:%Y-%m-%d %H:%M UTC} is spared")
            limit = min(limit, work.since)
    # Objects first, manifests second: a version that is committed in between is seen, and its files are kept.
    objects = [entry for folder in COLLECTED for entry in store.list(folder)]
    reached = _reached(store)
    return [entry for entry in objects if entry.key not in reached and entry.modified < limit]


def _reached(store: Store) -> set[str]:
    files = {file for version in _manifests(store) for file in version.files}
    reached = set(files)
    for file in sorted(files):
        if file.startswith("utterances/"):
            reached.update(_audio_of(store, file))
    return reached


def _manifests(store: Store) -> Iterable[Manifest]:
    for dataset in store.datasets():
        try:
            yield from store.versions(dataset)
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"a manifest of {dataset} in {store.root} cannot be read, so nobody knows what it reaches: {error}. "
                "Nothing was deleted; see manifests/ there, or was it written by a newer version of Motet?"
            ) from error


def _audio_of(store: Store, key: str) -> set[str]:
    """Copies of recordings that an utterance table names."""
    try:
        audio = store.read_table(key, columns=["audio"])["audio"].unique().to_pylist()
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise StoreError(
            f"{key} in {store.root} cannot be read, so nobody knows which recordings in {AUDIO}/ it reaches: {error}. "
            "Nothing was deleted; restore the table, or remove the manifest that lists it"
        ) from error
    return {uri.removeprefix(STORED) for uri in audio if uri and uri.startswith(STORED)}


def _delete(store: Store, keys: Iterable[str]) -> None:
    for key in keys:
        lock.check(store.root)
        store.delete(key)


def _what(store: Store, key: str) -> str:
    try:
        return str(json.loads(store.read_bytes(key))["what"])
    except (ValueError, KeyError):
        return key


def _clear_temporary(store: Store, limit: datetime) -> None:
    """Half-written files of a folder root whose writer was killed, and marks of commands that were."""
    for entry in store.list(f"{lock.WRITERS}/"):
        if entry.modified < datetime.now(UTC) - timedelta(days=UNFINISHED_DAYS):
            store.delete(entry.key)
    folder = Path(store.root) / TEMPORARY
    if store.root.startswith("s3://") or not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_file() and path.stat().st_mtime < limit.timestamp():
            path.unlink(missing_ok=True)


def print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
