"""Damaged, truncated and missing files of a store: refused when they are read, made anew by the next run of a stage."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.support import small_night
from tests.support.buckets import new_bucket

pytest.importorskip("parselmouth", reason="the extra motet[speech] is not installed")
pytest.importorskip("espeakng_loader", reason="the extra motet[espeak] is not installed")

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load

from motet.commands import app
from mtl.tts.aligner import Fitting
from pipelines.data import features
from pipelines.data.alignment import align
from pipelines.data.dataset import open_dataset
from pipelines.data.features import LOGMEL, PITCH, WAVEFORM, extract
from pipelines.data.ingest import ingest, utterances
from pipelines.data.prosody import measure
from pipelines.recipe import Corpus, Features, Quality
from pipelines.sources.segments import FeatureError
from pipelines.storage.checksums import checksum_of
from pipelines.storage.fsck import check, repair
from pipelines.storage.roots import S3Root
from pipelines.storage.store import DamagedPart, Manifest, Store, StoreError, first_table
from pipelines.training.train import TrainError, train

SPEC = Features()
CORPUS = Corpus(
    name="c",
    kind="espeak",
    options={"utterances": 6, "valid_utterances": 2, "test_utterances": 2, "text_only_sentences": 2, "speakers": 2,
             "accents": ["gmw/en-us"]},
    phonemes="gmw/en-us",
)  # fmt: skip


def flip(store: Store, key: str) -> None:
    """One bit in the middle; the size stays."""
    data = bytearray(store.read_bytes(key))
    data[len(data) // 2] ^= 1
    store.put_bytes(key, bytes(data))


def truncate(store: Store, key: str) -> None:
    store.put_bytes(key, store.read_bytes(key)[:-100])


def delete(store: Store, key: str) -> None:
    store.delete(key)


PARTS = ("features", "waveforms", "pitch")  # whose first file is an index
HARMS = {"flip": flip, "truncate": truncate, "delete": delete}


def stages(store: Store) -> dict[str, Manifest]:
    """Every stage that derives data, as a night runs them; `bare` is the corpus without its phones' times."""
    made = ingest(CORPUS, Quality(), store)
    rows = utterances(store, made)
    place = rows.schema.get_field_index("phone_ends")
    field = rows.schema.field(place)
    key = f"utterances/bare/{made.address}.parquet"
    file = {key: store.write_table(key, rows.set_column(place, field, pa.nulls(len(rows), field.type)))}
    bare = store.commit("utterances/bare", made.address, file, checksums=file)
    versions = {"utterances": made, "bare": bare}
    for kind in (LOGMEL, WAVEFORM, PITCH):
        versions[kind.name], versions[f"bare {kind.name}"] = extract([made, bare], SPEC, store, "local", kind=kind)
    fitting = Fitting(steps=2, frames=1000)
    (versions["alignment"],) = align([bare], [versions["bare features"]], SPEC, store, fitting=fitting)
    aligned = [versions["alignment"]]
    versions["prosody"], versions["bare prosody"] = measure([made, bare], SPEC, store, "local", aligned=aligned)
    return versions


def read(store: Store, versions: dict[str, Manifest]) -> list[np.ndarray]:
    """What training and evaluation read."""
    first_table(store, versions["alignment"])
    kinds = [versions[name] for name in ("features", "waveforms", "pitch", "prosody")]
    dataset = open_dataset(store, [versions["utterances"]], kinds)
    spoken = np.flatnonzero(dataset.rows["frames"].to_numpy() >= 0)
    return [*dataset.features(spoken), *dataset.waveforms(spoken), *dataset.pitches(spoken)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], SimpleNamespace]]:
    """A store with every kind of dataset, in a folder or on S3; made once, and each test leaves it as it was."""

    @cache
    def made(kind: str) -> SimpleNamespace:
        store = Store(f"{new_bucket()}/root" if kind == "s3" else tmp_path_factory.mktemp("damage") / "root")
        return SimpleNamespace(store=store, versions=stages(store))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "PART_SECONDS", 4.0)
        yield made


