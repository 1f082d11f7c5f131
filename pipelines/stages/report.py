"""The last stage of a night: the report in the store and in MLflow, and the record that makes the night finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipelines.core.stage import Stage
from pipelines.evaluation.channel import Pair
from pipelines.evaluation.domains import figures
from pipelines.evaluation.evaluate import Cost
from pipelines.evaluation.gates import Decision, floor_caveat
from pipelines.evaluation.inspection import read
from pipelines.registry.deleted_versions import warning
from pipelines.registry.registry import Version
from pipelines.registry.tracking import provenance
from pipelines.report import builder, summary
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
    candidate, champion = registry.version(recipe.name, version), current_champion(registry, recipe.name, version)
    compared = champion if champion is not None and champion.version == verdict["champion"] else None
    scores, champion_scores = held_out.score(candidate), held_out.score(compared) if compared else None
    decision = Decision.from_json(verdict["decision"])
    errors, n_errors = summary.faults(scores, store)
    return Night(
        name=context.name,
        recipe=recipe.name,
        recipe_yaml=recipe.to_yaml(),
        identity=context.identity,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        synthetic=builder.is_synthetic(recipe),
        seconds=round(sum(seconds for _, _, seconds in context.summaries), 1),
        promoted=bool(verdict["promoted"]),
        reason=verdict["reason"],
        model=f"{recipe.name} v{version}",
        champion="" if verdict["champion"] is None else f"{recipe.name} v{verdict['champion']}",
        metrics=summary.table(scores, recipe.gates, champion_scores, decision),
        by_corpus=scores.by_corpus if len(scores.by_corpus) > 1 else {},
        by_domain=figures(scores),
        channels=[{**pair.to_json(), "warning": pair.warning} for pair in pairs],
        by_language=scores.by_language if len(scores.by_language) > 1 else {},
        stages=list(context.summaries),
        history=training_result(store, context.name).history,
        curriculum=builder.stages(recipe),
        confusions=summary.confusions(scores),
        faults=errors,
        faulty_rows=n_errors,
        translations=summary.translations(scores),
        corpora=[builder.corpus_content(manifest) for manifest in context.utterances],
        quarantine=builder.quarantined_rows(store, context.utterances),
        decision=decision.to_json(),
        lineage=_lineage(context, candidate, scores.cost),
        speech=held_out.speech_content(candidate) or {},
        sharing=read(store, context.values["interpret"]),
        warnings=list(warnings),
    )


def _lineage(context: Context, candidate: Version, cost: Cost) -> dict[str, str]:
    speed = f", {1 / cost.real_time:,.0f} times real time on {cost.device}" if cost.real_time else ""
    run = context.run.to_json()
    return {
        "night": context.identity,
        "model": f"{candidate.uri}, weights {candidate.address}",
        "parameters": f"{candidate.parameters:,}{speed}",
        "MLflow run": f"{run['run_id']} at {run['uri']}",
        **{tag.removeprefix("mlflow.").removeprefix("motet."): value for tag, value in provenance().items()},
        **{manifest.dataset: f"v{manifest.version} {manifest.address}" for manifest in context.data},
    }


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
    """Metrics of a promoted model that are not shown to be better than the floor."""
    if not verdict["promoted"] or verdict["decision"] is None:
        return []
    caveats = [floor_caveat(row) for row in Decision.from_json(verdict["decision"]).comparisons]
    return [caveat for caveat in caveats if caveat]


REPORT = Stage("report", _report, inputs=("register", "gate", "interpret"), kinds=("nights",))
