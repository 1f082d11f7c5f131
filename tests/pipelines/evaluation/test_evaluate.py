"""Evaluation: figures from an independent path, labels that training never saw, what is kept for gate and report."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import stats

from mtl.answers import Prediction
from mtl.inference.predictor import Predictor
from mtl.inputs.batch import collate
from mtl.inputs.codec import Codec
from mtl.metrics.scoring import METRICS
from mtl.models.joint import build_model
from mtl.text.words import tokens_of
from pipelines import recipe
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.features import extract
from pipelines.evaluation.evaluate import EvaluationError, Expected, Scores, evaluate, evaluated, rows_identity
from pipelines.evaluation.floors import floor_of
from pipelines.evaluation.gates import decide
from pipelines.storage.store import Store
from tests.support import tiny
from tests.support.small_corpus import commit, spoken, written

CONFIG = recipe.Loader(batch_seconds=6.0, batch_tokens=30)
SPEC = recipe.Features(bins=tiny.BINS)
TASKS = ("transcript", "intent", "slots", "speaker")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("evaluate") / "store")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """24 recordings with intents, some with slots, of two speakers; 9 without labels; 30 sentences."""
    folder = tmp_path_factory.mktemp("recordings")
    heard = spoken(folder, "heard", 24)
    for number, row in enumerate(heard):
        row |= {"intent": f"intent{number % 4}", "speaker": f"s{number % 2}"}
        if number % 3 == 0:
            row |= {"tokens": row["text"].split(), "slots": ["O", "B-thing", "I-thing"]}
    return {"heard": heard, "bare": spoken(folder, "bare", 9), "read": written("read", 30)}


@pytest.fixture(scope="module")
def dataset(store: Store, rows: dict[str, list[dict[str, Any]]]) -> Dataset:
    utterances = [commit(store, corpus, content) for corpus, content in rows.items()]
    return open_dataset(store, utterances, extract(utterances, SPEC, store, "local"))


def model(dataset: Dataset, seed: int) -> Predictor:
    """Untrained; it has never heard of intent2 and intent3."""
    known = [row for row in dataset.rows.to_pylist() if row["intent"] not in ("intent2", "intent3")]
    torch.manual_seed(seed)
    network = build_model(tiny.config(tasks=TASKS), Codec.build(known, TASKS))
    return Predictor(network, SPEC)


@pytest.fixture(scope="module")
def predictor(dataset: Dataset) -> Predictor:
    return model(dataset, seed=0)


@pytest.fixture(scope="module")
def scores(predictor: Predictor, dataset: Dataset) -> Scores:
    return evaluate(predictor, dataset, CONFIG)


@pytest.fixture(scope="module")
def alone(predictor: Predictor, dataset: Dataset) -> list[tuple[dict[str, Any], Prediction]]:
    """Each row with its prediction, made one row at a time."""
    found = []
    for index, row in enumerate(dataset.rows.to_pylist()):
        features = dataset.features([index]) if row["audio"] else None
        batch = collate([predictor.codec.encode(row)], features)
        (prediction,) = predictor.predict_batch(batch, None if features else [tokens_of(row)])
        found.append((row, prediction))
    return found


def test_figures_are_those_of_rows_taken_one_by_one(
    scores: Scores, alone: list[tuple[dict[str, Any], Prediction]]
) -> None:
    heard = [(row["text"], prediction.text) for row, prediction in alone if row["audio"]]
    references, hypotheses = [wanted for wanted, _ in heard], [got or "" for _, got in heard]
    assert len(references) == 33
    assert scores.metrics["transcript/wer"] == pytest.approx(100 * jiwer.wer(references, hypotheses))
    assert scores.metrics["transcript/cer"] == pytest.approx(100 * jiwer.cer(references, hypotheses))
    for metric, with_audio in (("intent/accuracy", True), ("intent/text_accuracy", False)):
        right = [
            p.labels["intent"].value == row["intent"]
            for row, p in alone
            if bool(row["audio"]) == with_audio and row["intent"]
        ]
        assert scores.metrics[metric] == pytest.approx(100 * np.mean(right))
    assert {metric: len(rows.ids) for metric, rows in scores.counts.items()} == {
        "transcript/wer": 33,
        "transcript/cer": 33,
        "intent/accuracy": 24,
        "intent/text_accuracy": 30,
        "slots/f1": 8,
        "slots/frame_accuracy": 8,
        "slots/text_f1": 30,
        "slots/text_value_f1": 30,
        "slots/text_frame_accuracy": 30,
        "speaker/accuracy": 18,  # 24 less three enrolled for each of two speakers
    }


def test_a_label_that_training_never_saw_counts_as_wrong(scores: Scores, dataset: Dataset) -> None:
    intents = dict(zip(dataset.rows["id"].to_pylist(), dataset.rows["intent"].to_pylist(), strict=True))
    counted = scores.counts["intent/accuracy"]
    unseen = [row for row, (right, _) in zip(counted.ids, counted.counts, strict=True) if intents[row] == "intent3"]
    assert len(unseen) == 6
    assert all(
        right == 0 for row, (right, _) in zip(counted.ids, counted.counts, strict=True) if intents[row] == "intent3"
    )


def test_corpora_add_up(scores: Scores) -> None:
    assert set(scores.by_corpus) == {"heard", "bare", "read"}
    assert set(scores.by_corpus["bare"]) == {"transcript/wer", "transcript/cer"}
    assert scores.by_corpus["read"]["intent/text_accuracy"] == scores.metrics["intent/text_accuracy"]
    pooled = scores.metrics["transcript/wer"] * 99  # three words in each of 33 rows
    apart = scores.by_corpus["heard"]["transcript/wer"] * 72 + scores.by_corpus["bare"]["transcript/wer"] * 27
    assert pooled == pytest.approx(apart)


def test_scores_come_back_from_the_store(scores: Scores, store: Store) -> None:
    scores.save(store, "evaluations/test.parquet")
    again = Scores.load(store, "evaluations/test.parquet")
    assert again.to_json() == scores.to_json()
    assert again.table.equals(scores.table)
    for metric, rows in scores.counts.items():
        assert list(again.counts[metric].ids) == list(rows.ids)
        np.testing.assert_array_equal(again.counts[metric].counts, rows.counts)


def test_a_model_is_scored_once_on_the_same_rows(predictor: Predictor, dataset: Dataset, store: Store) -> None:
    loaded = []

    def load() -> Predictor:
        loaded.append(1)
        return predictor

    first = evaluated(store, "abc", load, dataset, CONFIG)
    assert evaluated(store, "abc", load, dataset, CONFIG).to_json() == first.to_json()
    assert len(loaded) == 1
    evaluated(store, "abc", load, dataset.select(range(5)), CONFIG)
    evaluated(store, "def", load, dataset, CONFIG)
    assert len(loaded) == 3


def test_test_rows_are_the_same_rows_whatever_is_beside_them(
    store: Store, dataset: Dataset, rows: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    more = [commit(store, "heard", [*rows["heard"], *spoken(tmp_path, "heard", 4, first=100)])]
    grown = open_dataset(store, more, extract(more, SPEC, store, "local"))
    old, new = dataset.select(range(24)), grown.select(range(24))
    assert old.identity != new.identity
    assert rows_identity(old) == rows_identity(new) == rows_identity(dataset.select(list(range(24))[::-1]))
    assert rows_identity(old) != rows_identity(dataset.select(range(23)))
    intents = pa.array(["other", *old.rows["intent"].to_pylist()[1:]])
    changed = old.rows.set_column(old.rows.schema.get_field_index("intent"), "intent", intents)
    assert rows_identity(old) != rows_identity(old.relabelled(changed, "an intent"))


def test_confusion_and_the_worst_rows(scores: Scores, alone: list[tuple[dict[str, Any], Prediction]]) -> None:
    pairs = Counter((row["intent"], p.labels["intent"].value) for row, p in alone if row["intent"])
    assert scores.confusion("intent") == pairs
    assert sum(pairs.values()) == 54
    wrong = scores.wrong(most=1000)
    total = [sum(row["errors"].values()) for row in wrong]
    assert total == sorted(total, reverse=True)
    errors = {row["id"]: row["errors"] for row in wrong}
    for row, prediction in alone:
        if row["audio"]:
            share = jiwer.wer(row["text"], prediction.text or "")
            assert errors.get(row["id"], {}).get("transcript/wer", 0.0) == pytest.approx(share)
    assert wrong[0]["reference"]["text"]
    assert len(scores.wrong(most=3)) == 3


def test_interval_agrees_with_scipy(scores: Scores) -> None:
    counts = scores.counts["intent/text_accuracy"].counts
    metric = METRICS["intent/text_accuracy"]
    theirs = stats.bootstrap(
        (np.arange(len(counts)),),
        lambda chosen: float(metric.value(counts[chosen].sum(axis=0))),
        vectorized=False,
        n_resamples=4000,
        method="percentile",
        rng=1,
    )
    low, high = scores.interval("intent/text_accuracy", resamples=4000)
    step = 100 / len(counts)  # one row more or less
    assert low == pytest.approx(theirs.confidence_interval.low, abs=1.01 * step)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=1.01 * step)


def test_the_same_model_is_not_better_than_itself(scores: Scores, predictor: Predictor, dataset: Dataset) -> None:
    again = evaluate(predictor, dataset, CONFIG)
    decision = decide(again.scored_model("b"), scores.scored_model("a"), recipe.Gates(resamples=200), METRICS)
    assert not decision.promote
    assert {comparison.gain for comparison in decision.comparisons} == {0.0}
    other = evaluate(model(dataset, seed=5), dataset, CONFIG)
    assert other.rows == scores.rows
    assert (
        decide(other.scored_model("c"), scores.scored_model("a"), recipe.Gates(), METRICS).comparisons[0].unpaired == 0
    )


def test_an_untrained_first_model_stays_at_the_floor_of_its_rows(scores: Scores, dataset: Dataset) -> None:
    floor = floor_of(scores.counts, dataset)
    assert floor.counts.keys() == scores.counts.keys()
    decision = decide(scores.scored_model("a"), None, recipe.Gates(resamples=200), METRICS, floor=floor)
    assert not decision.promote
    assert "is not significantly better than the floor of 100.00 % (empty transcript)" in decision.reason
    floors = {row.metric: row.floor for row in decision.comparisons}
    # Four intents in turn, two speakers in turn; no sentence of text has a slot that could be found.
    assert floors["intent/accuracy"] == pytest.approx(25)
    assert floors["speaker/accuracy"] == pytest.approx(50)
    assert floors["slots/f1"] == 0
    assert floors["slots/text_f1"] is None
    assert not any("slots/text_f1" in objection for objection in decision.objections)


def test_cost_says_what_was_run(scores: Scores, predictor: Predictor, dataset: Dataset) -> None:
    assert scores.cost.parameters == sum(parameter.numel() for parameter in predictor.model.parameters())
    assert scores.cost.rows == 63
    durations = [seconds for seconds in dataset.rows["duration"].to_pylist() if seconds]
    assert scores.cost.audio_seconds == pytest.approx(sum(durations))
    assert scores.cost.real_time == pytest.approx(scores.cost.seconds / sum(durations))
    assert scores.cost.device == "cpu" or torch.cuda.is_available()


def test_what_does_not_go_together_is_refused(dataset: Dataset, predictor: Predictor, store: Store, rows: Any) -> None:
    with pytest.raises(EvaluationError, match="no rows"):
        evaluate(predictor, dataset.split("test"), CONFIG)
    manifest = [commit(store, "heard", rows["heard"])]
    coarse = open_dataset(store, manifest, extract(manifest, replace(SPEC, hop_ms=20.0), store, "local"))
    with pytest.raises(EvaluationError, match=r"hop_ms is 20.0, the model expects 10.0"):
        evaluate(predictor, coarse, CONFIG)


def test_distractors_are_other_rows_words_and_the_same_each_time() -> None:
    texts = ["call anna", "play jazz", "play rock now", ""]
    expected = Expected(("Anna",), distractors=2, seed=3)
    lists = expected.rows(texts)
    assert lists == expected.rows(texts)
    assert lists != Expected(("Anna",), distractors=2, seed=4).rows(texts)
    for text, phrases in zip(texts, lists, strict=True):
        drawn = phrases[1:]
        assert phrases[0] == "Anna"
        assert len(set(drawn)) == 2
        assert set(drawn) <= {"call", "play", "jazz", "rock", "now"} - set(text.split())
    assert sorted(Expected(("anna",), distractors=99).rows(texts)[0][1:]) == ["jazz", "now", "play", "rock"]


def test_hot_words_are_heard_and_counted_apart(predictor: Predictor, dataset: Dataset) -> None:
    word = dataset.rows["text"][0].as_py().split()[0]
    expected = Expected((word,), weight=8.0, distractors=2)
    without = evaluate(predictor, dataset, CONFIG, expected=expected, boosted=False)
    boosted = evaluate(predictor, dataset, CONFIG, expected=expected)
    plain = evaluate(predictor, dataset, CONFIG).metrics
    assert {metric: value for metric, value in without.metrics.items() if "biased" not in metric} == plain
    counts = {metric: boosted.counts[f"transcript/{metric}"].counts.sum(axis=0) for metric in COUNTED}
    assert (counts["biased_wer"] + counts["unbiased_wer"]).tolist() == counts["wer"].tolist()
    said = [text for row in boosted.answers() if (text := row[1].get("text"))]
    assert any(word in text.split() for text in said)
    assert not any(word in row[1]["text"].split() for row in without.answers() if row[1].get("text"))


COUNTED = ("wer", "biased_wer", "unbiased_wer")