@pytest.fixture(params=["folder", "s3"])
def shared(request: pytest.FixtureRequest, stores: Callable[[str], SimpleNamespace]) -> SimpleNamespace:
    return stores(request.param)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of S3 objects are downloaded by each test anew."""
    monkeypatch.setenv("MOTET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("shared", "kind", "harm"),
    [
        (root, kind, harm)
        for root in ("folder", "s3")
        for kind in ("utterances", "features", "waveforms", "pitch", "alignment", "prosody")
        for harm in (HARMS.values() if root == "folder" else [flip])
    ],
    indirect=["shared"],
)
def test_a_damaged_file_is_refused_and_made_anew(
    shared: SimpleNamespace,
    kind: str,
    harm: Callable[[Store, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, versions = shared.store, shared.versions
    key = versions[kind].files[1 if kind in PARTS else 0]
    original, values = store.read_bytes(key), read(store, versions)
    harm(store, key)
    monkeypatch.setenv("MOTET_CACHE", str(tmp_path / "cache of another machine"))
    with pytest.raises(DamagedPart, match=f"{key} of {versions[kind].dataset} version 1 is damaged: it") as caught:
        read(store, versions)
    assert "again" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert stages(store) == versions  # no version is added, for the same bytes are made
    assert store.read_bytes(key) == original
    for before, after in zip(values, read(store, versions), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("shared", ["folder"], indirect=True)
@pytest.mark.parametrize("harm", [truncate, delete])
@pytest.mark.parametrize("file", ["features 0", "utterances 1"])
def test_other_listed_files_are_made_anew(
    shared: SimpleNamespace, file: str, harm: Callable[[Store, str], None]
) -> None:
    """An index and a quarantine table, without anybody reading them first."""
    store, versions = shared.store, shared.versions
    kind, number = file.split()
    key = versions[kind].files[int(number)]
    original = store.read_bytes(key)
    harm(store, key)
    assert stages(store) == versions
    assert store.read_bytes(key) == original


@pytest.mark.parametrize("shared", ["folder"], indirect=True)
@pytest.mark.parametrize("harm", [truncate, delete])
def test_an_aligner_is_trained_again(shared: SimpleNamespace, harm: Callable[[Store, str], None]) -> None:
    """To the same weights. safetensors orders its header at random, so the bytes differ: that is a new version."""
    store, before = shared.store, shared.versions["alignment"]
    weights = load(store.read_bytes(before.files[1]))
    harm(store, before.files[1])
    shared.versions = stages(store)
    after = shared.versions["alignment"]
    assert (after.address, after.files, after.meta["rows"]) == (before.address, before.files, before.meta["rows"])
    assert after.checksums[after.files[0]] == before.checksums[before.files[0]]
    made = load(store.read_bytes(after.files[1], after))
    assert all(torch.equal(made[name], tensor) for name, tensor in weights.items())
    assert check(store).problems == []  # the older version lists another checksum of the same file


@pytest.mark.parametrize(
    ("shared", "harm"),
    [("folder", flip), ("folder", truncate), ("folder", delete), ("s3", flip)],
    indirect=["shared"],
)
def test_a_damaged_copy_of_a_recording_is_copied_again(
    shared: SimpleNamespace, harm: Callable[[Store, str], None]
) -> None:
    store, versions = shared.store, shared.versions
    rows = utterances(store, versions["utterances"]).to_pylist()
    key = next(row["audio"] for row in rows if row["audio"]).removeprefix("store:")
    original = store.read_bytes(key)
    harm(store, key)
    assert stages(store) == versions  # nothing reads it
    wide = Features(bins=90 + list(HARMS.values()).index(harm))  # that nothing has been extracted with
    with pytest.raises(FeatureError, match=rf"store:{key}.*ingest the corpus again"):
        extract([versions["utterances"]], wide, store, "local")
    assert stages(store) == versions
    assert store.read_bytes(key) == original
    assert store.list("damaged/audio/") == []
    extract([versions["utterances"]], wide, store, "local")


@pytest.mark.parametrize("shared", ["folder"], indirect=True)
def test_a_part_of_other_bytes_makes_a_new_version(shared: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an upgrade of pyarrow; older versions, which list the old checksum, are no damage."""
    store, versions = Store(shared.store.root), shared.versions
    spec = Features(bins=70)
    (first,) = extract([versions["utterances"]], spec, store, "local")
    store.delete(first.files[1])
    monkeypatch.setitem(features.PARQUET, "write_statistics", True)
    (second,) = extract([versions["utterances"]], spec, store, "local")
    assert (second.version, second.address, second.files) == (2, first.address, first.files)
    assert second.checksums[first.files[1]] != first.checksums[first.files[1]]
    assert second.checksums[first.files[2]] == first.checksums[first.files[2]]
    open_dataset(store, [versions["utterances"]], [second]).features([0, 1, 2])
    assert check(store).problems == []


