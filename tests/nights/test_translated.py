"""Translation through the stages: from rows to a vocabulary, to batches, to figures, a gate, a report and a package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF

from mtl.config.decoding import DecoderConfig
from mtl.inference.predictor import Predictor
from mtl.metrics.scoring import METRICS
from mtl.models.joint import build_model
from mtl.text.units import Characters
from pipelines import recipe
from pipelines.cli.results import answer_table
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.features import extract
from pipelines.data.loader import Loader
from pipelines.evaluation.evaluate import Scores, evaluate
from pipelines.evaluation.floors import floor_of
from pipelines.evaluation.gates import decide
from pipelines.packaging.package import describe, requirements, signature
from pipelines.packaging.packaged_model import as_table
from pipelines.report import summary
from pipelines.storage.store import Store
from pipelines.training.prepare import UnlabelledTask, VocabularyError, labelled, model_config, prepare
from tests.support import tiny
from tests.support.small_corpus import commit, spoken, written

GERMAN = {
    "play": "Spiel", "stop": "Halt", "some": "etwas", "jazz": "Jazz", "the": "das", "light": "Licht", "in": "in",
    "kitchen": "Küche",
}  # fmt: skip
CONTENT = {
    "name": "small",
    "corpora": [{"name": name, "kind": "manifest", "source": name} for name in ("heard", "read")],
    "features": {"bins": tiny.BINS},
    "model": {"width": 16, "blocks": 1, "heads": 2, "kernel": 3, "expansion": 2},
    "tasks": {"transcript": {}, "translation": {}},
    "translation": {"units": "characters", "blocks": 1, "heads": 2, "longest": 20, "beam": 3},
    "loader": {"batch_seconds": 6.0, "batch_tokens": 30},
    "gates": {"primary": "translation/chrf"},
}  # fmt: skip


def changed(**changes: Any) -> recipe.Recipe:
    return recipe.parse({**CONTENT, **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("translated") / "store")


@pytest.fixture(scope="module")
def dataset(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Twelve recordings and twelve sentences; every fourth is not translated."""
    rows = {"heard": spoken(tmp_path_factory.mktemp("sound"), "heard", 12), "read": written("read", 12, longest=6)}
    for corpus in rows.values():
        for number, row in enumerate(corpus):
            words = [GERMAN[word] for word in row["text"].split()]
            row["translation"] = None if number % 4 == 3 else " ".join(words) + "!"
    manifests = [commit(store, corpus, content) for corpus, content in rows.items()]
    return open_dataset(store, manifests, extract(manifests, recipe.Features(bins=tiny.BINS), store, "local"))


@pytest.fixture(scope="module")
def predictor(dataset: Dataset) -> Predictor:
    """Untrained, with a search."""
    codec, config, _ = prepare(changed(), dataset)
    torch.manual_seed(3)
    model = build_model(config, codec)
    with torch.no_grad():  # as it begins, it would end every translation at once
        model.task("translation").decoder.norm.weight.normal_()
    return Predictor(model, recipe.Features(bins=tiny.BINS), search=True)


@pytest.fixture(scope="module")
def scores(predictor: Predictor, dataset: Dataset) -> Scores:
    return evaluate(predictor, dataset, changed().loader)


def test_the_vocabulary_is_of_the_training_rows_translations(dataset: Dataset) -> None:
    rows = dataset.rows.to_pylist()
    kept = dataset.select([i for i, row in enumerate(rows) if row["translation"] and "ü" not in row["translation"]])
    codec, config, _ = prepare(changed(), kept)
    assert isinstance(codec.targets, Characters)
    assert set(codec.targets.symbols) == {letter for row in kept.rows.to_pylist() for letter in row["translation"]}
    assert config.decoder == DecoderConfig(blocks=1, heads=2, longest=20, beam=3)
    assert prepare(changed(tasks={"transcript": {}}, gates={}), dataset)[0].targets is None


def test_what_cannot_be_translated_is_refused(dataset: Dataset) -> None:
    silent = changed(tasks={"transcript": {}, "translation": {"corpora": []}})
    with pytest.raises(UnlabelledTask, match="no training row is labelled for the task 'translation'"):
        prepare(silent, labelled(dataset, silent))
    with pytest.raises(VocabularyError, match=r"recipe 'small'.*ask for more pieces, or for units: characters"):
        prepare(changed(translation={**CONTENT["translation"], "units": "sentencepiece", "pieces": 32}), _many(dataset))


def _many(dataset: Dataset) -> Dataset:
    """The rows with more letters in their translations than there may be pieces."""
    rows = dataset.rows
    letters = [chr(ord("A") + n) + chr(ord("à") + n) + chr(ord("α") + n) for n in range(len(rows))]
    place = rows.schema.get_field_index("translation")
    return dataset.relabelled(rows.set_column(place, rows.schema.field(place), [letters]), "letters")


def test_batches_hold_the_units_of_what_is_translated(dataset: Dataset) -> None:
    codec = prepare(changed(), dataset)[0]
    wanted = {row["id"]: row["translation"] for row in dataset.rows.to_pylist()}
    seen = set()
    for step in Loader(dataset, codec, changed().loader, hop_ms=10):
        for batch in (batch for micro_batch in step for batch in micro_batch):
            target = batch.targets["translation"]
            for row, name in enumerate(batch.ids):
                units = target.values[row, : int(target.lengths[row])].tolist()
                assert codec.targets is not None
                assert codec.targets.decode(units) == (wanted[name] or "")
                seen.add(name)
    assert seen == set(wanted)


