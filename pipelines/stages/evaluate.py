"""The stages that evaluate a packaged model: held-out scores, and inspection of what its tasks share."""

from __future__ import annotations

import json

from mtl.metrics.scoring import in_unit
from pipelines.core.progress import Report
from pipelines.core.stage import Stage
from pipelines.data.dataset import open_dataset
from pipelines.evaluation.channel import Pair, probe
from pipelines.evaluation.domains import figures
from pipelines.evaluation.evaluate import Scores
from pipelines.evaluation.inspection import interpreted, read
from pipelines.evaluation.judges import judges_of
from pipelines.stages.context import Context
from pipelines.stages.held_out import HeldOutScores, current_champion


def check_judges(context: Context) -> None:
    """Raises MissingJudge, before training, if a judge model has no champion."""
    if context.recipe.judges.models:
        judges_of(context.registry, context.recipe.judges)


def channel_pairs(context: Context) -> list[Pair]:
    """The channel probe of each two domains of the recipe."""
    recipe = context.recipe
    if recipe.domains.by == "corpus" and len(recipe.corpora) < 2:
        return []
    return probe(open_dataset(context.store, context.utterances, context.features), recipe.domains.by)


def _evaluate(context: Context, report: Report) -> tuple[str, int | None]:
    """Scores the packaged candidate and the champion on the same test rows. Value: the champion's version, or None."""
    held_out, recipe, registry = HeldOutScores(context), context.recipe, context.registry
    candidate = registry.version(recipe.name, context.values["register"])
    champion = current_champion(registry, recipe.name, candidate.version)
    scores = held_out.score(candidate, report)
    if champion is not None:
        held_out.score(champion, report)
    registry.record(candidate, scores.metrics, context.run)
    by_domain = {f"test/{row.metric}": row.value for rows in figures(scores).values() for row in rows}
    context.run.log(by_domain, step=0)
    name = recipe.gates.primary
    text = f"{len(scores.table):,} test rows"
    if (primary := scores.metrics.get(name)) is not None:
        text += f", {name} {in_unit(name, primary)}{_by_corpus(scores, name)}"
    return text, champion.version if champion else None


def _by_corpus(scores: Scores, metric: str) -> str:
    """The metric on each corpus, if there are several."""
    values = {name: metrics[metric] for name, metrics in scores.by_corpus.items() if metric in metrics}
    return f" ({', '.join(f'{name} {value:.2f}' for name, value in values.items())})" if len(values) > 1 else ""


def _interpret(context: Context, report: Report) -> tuple[str, str]:
    """Inspects activations and layers of the candidate on valid rows. Value: key of the result in the store."""
    store, recipe, registry = context.store, context.recipe, context.registry
    candidate = registry.version(recipe.name, context.values["register"])
    rows = open_dataset(store, context.utterances, context.features).split("valid")
    key = interpreted(store, candidate.address, lambda: registry.load(candidate.uri), rows, recipe, report)
    content = read(store, key)
    context.run.log_text(json.dumps(content), "sharing.json")
    probes = ", ".join(probe["target"] for probe in content["probes"]) or "none"
    return f"{content['rows']:,} valid rows, probes: {probes}", key


EVALUATE = Stage("evaluate", _evaluate, inputs=("register",), unit="utt")
INTERPRET = Stage("interpret", _interpret, inputs=("register",), unit="utt")
