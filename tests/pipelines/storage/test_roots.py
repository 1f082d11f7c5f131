"""What a root says when the server or the disk does not answer: an error, and never "absent"."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.data.recordings import inspect
from pipelines.recipe import Quality
from pipelines.sources.open import open_source
from pipelines.sources.source import Recording, SourceError
from pipelines.storage.store import Store, StoreError
from tests.support.buckets import new_bucket
from tests.support.faulty import Faults, faulty_s3


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    with faulty_s3(monkeypatch) as rules:
        yield rules


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_server_that_does_not_answer_is_not_an_absent_key(faults: Faults, status: int) -> None:
    store = Store(f"{new_bucket()}/some/prefix")
    store.put_bytes("audio/there", b"1")
    assert store.exists("audio/there")
    assert not store.exists("audio/absent")
    assert not store.exists("audio")  # a prefix is no object
    faults.answer("HEAD", "audio/there", status)
    with pytest.raises(OSError, match="refuses to say whether it exists" if status == 403 else None):
        store.exists("audio/there")
    store.delete("audio/there")  # needs no look-up
    faults.clear()
    assert not store.exists("audio/there")


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_delete_that_failed_is_told(faults: Faults, status: int) -> None:
    store = Store(f"{new_bucket()}/p")
    store.put_bytes("a", b"1")
    store.delete("absent")
    faults.answer("DELETE", "/p/a", status)
    with pytest.raises(OSError):
        store.delete("a")
    faults.clear()
    assert store.exists("a")


def test_a_bucket_that_is_not_there_is_not_an_empty_store() -> None:
    new_bucket()  # starts the server
    store = Store("s3://no-such-bucket-here/p")
    for act in (store.list, store.datasets, lambda: store.latest("nights/a")):
        with pytest.raises(StoreError, match="does the bucket exist"):
            act()
    with pytest.raises(OSError):
        store.delete("a")


def test_a_listing_names_what_begins_with_the_prefix_alone() -> None:
    store = Store(f"{new_bucket()}/p")
    for key in ("a/b/one", "a/bc/two", "a/b", "ab/three", "b"):
        store.put_bytes(key, b"")
    assert [entry.key for entry in store.list("a/b")] == ["a/b", "a/b/one", "a/bc/two"]
    assert [entry.key for entry in store.list("a/b/")] == ["a/b/one"]
    assert [entry.key for entry in store.list()] == ["a/b", "a/b/one", "a/bc/two", "ab/three", "b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_not_an_empty_one(store: Store) -> None:
    store.put_bytes("manifests/nights/a/v00000001.json", b"")
    folder = Path(store.root) / "manifests" / "nights"
    folder.chmod(0)
    try:
        for act in (store.datasets, lambda: store.exists("manifests/nights/a/v00000001.json")):
            with pytest.raises(PermissionError):
                act()
    finally:
        folder.chmod(0o755)


def test_a_disk_that_fails_is_not_an_empty_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_bytes("manifests/nights/a/v00000001.json", b"")
    scandir = os.scandir

    def failing(path: str) -> object:
        if str(path).endswith("/nights"):
            raise OSError(5, "Input/output error", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(OSError, match="Input/output error"):
        store.datasets()


def test_a_source_on_a_server_that_does_not_answer_is_not_taken_for_a_folder(faults: Faults) -> None:
    bucket = new_bucket()
    Store(bucket).put_bytes("calls.jsonl", b"{}")
    faults.answer("HEAD", "calls.jsonl", 503)
    with pytest.raises(SourceError, match=r"calls\.jsonl"):
        open_source(f"{bucket}/calls.jsonl")


def test_expired_credentials_put_no_recording_into_quarantine(faults: Faults) -> None:
    store = Store(new_bucket())
    store.put_bytes("one.wav", b"RIFF")
    recording = Recording(uri=f"{store.root}/one.wav", name="one.wav")
    faults.answer("HEAD", "one.wav", 403)
    faults.answer("GET", "one.wav", 403)
    with pytest.raises(SourceError, match="check the credentials"):
        inspect([recording], Quality(), store, {})
    faults.clear()
    store.delete("one.wav")
    assert inspect([recording], Quality(), store, {})[0].reason == "missing_file"