def test_figures_are_sacrebleu_s_over_the_corpus(scores: Scores, predictor: Predictor) -> None:
    for heard, prefix in ((True, ""), (False, "text_")):
        pairs = [
            (wanted["translation"], got["translation"]["value"])
            for (wanted, got), audio in zip(scores.answers(), scores.table["audio"].to_pylist(), strict=True)
            if (audio is not None) == heard and "translation" in wanted
        ]
        references, hypotheses = [a for a, _ in pairs], [b for _, b in pairs]
        assert len(pairs) == 9
        assert any(hypotheses)
        found = scores.metrics[f"translation/{prefix}chrf"], scores.metrics[f"translation/{prefix}bleu"]
        assert found[0] == pytest.approx(CHRF().corpus_score(hypotheses, [references]).score)
        assert found[1] == pytest.approx(BLEU().corpus_score(hypotheses, [references]).score)
        low, high = scores.interval(f"translation/{prefix}chrf")
        assert low <= found[0] <= high
        assert low < high


def test_the_gate_wants_more_of_it(scores: Scores, dataset: Dataset) -> None:
    """Answers that are right against those of an untrained model: better, the other way round worse."""
    right = json.loads(json.dumps(scores.table.to_pylist()))
    for row in right:
        counts = json.loads(row["counts"])
        for name, values in counts.items():
            if name.endswith("chrf"):
                values[0::3] = values[2::3] = values[1::3]
        row["counts"] = json.dumps(counts)
    better = Scores(scores.rows, scores.cost, scores.table.from_pylist(right, schema=scores.table.schema))
    assert better.metrics["translation/chrf"] == pytest.approx(100)
    gates = changed().gates
    up = decide(better.scored_model("b"), scores.scored_model("a"), gates, METRICS)
    down = decide(scores.scored_model("a"), better.scored_model("b"), gates, METRICS)
    assert (up.promote, down.promote) == (True, False)
    assert next(row for row in down.comparisons if row.metric == "translation/chrf").verdict == "worse"
    floor = floor_of(scores.counts, dataset)  # one translation for every row
    assert 0 < METRICS["translation/chrf"].value(floor.counts["translation/chrf"].counts.sum(axis=0)) < 100
    first = decide(better.scored_model("b"), None, gates, METRICS, floor=floor)
    assert next(row for row in first.comparisons if row.metric == "translation/chrf").verdict == "better"
    assert not decide(floor, None, gates, METRICS, floor=floor).promote


def test_a_short_translation_that_is_right_is_no_fault(scores: Scores) -> None:
    """It has no four words in a row, so BLEU says nothing of it."""
    named = {metric for row in scores.wrong(most=100) for metric in row["errors"]}
    assert {"translation/chrf", "translation/text_chrf"} <= named
    assert not {metric for metric in named if metric.endswith("bleu")}


def test_the_report_shows_what_was_said_and_made_of_it(scores: Scores, store: Store) -> None:
    shown = summary.translations(scores)
    assert len(shown) == summary.TRANSLATIONS
    assert [row.id for row in shown] == [row.id for row in summary.translations(scores)]
    answers = {row["id"]: row for row in scores.table.to_pylist()}
    for row in shown:
        assert row.predicted == json.loads(answers[row.id]["prediction"])["translation"]["value"]
        assert row.source == json.loads(answers[row.id]["reference"])["text"]
        assert row.chrf == pytest.approx(CHRF().sentence_score(row.predicted, [row.expected]).score)
    faults, _ = summary.faults(scores, store)
    assert any("translation" in fault.expected for fault in faults)


def test_a_package_and_the_command_line_say_it(predictor: Predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    described = describe(tmp_path)
    assert described.tasks == ("transcript", "translation")
    assert described.units == "characters"
    content = json.loads((tmp_path / "model.json").read_text())
    content["codec"]["targets"]["kind"] = "sentencepiece"
    (tmp_path / "model.json").write_text(json.dumps(content))
    assert any(name.startswith("sentencepiece==") for name in requirements(describe(tmp_path).units))
    assert signature(described.tasks).outputs.input_names()[-2:] == ["translation", "translation_confidence"]
    sound = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    predictions = predictor.predict([sound, "play jazz"])
    table = as_table(predictions, described.tasks)
    assert table["translation"].tolist() == [p.labels["translation"].value for p in predictions]
    assert all(0 < confidence <= 1 for confidence in table["translation_confidence"])
    printed = answer_table([{"input": "a.wav", "model": "m", **predictions[0].to_json()}])
    assert "translation" in list(printed.columns[0].cells)


def test_settings_reach_the_model_and_bad_ones_are_told() -> None:
    assert model_config(changed()).decoder.beam == 3
    with pytest.raises(recipe.RecipeError, match=r"not a multiple of 2 x translation.heads 3"):
        changed(translation={"heads": 3})
    with pytest.raises(recipe.RecipeError, match=r"translation.peices: unknown key; did you mean 'pieces'"):
        changed(translation={"peices": 300})
    with pytest.raises(recipe.RecipeError, match=r"tasks.translation.wieght: unknown key; did you mean 'weight'"):
        changed(tasks={"translation": {"wieght": 1}})
    other = {**CONTENT["translation"], "longest": 21}
    assert changed(translation=other).address() != changed().address()
    without = {"tasks": {"transcript": {}}, "gates": {}}
    assert changed(**without, translation=other).address() == changed(**without).address()
