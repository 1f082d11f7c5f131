"""The lock of a root, between real processes: in a folder the system's, on S3 a lease with a heartbeat."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.storage import lock
from pipelines.storage.garbage import collect_garbage, unfinished
from pipelines.storage.lease import Lease, Watch, highest_token, state_of
from pipelines.storage.store import Store
from tests.support.buckets import new_bucket
from tests.support.faulty import faulty_s3

ROOT = Path(__file__).resolve().parents[3]
QUICK = lock.Timing(lease=1.5, beat=0.25)
STEADY = lock.Timing(lease=60, beat=0.25)  # a machine under load must not make a holder look dead
HOLDER = """
import sys
from pipelines.storage import lock
from pipelines.storage.store import Store
kind, root, lease, beat = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
timing = lock.Timing(lease, beat)
held = {"night": lock.one_at_a_time, "writer": lock.writing}[kind](root, "night of other", timing=timing)
with held:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        Store(root).commit("nights/other", "late")
        print("committed", flush=True)
    except lock.Lost as error:
        print("lost", error, flush=True)
"""


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "root") if request.param == "folder" else f"{new_bucket()}/some/prefix"


@contextmanager
def holder(root: str, kind: str = "night", timing: lock.Timing = STEADY) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until it reads a line; then it commits, and says whether it could."""
    command = [sys.executable, "-c", HOLDER, kind, root, str(timing.lease), str(timing.beat)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def ask_to_commit(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_a_second_process_is_told_who_holds_the_root_and_a_killed_one_holds_it_no_longer(root: str) -> None:
    with holder(root) as other:
        with (
            pytest.raises(lock.Busy, match=rf"in use: night of other, process {other.pid} on .* since .*--wait"),
            lock.one_at_a_time(root, "mine", timing=STEADY),
        ):
            pass
        with pytest.raises(lock.Busy, match=f"process {other.pid}"):
            collect_garbage(Store(root), dry_run=False, timing=STEADY)
        other.kill()
        other.wait()
        with lock.one_at_a_time(root, "mine", timing=QUICK):
            Store(root).commit("nights/mine", "a")
    assert [work.what for work in unfinished(Store(root))] == ["night of other"]


def test_the_next_one_waits_for_the_end(root: str) -> None:
    with holder(root) as other:
        waited = threading.Event()

        def wait() -> None:
            with lock.one_at_a_time(root, "mine", wait=True, timing=STEADY):
                assert Store(root).latest("nights/other") is not None
                waited.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert ask_to_commit(other) == "committed\n"
        thread.join(60)
        assert waited.is_set()


def test_a_holder_that_was_paused_beyond_its_lease_cannot_commit() -> None:
    root = f"{new_bucket()}/p"
    with holder(root, timing=QUICK) as other:
        other.send_signal(signal.SIGSTOP)
        with lock.one_at_a_time(root, "mine", timing=QUICK):
            other.send_signal(signal.SIGCONT)
            answer = ask_to_commit(other)
            assert answer.startswith("lost night of other lost the lock of its root")
            assert "mine, process" in answer
            lock.check(root)
            Store(root).commit("nights/mine", "a")
        assert Store(root).latest("nights/other") is None


def test_a_holder_that_was_paused_goes_on_where_nobody_else_came() -> None:
    root = f"{new_bucket()}/p"
    with holder(root, timing=QUICK) as other:
        store, watch = Store(root), Watch(QUICK)
        before = highest_token(store._root, lock.LEASE)
        other.send_signal(signal.SIGSTOP)
        while not watch.expired:
            state = state_of(store._root, lock.LEASE)
            assert state is not None
            watch.update(state)
            watch.pause()
        other.send_signal(signal.SIGCONT)
        assert ask_to_commit(other) == "committed\n"
        other.wait()
        assert highest_token(store._root, lock.LEASE) > before  # a new fencing token


def test_a_night_and_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats fail, the lease runs out, nothing is committed meanwhile; afterwards the night goes on."""
    root = f"{new_bucket()}/p"
    with faulty_s3(monkeypatch) as faults, lock.one_at_a_time(root, "mine", timing=QUICK):
        store, watch = Store(root), Watch(QUICK)
        faults.answer("GET", "", 503)
        faults.answer("PUT", "", 503)
        while not watch.expired:
            watch.pause()
        with pytest.raises(OSError):
            lock.check(root)
        faults.clear()
        store.commit("nights/mine", "a")


def test_of_several_that_find_a_dead_holder_one_takes_the_lease() -> None:
    root = Store(f"{new_bucket()}/p")._root
    timing = lock.Timing(lease=3, beat=0.1)
    Lease(root, "locks/x", "dead", timing)._take(1)
    leases = [Lease(root, "locks/x", f"number {number}", timing) for number in range(6)]
    busy: list[str] = []

    def claim(lease: Lease) -> None:
        try:
            lease.acquire()
        except lock.Busy as error:
            busy.append(str(error))

    threads = [threading.Thread(target=claim, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    holders = [lease for lease in leases if lease.token]
    assert [lease.token for lease in holders] == [2]
    assert len(busy) == 5
    holders[0].release()


def test_an_old_number_that_was_removed_gives_no_lease() -> None:
    """A process that has looked long ago may find the number free again that it looked for."""
    root = Store(f"{new_bucket()}/p")._root
    for number in range(13):
        lease = Lease(root, "locks/x", f"night {number}", QUICK)
        lease.acquire()
        if number < 12:
            lease.release()
    assert not root.exists("locks/x/00000002.json")
    late = Lease(root, "locks/x", "late", QUICK)
    assert not late._take(2)
    lease.check()
    lease.release()
    assert highest_token(root, "locks/x") == 13


def test_an_answer_that_was_lost_is_no_other_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client creates the object, loses the answer, asks again, and hears that the number is taken: by itself."""
    root = Store(f"{new_bucket()}/p")._root
    create = root.create
    monkeypatch.setattr(root, "create", lambda key, data: create(key, data) and False)
    lease = Lease(root, "locks/x", "mine", QUICK)
    lease.acquire()
    assert lease.token == 1
    lease.release()


def test_no_garbage_is_collected_while_a_command_writes(root: str) -> None:
    with holder(root, "writer") as other:
        with lock.one_at_a_time(root, "night of mine", timing=STEADY):  # a night may run beside it
            pass
        with pytest.raises(lock.Busy, match="in use"):
            collect_garbage(Store(root), dry_run=False, timing=STEADY)
        other.kill()
        other.wait()
        assert collect_garbage(Store(root), dry_run=False, timing=QUICK) == []


def test_a_command_that_was_paused_while_garbage_was_collected_cannot_commit() -> None:
    root = f"{new_bucket()}/p"
    with holder(root, "writer", QUICK) as other:
        other.send_signal(signal.SIGSTOP)
        collect_garbage(Store(root), dry_run=False, timing=QUICK)
        other.send_signal(signal.SIGCONT)
        assert ask_to_commit(other).startswith("lost")


def test_a_command_that_writes_waits_for_a_collection_to_end(root: str) -> None:
    order = []

    def write() -> None:
        with lock.writing(root, "ingest of calls", STEADY):
            order.append("written")

    thread = threading.Thread(target=write)
    with lock.alone(root, STEADY):
        thread.start()
        if root.startswith("s3://"):
            while not Store(root).list(lock.WRITERS):  # it has shown itself
                pass
        order.append("collected")
    thread.join(60)
    assert order == ["collected", "written"]
