"""Extraction for real: parts, increments, what a killed run left, and figures that only a new VERSION may change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mtl.audio.features import log_mel
from pipelines import recipe
from pipelines.data import features
from pipelines.data.dataset import open_dataset
from pipelines.data.features import LOGMEL, FeatureError, extract, index
from pipelines.sources import segments
from pipelines.sources.audio import decode
from pipelines.storage.roots import s3_filesystem
from pipelines.storage.store import Manifest, Store
from tests.support.buckets import new_bucket
from tests.support.small_corpus import RATE, commit, record, spoken, written

SPEC = recipe.Features()

# What VERSION stands for: part key of two digests, then three figures of the chirp below. Floating point differs in its
# last bits between processors, so figures are pinned rather than a hash of bytes. Change them only with VERSION.
GOLDEN = {1: ("features/b50fd59215f064c5/a/cdc3581cbb29a15a.parquet", (98, 80), -16.5655, 6.7647, 6.8112)}


def matrix(store: Store, manifest: Manifest, digest: str) -> np.ndarray:
    """The stored features of one recording, found through the index."""
    row = next(row for row in index(store, manifest).to_pylist() if row["digest"] == digest)
    stored = store.read_table(row["part"]).slice(row["position"], 1).to_pylist()[0]
    assert stored["digest"] == digest
    values = np.frombuffer(stored["logmel"], dtype="<f2").reshape(-1, SPEC.bins)
    assert len(values) == stored["frames"] == row["frames"]
    return values


def keys(store: Store, manifest: Manifest) -> dict[str, Any]:
    return {e.key: e.modified for e in store.list("features/") if e.key in manifest.files and "index" not in e.key}


def test_parts_hold_the_features_of_their_recordings(store: Store, tmp_path: Path) -> None:
    rows = spoken(tmp_path, "a", 7)
    rows.append({**rows[0], "id": "a/segment", "start": 0.1, "duration": 0.1, "digest": "segment"})
    rows.append({**rows[0], "id": "a/same recording"})
    (manifest,) = extract([commit(store, "a", rows)], SPEC, store, "local")
    assert manifest.dataset == LOGMEL.dataset(SPEC, "a")
    assert manifest.meta["rows"] == manifest.meta["extracted"] == 8
    for row in rows:
        waveform = decode(row["audio"], RATE, row["start"], row["duration"])
        np.testing.assert_array_equal(matrix(store, manifest, row["digest"]), log_mel(waveform, SPEC, np.float16))
    assert manifest.meta["frames"] == sum(index(store, manifest)["frames"].to_pylist())


def test_a_part_is_laid_out_for_reading(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "ROW_GROUP", 4)
    monkeypatch.setitem(features.PARQUET, "row_group_size", 4)
    (manifest,) = extract([commit(store, "a", spoken(tmp_path, "a", 10))], SPEC, store, "local")
    part = pq.ParquetFile(store.fetch(manifest.files[1]))
    assert part.metadata.num_row_groups == 3
    column = part.metadata.row_group(0).column(2)
    assert (column.path_in_schema, column.compression) == ("logmel", "UNCOMPRESSED")
    assert not any("DICTIONARY" in encoding for encoding in column.encodings)
    assert part.schema_arrow.field("logmel").type == features.LOGMEL.schema.field("logmel").type


def test_text_alone_needs_no_files(store: Store) -> None:
    (manifest,) = extract([commit(store, "t", written("t", 5))], SPEC, store, "local")
    assert manifest.files == ()
    assert len(index(store, manifest)) == 0


def test_ten_new_rows_extract_ten(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PART_SECONDS", 10.0)
    rows = spoken(tmp_path, "a", 30)
    (before,) = extract([commit(store, "a", rows)], SPEC, store, "local")
    parts = keys(store, before)
    assert len(parts) > 1

    (again,) = extract([commit(store, "a", rows)], SPEC, store, "local")
    assert again == before

    reports: list[tuple[int, int, str]] = []
    more = rows + spoken(tmp_path, "a", 10, first=30)
    (after,) = extract([commit(store, "a", more)], SPEC, store, "local", lambda *report: reports.append(report))
    assert after.version == 2
    assert after.meta["extracted"] == 10
    assert reports[-1][:2] == (10, 10)
    assert parts.items() <= keys(store, after).items()  # listed again, and not written again
    assert sorted(index(store, after)["digest"].to_pylist()) == sorted(row["digest"] for row in more)
    np.testing.assert_array_equal(
        matrix(store, after, rows[3]["digest"]), log_mel(decode(rows[3]["audio"], RATE), SPEC, np.float16)
    )


def test_rows_that_left_the_table_leave_the_index_and_empty_parts_go(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "PART_SECONDS", 5.0)
    rows = spoken(tmp_path, "a", 20)
    (before,) = extract([commit(store, "a", rows)], SPEC, store, "local")
    kept = rows[-3:]
    (after,) = extract([commit(store, "a", kept)], SPEC, store, "local")
    assert after.meta["extracted"] == 0
    assert set(after.files[1:]) < set(before.files[1:])
    assert sorted(index(store, after)["digest"].to_pylist()) == sorted(row["digest"] for row in kept)


def test_other_settings_are_another_dataset(store: Store, tmp_path: Path) -> None:
    utterances = commit(store, "a", spoken(tmp_path, "a", 2))
    (wide,) = extract([utterances], SPEC, store, "local")
    (narrow,) = extract([utterances], recipe.Features(bins=40), store, "local")
    assert wide.dataset != narrow.dataset
    assert not set(wide.files) & set(narrow.files)


def test_a_recording_that_vanished_is_named(store: Store, tmp_path: Path) -> None:
    rows = spoken(tmp_path, "a", 3)
    Path(rows[1]["audio"]).unlink()
    with pytest.raises(FeatureError, match=r"0001\.wav: missing_file.*ingest the corpus again"):
        extract([commit(store, "a", rows)], SPEC, store, "local")
    assert store.latest(LOGMEL.dataset(SPEC, "a")) is None


def test_recordings_in_the_store(store: Store, tmp_path: Path) -> None:
    row = {"id": "a/0", "corpus": "a", "split": "train", **record(tmp_path, "one", 0.5, 0)}
    store.put_file(Path(row["audio"]), "audio/a/one.wav")
    Path(row["audio"]).unlink()
    (manifest,) = extract([commit(store, "a", [{**row, "audio": "store:audio/a/one.wav"}])], SPEC, store, "local")
    waveform = decode(store.fetch("audio/a/one.wav"), RATE)
    np.testing.assert_array_equal(matrix(store, manifest, row["digest"]), log_mel(waveform, SPEC, np.float16))


def test_recordings_and_parts_on_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "FETCHES", 2)
    store, bucket = Store(f"{new_bucket()}/root"), new_bucket()
    rows = spoken(tmp_path, "a", 6)
    waveforms = [decode(row["audio"], RATE) for row in rows]
    for number, row in enumerate(rows):
        if number % 2:
            store.put_file(Path(row["audio"]), f"audio/{number}.wav")
        else:
            s3_filesystem().put_file(row["audio"], f"{bucket}/{number}.wav")
        Path(row["audio"]).unlink()
        row["audio"] = f"store:audio/{number}.wav" if number % 2 else f"{bucket}/{number}.wav"
    utterances = [commit(store, "a", rows)]
    made = extract(utterances, SPEC, store, "local")
    dataset = open_dataset(store, utterances, made)
    for found, waveform in zip(dataset.features(range(6)), waveforms, strict=True):
        np.testing.assert_array_equal(found, log_mel(waveform, SPEC, np.float16))

    lost = {**rows[0], "id": "a/lost", "digest": "lost", "audio": "store:audio/lost.wav"}
    with pytest.raises(FeatureError, match=r"store:audio/lost\.wav: .*ingest the corpus again"):
        extract([commit(store, "a", [*rows, lost])], SPEC, store, "local")


def test_ray_and_local_make_the_same_parts(
    store: Store, tmp_path: Path, ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "PART_SECONDS", 4.0)
    rows = spoken(tmp_path, "a", 12)
    here = Store(tmp_path / "here")
    (local,) = extract([commit(here, "a", rows)], SPEC, here, "local")
    (distributed,) = extract([commit(store, "a", rows)], SPEC, store, "ray")
    assert len(local.files) > 3
    assert local.files == distributed.files
    assert local.checksums == distributed.checksums
    assert all(here.read_bytes(key) == store.read_bytes(key) for key in local.files)

    more = rows + spoken(tmp_path, "a", 12, first=12)
    Path(more[-1]["audio"]).write_bytes(b"no longer a recording")
    with pytest.raises(FeatureError, match=r"0023\.wav: undecodable"):
        extract([commit(store, "a", more)], SPEC, store, "ray")


KILLED = """
import sys, time
from pipelines import recipe
from pipelines.data import features
from pipelines.storage.store import Store
features.PART_SECONDS = 4.0
store = Store(sys.argv[1])
def progress(done, total, label):
    print(done, flush=True)
    if done:
        time.sleep(60)  # holds the run after its first part, until it is killed
