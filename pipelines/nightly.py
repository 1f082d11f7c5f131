"""One night of one recipe, step by step: what the tasks of the DAG do, without Prefect.

    with one_at_a_time(root, recipe.name):
        utterances = [ingest(root, key, corpus.name) for corpus in recipe.corpora]
        ...

Steps take and return small plain values (a root, keys of the store, references to manifests), so that they can run in
any process. Each tells the screen one line about what it did, and returns that line with its seconds.

A night's identity is its recipe, its data and the versions of its stages. It names the training run: a night that
was killed goes on where it was, and one that has been is found done.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from pipelines.core import progress
from pipelines.recipe import Recipe, parse
from pipelines.storage.lock import Busy as Busy  # with the night that it is about
from pipelines.storage.lock import one_at_a_time as one_at_a_time
from pipelines.storage.store import Manifest, Store, fingerprint

if TYPE_CHECKING:
    from pipelines.data.features import Kind

VERSION = 1  # of what a night does after training: its scores, its decision
DatasetRef = tuple[str, str]  # dataset, address: names a manifest

# Errors of the file system that another attempt meets again.
LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
NETWORK_LIBRARIES = ("aiohttp", "botocore", "fsspec", "httpcore", "httpx", "requests", "urllib3")
COLUMNS = ("metric", "value", "low", "high", "champion", "floor", "limit", "rows", "verdict")


class MissingServer(RuntimeError):
    """A command that needs a Prefect server was called without one."""


@dataclass(frozen=True)
class StageResult:
    """What a step hands on: its value, and what the report says of it."""

    stage: str
    text: str
    seconds: float
    value: Any

    def said(self) -> tuple[str, str, float]:
        return self.stage, self.text, self.seconds


@dataclass(frozen=True)
class RunResult:
    """What a night came to. state: 'trained', or 'nothing new' with the numbers of the night that had done it."""

    state: str
    recipe: str
    identity: str
    name: str
    model: str | None = None  # models:/assistant/3
    promoted: bool | None = None
    reason: str = ""
    champion: str | None = None  # what it was compared with
    metrics: dict[str, float] = field(default_factory=dict)
    table: list[dict[str, Any]] = field(default_factory=list)
    synthetic: bool = False
    warnings: list[str] = field(default_factory=list)
    report: str | None = None
    night: int | None = None  # version of nights/<recipe>
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def metrics_of(outcome: RunResult) -> list[dict[str, Any]]:
    """The table of a night, in the order in which it reads; a record in the store keeps no order."""
    return [{column: row.get(column) for column in COLUMNS} for row in outcome.table]


def with_workers(overrides: Sequence[str], workers: int | None) -> list[str]:
    """The overrides, and `--workers` as one of them: what does not fit it is told when the recipe is read."""
    return [*overrides, *([f"trainer.workers={workers}"] if workers else [])]


def keep_recipe(store: Store, recipe: Recipe) -> str:
    """Stores the recipe as it was read, and returns its key."""
    text = recipe.to_yaml()
    key = f"recipes/{recipe.name}-{fingerprint(text)}.yaml"
    if not store.exists(key):
        store.put_bytes(key, text.encode())
    return key


def kept_recipe(store: Store, key: str) -> Recipe:
    return parse(yaml.safe_load(store.read_bytes(key)), where=key)


def identity(recipe: Recipe, utterances: Sequence[Manifest]) -> str:
    """Equal exactly when a second training could only give the same model."""
    from pipelines.data import features
    from pipelines.training import train

    versions = {"features": features.VERSION, "train": train.VERSION, "night": VERSION}
    if recipe.phrased:
        from pipelines.data import alignment, prosody

        versions |= {"alignment": alignment.VERSION, "prosody": prosody.VERSION}
    return fingerprint(recipe.address(), sorted((item.dataset, item.address) for item in utterances), versions)


def manifests(store: Store, refs: Sequence[DatasetRef]) -> list[Manifest]:
    """Raises LookupError when a reference leads nowhere."""
    found = [store.find(dataset, address) for dataset, address in refs]
    for ref, manifest in zip(refs, found, strict=True):
        if manifest is None:
            raise LookupError(f"{store.root} has no version {ref[1]} of {ref[0]}; was it deleted during the night?")
    return [manifest for manifest in found if manifest is not None]


def ref(manifest: Manifest) -> DatasetRef:
    return manifest.dataset, manifest.address


def dataset(recipe: Recipe) -> str:
    """Name of the dataset that holds the recipe's finished nights."""
    return f"nights/{recipe.name}"


def finished(store: Store, recipe: Recipe, utterances: Sequence[Manifest]) -> Manifest | None:
    """The record of the night that did exactly this, if there was one."""
    return store.find(dataset(recipe), identity(recipe, utterances))


