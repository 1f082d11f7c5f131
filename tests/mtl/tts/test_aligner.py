"""Learned phone times: the sum and the best path by hand, then on speech whose times are known, then as a stage."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

pytest.importorskip("parselmouth", reason="the extra motet[speech] is not installed")
pytest.importorskip("espeakng_loader", reason="the extra motet[espeak] is not installed")

from mtl.tts.aligner import Aligner, Fitting, fit_aligner, forward_sum, likeliest
from pipelines.data.alignment import align, ends_of
from pipelines.data.features import extract
from pipelines.data.ingest import ingest, utterances
from pipelines.data.prosody import durations_of, measure
from pipelines.recipe import Corpus, Features, Quality
from pipelines.storage.garbage import collect_garbage
from pipelines.storage.store import Manifest, Store

SPEC = Features()


def paths(frames: int, phones: int) -> list[np.ndarray]:
    """Every way to give each of the phones one frame or more, in order: phone of each frame."""
    cuts = combinations(range(1, frames), phones - 1)
    return [np.searchsorted(np.array(cut), np.arange(frames), side="right") for cut in cuts]


@pytest.mark.parametrize(("frames", "phones"), [(1, 1), (4, 1), (5, 3), (6, 6), (8, 4)])
def test_the_sum_and_the_best_of_all_alignments(frames: int, phones: int) -> None:
    scores = torch.randn(frames, phones, generator=torch.Generator().manual_seed(frames), dtype=torch.float64)
    totals = np.array([scores.numpy()[np.arange(frames), path].sum() for path in paths(frames, phones)])
    padded = torch.full((2, frames + 2, phones + 1), 5.0, dtype=torch.float64)
    padded[0, :frames, :phones] = scores
    padded[1] = padded[0]
    found = forward_sum(padded, torch.tensor([phones, phones]), torch.tensor([frames, frames]))
    torch.testing.assert_close(found, torch.full((2,), float(np.logaddexp.reduce(totals)), dtype=torch.float64))
    best = paths(frames, phones)[int(totals.argmax())]
    assert likeliest(scores.numpy()).tolist() == np.bincount(best, minlength=phones).tolist()


def test_an_aligner_hears_what_it_was_trained_on() -> None:
    rng = np.random.default_rng(0)
    sounds = rng.normal(size=(5, 8)) * 3
    heard, true = [], []
    for _ in range(40):
        phones, durations = rng.permutation(5)[:4], rng.integers(2, 12, size=4)
        mel = np.repeat(sounds[phones], durations, axis=0)
        heard.append((phones + 2, (mel + 0.3 * rng.normal(size=mel.shape)).astype(np.float32)))
        true.append(durations)
    aligner = fit_aligner(heard, 5, 8, Fitting(steps=120, frames=600, width=32))
    off = [np.abs(aligner.durations(*one) - durations).sum() for one, durations in zip(heard, true, strict=True)]
    assert np.mean(off) < 0.5  # frames an utterance
    with pytest.raises(ValueError, match="3 frames for 4 phones"):
        aligner.durations(heard[0][0], heard[0][1][:3])
    with pytest.raises(ValueError, match="none of 1 recordings has as many frames as phones"):
        fit_aligner([(np.arange(9), np.zeros((3, 8), np.float32))], 9, 8)


def test_padding_changes_no_score() -> None:
    torch.manual_seed(0)
    aligner = Aligner(6, 8, 16).eval()
    phones, mels = torch.tensor([[2, 3, 4], [5, 6, 0]]), torch.randn(2, 9, 8)
    together = aligner(phones, torch.tensor([3, 2]), mels, torch.tensor([9, 5]))
    alone = aligner(phones[1:, :2], torch.tensor([2]), mels[1:, :5], torch.tensor([5]))
    torch.testing.assert_close(together[1:, :5, :2], alone)


def test_ends_give_back_the_frames_they_came_from() -> None:
    durations = np.array([3, 1, 7, 2])
    assert durations_of(ends_of(durations, SPEC), 13, SPEC).tolist() == durations.tolist()


# --- the stage ---


def corpus(count: int) -> Corpus:
    options = {"utterances": count, "valid_utterances": 2, "test_utterances": 2, "text_only_sentences": 0,
               "speakers": 2, "accents": ["gmw/en-us"], "known_speakers": True}  # fmt: skip
    return Corpus(name="c", kind="espeak", options=options, phonemes="gmw/en-us")


def without_ends(store: Store, made: Manifest) -> Manifest:
    """The same rows as of a corpus that knows its phones but not their times."""
    rows = utterances(store, made)
    column = rows.schema.get_field_index("phone_ends")
    rows = rows.set_column(column, rows.schema.field(column), pa.nulls(len(rows), rows.schema.field(column).type))
    key = f"{made.dataset}/bare-{made.address}.parquet"
    store.write_table(key, rows)
    return store.commit(made.dataset, f"bare-{made.address}", (key,))


def stage(store: Store, count: int, steps: int = 200, **settings: Any) -> tuple[Manifest, Manifest, Manifest]:
    """Utterances with their true times, without them, and the alignment."""
    true = ingest(corpus(count), Quality(), store)
    bare = without_ends(store, true)
    features = extract([bare], SPEC, store, parallel="local")
    (aligned,) = align([bare], features, SPEC, store, fitting=Fitting(steps=steps, frames=1000), **settings)
    return true, bare, aligned


def test_times_are_learned_once_and_kept(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    seen: list[tuple[int, int]] = []
    true, bare, first = stage(store, 40, progress=lambda done, total, label: seen.append((done, total)))
    assert (first.meta["rows"], first.meta["aligned"], first.meta["short"]) == (44, 44, 0)
    assert seen[-1] == (200, 200)
    known = {row["id"]: row for row in utterances(store, true).to_pylist()}
    learned, even = [], []
    for row in store.read_table(first.files[0]).to_pylist():
        ends = np.array(known[row["id"]]["phone_ends"])
        learned.append(np.abs(np.array(row["ends"]) - ends)[:-1])
        even.append(np.abs(np.linspace(0, ends[-1], len(ends) + 1)[1:] - ends)[:-1])
    assert np.median(np.concatenate(learned)) < 0.75 * np.median(np.concatenate(even))

    _, _, again = stage(store, 40)
    assert again == first
    _, _, more = stage(store, 42)
    assert (more.meta["rows"], more.meta["aligned"]) == (46, 2)
    if more.meta["aligner"] == first.meta["aligner"]:  # no new phone came with the two
        before = {row["id"]: row for row in store.read_table(first.files[0]).to_pylist()}
        after = {row["id"]: row for row in store.read_table(more.files[0]).to_pylist()}
        assert all(after[name] == row for name, row in before.items())

    (prosody,) = measure([bare], SPEC, store, parallel="local", aligned=[first])
    assert prosody.meta["rows"] == 44
    (none,) = measure([bare], SPEC, store, parallel="local")
    assert none.meta["rows"] == 0


def test_a_corpus_that_knows_its_times_needs_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    true = ingest(corpus(2), Quality(), store)
    (aligned,) = align([true], extract([true], SPEC, store, parallel="local"), SPEC, store)
    assert (aligned.files, aligned.meta["rows"], aligned.meta["aligner"]) == ((), 0, None)


def test_an_aligner_is_not_garbage_while_an_alignment_needs_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    _, _, aligned = stage(store, 4, steps=2)
    assert aligned.meta["aligner"] in aligned.files
    assert not set(aligned.files) & {entry.key for entry in collect_garbage(store, older_than_hours=0)}
