"""The lock of a root: one night at a time, and no garbage collection during writes.

    with one_at_a_time(root, "night of assistant"):         # nights, searches, studies
        ...
    with writing(root, "evaluate assistant"):               # commands that add data beside a night
        ...
    with alone(root):                                       # the garbage collector: neither of the above
        ...

A folder is locked with flock, which the operating system releases when the process ends for any reason. (The filelock
library has no shared mode for it; its ReadWriteLock is a SQLite file.) An S3 prefix is shared by machines, so its lock
is a lease with a heartbeat (lease.py). A suspended process may lose it: commits and deletions call `check` first.

A night leaves a marker in `unfinished/` until it has completed; the garbage collector keeps files written since then.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import IO

from pipelines.storage.lease import Busy, Lease, Lost, Timing, Watch, described, owner_of, state_of
from pipelines.storage.roots import FolderRoot, Root, S3Root, open_root

__all__ = ["UNFINISHED", "Busy", "Lost", "Timing", "alone", "check", "one_at_a_time", "writing"]

UNFINISHED = "unfinished"  # folder of the markers
LEASE = "locks/root"  # folder of the root's lease
WRITERS = "locks/writers"  # a folder for each command that holds `writing`
GARBAGE = "garbage collection"

logger = logging.getLogger(__name__)
_leases: dict[str, list[Lease]] = {}  # of this process, by root


@contextmanager
def one_at_a_time(
    root: str, what: str, wait: bool = False, resumable: bool = True, timing: Timing | None = None
) -> Iterator[None]:
    """Holds the root's lock. With `resumable`, garbage collection keeps what is written until the work completes.

    Raises:
        Busy: another process holds it; the message says which. Not with `wait`.
    """
    with _exclusive(root, what, wait, timing), _marked(root, what) if resumable else nullcontext():
        yield


@contextmanager
def writing(root: str, what: str, timing: Timing | None = None) -> Iterator[None]:
    """For commands that add data beside a night: excludes garbage collection, and waits for one to end."""
    opened = open_root(root)
    if isinstance(opened, FolderRoot):
        with _locked(opened, ".writers.lock", fcntl.LOCK_SH):
            yield
        return
    lease = Lease(opened, f"{WRITERS}/{uuid.uuid4().hex}", what, timing)
    with _holding(root, lease, wait=False):
        _await_garbage_collection(opened, timing)
        yield
    with suppress(OSError):  # optional: a released lease blocks nobody
        for entry in opened.entries(f"{lease.folder}/"):
            opened.delete(entry.key)


@contextmanager
def alone(root: str, timing: Timing | None = None) -> Iterator[None]:
    """The lock for garbage collection. Raises Busy if a night or a `writing` command is running."""
    opened = open_root(root)
    with one_at_a_time(root, GARBAGE, resumable=False, timing=timing):
        if isinstance(opened, S3Root):
            # A writer registers before it checks for a collection; here the order is the reverse,
            # so that at least one of the two sees the other.
            _refuse_writers(opened, root, timing)
            yield
            return
        try:
            file = _locked(opened, ".writers.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(root, "a command that writes data to it", GARBAGE) from None
        with file:
            yield


def check(root: str) -> None:
    """Raises Lost if this process has lost its lock of the root (as in Store.root)."""
    for lease in _leases.get(root, ()):
        lease.check()


@contextmanager
def _exclusive(root: str, what: str, wait: bool, timing: Timing | None) -> Iterator[None]:
    opened = open_root(root)
    if isinstance(opened, S3Root):
        with _holding(root, Lease(opened, LEASE, what, timing), wait):
            yield
        return
    path = opened.path(".lock")
    try:
        file = _locked(opened, ".lock", fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise _busy(root, path.read_text(encoding="utf-8").strip() or "another process", what) from None
    with file:
        path.write_text(described(owner_of(what)), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text("", encoding="utf-8")


@contextmanager
def _holding(root: str, lease: Lease, wait: bool) -> Iterator[None]:
    try:
        lease.acquire(wait)
    except Busy as error:
        raise _busy(root, str(error), lease.owner["what"]) from None
    leases = _leases.setdefault(open_root(root).location, [])
    leases.append(lease)
    try:
        yield
    finally:
        lease.release()
        leases.remove(lease)


def _locked(root: FolderRoot, name: str, mode: int) -> IO[str]:
    """An open file with the lock, until it is closed. With LOCK_NB, raises BlockingIOError."""
    root.folder.mkdir(parents=True, exist_ok=True)
    file = open(root.path(name), "a", encoding="utf-8")  # noqa: SIM115  (closed by the caller)
    try:
        fcntl.flock(file, mode)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def _marked(root: str, what: str) -> Iterator[None]:
    """Marks the work as unfinished. The marker of killed work stays until the same work completes."""
    opened = open_root(root)
    key = f"{UNFINISHED}/{hashlib.sha256(what.encode()).hexdigest()[:16]}.json"
    opened.create(key, json.dumps(owner_of(what)).encode())
    yield
    try:
        check(opened.location)
        opened.delete(key)
    except Exception as error:  # the work itself is complete
        logger.warning("%s stays marked as unfinished in %s: %s", what, root, error)


def _await_garbage_collection(root: Root, timing: Timing | None) -> None:
    watch = Watch(timing or Timing())
    while (state := state_of(root, LEASE)) is not None and not state.released and state.owner["what"] == GARBAGE:
        watch.update(state)
        if watch.expired:
            Lease(root, LEASE, f"end of a {GARBAGE} that was killed", timing).fence(state.token)
        else:
            watch.pause()


def _refuse_writers(opened: S3Root, root: str, timing: Timing | None) -> None:
    """Raises Busy if a `writing` command is alive; fences killed ones."""
    folders = {entry.key.rpartition("/")[0] for entry in opened.entries(f"{WRITERS}/")}
    watches = {folder: Watch(timing or Timing()) for folder in folders}
    while watches:
        for folder, watch in list(watches.items()):
            try:
                state = state_of(opened, folder)
            except FileNotFoundError:  # the command ended between two requests
                state = None
            if state is None or state.released:
                del watches[folder]
                continue
            watch.update(state)
            if watch.changed:
                raise _busy(root, described(state.owner), GARBAGE)
            if watch.expired:
                Lease(opened, folder, GARBAGE, timing).fence(state.token)
        if watches:
            check(opened.location)
            next(iter(watches.values())).pause()


def _busy(root: str, holder: str, what: str) -> Busy:
    hint = "One night at a time; take --wait to wait for its end, or another --root"
    if what == GARBAGE:
        hint = "Garbage collection needs a root that nothing writes to; try again when that has ended"
    return Busy(f"{root} is in use: {holder}. {hint}")
