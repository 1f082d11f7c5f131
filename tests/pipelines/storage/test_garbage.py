"""Garbage collection: every kind of dataset, what a killed night left, and a server that fails in the middle."""

from __future__ import annotations

import ast
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.data.features import LOGMEL, PITCH, WAVEFORM
from pipelines.storage import lock
from pipelines.storage.garbage import UNFINISHED_DAYS, collect_garbage, unfinished
from pipelines.storage.kinds import COLLECTED, DERIVED, KINDS
from pipelines.storage.store import Store, StoreError
from pipelines.utterances.schema import utterance_schema
from tests.support.buckets import new_bucket
from tests.support.faulty import faulty_s3

ROOT = Path(__file__).resolve().parents[3]


def two_recordings(store: Store) -> None:
    """An utterance table that names one copy of a recording, and a copy that nothing names."""
    row = {"id": "c/1", "corpus": "c", "split": "train", "audio": "store:audio/aa/live.flac"}
    store.write_table("utterances/c/1.parquet", pa.Table.from_pylist([row], schema=utterance_schema()))
    store.commit("utterances/c", "1", ("utterances/c/1.parquet",))
    for name in ("live", "lost"):
        store.put_bytes(f"audio/aa/{name}.flac", b"fLaC")


def keys(store: Store) -> set[str]:
    """Without the locks."""
    return {entry.key for entry in store.list() if not entry.key.startswith(("locks/", ".")) and entry.key}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_collected_or_kept_as_the_list_says(store: Store, kind: str) -> None:
    table = pa.Table.from_pylist([], schema=utterance_schema())
    for name in ("live", "lost"):
        store.write_table(f"{kind}/a/{name}.parquet", table)
    store.commit(f"{kind}/a", "1", (f"{kind}/a/live.parquet",))
    collect_garbage(store, dry_run=False, older_than_hours=-1)
    assert store.exists(f"{kind}/a/live.parquet")
    assert store.exists(f"{kind}/a/lost.parquet") is not (kind in DERIVED)


def test_what_is_made_of_recordings_is_collected() -> None:
    assert {f"{kind.name}/" for kind in (LOGMEL, WAVEFORM, PITCH)} <= set(COLLECTED)


@pytest.mark.parametrize("dataset", ["spectrograms/a", "utterances", "", "features2/x/y"])
def test_a_kind_that_the_list_does_not_know_is_refused(store: Store, dataset: str) -> None:
    with pytest.raises(StoreError, match=r"Add a new kind to KINDS in pipelines/storage/kinds\.py"):
        store.commit(dataset, "1")
    assert store.datasets() == []


def test_every_module_that_commits_a_dataset_names_a_known_kind() -> None:
    """Names of datasets are written as f"kind/{...}"; each such text in a module that commits begins with a kind."""
    known = set(KINDS)
    committed = set()
    for path in (ROOT / "pipelines").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "commit":
                name = call.args[0] if call.args else None
                if isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant):
                    committed.add(str(name.values[0].value).partition("/")[0])
    assert {"models", "recordings", "utterances", "quarantine"} <= committed <= known


FAULTS = (
    ("GET", "prefix=p/audio/", 503),
    ("GET", "prefix=p/manifests/", 500),
    ("GET", "prefix=p/manifests/", 403),
    ("GET", "manifests/utterances/c/v00000001.json", 403),
    ("HEAD", "utterances/c/1.parquet", 503),
    ("HEAD", "utterances/c/1.parquet", 403),
    ("HEAD", "utterances/c/1.parquet", 404),
    ("GET", "utterances/c/1.parquet", 500),
    ("GET", "prefix=p/unfinished/", 503),
)