features.extract([store.latest("utterances/a")], recipe.Features(), store, "local", progress)
"""


def test_a_killed_run_restarts_from_its_finished_parts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "PART_SECONDS", 4.0)
    rows = spoken(tmp_path, "a", 16)
    utterances = commit(store, "a", rows)
    process = subprocess.Popen([sys.executable, "-c", KILLED, store.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    _, reported = (int(process.stdout.readline()) for _ in range(2))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = {entry.key: entry.modified for entry in store.list("features/")}
    finished = sum(len(store.read_table(key)) for key in left)  # the part after the reported one may be written too
    assert 0 < reported <= finished < len(rows)
    assert store.latest(LOGMEL.dataset(SPEC, "a")) is None

    reports: list[int] = []
    (manifest,) = extract([utterances], SPEC, store, "local", lambda done, total, label: reports.append(total))
    assert set(reports) == {len(rows) - finished}
    assert left.items() <= keys(store, manifest).items()
    assert sorted(index(store, manifest)["digest"].to_pylist()) == sorted(row["digest"] for row in rows)
    for row in rows:
        np.testing.assert_array_equal(
            matrix(store, manifest, row["digest"]), log_mel(decode(row["audio"], RATE), SPEC, np.float16)
        )


def test_golden_figures_change_only_with_the_version() -> None:
    part = [features.Piece(name, "", 0.0, 1.0) for name in ("first", "second")]
    seconds = np.arange(RATE) / RATE
    chirp = (0.3 * np.sin(2 * np.pi * (100 * seconds + 3000 * seconds**2))).astype(np.float32)
    made = log_mel(chirp, SPEC, np.float16).astype(np.float64)
    found = (features._part_key(part, LOGMEL.dataset(SPEC, "a")), made.shape, made.mean(), made[10, 23], made[60, 60])
    assert found[:2] == GOLDEN[features.VERSION][:2]
    np.testing.assert_allclose(found[2:], GOLDEN[features.VERSION][2:], atol=0.01)
