"""Scores of registered models on a recipe's held-out test rows, and the gate's comparison of two of them.

held_out = HeldOutScores(context)
scores = held_out.score(context.registry.version("assistant", 4))     # computed once, then read from the store
decision, rows = held_out.compare(4, current_champion(context.registry, "assistant", 4))
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
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
from pipelines.evaluation.synthesis import counts, listened, voice_of
from pipelines.recipe import Features
from pipelines.registry.deleted_versions import StoredVersion, stored_copy
from pipelines.registry.ledger import Line
from pipelines.registry.registry import Registry, Version
from pipelines.report.audio_examples import told
from pipelines.stages.context import Context


class HeldOutScores:
    """Scores models on the test rows of a context's recipe."""

    def __init__(self, context: Context) -> None:
        self.context, self.recipe = context, context.recipe
        self.store, self.registry = context.store, context.registry

    def score(self, version: Version, report: Report | None = None) -> Scores:
        """A model's scores, including those that judge models give to its speech.

        Raises:
            MissingJudge: a judge model has no champion.
        """
        folder, rows = self._folder(version), self._rows(version)
        scores = evaluated(
            self.store, version.address, lambda: Predictor.load(folder), rows, self.recipe.loader, report
        )
        if not self._makes_sound:
            return scores
        return scores.with_counts(counts(self._judged(version, rows, report), self.recipe.tasks))

    def voice(self, version: Version) -> dict[str, Any] | None:
        """What a report shows of a model's sound; None for a model that makes none. Raises MissingJudge."""
        if not self._makes_sound:
            return None
        rows, voice = self._rows(version), voice_of(Predictor.load(self._folder(version)))
        return told(self._judged(version, rows), voice, rows, self.recipe.judges.models)

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
            current = champion_scores.contender(f"{recipe.name}/{champion.version}", common)
        candidate = scores.contender(f"{recipe.name}/{number}", {name: by_domain[name] for name in names})
        decision = decide(
            candidate,
            current,
            gates,
            {**METRICS, **{name: metric_of(name) for name in names}},
            looks=registry.n_comparisons(recipe.name, scores.rows, version=number),
            seed=recipe.seed,
            floor=floor_of(candidate.counts, self._rows(version)),
        )
        return decision, scores.rows

    @property
    def _makes_sound(self) -> bool:
        return self.recipe.speaks or self.recipe.sounds

    def _judged(self, version: Version, rows: Dataset, report: Report | None = None) -> pa.Table:
        """What the judge models recognise in a model's speech, with the schema `judges.SAID`. Raises MissingJudge."""
        folder, speaks = self._folder(version), self.recipe.speaks
        return listened(
            self.store,
            version.address,
            lambda: Predictor.load(folder),
            self._judges,
            rows,
            self.recipe.judges.rows,
            report,
            speaks,
        )

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
    """What a version is compared with: the current champion, or the one that it was compared with before.

    A champion that was deleted from MLflow still counts as long as the store can score it, because its successor must
    not be a worse model. again: ignore earlier decisions on this version.
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
    """The gate's last decision on a version: a night that was killed after it must not ask again."""
    decided = None
    for line in registry.state(name).current:
        if line.version == version and line.effective and (line.decision or line.action == "lost"):
            decided = line if line.decision else None  # a decision on a lost version is not one on its namesake
    return decided


def compared(line: Line) -> int | None:
    """The version that a decision compared with: the champion at that time, or one that was deleted."""
    champion = (line.decision or {}).get("champion")
    return int(champion.rpartition("/")[2]) if champion else None
