"""Any registered model on any corpus: scores with intervals, and for a model that speaks what its speech is worth.

result = evaluate_on("motet-root", "assistant", {"name": "an4", "kind": "manifest", "source": "an4.jsonl"}, "test", [])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mtl.spec import makes_sound
from pipelines.adhoc.prediction import as_recipe, ingest_one, model_uri
from pipelines.core import progress
from pipelines.core.redaction import redact
from pipelines.recipe import Corpus, Judges, RecipeError

if TYPE_CHECKING:
    from mtl.inference.predictor import Predictor
    from pipelines.data.dataset import Dataset
    from pipelines.evaluation.evaluate import Expected
    from pipelines.evaluation.gates import RowCounts
    from pipelines.registry.registry import Registry
    from pipelines.storage.store import Manifest, Store


def evaluate_on(
    root: str,
    model: str,
    corpus: Mapping[str, Any],
    split: str | None,
    settings: Sequence[str],
    expected: Expected | None = None,
    greedy: bool = False,
    domain: str | None = None,
    listeners: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Scores of a model on a split of any corpus, in percent, each with its 95 % interval and its number of rows.

    split: train, valid, test or all. If left out, the test rows of a corpus that has splits of its own (or is dealt
    into splits by `split_by`), and all rows of one that has none.
    expected: hot words; every score then stands beside the one without them. greedy: by the recogniser's best path.
    domain: of all recordings; each one's own, where the model knows it, if left out. listeners: task -> registered
    model that hears a model that speaks; those of its recipe if left out.

    Raises:
        RegistryError: no such model. EvaluationError: the split has no rows. MissingJudge: no such listener.
    """
    from pipelines.data.dataset import open_dataset
    from pipelines.data.features import PITCH, WAVEFORM, extract
    from pipelines.evaluation import domains
    from pipelines.evaluation.evaluate import evaluate
    from pipelines.nightly import step
    from pipelines.recipe import Features
    from pipelines.registry.registry import Registry
    from pipelines.report import summary
    from pipelines.storage.store import Store

    store = Store(root)
    registry = Registry(store)
    uri = model_uri(registry, model)
    predictor = registry.load(uri).listening(greedy=greedy, domain=domain)
    code, spec = predictor.codec.speech, Features(**asdict(predictor.features))
    corpus = {**corpus, **({"phonemes": code.phonemes} if code else {})}
    recipe = as_recipe(corpus, settings)
    table = ingest_one(root, corpus, settings)
    split = split or usual_split(recipe.corpora[0])
    manifest = one_split(store, table, split)
    counts = row_counts(table, split)
    with step("features") as current, progress.current().bar("features", "rec") as report:
        features = extract([manifest], spec, store, progress=report)
        current.done(f"{features[0].meta['rows']:,} recordings", None)
    if code:
        features += synthesized_in(store, manifest, features)
    if makes_sound(predictor.model.config.tasks):
        for kind in (WAVEFORM, PITCH):
            features += extract([manifest], spec, store, kind=kind)
    dataset = open_dataset(store, [manifest], features)
    with step("evaluate") as current, progress.current().bar("evaluate", "utt") as report:
        scores = evaluate(predictor, dataset, recipe.loader, report, expected)
        current.done(rows_line(counts, split), None)
    without: dict[str, float] = {}
    if expected:
        with step("evaluate") as current, progress.current().bar("evaluate", "utt") as report:
            without = evaluate(predictor, dataset, recipe.loader, report, expected, boosted=False).metrics
            current.done(f"{len(scores.table):,} rows, without hot words", None)
    speech: dict[str, Any] = {}
    if predictor.model.config.speaks or makes_sound(predictor.model.config.tasks):
        speech, counts = speech_on(registry, uri, predictor, dataset, listeners)
        scores = scores.with_counts(counts)
    rows = summary.table(scores)
    lines = [{key: line[key] for key in ("metric", "value", "low", "high", "rows")} for line in summary.plain(rows)]
    if expected:
        lines = [{**line, "without": f"{without[line['metric']]:.2f}"} for line in lines]
    apart = [row for some in domains.figures(scores).values() for row in some]
    kept = ("metric", "value", "low", "high", "rows")
    empty = {"without": ""} if expected else {}
    lines += [{**{key: line[key] for key in kept}, **empty} for line in summary.plain(apart)]
    return {
        "model": uri,
        "corpus": redact(corpus["source"] or corpus["kind"]),
        "split": split,
        "rows": counts,
        "summary": rows_line(counts, split),
        "metrics": {
            row.metric: {
                "value": row.value,
                "low": row.low,
                "high": row.high,
                "rows": row.rows,
                **({"without": without[row.metric]} if expected else {}),
            }
            for row in rows
        },
        "domains": {
            row.metric: {"value": row.value, "low": row.low, "high": row.high, "rows": row.rows} for row in apart
        },
        "speech": speech,
        "cost": asdict(scores.cost),
        "table": lines,
    }


