"""The second half of a night, step by step: package the model, score it, let the gate decide, tell the people.

What is scored is the packaged model itself, loaded back from the registry, on the frozen test split, beside the
champion on the same rows. See night.py for the first half and for what steps have in common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.spec import makes_frames, makes_sound
from pipelines.core import environment, progress
from pipelines.held_out import HeldOutScores, compared, current_champion, judged
from pipelines.nightly import DatasetRef, RunResult, StageResult, dataset, kept_recipe, manifests, step
from pipelines.recipe import Recipe
from pipelines.storage import lock
from pipelines.storage.store import Manifest, Store

if TYPE_CHECKING:
    from pipelines.evaluation.channel import Pair
    from pipelines.evaluation.evaluate import Scores
    from pipelines.training.train import TrainResult

RECIPE_TAG = "motet.recipe_key"  # of a registered version: the recipe it was trained by, in the store
ATTEMPTS = 3  # at a decision, when the champion changes meanwhile


def claim(root: str, name: str) -> list[StageResult]:
    """Before anything is trained: reserves the model's name, and sets its aliases from the ledger.

    Returns a line for the report, where there is anything to tell.

    Raises:
        RegistryError: the name is another root's.
    """
    from pipelines.registry.registry import Registry

    notes = Registry(root).claim(name)
    if not notes:
        return []
    with step("registry") as current:
        return [current.done("; ".join(notes), None)]


def check_name(root: str, name: str) -> None:
    """Raises RegistryError when a registered model of this name is another root's."""
    from pipelines.registry.registry import Registry

    Registry(root).check(name)


def register(
    root: str,
    recipe_key: str,
    name: str,
    utterances: Sequence[DatasetRef],
    feature_refs: Sequence[DatasetRef],
    run: Mapping[str, str],
) -> StageResult:
    """The trained weights as the next version in the registry. Value: the version's number."""
    from pipelines.registry.registry import Registry
    from pipelines.registry.tracking import Run
    from pipelines.training.train import finished

    store = Store(root)
    recipe = kept_recipe(store, recipe_key)
    result = _result(finished(store, name), name)
    with step("register") as current:
        weights = store.find(f"models/{recipe.name}", result.model_key.rpartition("/")[2])
        folder = store.fetch_folder(result.files, weights)
        lineage = manifests(store, [*utterances, *feature_refs])
        lock.check(store.root)
        version = Registry(store).register(
            recipe.name, folder, Run(**run), lineage, {"motet.night": name, RECIPE_TAG: recipe_key}
        )
        return current.done(f"{version.uri}, {version.parameters:,} parameters, @challenger", version.version)


def evaluate(
    root: str,
    recipe_key: str,
    version: int,
    utterances: Sequence[DatasetRef],
    feature_refs: Sequence[DatasetRef],
    run: Mapping[str, str],
) -> StageResult:
    """The packaged candidate and the champion on the same test rows. Value: the champion's version, or None."""
    from mtl.metrics.scoring import in_unit
    from pipelines.evaluation.domains import figures
    from pipelines.registry.tracking import Run

    exam = HeldOutScores.of(root, recipe_key, utterances, feature_refs)
    recipe, registry = exam.recipe, exam.registry
    with step("evaluate") as current, progress.current().bar("evaluate", "utt") as report:
        candidate = registry.version(recipe.name, version)
        champion = current_champion(registry, recipe.name, version)
        scores = exam.score(candidate, report)
        if champion is not None:
            exam.score(champion, report)
        registry.record(candidate, scores.metrics, Run(**run))
        apart = {f"test/{row.metric}": row.value for some in figures(scores).values() for row in some}
        Run(**run).log(apart, step=0)
        primary = scores.metrics.get(recipe.gates.primary)
        shown = f"{len(scores.table):,} test rows"
        if primary is not None:
            name = recipe.gates.primary
            shown += f", {name} {in_unit(name, primary)}{_apart(scores, name)}"
        return current.done(shown, champion.version if champion else None)


def _apart(scores: Scores, metric: str) -> str:
    """The metric for each corpus alone, where there are several."""
    apart = {name: metrics[metric] for name, metrics in scores.by_corpus.items() if metric in metrics}
    return f" ({', '.join(f'{name} {value:.2f}' for name, value in apart.items())})" if len(apart) > 1 else ""


def interpret(
    root: str,
    recipe_key: str,
    version: int,
    utterances: Sequence[DatasetRef],
    feature_refs: Sequence[DatasetRef],
    run: Mapping[str, str],
) -> StageResult:
    """What the packaged candidate's tasks share and its layers hold, on valid rows. Value: its key in the store."""
    from pipelines.data.dataset import open_dataset
    from pipelines.evaluation.inspection import interpreted, read
    from pipelines.registry.registry import Registry
    from pipelines.registry.tracking import Run

    store = Store(root)
    recipe = kept_recipe(store, recipe_key)
    registry = Registry(store)
    with step("interpret") as current, progress.current().bar("interpret", "utt") as report:
        candidate = registry.version(recipe.name, version)
        tables = manifests(store, utterances)
        valid = open_dataset(store, tables, manifests(store, feature_refs)).split("valid")
        key = interpreted(store, candidate.address, lambda: registry.load(candidate.uri), valid, recipe, report)
        found = read(store, key)
        Run(**run).log_text(json.dumps(found), "sharing.json")
        probes = ", ".join(probe["target"] for probe in found["probes"]) or "none"
        return current.done(f"{found['rows']:,} valid rows, probes: {probes}", key)


