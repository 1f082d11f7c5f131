"""A lock for roots in an object store, which several machines share: numbered lease objects with a heartbeat.

    lease = Lease(root, "locks/root", what="night of assistant")
    lease.acquire()                 # or raises Busy
    lease.check()                   # before a commit; raises Lost
    lease.release()

The server only needs to support "create if absent". A folder of the store holds, for each token N:

    N.json    the owner; created only if the number is free
    N.beat    the owner's heartbeat: a counter that is incremented every `Timing.beat` seconds, or RELEASED

The highest token is the current lease. A waiting process watches its heartbeat, and creates token N
+ 1 when it has not changed for `Timing.lease` seconds on the watcher's own clock; of several
watchers one succeeds. Clocks of different machines are never compared.

The lease is valid for `Timing.lease` seconds from the start of its last heartbeat. No watcher can have taken it in that
time, because each waits as long after reading that heartbeat. An owner that was suspended or disconnected for longer
must create token N + 1 itself before it continues; if another process was first, the lease is lost.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipelines.storage.roots import Root

RELEASED = b"released"
KEPT_TOKENS = 10  # older lease objects are removed by the next owner
# CLOCK_BOOTTIME includes the time during which the machine is suspended.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

logger = logging.getLogger(__name__)


class Busy(RuntimeError):
    """Another process uses the same root."""


class Lost(RuntimeError):
    """Another process has taken this process's lock of a root: this process must not write any more."""


@dataclass(frozen=True)
class Timing:
    """lease: seconds without a heartbeat until the lease expires. beat: seconds between heartbeats."""

    lease: float = 60.0
    beat: float = 10.0


@dataclass(frozen=True)
class State:
    """A stored lease: the highest token, its owner and its heartbeat."""

    token: int
    owner: dict[str, Any]
    beat: bytes

    @property
    def released(self) -> bool:
        return self.beat == RELEASED


def clock() -> float:
    return time.clock_gettime(_CLOCK)


def owner_of(what: str) -> dict[str, Any]:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"what": what, "process": os.getpid(), "host": socket.gethostname(), "since": since}


def described(owner: dict[str, Any]) -> str:
    return f"{owner['what']}, process {owner['process']} on {owner['host']} since {owner['since']}"


def state_of(root: Root, folder: str) -> State | None:
    """The lease in this folder, or None if there never was one."""
    token = highest_token(root, folder)
    if token == 0:
        return None
    owner = json.loads(root.read(_key(folder, token, "json")))
    try:
        beat = root.read(_key(folder, token, "beat"))
    except FileNotFoundError:  # the first heartbeat is written after Timing.beat seconds
        beat = b""
    return State(token, owner, beat)


def highest_token(root: Root, folder: str) -> int:
    return max((_token(entry.key) for entry in root.entries(f"{folder}/") if entry.key.endswith(".json")), default=0)