def check_listeners(root: str, recipe: Recipe) -> None:
    """Raises MissingJudge before anything is trained, where the speech could not be heard afterwards."""
    if recipe.judges.models:
        from pipelines.evaluation.judges import judges_of
        from pipelines.registry.registry import Registry

        judges_of(Registry(root), recipe.judges)


def training_name(store: Store, recipe: Recipe, identity_: str, again: bool) -> str:
    """Name of the training run; with `again`, one that has not finished yet."""
    from pipelines.training.train import finished as trained

    name, attempt = f"{recipe.name}-{identity_}", 1
    while again and trained(store, f"{name}-{attempt}") is not None:
        attempt += 1
    return f"{name}-{attempt}"


def transient(error: BaseException | None) -> bool:
    """Whether another attempt may go better: the network, or a busy disk, but not a missing file or a bad recipe."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, LASTING):
            return False
        library = type(error).__module__.split(".")[0]
        if isinstance(error, OSError | TimeoutError) or library in NETWORK_LIBRARIES:
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


@contextmanager
def step(stage: str) -> Iterator[Step]:
    """Times a step; its line is shown when it ends well."""
    running = Step(stage)
    yield running
    progress.current().line(stage, running.text, running.seconds)


class Step:
    def __init__(self, stage: str) -> None:
        self.stage, self.text, self.value = stage, "", None
        self._start = time.monotonic()
        self._seconds: float | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start if self._seconds is None else self._seconds

    def done(self, text: str, value: Any) -> StageResult:
        self.text, self._seconds = text, self.seconds
        return StageResult(self.stage, text, round(self.seconds, 2), value)


def ingest(root: str, recipe_key: str, corpus: str) -> StageResult:
    """One corpus into its utterance table. Value: a reference to its manifest."""
    from pipelines.data.ingest import ingest as run

    store = Store(root)
    recipe = kept_recipe(store, recipe_key)
    config = next(item for item in recipe.corpora if item.name == corpus)
    before = store.latest(f"utterances/{corpus}")
    with step("ingest") as current, progress.current().bar(f"ingest {corpus}", "utt") as report:
        manifest = run(config, recipe.quality, store, progress=report)
        return current.done(describe_corpus(manifest, before), ref(manifest))


def describe_corpus(manifest: Manifest, before: Manifest | None) -> str:
    meta = manifest.meta
    name = manifest.dataset.split("/", 1)[1]
    text = f"{name}: {meta['rows']:,} utterances, {meta.get('hours') or 0:.2f} h"
    if meta.get("quarantined"):
        text += f", {meta['quarantined']:,} in quarantine"
    if before is None:
        return f"{text}, all new"
    if before.version == manifest.version:
        return f"{text}, unchanged since version {manifest.version}"
    return f"{text}, {meta['rows'] - before.meta['rows']:+,} rows against version {before.version}"


def features(root: str, recipe_key: str, utterances: Sequence[DatasetRef]) -> StageResult:
    """log-mel of every recording that has none yet. Value: references to the features manifests."""
    from pipelines.data.features import LOGMEL

    return _extracted(root, recipe_key, utterances, LOGMEL)


def waveforms(root: str, recipe_key: str, utterances: Sequence[DatasetRef]) -> StageResult:
    """Samples, at the features' rate, and pitch of every recording that has none yet. Value: references to their
    manifests."""
    from pipelines.data.features import PITCH, WAVEFORM

    return _extracted(root, recipe_key, utterances, WAVEFORM, PITCH)


def _extracted(root: str, recipe_key: str, utterances: Sequence[DatasetRef], *kinds: Kind) -> StageResult:
    from pipelines.data.features import extract

    store = Store(root)
    recipe = kept_recipe(store, recipe_key)
    tables = manifests(store, utterances)
    names = [item.dataset.split("/", 1)[1] for item in tables]
    first, before = kinds[0], [store.latest(kinds[0].dataset(recipe.features, name)) for name in names]
    with step(first.name) as current, progress.current().bar(first.name, "rec") as report:
        made = [extract(tables, recipe.features, store, progress=report, kind=kind) for kind in kinds]
        new = _made_now("extracted", made[0], before)
        rows = sum(item.meta["rows"] for item in made[0])
        return current.done(f"{rows:,} recordings, {new:,} extracted", [ref(item) for found in made for item in found])


def alignment(
    root: str, recipe_key: str, utterances: Sequence[DatasetRef], features: Sequence[DatasetRef]
) -> StageResult:
    """Where phones end in recordings whose corpus does not say. Value: references to the alignment manifests."""
    from pipelines.data.alignment import align, dataset_name

    store = Store(root)
    recipe = kept_recipe(store, recipe_key)
    tables = manifests(store, utterances)
    before = [store.latest(dataset_name(recipe.features, item.dataset.split("/", 1)[1])) for item in tables]
    with step("alignment") as current, progress.current().bar("alignment", "step") as report:
        found = align(tables, manifests(store, features), recipe.features, store, report)
        new = _made_now("aligned", found, before)
        rows, short = (sum(item.meta[name] for item in found) for name in ("rows", "short"))
        shown = f"{rows:,} recordings without phone times, {new:,} aligned" if rows + short else "all phone times known"
        shown += f", {short:,} too short for their phones" if short else ""
        return current.done(shown, [ref(item) for item in found])


def prosody(root: str, recipe_key: str, utterances: Sequence[DatasetRef], aligned: Sequence[DatasetRef]) -> StageResult:
    """Duration, pitch and energy of every phone that has none yet. Value: references to the prosody manifests."""
    from pipelines.data.prosody import dataset_name, measure

    store = Store(root)
    recipe = kept_recipe(store, recipe_key)
    tables = manifests(store, utterances)
    before = [store.latest(dataset_name(recipe.features, item.dataset.split("/", 1)[1])) for item in tables]
    with step("prosody") as current, progress.current().bar("prosody", "rec") as report:
        found = measure(tables, recipe.features, store, progress=report, aligned=manifests(store, aligned))
        new = _made_now("measured", found, before)
        rows = sum(item.meta["rows"] for item in found)
        return current.done(f"{rows:,} recordings with phones, {new:,} measured", [ref(item) for item in found])


def _made_now(count: str, found: Sequence[Manifest], before: Sequence[Manifest | None]) -> int:
    """What the manifests count as new, of those that are other versions than before."""
    pairs = zip(found, before, strict=True)
    return sum(item.meta[count] for item, old in pairs if old is None or old.version != item.version)


def train(
    root: str,
    recipe_key: str,
    name: str,
    utterances: Sequence[DatasetRef],
    feature_refs: Sequence[DatasetRef],
    run: Mapping[str, str],
) -> StageResult:
    """The joint model. Value: the training run's name, by which its result is found in the store."""
    from mtl.metrics.scoring import in_unit
    from pipelines.training.train import train as fit

    store = Store(root)
    recipe = kept_recipe(store, recipe_key)
    with step("train") as current, progress.current().bar("train", "epoch") as report:
        result = fit(
            recipe,
            manifests(store, utterances),
            manifests(store, feature_refs),
            store,
            name,
            tracking=run,
            progress=report,
        )
        metric = recipe.gates.primary
        primary = result.metrics.get(f"valid/{metric}")
        shown = "" if primary is None else f", valid {metric} {in_unit(metric, primary)}"
        return current.done(f"{len(result.history)} epochs{shown}", result.name)