def decide(
    root: str,
    recipe_key: str,
    version: int,
    utterances: Sequence[DatasetRef],
    feature_refs: Sequence[DatasetRef],
    by: str = "nightly",
    again: bool = False,
) -> StageResult:
    """The gate's decision, recorded and acted on. Value: promoted, reason, champion (compared with), decision.

    again: ask even though this version has been judged before.

    Raises:
        Overtaken: the champion changed faster than it could be judged against.
    """
    from pipelines.registry.registry import Overtaken

    exam = HeldOutScores.of(root, recipe_key, utterances, feature_refs)
    recipe, registry = exam.recipe, exam.registry
    with step("gate") as current:
        line = None if again else judged(registry, recipe.name, version)
        for attempt in range(1, ATTEMPTS + 1):
            if line is not None:
                break
            registry.claim(recipe.name)
            expects = registry.state(recipe.name).champion
            decision, rows = exam.judge(version, current_champion(registry, recipe.name, version, again))
            try:
                line = registry.settle(recipe.name, version, decision, expects, rows, by)
            except Overtaken:  # another champion reigns: judge against that one
                if attempt == ATTEMPTS:
                    raise
        assert line is not None, "the loop ends with a line or raises"
        promoted = line.action == "promote"
        value = {"promoted": promoted, "reason": line.reason, "champion": compared(line), "decision": line.decision}
        return current.done(f"{state_of(promoted)}: {line.reason}", value)


def promotion(root: str, model: str, version: int, force: bool, reason: str, by: str) -> StageResult:
    """A version offered to the gate once more, or promoted on a person's word. Value: promoted, reason, champion.

    Raises:
        RegistryError: no such version, or it reigns already, or its data are gone.
    """
    from pipelines.registry.registry import Registry, RegistryError

    store = Store(root)
    registry = Registry(store)
    registry.check(model)
    candidate, champion = registry.version(model, version), registry.champion(model)
    if champion is not None and champion.version == version:
        raise RegistryError(f"{model} version {version} is the champion already")
    if not force:
        recipe_key = candidate.tags.get(RECIPE_TAG)
        if not recipe_key or not store.exists(recipe_key):
            raise RegistryError(f"{candidate.uri} was not made by a night of {root}; `--force` takes your word for it")
        refs = list(candidate.datasets.items())
        tables = [ref for ref in refs if ref[0].startswith("utterances/")]
        return decide(root, recipe_key, version, tables, [ref for ref in refs if ref not in tables], by, again=True)
    with step("promote") as current:
        line = registry.promote(model, version, reason, by)
        value = {"promoted": True, "reason": line.reason, "champion": line.expects, "decision": None}
        return current.done(f"{candidate.uri} by {by}: {reason}", value)


def challenger(root: str, model: str) -> int:
    """The version that waits. Raises RegistryError when none does."""
    from pipelines.registry.registry import CHALLENGER, Registry, RegistryError

    registry = Registry(root)
    for version in registry.versions(model):
        if CHALLENGER in version.aliases:
            return version.version
    raise RegistryError(f"{model} has no challenger in {registry.uri}; name a version, see `motet leaderboard {model}`")


def report(
    root: str,
    recipe_key: str,
    identity: str,
    name: str,
    version: int,
    verdict: Mapping[str, Any],
    interpretation: str,
    utterances: Sequence[DatasetRef],
    feature_refs: Sequence[DatasetRef],
    run: Mapping[str, str],
    said: Sequence[tuple[str, str, float]],
) -> StageResult:
    """Writes the page into the store and MLflow, and the record that makes this night finished."""
    from pipelines.evaluation.inspection import read
    from pipelines.registry.deleted_versions import warning
    from pipelines.registry.tracking import Run
    from pipelines.report.builder import ReportContent
    from pipelines.report.page import render
    from pipelines.report.summary import plain

    exam = HeldOutScores.of(root, recipe_key, utterances, feature_refs)
    store, recipe, registry = exam.store, exam.recipe, exam.registry
    with step("report") as current:
        tables, made = exam.utterances, exam.features
        candidate = registry.version(recipe.name, version)
        scores = exam.score(candidate)
        against = current_champion(registry, recipe.name, version)
        theirs = exam.score(against) if against is not None and against.version == verdict["champion"] else None
        before = registry.state(recipe.name).before(judged(registry, recipe.name, version))
        warnings = [text] if (text := warning(store, recipe.name, before)) else []
        pairs = probed(store, recipe, tables, made)
        story = ReportContent(store, recipe, identity, name, candidate, run, said)
        shared = read(store, interpretation)
        night = story.tell(scores, theirs, verdict, shared, tables, made, pairs, exam.voice(candidate), warnings)
        page, key = render(night), f"reports/{recipe.name}/{name}.html"
        store.put_bytes(key, page.encode())
        tracked = Run(**run)
        tracked.log_text(page, "report.html")
        tracked.finish()  # before the record: a night that is found done has no run left open
        outcome = RunResult(
            state="trained",
            recipe=recipe.name,
            identity=identity,
            name=name,
            model=f"models:/{recipe.name}/{version}",
            promoted=bool(verdict["promoted"]),
            reason=verdict["reason"],
            champion=night.champion or None,
            metrics={row.metric: round(row.value, 4) for row in night.metrics},
            table=plain(night.metrics),
            synthetic=night.synthetic,
            warnings=[*warnings, *(pair.warning for pair in pairs if pair.warning), *_at_floor(verdict)],
            report=place(store, key),
            seconds=night.seconds,
        )
        record(store, recipe, outcome, [key, recipe_key], [*tables, *made])
        return current.done(f"{outcome.report} ({len(page) / 1e6:.1f} MB)", outcome)


