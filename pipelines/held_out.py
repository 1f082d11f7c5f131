"""What registered models are worth on a night's frozen test rows, and which of two should reign.

exam = Exam.of(root, recipe_key, utterances, features)
scores = exam.score(exam.registry.version("assistant", 4))     # made once, then read from the store
decision, rows = exam.judge(4, rival(exam.registry, "assistant", 4))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core import progress
from pipelines.nightly import DatasetRef, kept_recipe, manifests
from pipelines.recipe import Features, Recipe
from pipelines.storage.store import Manifest, Store

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.data.dataset import Dataset
    from pipelines.evaluation.evaluate import Scores
    from pipelines.evaluation.gates import Decision
    from pipelines.evaluation.judges import Judge
    from pipelines.registry.ledger import Line
    from pipelines.registry.registry import Registry, Version


@dataclass(frozen=True)
class HeldOutScores:
    """A recipe's test rows."""

    store: Store
    registry: Registry
    recipe: Recipe
    utterances: Sequence[Manifest]
    features: Sequence[Manifest]

    @classmethod
    def of(
        cls, root: str, recipe_key: str, utterances: Sequence[DatasetRef], features: Sequence[DatasetRef]
    ) -> HeldOutScores:
        """Raises LookupError when a reference leads nowhere."""
        from pipelines.registry.registry import Registry

        store = Store(root)
        found = manifests(store, utterances), manifests(store, features)
        return cls(store, Registry(store), kept_recipe(store, recipe_key), *found)

    def score(self, version: Version, report: progress.Report | None = None) -> Scores:
        """A model's scores, what its speech is heard as among them.

        Raises:
            MissingJudge: a model that is to hear it has no champion.
        """
        from mtl.inference.predictor import Predictor
        from pipelines.evaluation.evaluate import evaluated

        folder, rows = self._folder(version), self._rows(version)
        address = version.address
        scores = evaluated(self.store, address, lambda: Predictor.load(folder), rows, self.recipe.loader, report)
        if not self._audible:
            return scores
        from pipelines.evaluation.synthesis import counts

        return scores.with_counts(counts(self._said(version, rows, report), self.recipe.tasks))

    def voice(self, version: Version) -> dict[str, Any] | None:
        """What a report shows of a model's sound; None where it makes none. Raises MissingJudge."""
        if not self._audible:
            return None
        from mtl.inference.predictor import Predictor
        from pipelines.evaluation.synthesis import voice_of
        from pipelines.report.audio_examples import told

        rows, voice = self._rows(version), voice_of(Predictor.load(self._folder(version)))
        return told(self._said(version, rows), voice, rows, self.recipe.judges.models)

    @property
    def _audible(self) -> bool:
        return self.recipe.speaks or self.recipe.sounds

    def _said(self, version: Version, rows: Dataset, report: progress.Report | None = None) -> pa.Table:
        """hearing.SAID of a model on its rows. Raises MissingJudge: a model that is to hear it has no champion."""
        from mtl.inference.predictor import Predictor
        from pipelines.evaluation.synthesis import listened

        address, folder, most = version.address, self._folder(version), self.recipe.judges.rows
        ears, speaks = self._listeners, self.recipe.speaks
        return listened(self.store, address, lambda: Predictor.load(folder), ears, rows, most, report, speaks)

    def judge(self, version: int, against: Version | None) -> tuple[Decision, str]:
        """What the gate says, and the identity of the rows that it looked at. against: see `current_champion`."""
        from mtl.metrics.scoring import METRICS, metric_of
        from pipelines.evaluation.domains import counts_of, gated
        from pipelines.evaluation.floors import floor_of
        from pipelines.evaluation.gates import decide

        recipe, registry, by = self.recipe, self.registry, self.recipe.domains.by
        candidate = registry.version(recipe.name, version)
        mine = self.score(candidate)
        apart = counts_of(mine, by)
        gates, named = gated(recipe.gates, apart)
        theirs = None
        if against is not None:
            reigning = self.score(against)
            reigned = counts_of(reigning, by)
            both = {name: reigned[name] for name in named if name in reigned}
            theirs = reigning.contender(f"{recipe.name}/{against.version}", both)
        contender = mine.contender(f"{recipe.name}/{version}", {name: apart[name] for name in named})
        decision = decide(
            contender,
            theirs,
            gates,
            {**METRICS, **{name: metric_of(name) for name in named}},
            looks=registry.looks(recipe.name, mine.rows, version=version),
            seed=recipe.seed,
            floor=floor_of(contender.counts, self._rows(candidate)),
        )
        return decision, mine.rows

    @cached_property
    def _listeners(self) -> dict[str, Judge]:
        from pipelines.evaluation.judges import judges_of

        return judges_of(self.registry, self.recipe.judges)

    def _folder(self, version: Version) -> Path:
        from pipelines.registry.deleted_versions import StoredVersion

        return version.folder if isinstance(version, StoredVersion) else self.registry.folder(version.uri)

    def _rows(self, version: Version) -> Dataset:
        """The test rows with the features that the model was trained on."""
        from mtl.inference.predictor import features_of
        from pipelines.data.dataset import open_dataset
        from pipelines.data.features import extract

        wanted = Features(**asdict(features_of(self._folder(version))))
        if wanted == self.recipe.features:
            return open_dataset(self.store, self.utterances, self.features).split("test")
        return open_dataset(self.store, self.utterances, extract(self.utterances, wanted, self.store)).split("test")


def current_champion(registry: Registry, name: str, version: int, again: bool = False) -> Version | None:
    """What a version is compared with: the champion that reigns, or the one that it was judged against already.

    A champion that was deleted from MLflow is still the one to beat, as long as the store can score it: its successor
    must not be a worse model. again: whatever it was judged against before.
    """
    from pipelines.registry.deleted_versions import stored_copy

    settled = None if again else judged(registry, name, version)
    state = registry.state(name).before(settled)
    loss = state.deletion
    copy = stored_copy(registry.store, name, loss.expects, loss.time) if loss and loss.expects is not None else None
    if copy is not None or state.champion is None:
        return copy
    champion = registry.existing(name, state.champion) or stored_copy(registry.store, name, state.champion)
    return champion or (registry.champion(name) if settled is None else None)


def judged(registry: Registry, name: str, version: int) -> Line | None:
    """The gate's last decision on a version: a night that was killed after it must not ask again."""
    decided = None
    for line in registry.state(name).current:
        if line.version == version and line.effective and (line.decision or line.action == "lost"):
            decided = line if line.decision else None  # what was decided of a lost version says nothing of its namesake
    return decided


def compared(line: Line) -> int | None:
    """The version that a decision compared with: the champion of its time, or one that was deleted."""
    champion = (line.decision or {}).get("champion")
    return int(champion.rpartition("/")[2]) if champion else None
