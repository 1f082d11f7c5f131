"""Evaluation of any registered model on any corpus: scores with intervals, and judgements of synthesised speech.

result = evaluate_on("motet-root", "assistant", {"name": "an4", "kind": "manifest", "source": "an4.jsonl"}, "test", [])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow.compute as pc

from mtl.inference.predictor import Predictor
from mtl.spec import makes_sound
from pipelines.adhoc.prediction import as_recipe, ingest_one, model_uri
from pipelines.core import progress
from pipelines.core.redaction import redact
from pipelines.core.stage import timed
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.ingest import has_own_splits, utterances
from pipelines.evaluation import domains
from pipelines.evaluation.evaluate import EvaluationError, Expected, Scores, evaluate
from pipelines.evaluation.gates import RowCounts
from pipelines.evaluation.judges import judges_of
from pipelines.evaluation.synthesis import counts, figures, judge_speech, spoken_rows
from pipelines.recipe import Corpus, Features, Judges, Loader, Recipe, RecipeError
from pipelines.registry.registry import Registry
from pipelines.report import summary
from pipelines.report.audio_examples import lines
from pipelines.stages.context import Context, stored_recipe
from pipelines.stages.data import ALIGNMENT, FEATURES, PROSODY, WAVEFORMS
from pipelines.stages.train import RECIPE_TAG
from pipelines.storage.store import Manifest, Store, fingerprint
from pipelines.utterances.schema import SPLITS

COLUMNS = ("metric", "value", "low", "high", "rows")


def evaluate_on(
    root: str,
    model: str,
    corpus: Mapping[str, Any],
    split: str | None,
    settings: Sequence[str],
    expected: Expected | None = None,
    greedy: bool = False,
    domain: str | None = None,
    judges: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Scores of a model on a split of any corpus, in percent, each with its 95 % interval and its number of rows.

    split: train, valid, test or all; by default test, or all for a corpus without splits (see `split_by`).
    expected: hot words; the result then has every score with and without them. greedy: greedy decoding.
    domain: of all recordings; by default each recording's own, if the model knows it. judges: task -> registered model
    that judges synthesised speech; by default those of the model's recipe.

    Raises:
        RegistryError: no such model. EvaluationError: the split has no rows. MissingJudge: no such judge model.
    """
    registry = Registry(root)
    uri = model_uri(registry, model)
    predictor = registry.load(uri).with_options(greedy=greedy, domain=domain)
    code = predictor.codec.speech
    corpus = {**corpus, **({"phonemes": code.phonemes} if code else {})}
    recipe = as_recipe(corpus, settings)
    table = ingest_one(root, corpus, settings)
    split = split or default_split(recipe.corpora[0])
    evaluated_rows = row_counts(table, split)
    dataset = _dataset(registry.store, recipe, one_split(registry.store, table, split), predictor)
    scores = _evaluated(predictor, dataset, recipe.loader, rows_line(evaluated_rows, split), expected)
    without: dict[str, float] = {}
    if expected:
        text = f"{len(scores.table):,} rows, without hot words"
        without = _evaluated(predictor, dataset, recipe.loader, text, expected, boosted=False).metrics
    speech: dict[str, Any] = {}
    if predictor.model.config.speaks or makes_sound(predictor.model.config.tasks):
        speech, speech_counts = speech_on(registry, uri, predictor, dataset, judges)
        scores = scores.with_counts(speech_counts)
    rows = summary.table(scores)
    by_domain = [row for some in domains.figures(scores).values() for row in some]
    return {
        "model": uri,
        "corpus": redact(corpus["source"] or corpus["kind"]),
        "split": split,
        "rows": evaluated_rows,
        "summary": rows_line(evaluated_rows, split),
        "metrics": {
            row.metric: {**_interval(row), **({"without": without[row.metric]} if row.metric in without else {})}
            for row in rows
        },
        "domains": {row.metric: _interval(row) for row in by_domain},
        "speech": speech,
        "cost": asdict(scores.cost),
        "table": _lines(rows, without, bool(expected)) + _lines(by_domain, {}, bool(expected)),
    }


def _dataset(store: Store, recipe: Recipe, table: Manifest, predictor: Predictor) -> Dataset:
    """The rows with all features that the model or its metrics need."""
    spec = Features(**asdict(predictor.features))
    context = Context(store, recipe.model_copy(update={"features": spec}), [table])
    stages = [FEATURES]
    stages += [ALIGNMENT, PROSODY] if predictor.codec.speech else []
    stages += [WAVEFORMS] if makes_sound(predictor.model.config.tasks) else []
    for stage in stages:
        context.execute(stage)
    return open_dataset(store, context.utterances, context.features)


