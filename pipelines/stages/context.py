"""Context of the stages of one run: store, recipe, registry, values of finished stages, and the MLflow run.

context = Context("motet-root", load("assistant"))
context.execute(INGEST)
context.utterances                   # manifests of the utterance tables
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import yaml

from pipelines.core.stage import Stage, StageResult
from pipelines.recipe import Recipe, parse
from pipelines.registry import tracking
from pipelines.registry.registry import Registry
from pipelines.storage.store import Manifest, Store, fingerprint

DatasetRef = tuple[str, str]  # dataset and address: names a manifest
FEATURE_STAGES = ("features", "prosody", "waveforms")  # inputs of training; the prosody contains the alignment


class InProcess:
    """Runs stages as plain calls in this process; `flows.PrefectTasks` runs them as tasks of Prefect."""

    def task(self, stage: Stage) -> Callable[..., StageResult]:
        return stage.run

    def map(self, stage: Stage, context: Context, parts: Sequence[str]) -> list[StageResult]:
        """Runs the parts of a stage."""
        return [stage.run(context, part) for part in parts]


class Context:
    """State that is opened once for a run of stages.

    Not a dataclass: Prefect copies dataclasses that are passed to its tasks.

    Attributes:
        values: of the finished stages, by name. A stage with parts has a list of values.
        summaries: (stage, text, seconds) of the finished stages, for the report.
        identity: of the night, see `nightly.identity`.
        name: of the training run.
        run: the MLflow run, within `tracked`.
    """

    def __init__(
        self,
        root: Store | str,
        recipe: Recipe | None = None,
        utterances: Sequence[Manifest] | None = None,
        features: Sequence[Manifest] = (),
        tasks: InProcess | None = None,
    ) -> None:
        self.store = root if isinstance(root, Store) else Store(root)
        self.values: dict[str, Any] = {}
        self.summaries: list[tuple[str, str, float]] = []
        self.identity = self.name = ""
        self._recipe, self._tasks = recipe, tasks or InProcess()
        self._run: tracking.Run | None = None
        if utterances is not None:
            self.values |= {"ingest": list(utterances), "features": list(features)}

    def with_recipe(self, recipe: Recipe) -> Context:
        """The same data with another recipe, without run and stages."""
        return Context(self.store, recipe, self.utterances, self.features)

    @property
    def root(self) -> str:
        return self.store.root

    @property
    def recipe(self) -> Recipe:
        assert self._recipe is not None, "the context was opened without a recipe"
        return self._recipe

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.store)

    @property
    def utterances(self) -> list[Manifest]:
        manifests: list[Manifest] = self.values["ingest"]
        return manifests

    @property
    def features(self) -> list[Manifest]:
        """Manifests of all inputs of training except the utterance tables."""
        return [manifest for name in FEATURE_STAGES for manifest in self.values.get(name, ())]

    @property
    def data(self) -> list[Manifest]:
        return [*self.utterances, *self.features]

    @property
    def run(self) -> tracking.Run:
        assert self._run is not None, "this stage runs within `context.tracked`"
        return self._run

    @contextmanager
    def tracked(self, name: str, tags: Mapping[str, Any] | None = None) -> Iterator[tracking.Run]:
        """Opens the MLflow run of this name, or continues it; marks it as failed when the block raises."""
        with tracking.start(self.store.root, self.recipe, name=name, manifests=self.data, tags=tags) as self._run:
            yield self._run

    def execute(self, stage: Stage, *arguments: Any) -> Any:
        """Runs a stage, keeps its value and its summary, and returns the value."""
        if stage.parts:
            results = self._tasks.map(stage, self, stage.parts(self.recipe))
        else:
            results = [self._tasks.task(stage)(self, *arguments)]
        self.summaries += [result.summary() for result in results if result.text]
        self.values[stage.name] = [result.value for result in results] if stage.parts else results[0].value
        return self.values[stage.name]

    @cached_property
    def recipe_key(self) -> str:
        """Key of the recipe in the store, where it is written on first use."""
        text = self.recipe.to_yaml()
        key = f"recipes/{self.recipe.name}-{fingerprint(text)}.yaml"
        if not self.store.exists(key):
            self.store.put_bytes(key, text.encode())
        return key


def with_workers(overrides: Sequence[str], workers: int | None) -> list[str]:
    """The overrides of a recipe, with `--workers` as one of them."""
    return [*overrides, *([f"trainer.workers={workers}"] if workers else [])]


def stored_recipe(store: Store, key: str) -> Recipe:
    return parse(yaml.safe_load(store.read_bytes(key)), where=key)


def manifests(store: Store, refs: Sequence[DatasetRef]) -> list[Manifest]:
    """Raises LookupError when a version does not exist."""
    rows = []
    for dataset, address in refs:
        if (manifest := store.find(dataset, address)) is None:
            raise LookupError(f"{store.root} has no version {address} of {dataset}; was it deleted meanwhile?")
        rows.append(manifest)
    return rows


def corpus_of(manifest: Manifest) -> str:
    """ "utterances/commands" -> "commands"."""
    return manifest.dataset.split("/", 1)[1]
