"""What registered models are worth on a night's frozen test rows, and which of two should reign.

exam = Exam.of(root, recipe_key, utterances, features)
scores = exam.score(exam.registry.version("assistant", 4))     # made once, then read from the store
decision, rows = exam.judge(4, champion=3)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import progress
from pipelines.night import Ref, kept_recipe, manifests
from pipelines.recipe import Features, Recipe
from pipelines.store import Manifest, Store

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.data.dataset import Dataset
    from pipelines.evaluation.evaluate import Scores
    from pipelines.evaluation.gates import Decision
    from pipelines.evaluation.hearing import Listener
    from pipelines.registry.ledger import Line
    from pipelines.registry.registry import Registry, Version


@dataclass(frozen=True)
class Exam:
    """A recipe's test rows."""

    store: Store
    registry: Registry
    recipe: Recipe
    utterances: Sequence[Manifest]
    features: Sequence[Manifest]

    @classmethod
    def of(cls, root: str, recipe_key: str, utterances: Sequence[Ref], features: Sequence[Ref]) -> Exam:
        """Raises LookupError when a reference leads nowhere."""
        from pipelines.registry.registry import Registry

        store = Store(root)
        found = manifests(store, utterances), manifests(store, features)
        return cls(store, Registry(store), kept_recipe(store, recipe_key), *found)

    def score(self, version: Version, report: progress.Report | None = None) -> Scores:
        """A model's scores, what its speech is heard as among them.

        Raises:
            NoListener: a model that is to hear it has no champion.
        """
        from mtl.predictor import Predictor
        from pipelines.evaluation.evaluate import evaluated

        folder, rows = self._folder(version), self._rows(version)
        address = version.address
        scores = evaluated(self.store, address, lambda: Predictor.load(folder), rows, self.recipe.loader, report)
        if not self._audible:
            return scores
        from pipelines.evaluation.speech import counts

        return scores.with_counts(counts(self._said(version, rows, report), self.recipe.tasks))

    def voice(self, version: Version) -> dict[str, Any] | None:
        """What a report shows of a model's sound; None where it makes none. Raises NoListener."""
        if not self._audible:
            return None
        from mtl.predictor import Predictor
        from pipelines.evaluation.speech import voice_of
        from pipelines.report.voices import told

        rows, voice = self._rows(version), voice_of(Predictor.load(self._folder(version)))
        return told(self._said(version, rows), voice, rows, self.recipe.listening.models)

    @property
    def _audible(self) -> bool:
        return self.recipe.speaks or self.recipe.sounds

    def _said(self, version: Version, rows: Dataset, report: progress.Report | None = None) -> pa.Table:
        """hearing.SAID of a model on its rows. Raises NoListener: a model that is to hear it has no champion."""
        from mtl.predictor import Predictor
        from pipelines.evaluation.speech import listened

        address, folder, most = version.address, self._folder(version), self.recipe.listening.rows
        ears, speaks = self._listeners, self.recipe.speaks
        return listened(self.store, address, lambda: Predictor.load(folder), ears, rows, most, report, speaks)

    def judge(self, version: int, champion: int | None) -> tuple[Decision, str]:
        """What the gate says, and the identity of the rows that it looked at."""
        from mtl.metrics import METRICS, metric_of
        from pipelines.evaluation.domains import counts_of, gated
        from pipelines.evaluation.gates import decide

        recipe, registry, by = self.recipe, self.registry, self.recipe.domains.by
        mine = self.score(registry.version(recipe.name, version))
        apart = counts_of(mine, by)
        gates, named = gated(recipe.gates, apart)
        theirs = None
        if champion is not None:
            reigning = self.score(registry.version(recipe.name, champion))
            reigned = counts_of(reigning, by)
            both = {name: reigned[name] for name in named if name in reigned}
            theirs = reigning.contender(f"{recipe.name}/{champion}", both)
        decision = decide(
            mine.contender(f"{recipe.name}/{version}", {name: apart[name] for name in named}),
            theirs,
            gates,
            {**METRICS, **{name: metric_of(name) for name in named}},
            looks=registry.looks(recipe.name, mine.rows, version=version),
            seed=recipe.seed,
        )
        return decision, mine.rows

    @cached_property
    def _listeners(self) -> dict[str, Listener]:
        from pipelines.evaluation.hearing import listeners_of

        return listeners_of(self.registry, self.recipe.listening)

    def _folder(self, version: Version) -> Path:
        return self.registry.folder(version.uri)

    def _rows(self, version: Version) -> Dataset:
        """The test rows with the features that the model was trained on."""
        from mtl.predictor import features_of
        from pipelines.data.dataset import open_dataset
        from pipelines.data.features import extract

        wanted = Features(**asdict(features_of(self._folder(version))))
        if wanted == self.recipe.features:
            return open_dataset(self.store, self.utterances, self.features).split("test")
        return open_dataset(self.store, self.utterances, extract(self.utterances, wanted, self.store)).split("test")


def opponent(registry: Registry, name: str, version: int) -> int | None:
    """The champion that a version has to beat: the one that reigns, or the one it was judged against already."""
    settled = judged(registry, name, version)
    if settled is not None:
        return settled.expects
    champion = registry.champion(name)
    return champion.version if champion else None


def judged(registry: Registry, name: str, version: int) -> Line | None:
    """The gate's last decision on a version: a night that was killed after it must not ask again."""
    lines = [line for line in registry.history(name) if line.version == version and line.decision and line.effective]
    return lines[-1] if lines else None