def _at_floor(verdict: Mapping[str, Any]) -> list[str]:
    """Metrics of a promoted model that are not shown to be better than those of a model that knows nothing."""
    from pipelines.evaluation.gates import Decision, floor_caveat

    if not verdict["promoted"] or verdict["decision"] is None:
        return []
    caveats = [floor_caveat(row) for row in Decision.from_json(verdict["decision"]).comparisons]
    return [caveat for caveat in caveats if caveat]


def probed(store: Store, recipe: Recipe, utterances: Sequence[Manifest], features: Sequence[Manifest]) -> list[Pair]:
    """How well each two of the recipe's domains can be told apart by their channel."""
    from pipelines.data.dataset import open_dataset
    from pipelines.evaluation.channel import probe

    if recipe.domains.by == "corpus" and len(recipe.corpora) < 2:
        return []
    return probe(open_dataset(store, utterances, features), recipe.domains.by)


def place(store: Store, key: str) -> str:
    """Where a person finds a key: a path for a folder, a URI otherwise."""
    return f"{store.root}/{key}" if "://" in store.root else str(Path(store.root) / key)


def nothing_new(store: Store, record: Manifest) -> RunResult:
    """What a finished night came to; its report is where the root is now."""
    outcome = {**record.meta["outcome"], "state": "nothing new", "night": record.version, "seconds": 0.0}
    return RunResult(**{**outcome, "report": place(store, record.files[0])})


def state_of(promoted: bool | None) -> str:
    """What the gate decided, in the words that are used wherever a person reads it."""
    return "promoted" if promoted else "not promoted"


def headline(outcome: RunResult) -> str:
    """The sentence above the table of a night."""
    state = state_of(outcome.promoted)
    if outcome.state == "nothing new":
        state = f"nothing new since the night of {outcome.name}, {state}"
    head = f"{outcome.model}: {state}"
    label = "\nsynthetic speech: says that the system works, nothing about real voices" if outcome.synthetic else ""
    warnings = "".join(f"\nwarning: {warning}" for warning in outcome.warnings)
    return f"{head} ({outcome.reason}){label}{warnings}"


def next_steps(outcome: RunResult, root: str) -> str:
    """What a person does next."""
    given = "" if root == environment.ROOT else f" --root {root}"
    return "\n".join(
        [
            "",
            f"report      {outcome.report}",
            f"try it      {_trial(outcome)}{given}",
            f"registry    motet leaderboard {outcome.recipe}{given}   motet history {outcome.recipe}{given}",
            f"pages       motet up{given}   (Prefect, MLflow, Ray)",
        ]
    )


def _trial(outcome: RunResult) -> str:
    """The command that shows what the model can do, by what it was judged by.

    The name alone stands for the champion, which need not exist when this model was not promoted.
    """
    model = outcome.recipe if outcome.promoted or not outcome.model else outcome.model.removeprefix("models:/")
    tasks = {metric.partition("/")[0] for metric in outcome.metrics}
    if makes_frames(tasks):
        return f'motet say "TEXT" --model {model}'
    if makes_sound(tasks):
        return f'motet say "TEXT" --vocoder {model}'
    read = all("/text_" in metric for metric in outcome.metrics)
    return f"motet predict {'--text TEXT' if read else 'FILE.wav'} --model {model}"


def record(
    store: Store, recipe: Recipe, outcome: RunResult, files: Sequence[str], made_from: Sequence[Manifest]
) -> Manifest:
    """Commits a finished night under its identity."""
    parents = {manifest.dataset: manifest.address for manifest in made_from}
    meta = {"outcome": outcome.to_json(), "recipe": recipe.address()}
    return store.commit(dataset(recipe), outcome.identity, tuple(files), parents, meta)


def _result(result: TrainResult | None, name: str) -> TrainResult:
    if result is None:
        raise LookupError(f"training {name} has no result in the store; was it deleted during the night?")
    return result