class Watch:
    """Detects by its heartbeat whether an owner is alive, without comparing clocks."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.changed = False  # since the first update: the owner is alive
        self._last: tuple[int, bytes] | None = None
        self._since = clock()

    def update(self, state: State) -> None:
        current = (state.token, state.beat)
        if current != self._last:
            self.changed = self._last is not None
            self._last, self._since = current, clock()

    @property
    def expired(self) -> bool:
        """Whether the state has not changed for the length of a lease."""
        return clock() - self._since >= self.timing.lease

    def pause(self) -> None:
        time.sleep(self.timing.beat / 4)


class Lease:
    """This process's lease in `folder`; threads may share it."""

    def __init__(self, root: Root, folder: str, what: str, timing: Timing | None = None) -> None:
        self.root, self.folder, self.timing = root, folder, timing or Timing()
        self.owner = {**owner_of(what), "id": uuid.uuid4().hex}
        self.token = 0  # the fencing token: higher than those of all previous owners
        self.lost = ""  # the message of Lost, once the lease is lost
        self._renewed = 0.0
        self._beats = 0
        self._mutex = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, wait: bool = False) -> None:
        """Takes the lease if it is free, released or expired, and starts the heartbeat.

        Raises:
            Busy: its owner is alive, which takes up to one heartbeat to detect. Not with `wait`.
        """
        watch, warned = Watch(self.timing), False
        while True:
            state = state_of(self.root, self.folder)
            if state is not None:
                watch.update(state)
            if state is None or state.released or watch.expired:
                if self._take(1 if state is None else state.token + 1):
                    break
                continue
            if watch.changed and not wait:
                raise Busy(described(state.owner))
            if not warned:
                logger.warning("in use: %s; checking whether it is alive", described(state.owner))
                warned = True
            watch.pause()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat of {self.folder}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises Lost if another process has the lease. Sends a request only if heartbeats failed."""
        with self._mutex:
            # The other half of the lease's time remains for the caller's write.
            if not self.lost and clock() - self._renewed > self.timing.lease / 2:
                self._renew()
            if self.lost:
                raise Lost(self.lost)

    def release(self) -> None:
        """Releases the lease. An unreachable store is not an error: the lease expires."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self.lost:
            return
        try:
            self.root.write(_key(self.folder, self.token, "beat"), RELEASED)
        except Exception as error:
            logger.warning("%s was not released and expires in %g s: %s", self.folder, self.timing.lease, error)

    def fence(self, token: int) -> bool:
        """Takes and releases an expired lease, so that its owner cannot renew it; returns success."""
        if not self._take(token + 1):
            return False
        self.release()
        return True

    def _beat(self) -> None:
        while not self._stopping.wait(self.timing.beat):
            try:
                with self._mutex:
                    self._renew()
            except Exception as error:  # the next heartbeat may succeed; `check` raises when it is too late
                logger.warning("no heartbeat in %s: %s", self.folder, error)
            if self.lost:
                logger.error("%s", self.lost)
                return

    def _renew(self) -> None:
        if self.lost:
            return
        if highest_token(self.root, self.folder) > self.token:
            self._lose()
            return
        started, self._beats = clock(), self._beats + 1
        self.root.write(_key(self.folder, self.token, "beat"), str(self._beats).encode())
        if clock() - self._renewed < self.timing.lease:
            self._renewed = started
        elif not self._take(self.token + 1):  # the lease may have expired for a watcher
            self._lose()

    def _take(self, token: int) -> bool:
        """Tries to create a token; returns whether this lease holds it."""
        started = clock()
        key = _key(self.folder, token, "json")
        taken = self.root.create(key, json.dumps(self.owner).encode())
        if not taken:  # perhaps by this call, if its response was lost and the client retried
            try:
                taken = json.loads(self.root.read(key))["id"] == self.owner["id"]
            except FileNotFoundError:
                taken = False
        if taken and highest_token(self.root, self.folder) > token:  # an old token that had been removed
            self.root.delete(key)
            taken = False
        if taken:
            self.token, self._renewed = token, started
            self._remove_old()
        return taken

    def _lose(self) -> None:
        state = state_of(self.root, self.folder)
        owner = described(state.owner) if state else "nobody"
        self.lost = (
            f"{self.owner['what']} lost the lock of its root: it sent no heartbeat for {self.timing.lease:g} s (was "
            f"this machine suspended, or disconnected from the store?), and {owner} has taken it. Nothing more is "
            "written; start again when that has ended, it resumes from the stored state"
        )

    def _remove_old(self) -> None:
        for entry in self.root.entries(f"{self.folder}/"):
            if _token(entry.key) <= self.token - KEPT_TOKENS:
                self.root.delete(entry.key)


def _key(folder: str, token: int, kind: str) -> str:
    return f"{folder}/{token:08d}.{kind}"


def _token(key: str) -> int:
    return int(key.rpartition("/")[2].partition(".")[0])