def _evaluated(
    predictor: Predictor,
    dataset: Dataset,
    loader: Loader,
    text: str,
    expected: Expected | None,
    boosted: bool = True,
) -> Scores:
    with timed("evaluate") as line, progress.current().bar("evaluate", "utt") as report:
        line.text = text
        return evaluate(predictor, dataset, loader, report, expected, boosted=boosted)


def _interval(row: domains.Row) -> dict[str, Any]:
    return {"value": row.value, "low": row.low, "high": row.high, "rows": row.rows}


def _lines(rows: Sequence[domains.Row], without: Mapping[str, float], expected: bool) -> list[dict[str, Any]]:
    """Rows of the printed table; expected: with a column for the scores without hot words."""
    lines = [{key: line[key] for key in COLUMNS} for line in summary.plain(list(rows))]
    if not expected:
        return lines
    rounded = {name: f"{value:.2f}" for name, value in without.items()}
    return [{**line, "without": rounded.get(line["metric"], "")} for line in lines]


def default_split(corpus: Corpus) -> str:
    """The test rows of a corpus with splits; all rows of a corpus without."""
    return "test" if corpus.split_by != "release" or has_own_splits(corpus) else "all"


def row_counts(manifest: Manifest, split: str) -> dict[str, Any]:
    """How many of a corpus's usable rows are evaluated, and how many of each other split are not."""
    counts = {name: count for name, count in manifest.meta["splits"].items() if count}
    left_out = {name: count for name, count in counts.items() if split not in (name, "all")}
    total, quarantined = manifest.meta["rows"], manifest.meta.get("quarantined", 0)
    evaluated = total - sum(left_out.values())
    return {"evaluated": evaluated, "of": total, "left_out": left_out, "quarantined": quarantined}


def rows_line(counts: Mapping[str, Any], split: str) -> str:
    """'13 of 130 rows: 13 test evaluated, 117 left out (100 train, 17 valid); --split all evaluates all'"""
    line = f"{counts['evaluated']:,} of {counts['of']:,} rows"
    if left_out := counts["left_out"]:
        others = ", ".join(f"{count:,} {name}" for name, count in left_out.items())
        line += f": {counts['evaluated']:,} {split} evaluated, {sum(left_out.values()):,} left out ({others})"
        line += "; --split all evaluates all"
    return line + (f"; {counts['quarantined']:,} more in quarantine" if counts["quarantined"] else "")


def speech_on(
    registry: Registry, uri: str, predictor: Predictor, dataset: Dataset, names: Mapping[str, str] | None
) -> tuple[dict[str, Any], dict[str, RowCounts]]:
    """Scores of synthesised speech on a dataset: plain data with a table's `lines`, and counts by metric.

    names: task -> registered model that judges; by default those of the model's recipe.
    """
    settings = Judges(**(names or {}))
    if names is None and uri.startswith("models:/"):
        key = registry.named(uri).tags.get(RECIPE_TAG)
        settings = stored_recipe(registry.store, key).judges if key and registry.store.exists(key) else settings
    load = partial(Predictor.load, registry.folder(uri))  # Ray cannot pickle a vocoder
    with timed("judge") as line, progress.current().bar("judging", "utt") as report:
        judges = judges_of(registry, settings)
        rows = spoken_rows(dataset, settings.rows, predictor.model.config.speaks)
        table = judge_speech(load, rows, dataset, judges, settings.rows, report)
        line.text = f"{len(rows):,} recordings synthesised again"
    by_kind = figures(table)
    plain = {kind: {name: figure._asdict() for name, figure in of_kind.items()} for kind, of_kind in by_kind.items()}
    content = {"figures": plain, "listeners": settings.models, "lines": lines(by_kind)}
    return content, counts(table, predictor.model.config.tasks)


def one_split(store: Store, manifest: Manifest, split: str) -> Manifest:
    """The rows of one split as a dataset of their own, so that features are extracted for no others."""
    if split == "all":
        return manifest
    if split not in SPLITS:
        raise RecipeError(f"--split {split}: expected one of {', '.join(SPLITS)} or all")
    table = utterances(store, manifest)
    rows = table.filter(pc.equal(table["split"], split))
    if not len(rows):
        splits = ", ".join(f"{name} {count:,}" for name, count in manifest.meta["splits"].items()) or "no rows"
        raise EvaluationError(
            f"{manifest.dataset} has no rows in split {split!r}; it has {splits}; --split all evaluates all"
        )
    name, address = f"{manifest.dataset}-{split}", fingerprint(manifest.address, split)
    key = f"{name}/{address}.parquet"
    file = {key: store.write_table(key, rows)}
    return store.commit(name, address, file, {manifest.dataset: manifest.address}, {"rows": len(rows)}, file)
