"""Domains through the stages: a recipe's section, vocabularies, error rates of each domain, and gates that name one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl.inference.predictor import Predictor
from mtl.metrics.bootstrap import GateError
from mtl.metrics.recognition import word_errors
from mtl.metrics.scoring import METRICS, metric_of
from mtl.models.joint import build_model
from pipelines.adhoc.prediction import channel_rows
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.features import extract
from pipelines.data.loader import evaluation_batches
from pipelines.evaluation.domains import counts_of, figures, gated
from pipelines.evaluation.evaluate import Scores, evaluate
from pipelines.evaluation.gates import RowCounts, ScoredModel, decide
from pipelines.packaging.package import Description, describe, signature
from pipelines.recipe import Gates, Recipe, RecipeError, parse
from pipelines.registry.tracking import _metric_name
from pipelines.storage.store import Store
from pipelines.training.prepare import DomainError, Validation, model_config, prepare
from tests.support import tiny
from tests.support.small_corpus import commit, spoken, written

CORPORA = [{"name": name, "kind": "manifest", "source": f"{name}.jsonl"} for name in ("calls", "desk", "book")]
SMALL = {"width": 16, "blocks": 1, "heads": 2, "kernel": 3, "subsampling": 2}


def made(domains: dict[str, Any], **more: Any) -> Recipe:
    content = {"name": "mine", "corpora": CORPORA, "tasks": {"transcript": {}}, "model": SMALL, "domains": domains}
    return parse({**content, "features": {"bins": tiny.BINS}, **more})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("domains")
    store = Store(folder / "store")
    rows = {"calls": spoken(folder, "calls", 12), "desk": spoken(folder, "desk", 9), "book": written("book", 8)}
    for number, row in enumerate([*rows["calls"], *rows["desk"]]):
        row |= {"split": "valid" if number % 3 == 0 else "train", "domain": ("digits", "reading", None)[number % 3]}
    tables = [commit(store, corpus, content) for corpus, content in rows.items()]
    return open_dataset(store, tables, extract(tables, made({}).features, store, "local"))


@pytest.fixture(scope="module")
def scores(dataset: Dataset) -> Scores:
    recipe = made({"conditioning": True})
    codec, config, _ = prepare(recipe, dataset)
    torch.manual_seed(0)
    return evaluate(Predictor(build_model(config, codec), recipe.features), dataset, recipe.loader)


def test_off_it_changes_no_recipe() -> None:
    plain, shown = made({}), made({"by": "domain"})
    assert plain.address() == shown.address()  # it says how figures are shown, and no more
    assert plain.address() != made({"conditioning": True}).address() != made({"adapters": True}).address()
    assert not model_config(shown).domains.on
    on = model_config(made({"adapters": True, "bottleneck": 7, "dropout": 0.2})).domains
    assert (on.adapters, on.conditioning, on.bottleneck, on.dropout) == (True, False, 7, 0.2)


@pytest.mark.parametrize(
    ("domains", "more", "complaint"),
    [
        ({"conditioning": True}, {"corpora": CORPORA[:1]}, "the recipe has one corpus"),
        ({"by": "domain", "adapters": True}, {"tasks": {"transcript": {}, "domain": {}}}, "would be told the answer"),
        ({"by": "corpora"}, {}, "did you mean 'corpus'"),
        ({"dropout": 1.0}, {}, "domains.dropout"),
        ({"condition": True}, {}, "did you mean 'conditioning'"),
        ({}, {"gates": {"primary": "transcript/wer@calls"}}, "all domains together"),
    ],
)
def test_nonsense_is_refused(domains: dict[str, Any], more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        made(domains, **more)


def test_vocabulary_and_batches_by_either_column(dataset: Dataset) -> None:
    for by, names in (("corpus", ("calls", "desk")), ("domain", ("reading",))):
        recipe = made({"by": by, "conditioning": True})
        if len(names) < 2:  # no training row says digits
            with pytest.raises(DomainError, match="by their domain, but all are 'reading'"):
                prepare(recipe, dataset)
            continue
        codec = prepare(recipe, dataset)[0]
        assert (codec.domains, codec.domain_by) == (names, by)
        rows = dataset.rows.to_pylist()
        for indices, batch in evaluation_batches(dataset, codec, recipe.loader):
            wanted = [
                0 if rows[index]["corpus"] == "book" else names.index(rows[index]["corpus"]) + 1 for index in indices
            ]
            assert batch.domains.tolist() == wanted
    assert prepare(made({}), dataset)[0].domains == ()


def test_validation_tells_each_domain(dataset: Dataset) -> None:
    recipe = made({"conditioning": True})
    codec, config, _ = prepare(recipe, dataset)
    torch.manual_seed(0)
    found = Validation(recipe, dataset)(build_model(config, codec))
    assert {"valid/transcript/wer@calls", "valid/transcript/cer@desk", "valid/transcript/wer"} <= set(found)
    assert not any("@" in name for name in Validation(made({}), dataset)(build_model(config, codec)))
    assert _metric_name("valid/transcript/wer@calls") == "valid/transcript/wer:calls"


def test_figures_are_those_of_the_rows_of_a_domain(scores: Scores, dataset: Dataset) -> None:
    found = figures(scores)
    assert list(found) == ["corpus", "domain"]
    assert [row.metric.partition("@")[2] for row in found["domain"][:2]] == ["digits", "reading"]
    answers = dict(zip(scores.table["id"].to_pylist(), scores.answers(), strict=True))
    for by, some in found.items():
        for row in some:
            if not row.metric.startswith("transcript/wer@"):
                continue
            mine = [one for one in dataset.rows.to_pylist() if one["audio"] and one[by] == row.metric.partition("@")[2]]
            errors = sum(word_errors(one["text"], answers[one["id"]][1]["text"]) for one in mine)
            assert row.value == pytest.approx(100 * errors / sum(len(one["text"].split()) for one in mine))
            assert row.rows == len(mine)
            assert row.low <= row.value <= row.high
            assert row.better == "lower"
    assert counts_of(scores, "corpus")["transcript/wer@desk"].ids == [f"desk/{number:04d}" for number in range(9)]


def test_gates_name_domains(scores: Scores) -> None:
    counts = counts_of(scores, "corpus")
    limits = {"transcript/wer@*": 1.0, "transcript/wer@desk": 3.0, "transcript/wer": 0.2}
    gates, named = gated(Gates(tolerance=limits, minimum={"transcript/cer@calls": 500}), counts)
    assert gates.tolerance == {"transcript/wer@calls": 1.0, "transcript/wer@desk": 3.0, "transcript/wer": 0.2}
    assert named == ["transcript/cer@calls", "transcript/wer@calls", "transcript/wer@desk"]
    with pytest.raises(
        GateError, match="'transcript/wer@car', of which there is no test row; there are transcript/wer@calls"
    ):
        gated(Gates(tolerance={"transcript/wer@car": 1.0}), counts)
    assert gated(Gates(), counts)[1] == []


def test_a_better_mean_does_not_buy_a_worse_domain() -> None:
    """100 rows of 10 words: 8 errors a row in all before, 4 after; but in the small domain 2 became 4."""
    ids = [f"{'desk' if number < 20 else 'calls'}/{number}" for number in range(100)]
    old = [2 if number < 20 else 9 for number in range(100)]

    def contender(name: str, errors: list[int]) -> ScoredModel:
        rows = np.array([[error, 10] for error in errors], dtype=float)
        desk = RowCounts(ids[:20], rows[:20])
        return ScoredModel(name, {"transcript/wer": RowCounts(ids, rows), "transcript/wer@desk": desk}, 1000)

    metrics = {**METRICS, "transcript/wer@desk": metric_of("transcript/wer@desk")}
    gates = Gates(tolerance={"transcript/wer@desk": 1.0})
    decision = decide(contender("new", [4] * 100), contender("old", old), gates, metrics)
    assert not decision.promote
    assert decision.objections == ("transcript/wer@desk is worse by 20.00 points, tolerance 1",)
    assert decide(contender("new", [2] * 20 + [4] * 80), contender("old", old), gates, metrics).promote


def test_a_served_model_may_be_told(tmp_path: Path, dataset: Dataset) -> None:
    recipe = made({"adapters": True})
    codec, config, _ = prepare(recipe, dataset)
    Predictor(build_model(config, codec), recipe.features).save(tmp_path)
    described = describe(tmp_path)
    assert isinstance(described, Description)
    assert described.domains == ("calls", "desk")
    assert "domain" in signature(described.tasks, described.domains).params.to_dict().__str__()
    assert "'domain'" not in str(signature(described.tasks).params.to_dict())
    assert math.isfinite(described.parameters)
    assert channel_rows([]) == []