def usual_split(corpus: Corpus) -> str:
    """Test rows, where the corpus has some: a test set that knows no splits is scored whole."""
    from pipelines.data.ingest import has_own_splits

    return "test" if corpus.split_by != "release" or has_own_splits(corpus) else "all"


def row_counts(manifest: Manifest, split: str) -> dict[str, Any]:
    """How many of a corpus's usable rows are evaluated, and how many of each other split are not."""
    splits = {name: count for name, count in manifest.meta["splits"].items() if count}
    left_out = {name: count for name, count in splits.items() if split not in (name, "all")}
    total = manifest.meta["rows"]
    quarantined = manifest.meta.get("quarantined", 0)
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


def synthesized_in(store: Store, manifest: Manifest, features: Sequence[Manifest]) -> list[Manifest]:
    """How the phones of the recordings are said; learned where they end, if the corpus does not know it."""
    from pipelines.data.alignment import align
    from pipelines.data.prosody import measure
    from pipelines.nightly import step
    from pipelines.recipe import Features

    spec = Features(**features[0].meta["spec"])
    with step("prosody") as current, progress.current().bar("prosody", "rec") as report:
        aligned = align([manifest], features, spec, store, report)
        found = measure([manifest], spec, store, progress=report, aligned=aligned)
        current.done(f"{found[0].meta['rows']:,} recordings with phones", None)
    return found


def speech_on(
    registry: Registry, uri: str, predictor: Predictor, dataset: Dataset, named: Mapping[str, str] | None
) -> tuple[dict[str, Any], dict[str, RowCounts]]:
    """What a voice is worth on a dataset: figures as plain data with a table's `lines`, and counts by metric."""
    from pipelines.evaluation.judges import judges_of
    from pipelines.evaluation.synthesis import counts, figures, spoken_rows, synthesized_by
    from pipelines.nightly import kept_recipe, step
    from pipelines.promotion import RECIPE_TAG
    from pipelines.report.audio_examples import lines

    listening = Judges(**(named or {}))
    if named is None and uri.startswith("models:/"):
        key = registry.named(uri).tags.get(RECIPE_TAG)
        listening = kept_recipe(registry.store, key).judges if key and registry.store.exists(key) else listening
    with step("listen") as current, progress.current().bar("listening", "utt") as report:
        listeners = judges_of(registry, listening)
        chosen = spoken_rows(dataset, listening.rows, predictor.model.config.speaks)
        said = synthesized_by(lambda: predictor, chosen, dataset, listeners, listening.rows, report)
        current.done(f"{len(chosen):,} recordings said again", None)
    drawn = figures(said)
    plain = {kind: {name: figure._asdict() for name, figure in found.items()} for kind, found in drawn.items()}
    return {"figures": plain, "listeners": listening.models, "lines": lines(drawn)}, counts(
        said, predictor.model.config.tasks
    )


def one_split(store: Store, manifest: Manifest, split: str) -> Manifest:
    """The rows of one split as a dataset of their own, so that no feature is made of the others."""
    import pyarrow.compute as pc

    from pipelines.data.ingest import utterances
    from pipelines.evaluation.evaluate import EvaluationError
    from pipelines.storage.store import fingerprint
    from pipelines.utterances.schema import SPLITS

    if split == "all":
        return manifest
    if split not in SPLITS:
        raise RecipeError(f"--split {split}: expected one of {', '.join(SPLITS)} or all")
    table = utterances(store, manifest)
    rows = table.filter(pc.equal(table["split"], split))
    if not len(rows):
        has = ", ".join(f"{name} {count:,}" for name, count in manifest.meta["splits"].items()) or "no rows"
        raise EvaluationError(
            f"{manifest.dataset} has no rows in split {split!r}; it has {has}; --split all evaluates all"
        )
    name, address = f"{manifest.dataset}-{split}", fingerprint(manifest.address, split)
    key = f"{name}/{address}.parquet"
    file = {key: store.write_table(key, rows)}
    return store.commit(name, address, file, {manifest.dataset: manifest.address}, {"rows": len(rows)}, file)