def test_a_version_without_checksums_is_read_and_left_alone(shared: SimpleNamespace, tmp_path: Path) -> None:
    """As versions are that were committed before checksums were recorded."""
    store = shared.store
    for entry in store.list("manifests/"):
        content = json.loads(store.read_bytes(entry.key))
        del content["checksums"]
        store.put_bytes(entry.key, json.dumps(content).encode())
    before = stages(store)
    assert {name: version.version for name, version in before.items()} == {
        name: version.version for name, version in shared.versions.items()
    }
    assert not any(version.checksums for name, version in before.items() if name != "bare")  # written each time
    read(store, before)
    key = before["features"].files[1]
    original = store.read_bytes(key)
    store.put_bytes(key, original[:-100])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTET_CACHE", str(tmp_path / "cache of another machine"))
        with pytest.raises(DamagedPart, match="cannot be read as Parquet"):
            read(store, before)
        before = stages(store)
        read(store, before)
    assert store.read_bytes(key) == original
    assert before["features"].version == shared.versions["features"].version
    recorded = {key for version in before.values() for key in version.checksums}  # of what was written again
    assert key in recorded

    problems = check(store).problems
    assert {problem.state for problem in problems} == {"unknown"}
    assert {problem.file.key for problem in problems} >= {
        file for m in before.values() for file in m.files if file not in recorded
    }
    repair(store, problems)
    assert check(store).problems == []
    assert stages(store) == {name: store.latest(version.dataset) for name, version in before.items()}
    assert all(set(version.checksums) == set(version.files) for version in stages(store).values())


def fsck(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["fsck", "--root", store.root, *arguments])


