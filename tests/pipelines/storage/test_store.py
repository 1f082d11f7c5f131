"""The store, on a folder and on a real S3 protocol server: atomic, conditional, content-addressed."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.storage.garbage import collect_garbage
from pipelines.storage.roots import FolderRoot, S3Root, cache_folder
from pipelines.storage.store import Manifest, Store, StoreError, fingerprint
from pipelines.utterances.schema import utterance_schema
from tests.support.buckets import endpoint, new_bucket

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\\0", exclude_categories=("Cs",)), min_size=1, max_size=20
)
KEYS = st.lists(NAMES.filter(lambda name: name not in (".", "..", ".tmp")), min_size=1, max_size=4).map("/".join)


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "root") if request.param == "folder" else Store(f"{new_bucket()}/some/prefix")


def test_bytes_come_back_and_are_listed_by_prefix(root: Store) -> None:
    root.put_bytes("a/one", b"1")
    root.put_bytes("a/two", b"22")
    root.put_bytes("ab", b"333")
    assert root.read_bytes("a/two") == b"22"
    assert [(entry.key, entry.size) for entry in root.list("a/")] == [("a/one", 1), ("a/two", 2)]
    assert [entry.key for entry in root.list("a")] == ["a/one", "a/two", "ab"]
    assert abs(datetime.now(UTC) - root.list("ab")[0].modified) < timedelta(minutes=5)
    root.put_bytes("ab", b"4")
    assert root.read_bytes("ab") == b"4"
    root.delete("a/one")
    root.delete("a/one")
    assert not root.exists("a/one")
    assert root.exists("a/two")
    assert root.list("nothing/here") == []


def test_files_and_tables_come_back(root: Store, tmp_path: Path) -> None:
    local = tmp_path / "local.bin"
    local.write_bytes(b"content")
    root.put_file(local, "files/x=1/copy.bin")
    assert root.fetch("files/x=1/copy.bin").read_bytes() == b"content"
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    root.write_table("tables/x=1/t.parquet", table, compression="zstd")
    assert root.read_table("tables/x=1/t.parquet").equals(table)
    assert root.read_table("tables/x=1/t.parquet", columns=["b"]).column_names == ["b"]
    with pytest.raises(FileNotFoundError):
        root.read_bytes("absent")
    with pytest.raises(FileNotFoundError):
        root.fetch("absent")


def test_a_version_is_committed_once_an_address_and_old_ones_stay_readable(root: Store) -> None:
    for key in "xyz":
        root.put_bytes(key, key.encode())
    assert root.latest("utterances/a") is None
    first = root.commit("utterances/a", "aaaa", ("x", "y"), {"source": "s"}, {"rows": 3})
    again = root.commit("utterances/a", "aaaa", ("other",))
    assert again == first
    second = root.commit("utterances/a", "bbbb", ("z",))
    back = root.commit("utterances/a", "aaaa", ("x", "y"))
    root.commit("utterances/a/below", "cccc")
    assert [version.version for version in root.versions("utterances/a")] == [1, 2, 3]
    assert root.latest("utterances/a") == back
    assert root.find("utterances/a", "bbbb") == second
    assert root.find("utterances/a", "aaaa") == back
    assert root.find("utterances/a", "none") is None
    assert root.datasets() == ["utterances/a", "utterances/a/below"]
    assert first.files == ("x", "y")
    assert (first.parents, first.meta) == ({"source": "s"}, {"rows": 3})


def test_racing_writers_each_get_a_version_of_their_own(root: Store) -> None:
    """Each thread has its own Store, as each process would."""
    for number in range(16):
        root.put_bytes(f"file{number}", b"")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: Store(root.root).commit("nights/d", f"address{n}", (f"file{n}",)), range(16)))
    assert sorted(manifest.version for manifest in made) == list(range(1, 17))
    assert root.versions("nights/d") == sorted(made, key=lambda manifest: manifest.version)


def test_a_store_pickles_and_is_found_again_from_its_root(root: Store) -> None:
    root.put_bytes("k", b"v")
    assert pickle.loads(pickle.dumps(root)).read_bytes("k") == b"v"
    assert Store(root.root).root == root.root


def test_probe_accepts_what_is_safe_and_leaves_nothing(root: Store) -> None:
    root.probe()
    assert root.list() == []


@pytest.mark.parametrize("kind", [FolderRoot, S3Root])
def test_probe_refuses_a_root_that_ignores_the_condition(
    kind: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwrite(self: Any, key: str, data: bytes) -> bool:
        self.write(key, data)
        return True

    store = Store(tmp_path) if kind is FolderRoot else Store(new_bucket())
    monkeypatch.setattr(kind, "create", overwrite)
    with pytest.raises(StoreError, match="ignores 'create only if absent'"):
        store.probe()


def test_probe_tells_of_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "file").probe()
    endpoint()
    with pytest.raises(StoreError, match="cannot be used"):
        Store("s3://no-such-bucket-here").probe()


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../../b", ".", "a\\b", "a\0b", ".tmp/x"])
def test_keys_that_could_leave_the_root_are_refused(store: Store, key: str) -> None:
    for act in (store.read_bytes, store.exists, store.delete, store.fetch, lambda key: store.put_bytes(key, b"")):
        with pytest.raises(StoreError, match=r"key|half-written"):
            act(key)


@pytest.mark.parametrize("location", ["s3://", "gs://bucket", "http://host/x"])
def test_roots_that_are_none_are_refused(location: str) -> None:
    with pytest.raises(StoreError):
        Store(location)


def test_a_killed_writer_leaves_no_half_object(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_bytes("k", b"old")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    for act in (lambda: store.put_bytes("k", b"new"), lambda: store.commit("nights/d", "a")):
        with pytest.raises(KeyboardInterrupt):
            act()
    monkeypatch.undo()
    assert store.read_bytes("k") == b"old"
    assert store.latest("nights/d") is None
    assert [entry.key for entry in store.list()] == ["k"]


def test_fetched_copies_of_s3_objects_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTET_CACHE", str(tmp_path / "cache"))
    store = Store(f"{new_bucket()}/p")
    store.put_bytes("audio/x", b"bytes")
    first = store.fetch("audio/x")
    assert first.is_relative_to(tmp_path / "cache")
    store.delete("audio/x")
    assert store.fetch("audio/x").read_bytes() == b"bytes"


def test_the_cache_in_a_shared_folder_must_be_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOTET_CACHE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = cache_folder()
    assert mine.stat().st_mode & 0o077 == 0
    mine.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    mine.symlink_to(elsewhere)
    with pytest.raises(StoreError, match="MOTET_CACHE"):
        cache_folder()


def _row(audio: str) -> dict[str, Any]:
    return {"id": audio, "corpus": "c", "split": "train", "audio": audio}


def test_garbage_is_what_no_manifest_reaches(root: Store) -> None:
    table = pa.Table.from_pylist([_row("store:audio/aa/kept.flac"), _row("/elsewhere.flac")], schema=utterance_schema())
    root.write_table("utterances/c/1.parquet", table)
    root.commit("utterances/c", "1", ("utterances/c/1.parquet",))
    root.commit("utterances/c", "2")  # the old version still reaches its files
    for key in (
        "audio/aa/kept.flac",
        "audio/aa/lost.flac",
        "features/f/c/lost.parquet",
        "models/m/weights",
        "mlflow.db",
    ):
        root.put_bytes(key, b"x")
    lost = ["audio/aa/lost.flac", "features/f/c/lost.parquet"]
    assert collect_garbage(root) == []  # all of it is young
    assert [entry.key for entry in collect_garbage(root, older_than_hours=-1)] == lost
    assert root.exists(lost[0])  # a dry run
    assert [entry.key for entry in collect_garbage(root, dry_run=False, older_than_hours=-1)] == lost
    left = {entry.key for entry in root.list()}
    assert not left & set(lost)
    assert {"audio/aa/kept.flac", "models/m/weights", "mlflow.db", "utterances/c/1.parquet"} <= left


def test_garbage_takes_what_killed_writers_left(store: Store) -> None:
    store.put_bytes("k", b"")
    old, young = (Path(store.root) / ".tmp" / name for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * 86400
    os.utime(old, (long_ago, long_ago))
    collect_garbage(store)
    assert old.exists()
    collect_garbage(store, dry_run=False)
    assert (old.exists(), young.exists()) == (False, True)


def test_fingerprints_are_of_the_content() -> None:
    assert fingerprint({"a": 1, "b": [2.5, None]}) == fingerprint({"b": [2.5, None], "a": 1})
    assert fingerprint("a", "b") != fingerprint("ab")
    # Worked outside: printf '["a",1]' | sha256sum
    assert fingerprint("a", 1) == "135f17a475a61afd"


def test_a_manifest_survives_json() -> None:
    manifest = Manifest("d", 3, "a", "2026-01-01T00:00:00+00:00", ("x",), {"p": "q"}, {"n": 1})
    assert Manifest.from_json(manifest.to_json()) == manifest


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(KEYS, st.binary(max_size=100), max_size=5))
def test_any_keys_round_trip(content: dict[str, bytes]) -> None:
    # One key may not be the folder of another in a folder root.
    content = {key: data for key, data in content.items() if not any(other.startswith(key + "/") for other in content)}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for key, data in content.items():
            store.put_bytes(key, data)
        assert {entry.key: store.read_bytes(entry.key) for entry in store.list()} == content


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_versions_are_the_addresses_without_immediate_repeats(addresses: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for address in addresses:
            assert store.commit("nights/d", address).address == address
        expected = [address for i, address in enumerate(addresses) if i == 0 or address != addresses[i - 1]]
        versions = store.versions("nights/d")
        assert [version.address for version in versions] == expected
        assert [version.version for version in versions] == list(range(1, len(expected) + 1))
