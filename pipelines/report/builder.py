"""Content of a night's report that comes from its recipe and its data: curriculum, corpora, quarantine, lineage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtl.training.curriculum import JOINT
from pipelines.data.ingest import quarantine
from pipelines.recipe import Recipe
from pipelines.storage.store import Manifest, Store

SYNTHETIC = "espeak"  # corpora of this kind are synthesised
QUARANTINE_SHOWN = 200  # rows


def is_synthetic(recipe: Recipe) -> bool:
    return any(corpus.kind == SYNTHETIC for corpus in recipe.corpora)


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


def corpus_content(manifest: Manifest) -> dict[str, Any]:
    """Name, version and meta of an utterance manifest."""
    name = manifest.dataset.split("/", 1)[1]
    defaults = {"hours": 0.0, "splits": {}, "quarantined": 0, "reasons": {}}
    return {**defaults, **manifest.meta, "name": name, "version": f"v{manifest.version} {manifest.address}"}


def quarantined_rows(store: Store, tables: Sequence[Manifest]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for manifest in tables:
        if manifest.meta.get("quarantined"):
            rows += quarantine(store, manifest).slice(0, QUARANTINE_SHOWN).to_pylist()
    return rows[:QUARANTINE_SHOWN]
