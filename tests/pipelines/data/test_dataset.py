"""Rows joined to their features, and random access to them in mapped memory."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mtl.audio.features import log_mel
from pipelines import recipe
from pipelines.data import features
from pipelines.data.dataset import PHONE_COLUMNS, POSITIONS, SOUND, Dataset, DatasetError, open_dataset
from pipelines.data.features import extract
from pipelines.sources.audio import decode
from pipelines.storage.store import Store
from pipelines.utterances.schema import utterance_schema
from tests.support.small_corpus import RATE, commit, spoken, written

SPEC = recipe.Features()


@pytest.fixture
def mixed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Two corpora of audio in several parts, one of text."""
    monkeypatch.setattr(features, "PART_SECONDS", 4.0)
    rows = {"a": spoken(tmp_path, "a", 12), "b": spoken(tmp_path, "b", 5), "t": written("t", 6)}
    rows["a"][2]["split"] = rows["t"][1]["split"] = "test"
    utterances = [commit(store, corpus, content) for corpus, content in rows.items()]
    return open_dataset(store, utterances, extract(utterances, SPEC, store, "local"))


def rewrite(dataset: Dataset, **layout: object) -> None:
    """Writes the parts again in another layout, as parts of a version that lists no checksums."""
    for key in dataset.parts:
        dataset.store.write_table(key, dataset.store.read_table(key), **{**features.PARQUET, **layout})
    dataset.manifests = {}


def assert_features_are_those_of(dataset: Dataset) -> None:
    audio = np.flatnonzero(dataset.rows["frames"].to_numpy() >= 0)
    shuffled = np.random.default_rng(0).permutation(audio)
    for row, found in zip(shuffled, dataset.features(shuffled), strict=True):
        content = dataset.rows.slice(row, 1).to_pylist()[0]
        np.testing.assert_array_equal(found, log_mel(decode(content["audio"], RATE), SPEC, np.float16))
        assert len(found) == content["frames"]


def test_every_row_finds_its_features(mixed: Dataset) -> None:
    assert mixed.rows.schema == pa.schema([*utterance_schema(), *POSITIONS, *PHONE_COLUMNS, *SOUND])
    assert len(mixed) == 23
    assert len(mixed.parts) > 3
    assert (mixed.bins, mixed.hop_ms) == (80, 10.0)
    assert_features_are_those_of(mixed)


def test_rows_of_text_have_no_features(mixed: Dataset) -> None:
    text = mixed.rows.slice(17).select(["frames", "part", "position"])
    assert text.to_pylist() == [{"frames": -1, "part": -1, "position": -1}] * 6
    with pytest.raises(DatasetError, match="text alone"):
        mixed.features([20])


def test_features_are_views_of_mapped_memory(mixed: Dataset) -> None:
    first, again = mixed.features([3, 3])
    assert not first.flags.writeable
    assert not first.flags.owndata
    assert np.shares_memory(first, again)


def test_splits_and_selections_keep_their_features(mixed: Dataset) -> None:
    test = mixed.split("test")
    assert test.rows["id"].to_pylist() == ["a/0002", "t/0001"]
    assert_features_are_those_of(test)
    chosen = mixed.select([5, 1, 13])
    assert chosen.rows["id"].to_pylist() == ["a/0005", "a/0001", "b/0001"]
    assert_features_are_those_of(chosen)
    assert len({mixed.identity, test.identity, chosen.identity, mixed.split("train").identity}) == 4
    assert len(mixed.split("valid")) == 0


def test_a_pickled_dataset_maps_its_parts_again(mixed: Dataset) -> None:
    mixed.features([0])
    copy = pickle.loads(pickle.dumps(mixed))
    assert copy.identity == mixed.identity
    assert_features_are_those_of(copy)


def test_other_labels_for_the_same_recordings(mixed: Dataset) -> None:
    place = mixed.rows.schema.get_field_index("text")
    silent = mixed.rows.set_column(place, utterance_schema().field("text"), pa.nulls(len(mixed), pa.string()))
    relabelled = mixed.relabelled(silent, "no text")
    assert relabelled.identity != mixed.identity
    assert_features_are_those_of(relabelled)
    with pytest.raises(DatasetError, match="other utterances"):
        mixed.relabelled(mixed.rows.slice(1), "one fewer")


def test_features_of_other_utterances_are_refused(store: Store, tmp_path: Path) -> None:
    rows = spoken(tmp_path, "a", 4)
    old = extract([commit(store, "a", rows[:3])], SPEC, store, "local")
    with pytest.raises(DatasetError, match=r"1 of 4 rows have no features, for instance a/0003"):
        open_dataset(store, [commit(store, "a", rows)], old)
    both = [commit(store, "b", spoken(tmp_path, "b", 2)), commit(store, "c", spoken(tmp_path, "c", 2))]
    mixed = extract(both[:1], SPEC, store, "local") + extract(both[1:], recipe.Features(bins=40), store, "local")
    with pytest.raises(DatasetError, match="different settings"):
        open_dataset(store, both, mixed)


def test_parts_are_mapped_where_they_lie_without_open_files(mixed: Dataset) -> None:
    mixed.features([0])
    path = mixed.store.fetch(mixed.parts[0])
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the system does not list its mappings")
    assert str(path) in maps.read_text()
    assert str(path) not in {os.path.realpath(handle) for handle in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize(
    "layout",
    [{"compression": "zstd"}, {"data_page_size": 4096}, {"use_dictionary": True}, {"write_statistics": True}],
    ids=str,
)
def test_a_part_in_another_layout_reads_the_same(mixed: Dataset, layout: dict[str, object]) -> None:
    rewrite(mixed, **layout)
    assert_features_are_those_of(mixed)


def test_many_row_groups(mixed: Dataset) -> None:
    rewrite(mixed, row_group_size=2)
    assert_features_are_those_of(mixed)
