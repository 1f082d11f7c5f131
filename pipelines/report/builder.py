"""Collects the content of a night's report: scores, decision, data and lineage as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mtl.training.curriculum import JOINT
from pipelines.data.ingest import quarantine
from pipelines.evaluation.channel import Pair
from pipelines.evaluation.domains import figures
from pipelines.evaluation.evaluate import Scores
from pipelines.evaluation.gates import Decision
from pipelines.recipe import Recipe
from pipelines.registry.registry import Version
from pipelines.registry.tracking import provenance
from pipelines.report import summary
from pipelines.report.page import Night
from pipelines.storage.store import Manifest, Store

SYNTHETIC = "espeak"  # corpora of this kind are synthesised
QUARANTINE_SHOWN = 200  # rows


@dataclass(frozen=True)
class ReportContent:
    """A night, its model, and the summaries (stage, text, seconds) of its stages."""

    store: Store
    recipe: Recipe
    identity: str
    name: str  # of the training run
    candidate: Version
    run: Mapping[str, str]
    history: list[dict[str, Any]]  # metrics of each epoch
    summaries: Sequence[tuple[str, str, float]]

    def collect(
        self,
        scores: Scores,
        champion: Scores | None,
        verdict: Mapping[str, Any],
        sharing: Mapping[str, Any],
        utterances: Sequence[Manifest],
        features: Sequence[Manifest],
        channels: Sequence[Pair] = (),
        speech: Mapping[str, Any] | None = None,
        warnings: Sequence[str] = (),
    ) -> Night:
        """Everything that the page shows."""
        decision = Decision.from_json(verdict["decision"])
        shown, faulty = summary.faults(scores, self.store)
        name = self.recipe.name
        return Night(
            name=self.name,
            recipe=name,
            recipe_yaml=self.recipe.to_yaml(),
            identity=self.identity,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            synthetic=any(corpus.kind == SYNTHETIC for corpus in self.recipe.corpora),
            seconds=round(sum(seconds for _, _, seconds in self.summaries), 1),
            promoted=bool(verdict["promoted"]),
            reason=verdict["reason"],
            model=f"{name} v{self.candidate.version}",
            champion="" if verdict["champion"] is None else f"{name} v{verdict['champion']}",
            metrics=summary.table(scores, self.recipe.gates, champion, decision),
            by_corpus=scores.by_corpus if len(scores.by_corpus) > 1 else {},
            by_domain=figures(scores),
            channels=[{**pair.to_json(), "warning": pair.warning} for pair in channels],
            by_language=scores.by_language if len(scores.by_language) > 1 else {},
            stages=list(self.summaries),
            history=self.history,
            curriculum=stages(self.recipe),
            confusions=summary.confusions(scores),
            faults=shown,
            faulty_rows=faulty,
            translations=summary.translations(scores),
            corpora=[_corpus(manifest) for manifest in utterances],
            quarantine=_quarantine(self.store, utterances),
            decision=decision.to_json(),
            lineage=self._lineage(scores, [*utterances, *features]),
            speech=dict(speech or {}),
            sharing=dict(sharing),
            warnings=list(warnings),
        )

    def _lineage(self, scores: Scores, data: Sequence[Manifest]) -> dict[str, str]:
        cost = scores.cost
        speed = "" if not cost.real_time else f", {1 / cost.real_time:,.0f} times real time on {cost.device}"
        return {
            "night": self.identity,
            "model": f"{self.candidate.uri}, weights {self.candidate.address}",
            "parameters": f"{self.candidate.parameters:,}{speed}",
            "MLflow run": f"{self.run['run_id']} at {self.run['uri']}",
            **{tag.removeprefix("mlflow.").removeprefix("motet."): value for tag, value in provenance().items()},
            **{manifest.dataset: f"v{manifest.version} {manifest.address}" for manifest in data},
        }


def stages(recipe: Recipe) -> list[str]:
    """A line for each stage of the training; none if it has one stage."""
    if not recipe.trainer.curriculum:
        return []
    lines, first = [], 1
    for stage in recipe.trainer.curriculum:
        frozen = ", what they share rests" if stage.train == "heads" else ""
        lines.append(f"{_epochs(first, stage.epochs)} {stage.name} ({', '.join(stage.tasks)}{frozen})")
        first += stage.epochs
    return [*lines, f"{_epochs(first, recipe.trainer.epochs - first + 1)} {JOINT} (all tasks)"]


def _epochs(first: int, count: int) -> str:
    return f"epoch {first}" if count == 1 else f"epochs {first}-{first + count - 1}"


def _corpus(manifest: Manifest) -> dict[str, Any]:
    name = manifest.dataset.split("/", 1)[1]
    empty = {"hours": 0.0, "splits": {}, "quarantined": 0, "reasons": {}}
    return {**empty, **manifest.meta, "name": name, "version": f"v{manifest.version} {manifest.address}"}


def _quarantine(store: Store, tables: Sequence[Manifest]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for manifest in tables:
        if manifest.meta.get("quarantined"):
            rows += quarantine(store, manifest).slice(0, QUARANTINE_SHOWN).to_pylist()
    return rows[:QUARANTINE_SHOWN]