def test_nothing_is_deleted_when_anything_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty_s3(monkeypatch) as faults:
        store = Store(f"{new_bucket()}/p")
        two_recordings(store)
        before = keys(store)
        for method, path, status in FAULTS:
            faults.answer(method, path, status)
            with pytest.raises(StoreError, match="Nothing was deleted"):
                collect_garbage(store, dry_run=False, older_than_hours=-1)
            assert faults.refused.pop().startswith(method)
            faults.clear()
            assert keys(store) == before, (method, path, status)
        assert [entry.key for entry in collect_garbage(store, older_than_hours=-1)] == ["audio/aa/lost.flac"]


def test_a_deletion_that_failed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty_s3(monkeypatch) as faults:
        store = Store(f"{new_bucket()}/p")
        two_recordings(store)
        faults.answer("DELETE", "audio/aa/lost.flac", 503)
        with pytest.raises(OSError):
            collect_garbage(store, dry_run=False, older_than_hours=-1)
        faults.clear()
        assert {"audio/aa/live.flac", "audio/aa/lost.flac"} <= keys(store)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"dataset": "utterances/c"}', b'{"files": [], "new": 1}'])
def test_nothing_is_deleted_when_a_manifest_is_damaged(store: Store, content: bytes) -> None:
    two_recordings(store)
    store.put_bytes("manifests/utterances/c/v00000002.json", content)
    with pytest.raises(StoreError, match=r"a manifest of utterances/c .* cannot be read"):
        collect_garbage(store, dry_run=False, older_than_hours=-1)
    assert store.exists("audio/aa/lost.flac")


@pytest.mark.parametrize("damage", ["absent", "cut off"])
def test_nothing_is_deleted_when_a_table_is_damaged(store: Store, damage: str) -> None:
    two_recordings(store)
    path = Path(store.root) / "utterances/c/1.parquet"
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"utterances/c/1\.parquet .* cannot be read"):
        collect_garbage(store, dry_run=False, older_than_hours=-1)
    assert store.exists("audio/aa/live.flac")


def age(store: Store, key: str, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(Path(store.root) / key, (then, then))


PART = "features/f/calls/part.parquet"


def night(store: Store, ends_well: bool) -> None:
    with lock.one_at_a_time(store.root, "night of calls"):
        store.put_bytes(PART, b"x")
        if not ends_well:
            raise KeyboardInterrupt


def test_what_an_unfinished_night_wrote_is_spared_until_it_is_given_up(store: Store) -> None:
    """A night writes parts and fails; days later they are still there; once it has ended well, the rest is garbage."""
    store.put_bytes("waveforms/w/calls/older.parquet", b"x")
    with pytest.raises(KeyboardInterrupt):
        night(store, ends_well=False)
    (work,) = unfinished(store)
    age(store, "waveforms/w/calls/older.parquet", 6)
    age(store, work.key, 5)
    age(store, PART, 4)
    lines: list[str] = []
    assert [entry.key for entry in collect_garbage(store, False, report=lines.append)] == [
        "waveforms/w/calls/older.parquet"
    ]
    assert len(lines) == 1
    assert lines[0].startswith("night of calls has not completed: files written since")
    with pytest.raises(KeyboardInterrupt):  # fails again: it is as old as before
        night(store, ends_well=False)
    assert unfinished(store)[0].since < datetime.now(UTC) - timedelta(days=4)
    night(store, ends_well=True)
    assert unfinished(store) == []
    age(store, PART, 4)
    assert [entry.key for entry in collect_garbage(store)] == [PART]


def test_a_night_that_nobody_resumes_is_given_up_after_some_days(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt):
        night(store, ends_well=False)
    (work,) = unfinished(store)
    age(store, work.key, UNFINISHED_DAYS + 1)
    age(store, PART, UNFINISHED_DAYS)
    lines: list[str] = []
    assert [entry.key for entry in collect_garbage(store, report=lines.append)] == [PART]
    assert "no longer protected" in lines[0]
    assert [one.key for one in unfinished(store)] == [work.key]  # a dry run
    collect_garbage(store, dry_run=False)
    assert unfinished(store) == []