def search(
    root: str,
    recipe_key: str,
    utterances: Sequence[DatasetRef],
    feature_refs: Sequence[DatasetRef],
    trials: int | None,
    resume: bool,
) -> StageResult:
    """The trials of a search, their front, and its page. Value: SearchResult as plain data, and `report`."""
    from pipelines.promotion import place
    from pipelines.registry import tracking
    from pipelines.search.page import render
    from pipelines.search.search import search as run

    store = Store(root)
    recipe = kept_recipe(store, recipe_key)
    tables, found = manifests(store, utterances), manifests(store, feature_refs)
    name = f"search {recipe.name} {identity(recipe, tables)}"
    with (
        tracking.start(root, recipe, name=name, manifests=[*tables, *found]) as tracked,
        step("search") as current,
        progress.current().bar("search", "epoch") as report,
    ):
        result = run(recipe, tables, found, store, trials, resume, tracking=tracked, progress=report)
        states = Counter(row["state"] for row in result.leaderboard)
        text = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        content = result.to_json()
        key = f"reports/{recipe.name}/search-{fingerprint(content)}"
        page = render(content, recipe)
        store.put_bytes(f"{key}.html", page.encode())
        tracked.log_text(page, "search.html")
        tracked.log_text(json.dumps(content["front"], indent=1), "front.json")
        content["report"] = place(store, f"{key}.html")
        return current.done(f"{len(result.leaderboard)} trials: {text}", content)


def trial_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the leaderboard as it is printed."""
    return {
        "trial": row["trial"],
        "objective": f"{row['objective']:.2f}",
        "state": row["state"],
        "epochs": row["epochs"],
        "seconds": f"{row['seconds']:.0f}",
        "point": "  ".join(row["overrides"]),
        "error": row["error"],
    }
