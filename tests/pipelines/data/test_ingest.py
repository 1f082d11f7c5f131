"""Ingest, run for real: every kind of bad input is told, nothing unchanged is opened again, what fails says why."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipelines.data import recordings
from pipelines.data.ingest import VERSION, IngestError, ingest, quarantine, utterances
from pipelines.data.recordings import digest_of
from pipelines.recipe import Corpus, Quality
from pipelines.sources.open import read_audio
from pipelines.storage.garbage import collect_garbage
from pipelines.storage.roots import s3_filesystem
from pipelines.storage.store import Manifest, Store
from pipelines.utterances.schema import QUARANTINE, REASONS, hashed_values, utterance_schema
from pipelines.utterances.splits import SplitError
from tests.support.buckets import new_bucket

RATE = 16000
LENIENT = Quality(max_quarantined=1.0)


def tone(seconds: float, seed: int = 0, channels: int = 1) -> np.ndarray:
    """(N,) or (N, channels) of noise, int16-representable and different for each seed."""
    shape = (round(seconds * RATE), channels) if channels > 1 else round(seconds * RATE)
    return (np.random.default_rng(seed).integers(-8000, 8000, shape) / 32768).astype(np.float32)


def sound(path: Path, samples: np.ndarray, **settings: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, **settings)
    return path


def corpus_of(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Corpus:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Corpus(name="own", kind="manifest", source=str(folder / "m.jsonl"), **settings)


def good_corpus(folder: Path, count: int = 4, **settings: Any) -> Corpus:
    for number in range(count):
        sound(folder / f"{number}.wav", tone(0.5, number))
    return corpus_of(
        folder, [{"audio": f"{n}.wav", "text": f"word {n}", "speaker": f"s{n}"} for n in range(count)], **settings
    )


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recordings that ingest decodes."""
    names: list[str] = []
    inspect_file = recordings._inspect_file

    def noting(items: Any, **rest: Any) -> Any:
        names.extend(Path(item.uri or item.name).name for item in items)
        return inspect_file(items, **rest)

    monkeypatch.setattr(recordings, "_inspect_file", noting)
    return names


# --- bad input ---------------------------------------------------------------------------------------------


def _nan(folder: Path) -> None:
    samples = tone(0.5)
    samples[100] = np.nan
    sound(folder / "bad.wav", samples, subtype="FLOAT")


