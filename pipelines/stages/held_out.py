"""Scores of registered models on a recipe's held-out test rows, and their comparison by the gate.

held_out = HeldOutScores(context)
scores = held_out.score(context.registry.version("assistant", 4))     # computed once, then read from the store
decision, rows = held_out.compare(4, current_champion(context.registry, "assistant", 4))
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from mtl.inference.predictor import Predictor, features_of
from mtl.metrics.scoring import METRICS, metric_of
from pipelines.core.progress import Report
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.features import extract
from pipelines.evaluation.domains import counts_of, gated
from pipelines.evaluation.evaluate import Scores, evaluated
from pipelines.evaluation.floors import floor_of
from pipelines.evaluation.gates import Decision, decide
from pipelines.evaluation.judges import Judge, judges_of
from pipelines.evaluation.synthesis import counts, judged_speech, voice_of
from pipelines.recipe import Features
from pipelines.registry.deleted_versions import StoredVersion, stored_copy
from pipelines.registry.ledger import Line
from pipelines.registry.registry import Registry, Version
from pipelines.report.audio_examples import speech_content
from pipelines.stages.context import Context


class HeldOutScores:
    """Scores models on the test rows of a context's recipe."""

    def __init__(self, context: Context) -> None:
        self.context, self.recipe = context, context.recipe
        self.store, self.registry = context.store, context.registry

    def score(self, version: Version, report: Report | None = None) -> Scores:
        """A model's scores, including those of its synthesised speech.

        Raises:
            MissingJudge: a judge model has no champion.
        """
        folder, rows = self._folder(version), self._rows(version)
        load = partial(Predictor.load, folder)
        scores = evaluated(self.store, version.address, load, rows, self.recipe.loader, report)
        if not self._makes_sound:
            return scores
        return scores.with_counts(counts(self._judged(version, rows, report), self.recipe.tasks))

    def speech_content(self, version: Version) -> dict[str, Any] | None:
        """Content of the report on synthesised speech; None for a model without. Raises MissingJudge."""
        if not self._makes_sound:
            return None
        rows, voice = self._rows(version), voice_of(Predictor.load(self._folder(version)))
        return speech_content(self._judged(version, rows), voice, rows, self.recipe.judges.models)

    def compare(self, number: int, champion: Version | None) -> tuple[Decision, str]:
        """The gate's decision on a version, and the identity of the test rows. champion: see `current_champion`."""
        recipe, registry, by = self.recipe, self.registry, self.recipe.domains.by
        version = registry.version(recipe.name, number)
        scores = self.score(version)
        by_domain = counts_of(scores, by)
        gates, names = gated(recipe.gates, by_domain)
        current = None
        if champion is not None:
            champion_scores = self.score(champion)
            champion_domains = counts_of(champion_scores, by)
            common = {name: champion_domains[name] for name in names if name in champion_domains}
            current = champion_scores.scored_model(f"{recipe.name}/{champion.version}", common)
        candidate = scores.scored_model(f"{recipe.name}/{number}", {name: by_domain[name] for name in names})
        decision = decide(
            candidate,
            current,
            gates,
            {**METRICS, **{name: metric_of(name) for name in names}},
            n_comparisons=registry.n_comparisons(recipe.name, scores.rows, version=number),
            seed=recipe.seed,
            floor=floor_of(candidate.counts, self._rows(version)),
        )
        return decision, scores.rows

    @property
    def _makes_sound(self) -> bool:
        return self.recipe.speaks or self.recipe.sounds

    def _judged(self, version: Version, rows: Dataset, report: Report | None = None) -> pa.Table:
        """See `judged_speech`. Raises MissingJudge."""
        folder, n_rows, speaks = self._folder(version), self.recipe.judges.rows, self.recipe.speaks
        load = partial(Predictor.load, folder)
        return judged_speech(self.store, version.address, load, self._judges, rows, n_rows, report, speaks)

    @cached_property
    def _judges(self) -> dict[str, Judge]:
        return judges_of(self.registry, self.recipe.judges)

    def _folder(self, version: Version) -> Path:
        return version.folder if isinstance(version, StoredVersion) else self.registry.folder(version.uri)

    def _rows(self, version: Version) -> Dataset:
        """The test rows with the features that the model was trained on."""
        spec = Features(**asdict(features_of(self._folder(version))))
        utterances, features = self.context.utterances, self.context.features
        if spec != self.recipe.features:
            features = extract(utterances, spec, self.store)
        return open_dataset(self.store, utterances, features).split("test")


def current_champion(registry: Registry, name: str, version: int, again: bool = False) -> Version | None:
    """The champion that a version is compared with: the current one, or that of an earlier decision on the version.

    A champion that was deleted from MLflow still counts if the store has a copy, so that no worse model can succeed it.
    again: ignore earlier decisions on this version.
    """
    settled = None if again else judged(registry, name, version)
    state = registry.state(name).before(settled)
    deletion = state.deletion
    copy = stored_copy(registry.store, name, deletion.expects, deletion.time) if deletion and deletion.expects else None
    if copy is not None or state.champion is None:
        return copy
    champion = registry.existing(name, state.champion) or stored_copy(registry.store, name, state.champion)
    return champion or (registry.champion(name) if settled is None else None)


def judged(registry: Registry, name: str, version: int) -> Line | None:
    """The gate's last decision on a version, which a resumed night must not repeat."""
    decided = None
    for line in registry.state(name).current:
        if line.version == version and line.effective and (line.decision or line.action == "lost"):
            decided = line if line.decision else None  # a decision on a lost version is not one on its namesake
    return decided


def compared(line: Line) -> int | None:
    """The version that a decision compared with: the champion at that time, even if it was deleted since."""
    champion = (line.decision or {}).get("champion")
    return int(champion.rpartition("/")[2]) if champion else None
