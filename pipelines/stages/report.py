"""The last stage of a night: the report in the store and in MLflow, and the record that makes the night finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.stage import Stage
from pipelines.evaluation.channel import Pair
from pipelines.evaluation.gates import Decision, floor_caveat
from pipelines.evaluation.inspection import read
from pipelines.registry.deleted_versions import warning
from pipelines.report.builder import ReportContent
from pipelines.report.page import Night, render
from pipelines.report.summary import plain
from pipelines.stages.context import Context
from pipelines.stages.evaluate import channel_pairs
from pipelines.stages.held_out import HeldOutScores, current_champion, judged
from pipelines.stages.outcome import RunResult, location, nights_dataset
from pipelines.stages.train import training_result


def _report(context: Context) -> tuple[str, RunResult]:
    """Writes the page and the record. Value: the night's RunResult."""
    store, recipe = context.store, context.recipe
    pairs, warnings = channel_pairs(context), _lost_champions(context)
    night = _content(context, pairs, warnings)
    page, key = render(night), f"reports/{recipe.name}/{context.name}.html"
    store.put_bytes(key, page.encode())
    context.run.log_text(page, "report.html")
    context.run.finish()  # before the record: a night that is found finished has no open run
    warnings += [pair.warning for pair in pairs if pair.warning]
    outcome = _outcome(context, night, warnings, location(store, key))
    parents = {manifest.dataset: manifest.address for manifest in context.data}
    meta = {"outcome": outcome.to_json(), "recipe": recipe.address()}
    store.commit(nights_dataset(recipe.name), outcome.identity, (key, context.recipe_key), parents, meta)
    return f"{outcome.report} ({len(page) / 1e6:.1f} MB)", outcome


def _content(context: Context, pairs: Sequence[Pair], warnings: Sequence[str]) -> Night:
    """Everything that the page shows."""
    store, recipe, registry, held_out = context.store, context.recipe, context.registry, HeldOutScores(context)
    verdict, version = context.values["gate"], context.values["register"]
    candidate = registry.version(recipe.name, version)
    scores = held_out.score(candidate)
    champion = current_champion(registry, recipe.name, version)
    history = training_result(store, context.name).history
    compared = champion is not None and champion.version == verdict["champion"]
    return ReportContent(
        store, recipe, context.identity, context.name, candidate, context.run.to_json(), history, context.summaries
    ).collect(
        scores,
        held_out.score(champion) if champion is not None and compared else None,
        verdict,
        read(store, context.values["interpret"]),
        context.utterances,
        context.features,
        pairs,
        held_out.voice(candidate),
        warnings,
    )


def _lost_champions(context: Context) -> list[str]:
    """A warning where the champion before this night was deleted."""
    registry, name = context.registry, context.recipe.name
    before = registry.state(name).before(judged(registry, name, context.values["register"]))
    return [text] if (text := warning(context.store, name, before)) else []


def _outcome(context: Context, night: Night, warnings: Sequence[str], report: str) -> RunResult:
    verdict, recipe = context.values["gate"], context.recipe.name
    return RunResult(
        state="trained",
        recipe=recipe,
        identity=context.identity,
        name=context.name,
        model=f"models:/{recipe}/{context.values['register']}",
        promoted=bool(verdict["promoted"]),
        reason=verdict["reason"],
        champion=night.champion or None,
        metrics={row.metric: round(row.value, 4) for row in night.metrics},
        table=plain(night.metrics),
        synthetic=night.synthetic,
        warnings=[*warnings, *_at_floor(verdict)],
        report=report,
        seconds=night.seconds,
    )


def _at_floor(verdict: Mapping[str, Any]) -> list[str]:
    """Metrics of a promoted model that are not shown to be better than those of a model that knows nothing."""
    if not verdict["promoted"] or verdict["decision"] is None:
        return []
    caveats = [floor_caveat(row) for row in Decision.from_json(verdict["decision"]).comparisons]
    return [caveat for caveat in caveats if caveat]


REPORT = Stage("report", _report, inputs=("register", "gate", "interpret"), kinds=("nights",))