def _truncated(folder: Path) -> None:
    data = sound(folder / "whole.flac", tone(2.0)).read_bytes()
    (folder / "bad.wav").write_bytes(data[: len(data) // 2])


BAD_SOUND: dict[str, tuple[Callable[[Path], object], str]] = {
    "not audio": (lambda folder: (folder / "bad.wav").write_bytes(b"no audio at all, only text" * 20), "undecodable"),
    "cut off": (_truncated, "undecodable"),
    "empty file": (lambda folder: (folder / "bad.wav").write_bytes(b""), "empty"),
    "no samples": (lambda folder: sound(folder / "bad.wav", np.zeros(0, np.float32)), "empty"),
    "digital silence": (lambda folder: sound(folder / "bad.wav", np.zeros(RATE, np.float32)), "all_zero"),
    "NaN": (_nan, "not_finite"),
    "too short": (lambda folder: sound(folder / "bad.wav", tone(0.05)), "too_short"),
    "too long": (lambda folder: sound(folder / "bad.wav", tone(3.0)), "too_long"),
    "far too long": (lambda folder: sound(folder / "bad.wav", tone(25.0)), "too_long"),
}


@pytest.mark.parametrize("kind", BAD_SOUND)
def test_a_bad_recording_goes_to_quarantine_with_its_reason(kind: str, tmp_path: Path, store: Store) -> None:
    make, reason = BAD_SOUND[kind]
    sound(tmp_path / "good.wav", tone(0.5))
    make(tmp_path)
    corpus = corpus_of(
        tmp_path, [{"id": "good", "audio": "good.wav", "text": "a"}, {"id": "bad", "audio": "bad.wav", "text": "b"}]
    )
    manifest = ingest(corpus, Quality(max_quarantined=1.0, max_seconds=2.0), store)
    assert utterances(store, manifest)["id"].to_pylist() == ["own/good"]
    (row,) = quarantine(store, manifest).to_pylist()
    assert (row["corpus"], row["id"], row["reason"]) == ("own", "bad", reason)
    assert (row["file"], row["row"]) == (str(tmp_path / "bad.wav"), None)
    assert row["detail"].endswith(f"(named in {tmp_path / 'm.jsonl'} row 2)")
    assert manifest.meta["reasons"] == {reason: 1}


BAD_LABELS: dict[str, tuple[list[dict[str, Any]], dict[str, int]]] = {
    "missing file": ([{"audio": "absent.wav", "text": "b"}], {"missing_file": 1}),
    "missing transcript": ([{"audio": "other.wav", "text": " "}], {"missing_transcript": 1}),
    "only punctuation": ([{"audio": "other.wav", "text": "?!"}], {"missing_transcript": 1}),
    "tokens and slots differ": ([{"text": "to boston", "slots": "O"}], {"length_mismatch": 1}),
    "unknown BIO transition": ([{"text": "to boston", "slots": "O I-city"}], {"bio_transition": 1}),
    "duplicate id": ([{"id": "good", "audio": "other.wav", "text": "b"}], {"duplicate_id": 1}),
    "conflicting text": ([{"id": "x", "audio": "good.wav", "text": "b"}], {"conflicting_labels": 2}),
    "conflicting bytes": ([{"id": "x", "audio": "copy.wav", "text": "b"}], {"conflicting_labels": 2}),
    "conflicting split": ([{"id": "x", "audio": "good.wav", "text": "a", "split": "test"}], {"conflicting_labels": 2}),
    "bad row": ([{"text": "a", "split": "holdout"}], {"bad_row": 1}),
    "lone surrogate": ([{"text": "a\ud800"}], {"bad_row": 1}),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_a_bad_label_goes_to_quarantine_with_its_reason(kind: str, tmp_path: Path, store: Store) -> None:
    rows, reasons = BAD_LABELS[kind]
    sound(tmp_path / "good.wav", tone(0.5))
    sound(tmp_path / "copy.wav", tone(0.5))
    sound(tmp_path / "other.wav", tone(0.5, 1))
    good = [{"id": "good", "audio": "good.wav", "text": "a", "split": "train"}, {"id": "text", "text": "kept"}]
    manifest = ingest(corpus_of(tmp_path, good + rows), LENIENT, store)
    bad = quarantine(store, manifest)
    assert manifest.meta["reasons"] == reasons
    assert bad.schema.equals(QUARANTINE)
    assert {row["file"] for row in bad.to_pylist()} == {str(tmp_path / "m.jsonl")}
    assert bad["row"].to_pylist()[-1] == 3
    assert all(bad["detail"].to_pylist())
    kept = {"own/text"} if "conflicting_labels" in reasons else {"own/good", "own/text"}
    assert set(utterances(store, manifest)["id"].to_pylist()) == kept


def test_every_reason_has_been_seen_above() -> None:
    seen = {reason for _, reason in BAD_SOUND.values()} | {
        reason for _, reasons in BAD_LABELS.values() for reason in reasons
    }
    assert {*seen, "unspeakable"} == set(REASONS)  # that one: test_phones.py


def test_labels_that_complete_each_other_do_not_conflict(tmp_path: Path, store: Store) -> None:
    sound(tmp_path / "a.wav", tone(0.5))
    rows = [
        {"id": "1", "audio": "a.wav", "text": "a", "intent": "x"},
        {"id": "2", "audio": "a.wav", "text": "a", "emotion": "joy"},
    ]
    manifest = ingest(corpus_of(tmp_path, rows), LENIENT, store)
    assert (manifest.meta["rows"], manifest.meta["quarantined"]) == (2, 0)


def test_too_much_quarantine_fails_with_a_summary_and_can_be_read(tmp_path: Path, store: Store) -> None:
    corpus = good_corpus(tmp_path, 3)
    (tmp_path / "0.wav").write_bytes(b"")
    with pytest.raises(IngestError, match=r"own: 1 of 3 utterances \(33\.3%\)(.|\n)*1 empty, e\.g\. .*0\.wav"):
        ingest(corpus, Quality(max_quarantined=0.3), store)
    assert store.latest("utterances/own") is None
    failed = store.latest("quarantine/own")
    assert failed is not None
    assert quarantine(store, failed)["reason"].to_pylist() == ["empty"]
    with pytest.raises(IngestError):  # also when nothing has changed since
        ingest(corpus, Quality(max_quarantined=0.3), store)
    assert ingest(corpus, Quality(max_quarantined=0.4), store).meta["rows"] == 2


def test_a_corpus_without_utterances_fails(tmp_path: Path, store: Store) -> None:
    with pytest.raises(IngestError, match="holds no utterance"):
        ingest(corpus_of(tmp_path, []), LENIENT, store)


def test_a_mistyped_split_is_told_before_anything_is_read(tmp_path: Path, store: Store, opened: list[str]) -> None:
    with pytest.raises(SplitError):
        ingest(good_corpus(tmp_path, options={"splits": {"s0": "testing"}}), LENIENT, store)
    assert opened == []


# --- what the table says -----------------------------------------------------------------------------------


def test_formats_rates_and_channels_are_told_by_their_bytes(tmp_path: Path, store: Store) -> None:
    """The suffix lies about each of them."""
    formats = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III", "AIFF": "PCM_16"}
    for number, (kind, subtype) in enumerate(formats.items()):
        soundfile.write(tmp_path / f"{kind}.bin", tone(1.0, number, channels=2), 44100, format=kind, subtype=subtype)
    manifest = ingest(corpus_of(tmp_path, [{"audio": f"{kind}.bin", "text": kind} for kind in formats]), LENIENT, store)
    rows = utterances(store, manifest).to_pylist()
    assert manifest.meta["quarantined"] == 0
    assert {row["sample_rate"] for row in rows} == {44100}
    for row, kind in zip(rows, formats, strict=True):
        slack = 0.06 if kind == "MP3" else 1e-3  # MP3 comes in frames of 1,152 samples
        assert row["duration"] == pytest.approx(RATE / 44100, abs=slack), kind


def test_segments_are_cut_and_named_apart(tmp_path: Path, store: Store, opened: list[str]) -> None:
    data = sound(tmp_path / "long.flac", tone(3.0)).read_bytes()
    times: list[dict[str, Any]] = [
        {},
        {"offset": 0.5, "duration": 1.0},
        {"offset": 2.0},
        {"duration": 3.04},
        {"duration": 1.25},
    ]
    rows = [{"id": str(n), "audio": "long.flac", "text": str(n % 3 or "all")} | time for n, time in enumerate(times)]
    rows[3]["text"] = "all"  # the same audio as row 0, whatever its manifest rounds it to
    rows.append({"id": "beyond", "audio": "long.flac", "offset": 2.5, "duration": 1.0, "text": "x"})
    rows.append({"id": "cut off", "audio": "long.flac", "duration": 4.0, "text": "x"})
    manifest = ingest(corpus_of(tmp_path, rows), LENIENT, store)
    found = utterances(store, manifest).to_pylist()
    assert [(row["start"], row["duration"]) for row in found] == [(0, 3), (0.5, 1), (2, 1), (0, 3), (0, 1.25)]
    assert [row["digest"] for row in found] == [
        digest_of(data),
        digest_of(data, 0.5, 1.0),
        digest_of(data, 2.0, 1.0),
        digest_of(data),
        digest_of(data, 0.0, 1.25),
    ]
    assert quarantine(store, manifest)["reason"].to_pylist() == ["too_short", "too_short"]
    assert len(opened) == len(rows)


def test_rows_are_normalised_and_labels_kept_as_they_are(tmp_path: Path, store: Store) -> None:
    rows = [
        {"id": "1", "text": "Fly to St. Louis!", "slots": "O O B-city I-city", "intent": "Book#Fly", "speaker": "Ann"}
        | {"translation": " Flieg\u00a0 nach  St. Louis, bitte!"}
    ]
    manifest = ingest(corpus_of(tmp_path, rows, language="en"), LENIENT, store)
    table = utterances(store, manifest)
    assert table.schema.equals(utterance_schema())
    (row,) = table.to_pylist()
    assert {key: value for key, value in row.items() if value is not None and key != "split"} == {
        "id": "own/1",
        "corpus": "own",
        "text": "fly to st louis",
        "tokens": ["fly", "to", "st", "louis"],
        "slots": ["O", "O", "B-city", "I-city"],
        "intent": "Book#Fly",
        "speaker": "Ann",
        "language": "en",
        "translation": "Flieg nach St. Louis, bitte!",
    }


def test_the_same_source_gives_the_rows_it_always_gave(tmp_path: Path, store: Store) -> None:
    """Golden: when this digest changes, raise ingest.VERSION with it, or old nights are taken for the new."""
    manifest = ingest(good_corpus(tmp_path), LENIENT, store)
    rows = utterances(store, manifest).drop_columns("audio").to_pylist()
    found = hashlib.sha256(json.dumps([hashed_values(row) for row in rows], sort_keys=True).encode()).hexdigest()[:16]
    assert (VERSION, found) == (1, "117d3fde4f4c306b")


# --- the next night ----------------------------------------------------------------------------------------


def test_an_unchanged_source_opens_nothing_and_gives_the_same_version(
    tmp_path: Path, store: Store, opened: list[str]
) -> None:
    corpus = good_corpus(tmp_path)
    first = ingest(corpus, LENIENT, store)
    assert len(opened) == 4
    before = {entry.key for entry in store.list()}
    assert ingest(corpus, LENIENT, store) == first
    assert len(opened) == 4
    assert {entry.key for entry in store.list()} == before


def test_new_and_changed_recordings_alone_are_opened(tmp_path: Path, store: Store, opened: list[str]) -> None:
    first = ingest(good_corpus(tmp_path, 4), LENIENT, store)
    opened.clear()
    stamps = {n: os.stat(tmp_path / f"{n}.wav") for n in range(4)}
    corpus = good_corpus(tmp_path, 6)
    for number, stamp in stamps.items():  # written again with the same bytes and times, but for one
        if number != 2:
            os.utime(tmp_path / f"{number}.wav", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    second = ingest(corpus, LENIENT, store)
    assert sorted(opened) == ["2.wav", "4.wav", "5.wav"]
    assert (second.version, second.meta["rows"]) == (2, 6)
    old, new = utterances(store, first).to_pylist(), utterances(store, second).to_pylist()
    assert [row for row in new if row in old] == old  # no old row moved
    assert utterances(store, first).num_rows == 4


def test_a_source_that_was_only_touched_makes_no_new_version(tmp_path: Path, store: Store, opened: list[str]) -> None:
    corpus = good_corpus(tmp_path)
    first = ingest(corpus, LENIENT, store)
    for path in tmp_path.glob("*.wav"):
        os.utime(path, (1, 1))
    assert ingest(corpus, LENIENT, store) == first
    assert len(opened) == 8


def test_a_source_that_went_back_finds_its_old_rows(tmp_path: Path, store: Store) -> None:
    corpus = good_corpus(tmp_path, 3)
    first = ingest(corpus, LENIENT, store)
    rows = (tmp_path / "m.jsonl").read_text()
    (tmp_path / "m.jsonl").write_text(rows.splitlines()[0] + "\n")
    assert ingest(corpus, LENIENT, store).meta["rows"] == 1
    (tmp_path / "m.jsonl").write_text(rows)
    third = ingest(corpus, LENIENT, store)
    assert (third.version, third.address, third.files) == (3, first.address, first.files)


def test_another_limit_judges_recordings_anew(tmp_path: Path, store: Store) -> None:
    corpus = good_corpus(tmp_path)
    assert ingest(corpus, LENIENT, store).meta["quarantined"] == 0
    strict = Quality(max_quarantined=1.0, min_seconds=0.6)
    with pytest.raises(IngestError, match="4 too_short"):
        ingest(corpus, strict, store)


def test_a_missing_file_is_looked_for_again(tmp_path: Path, store: Store) -> None:
    corpus = good_corpus(tmp_path, 3)
    away = (tmp_path / "1.wav").rename(tmp_path / "elsewhere")
    assert ingest(corpus, LENIENT, store).meta["reasons"] == {"missing_file": 1}
    away.rename(tmp_path / "1.wav")
    assert ingest(corpus, LENIENT, store).meta["rows"] == 3


# --- sources -----------------------------------------------------------------------------------------------


def _archived(tmp_path: Path) -> Path:
    good_corpus(tmp_path / "in", 3)
    path = tmp_path / "corpus.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "in", "corpus")
    return path


def _playable(store: Store, manifest: Manifest) -> None:
    for row in utterances(store, manifest).to_pylist():
        data = read_audio(row["audio"], store)
        assert digest_of(data) == row["digest"]
        number = int(row["text"].split()[-1])
        wave, _ = soundfile.read(io.BytesIO(data), dtype="float32")
        np.testing.assert_array_equal(wave, tone(0.5, number))


def test_an_archive_is_copied_into_the_store_and_outlives_its_source(
    tmp_path: Path, store: Store, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTET_CACHE", str(tmp_path / "cache"))
    path = _archived(tmp_path)
    corpus = Corpus(name="own", kind="manifest", source=str(path))
    manifest = ingest(corpus, LENIENT, store)
    assert all(
        uri.startswith("store:audio/") and uri.endswith(".wav")
        for uri in utterances(store, manifest)["audio"].to_pylist()
    )
    assert ingest(corpus, LENIENT, store) == manifest
    assert len(opened) == 3
    path.unlink()
    assert collect_garbage(store, dry_run=False, older_than_hours=-1) == []
    _playable(store, manifest)


def test_a_url_is_ingested_and_checked(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTET_CACHE", str(tmp_path / "cache"))
    _archived(tmp_path)

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *rest: Any) -> None:
            super().__init__(*rest, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/corpus.tar.gz"
        corpus = Corpus(name="own", kind="manifest", source=url)
        manifest = ingest(corpus, LENIENT, store)
        assert ingest(corpus, LENIENT, store) == manifest
        server.shutdown()
    _playable(store, manifest)


def test_an_s3_source_is_referred_to_and_a_s3_store_holds_the_tables(tmp_path: Path, opened: list[str]) -> None:
    good_corpus(tmp_path, 3)
    bucket = new_bucket()
    s3_filesystem().put(f"{tmp_path}/", f"{bucket}/corpus/", recursive=True)
    store = Store(f"{bucket}/root")
    for source in (f"{bucket}/corpus", f"{bucket}/corpus/m.jsonl"):
        corpus = Corpus(name=f"s{len(opened)}", kind="manifest", source=source)
        manifest = ingest(corpus, LENIENT, store)
        assert utterances(store, manifest)["audio"].to_pylist() == [f"{bucket}/corpus/{n}.wav" for n in range(3)]
        _playable(store, manifest)
        count = len(opened)
        assert ingest(corpus, LENIENT, store) == manifest
        assert len(opened) == count
    assert len(opened) == 6


def test_parquet_with_embedded_audio_reopens_only_the_new_shard(
    tmp_path: Path, store: Store, opened: list[str]
) -> None:
    def shard(number: int) -> None:
        rows = []
        for n in (2 * number, 2 * number + 1):
            data = sound(tmp_path / "scratch" / f"{n}.wav", tone(0.5, n)).read_bytes()
            rows.append({"audio": {"bytes": data, "path": f"{n}.wav"}, "text": f"word {n}"})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"shard-{number}.parquet")

    shard(0)
    corpus = Corpus(name="own", kind="manifest", source=str(tmp_path), options={"manifest": "*.parquet"})
    _playable(store, ingest(corpus, LENIENT, store))
    shard(1)
    manifest = ingest(corpus, LENIENT, store)
    _playable(store, manifest)
    assert opened == ["0.wav", "1.wav", "2.wav", "3.wav"]


def test_a_copy_that_was_collected_is_made_again(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTET_CACHE", str(tmp_path / "cache"))
    corpus = Corpus(name="own", kind="manifest", source=str(_archived(tmp_path)))
    manifest = ingest(corpus, LENIENT, store)
    for entry in store.list("audio/"):
        store.delete(entry.key)
    other = corpus.model_copy(update={"language": "en"})
    _playable(store, ingest(other, LENIENT, store))
    assert manifest.version == 1


# --- real corpora ------------------------------------------------------------------------------------------


def test_librispeech_and_atis_and_an4_go_in_whole(data: Path, store: Store) -> None:
    libri = Corpus(
        name="libri",
        kind="librispeech",
        source=str(data / "LibriSpeech"),
        options={
            "splits": {61: "test", 121: "valid", **dict.fromkeys((1089, 1284, 237, 4446, 7176), "train")},
            "license": "CC BY 4.0",
        },
    )
    seen: list[tuple[int, int]] = []
    manifest = ingest(libri, Quality(), store, lambda done, total, _: seen.append((done, total)))
    assert manifest.meta == {
        "rows": 563,
        "hours": 0.9397,
        "splits": {"train": 397, "valid": 62, "test": 104},
        "speakers": 7,
        "quarantined": 0,
        "reasons": {},
        "sources": 563,
        "license": "CC BY 4.0",
    }
    assert seen[-1] == (563, 563)
    by_split: dict[str, set[str]] = {}
    for row in utterances(store, manifest).select(["split", "speaker"]).to_pylist():
        by_split.setdefault(row["split"], set()).add(row["speaker"])
    assert by_split["valid"] == {"121"}
    assert by_split["test"] == {"61"}
    atis = ingest(Corpus(name="atis", kind="atis", source=str(data / "atis")), Quality(), store)
    assert (atis.meta["splits"], atis.meta["quarantined"]) == ({"train": 4478, "valid": 500, "test": 0}, 0)
    an4 = ingest(Corpus(name="an4", kind="manifest", source=str(data / "an4" / "train.jsonl")), Quality(), store)
    assert (an4.meta["rows"], an4.meta["hours"], an4.meta["speakers"]) == (948, 0.7073, 74)
    assert an4.meta["splits"] == {"train": 729, "valid": 104, "test": 115}