def test_fsck_finds_all_damage_and_repairs_what_can_be_made_anew(shared: SimpleNamespace) -> None:
    store, versions = shared.store, shared.versions
    for key in ("models/abcd/model.safetensors", "models/abcd/codec.json", "reports/r.html"):
        store.put_bytes(key, key.encode())
    store.commit("models/m", "abcd", ("models/abcd/model.safetensors", "models/abcd/codec.json"))
    store.commit("nights/n", "n", ("reports/r.html",))
    saved = checksum_of(b"state")
    digests = {"state.json": {"bytes": saved.size, "sha256": saved.sha256}}
    store.put_bytes("train/n/checkpoint_1/state.json", b"state")
    store.put_bytes("train/n/checkpoint_1/digests.json", json.dumps(digests).encode())
    clean = fsck(store)
    assert (clean.exit_code, "0 damaged (0.0 MB), 0 missing (0.0 MB)" in clean.output) == (0, True)

    rows = utterances(store, versions["utterances"]).to_pylist()
    copies = sorted({row["audio"].removeprefix("store:") for row in rows if row["audio"]})
    kinds = ("features", "waveforms", "pitch", "prosody", "bare prosody")
    keys = [versions[kind].files[-1] for kind in kinds] + [versions["alignment"].files[0], copies[0]]
    keys.append(versions["utterances"].files[1])
    lost = ["models/abcd/codec.json", "reports/r.html", "train/n/checkpoint_1/state.json"]
    originals = {key: store.read_bytes(key) for key in keys}
    for key in (*keys, *lost):
        flip(store, key)
    gone = [versions["bare features"].files[1], copies[1]]
    originals |= {key: store.read_bytes(key) for key in gone}
    for key in gone:
        store.delete(key)

    result = fsck(store, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    states = {problem["key"]: problem["state"] for problem in found["problems"]}
    assert states == dict.fromkeys((*keys, *lost), "damaged") | dict.fromkeys(gone, "missing")
    assert all(store.exists(key) for key in keys)  # nothing is changed

    mended = fsck(store, "--repair", "--json")
    assert mended.exit_code == 1
    left = [problem for problem in json.loads(mended.stdout)["problems"] if not problem["repaired"]]
    assert sorted(problem["key"] for problem in left) == lost
    assert {p["key"]: p["advice"] for p in left}["reports/r.html"].startswith("restore the file from a backup")
    assert stages(store) == versions
    assert {key: store.read_bytes(key) for key in originals} == originals
    assert sorted(problem.file.key for problem in check(store).problems) == lost
    for key in lost:
        flip(store, key)
    assert fsck(store).exit_code == 0


def test_files_of_older_versions_that_nothing_makes_anew_are_given_up_once(store: Store) -> None:
    for address in "ab":
        file = {f"features/f/c/{address}": store.put_bytes(f"features/f/c/{address}", address.encode())}
        store.commit("features/f/c", address, file, checksums=file)
    flip(store, "features/f/c/a")
    (problem,) = repair(store, check(store).problems)
    assert (problem.repaired, problem.advice.startswith("given up")) == (True, True)
    assert check(store).problems == []


def test_a_manifest_that_cannot_be_read_is_named(store: Store) -> None:
    store.commit("features/f/c", "a")
    store.put_bytes("manifests/features/f/c/v00000001.json", b'{"dataset": ')
    (problem,) = check(store).problems
    assert (problem.file.key, problem.state) == ("manifests/features/f/c/v00000001.json", "damaged")


def test_a_commit_verifies_its_files(shared: SimpleNamespace) -> None:
    store = shared.store
    key = "features/f/c/part"
    with pytest.raises(StoreError, match=rf"1 of its 1 files .*{key}: it is not there"):
        store.commit("features/f/c", "a", (key,))
    written = {key: store.put_bytes(key, b"whole")}
    store.put_bytes(key, b"hal")
    with pytest.raises(StoreError, match=rf"{key}: it has 3 bytes, expected 5"):
        store.commit("features/f/c", "a", written, checksums=written)
    assert store.latest("features/f/c") is None
    store.put_bytes(key, b"whole")
    manifest = store.commit("features/f/c", "a", (key,))
    assert manifest.checksums == written  # computed, where it is not given
    store.delete(key)


def test_a_damaged_copy_in_the_cache_is_downloaded_again(tmp_path: Path) -> None:
    store = Store(f"{new_bucket()}/p")
    assert isinstance(store._root, S3Root)
    key = "features/f/c/part"
    written = {key: store.put_bytes(key, b"0123456789")}
    manifest = store.commit("features/f/c", "a", written, checksums=written)
    copy = store.fetch(key, manifest)
    copy.write_bytes(b"012345678!")
    assert store.fetch(key, manifest).read_bytes() == b"0123456789"


def test_training_ends_at_once_on_a_damaged_part(ray_session: Any, tmp_path: Path) -> None:
    """In a worker of Ray Train, without a retry; then the stage makes the part anew."""
    store = Store(str(tmp_path / "root"))
    tables, made = small_night.data(store)
    key = made[0].files[1]
    original = store.read_bytes(key)
    flip(store, key)
    with pytest.raises(TrainError, match=rf"{key} of {made[0].dataset} version 1 is damaged: it holds"):
        train(small_night.recipe(epochs=1), tables, made, store, "damaged")
    assert store.read_bytes(f"damaged/{key}") != original
    assert extract(tables, small_night.recipe().features, store, "local") == made
    assert store.read_bytes(key) == original
