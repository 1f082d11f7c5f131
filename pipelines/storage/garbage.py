"""Garbage collection: deletes the objects of a store that no dataset version refers to.

    collect_garbage(store)                      # lists them
    collect_garbage(store, dry_run=False)

All listings, manifests and utterance tables are read first; if any of them cannot be read, nothing
is deleted. The root's lock is held meanwhile, so no night or other writer is running.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipelines.storage import lock
from pipelines.storage.kinds import AUDIO, COLLECTED
from pipelines.storage.roots import TEMPORARY, Entry, StoreError
from pipelines.storage.store import Manifest, Store, audio_copies

UNFINISHED_DAYS = 7  # after which the files of an interrupted night are no longer protected


@dataclass(frozen=True)
class Unfinished:
    """Work that was started and has not completed. since: by the store's clock, as for objects."""

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
    report: Callable[[str], None] = lambda line: None,
    timing: lock.Timing | None = None,
) -> list[Entry]:
    """Returns the unreferenced objects in the folders of COLLECTED, and deletes them unless `dry_run`.

    An object is referenced if a manifest lists it, or an utterance table in a manifest names it as audio. Objects
    younger than `older_than_hours` or than the oldest unfinished night, which may use them, are kept.

    report: called with a line about each unfinished night.

    Raises:
        StoreError: something could not be read; nothing was deleted. OSError: a deletion failed.
        Busy: a night or another command uses the root; only without `dry_run`. Lost: this process
        was suspended and another one has taken the lock; everything deleted until then was garbage.
    """
    if dry_run:
        return _garbage(store, older_than_hours, report)
    with lock.alone(store.root, timing):
        garbage = _garbage(store, older_than_hours, report)
        _delete(store, (entry.key for entry in garbage))
        _delete(store, (work.key for work in unfinished(store) if work.expired))
        _clear_temporary(store, datetime.now(UTC) - timedelta(hours=older_than_hours))
        return garbage


def unfinished(store: Store) -> list[Unfinished]:
    """Nights, searches and studies that were killed or have failed; oldest first."""
    entries = sorted(store.list(f"{lock.UNFINISHED}/"), key=lambda entry: entry.modified)
    return [Unfinished(entry.key, _what(store, entry.key), entry.modified) for entry in entries]


def _garbage(store: Store, older_than_hours: float, report: Callable[[str], None]) -> list[Entry]:
    try:
        return _unreferenced(store, older_than_hours, report)
    except StoreError:
        raise
    except Exception as error:  # of the file system or a client library
        text = f"{store.root} could not be read as a whole: {type(error).__name__}: {error}"
        raise StoreError(f"{text}. Nothing was deleted; try again") from error


def _unreferenced(store: Store, older_than_hours: float, report: Callable[[str], None]) -> list[Entry]:
    limit = datetime.now(UTC) - timedelta(hours=older_than_hours)
    for work in unfinished(store):
        if work.expired:
            report(f"{work.what} has not completed since {work.since:%Y-%m-%d}: its files are no longer protected")
        else:
            report(f"{work.what} has not completed: files written since {work.since:%Y-%m-%d %H:%M UTC} are kept")
            limit = min(limit, work.since)
    # Objects are listed before manifests, so that the files of a version committed in between are kept.
    objects = [entry for folder in COLLECTED for entry in store.list(folder)]
    referenced = _referenced(store)
    return [entry for entry in objects if entry.key not in referenced and entry.modified < limit]


def _referenced(store: Store) -> set[str]:
    files = {file for version in _manifests(store) for file in version.files}
    tables = sorted(file for file in files if file.startswith("utterances/"))
    return files.union(*(_audio_of(store, table) for table in tables))


def _manifests(store: Store) -> Iterable[Manifest]:
    for dataset in store.datasets():
        try:
            yield from store.versions(dataset)
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"a manifest of {dataset} in {store.root} cannot be read, so its files are unknown: {error}. "
                "Nothing was deleted; see manifests/ there. Was it written by a newer version of Motet?"
            ) from error


def _audio_of(store: Store, table: str) -> set[str]:
    try:
        return audio_copies(store, table)
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise StoreError(
            f"{table} in {store.root} cannot be read, so its recordings in {AUDIO}/ are unknown: {error}. "
            "Nothing was deleted; restore the table, or remove the manifest that lists it"
        ) from error


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
    """Deletes temporary files and locks of commands that were left by killed processes."""
    for entry in store.list(f"{lock.WRITERS}/"):
        if entry.modified < datetime.now(UTC) - timedelta(days=UNFINISHED_DAYS):
            store.delete(entry.key)
    folder = Path(store.root) / TEMPORARY
    if store.root.startswith("s3://") or not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_file() and path.stat().st_mtime < limit.timestamp():
            path.unlink(missing_ok=True)
