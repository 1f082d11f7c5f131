"""The DAG and its schedules: Prefect flows of Prefect tasks.

    nightly    ingest -> features -> train -> register -> evaluate -> gate -> interpret -> report
    search     Ray Tune over task weights, sharing mode and learning rate
    study      the same training in many cells: tasks, shares of the labels, sharing modes, balancing
    promote    the gate for one version, or a person's word

Stages are plain functions (pipelines/nightly.py, verdict.py); here they become Prefect tasks, with retries
where a fault
may pass. Tasks hand on small values: references to manifests, keys, names. What caches is the store, by content: a
task whose result is there does nothing, whichever run asks.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from pipelines import nightly as night
from pipelines import promotion as verdict
from pipelines.admin.scheduler import ADVICE, SchedulerError, unscheduled
from pipelines.core import environment
from pipelines.core.progress import display
from pipelines.core.redaction import redacted_errors
from pipelines.nightly import DatasetRef, RunResult, StageResult
from pipelines.recipe import Recipe, load
from pipelines.recipe.variables import hide_in_overrides
from pipelines.search.front_table import picked
from pipelines.storage.store import Store
from pipelines.study import stages as study_stage
from pipelines.study.options import KINDS, SEEDS, Split
from pipelines.utterances.splits import require_rows

# Before prefect reads its settings. What is deployed logs to its server; a person sees our own lines.
environment.prepare(environment.root_from(sys.argv), verbose=bool({"-v", "--verbose", "deploy"} & set(sys.argv)))

from prefect import flow, serve, task  # noqa: E402
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact  # noqa: E402
from prefect.automations import Automation, EventTrigger, Posture, ResourceSpecification  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.client.schemas.objects import ConcurrencyLimitConfig, StateType  # noqa: E402
from prefect.deployments.runner import EntrypointType  # noqa: E402
from prefect.events.actions import ChangeFlowRunState  # noqa: E402
from prefect.schedules import Cron, Interval, RRule, Schedule  # noqa: E402
from prefect.server.schemas import schedules as server_schedules  # noqa: E402
from prefect.settings import PREFECT_API_URL  # noqa: E402
from prefect.states import State  # noqa: E402
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402

ONE_AT_A_TIME = {"limit": 1, "collision_strategy": "ENQUEUE"}
SCHEDULER_SECONDS = 150.0  # the scheduler of a server passes every 60 s; over new deployments, every 5 s
HORIZON = timedelta(days=90)  # the scheduler plans no run that is more than 100 days away
SILENCE = 3 * environment.HEARTBEAT_SECONDS
RETRY_SECONDS = [5.0, 30.0]
INGESTS_AT_ONCE = 2  # corpora; each decodes with threads of its own


THREADS: Any = ThreadPoolTaskRunner(max_workers=INGESTS_AT_ONCE)


def is_retryable(task_: Any, run_: Any, state: State) -> bool:
    """Retry only what another attempt may mend."""
    return night.transient(state.data if isinstance(state.data, BaseException) else None)


def stage(name: str, retries: int = 2) -> Any:
    """A task of the DAG; with retries, for stages that read from afar or write to the store.

    Prefect stores the message of an error: secrets are taken out of it first.
    """

    def decorate(function: Any) -> Any:
        return settings(redacted_errors()(function))

    settings = task(
        name=name,
        task_run_name=name,
        retries=retries,
        retry_delay_seconds=RETRY_SECONDS[:retries],
        retry_condition_fn=is_retryable if retries else None,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    return decorate


ingest = stage("ingest")(night.ingest)
features = stage("features")(night.features)
waveforms = stage("waveforms")(night.waveforms)
alignment = stage("alignment")(night.alignment)
prosody = stage("prosody")(night.prosody)
train = stage("train", retries=0)(night.train)  # Ray Train restarts workers itself, from their checkpoint
claim = stage("claim")(verdict.claim)
register = stage("register")(verdict.register)
evaluate = stage("evaluate")(verdict.evaluate)
interpret = stage("interpret")(verdict.interpret)
decide = stage("gate")(verdict.decide)
report = stage("report")(verdict.report)
searched = stage("search", retries=0)(night.search)  # Ray Tune retries its trials itself
studied_by_labels = stage("study", retries=0)(study_stage.by_labels)
studied_by_variants = stage("study", retries=0)(study_stage.by_variants)
studied_by_folds = stage("study", retries=0)(study_stage.by_folds)
studied = stage("study", retries=0)(study_stage.plain)  # its Ray tasks are retried there; finished cells are kept
promotion = stage("promotion")(verdict.promotion)


@flow(name="nightly", flow_run_name="nightly {recipe}", task_runner=THREADS)
def nightly(
    recipe: str = "assistant",
    root: str | None = None,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    again: bool = False,
    wait: bool = True,
) -> dict[str, Any]:
    """The whole night. Nothing new since a finished night: returns what that one came to, and trains nothing.

    recipe: a shipped name or a YAML file; overrides: as `--set`; workers: instead of the recipe's trainer.workers;
    again: train even though nothing is new.
    """
    root = root or environment.default_root()
    loaded, store = load(recipe, night.with_workers(overrides, workers)), Store(root)
    with redacted_errors(), night.one_at_a_time(root, f"night of {loaded.name}", wait), display():
        key = night.keep_recipe(store, loaded)
        said, utterances = ingested(root, key, loaded)
        record = None if again else night.finished(store, loaded, night.manifests(store, utterances))
        outcome = verdict.nothing_new(store, record) if record else trained(root, key, loaded, said, utterances, again)
        publish(outcome)
        return outcome.to_json()


def ingested(root: str, key: str, recipe: Recipe) -> tuple[list[StageResult], list[DatasetRef]]:
    """One task a corpus, some at a time."""
    futures = ingest.map(root, key, [corpus.name for corpus in recipe.corpora])
    said = [future.result() for future in futures]
    return said, [done.value for done in said]


@contextmanager
def extracted(root: str, recipe: Recipe, split: str | None) -> Iterator[tuple[str, list[DatasetRef], list[DatasetRef]]]:
    """The recipe's key, utterances and features, in a Ray session that lasts as long as the block.

    split: what models are compared on, which must have rows.
    """
    key = night.keep_recipe(Store(root), recipe)
    _, utterances = ingested(root, key, recipe)
    if split:
        require_rows(recipe, night.manifests(Store(root), utterances), split)
    with local_ray():
        yield key, utterances, data_of(derived(root, key, recipe, utterances))


def derived(root: str, key: str, recipe: Recipe, utterances: list[DatasetRef]) -> list[StageResult]:
    """What is made of the recordings: features, for a model that speaks how their phones are said, for a vocoder
    their samples."""
    made = [features(root, key, utterances)]
    if recipe.phrased:
        aligned = alignment(root, key, utterances, made[0].value)
        made += [aligned, prosody(root, key, utterances, aligned.value)]
    if recipe.sounds:
        made.append(waveforms(root, key, utterances))
    return made


def data_of(made: list[StageResult]) -> list[DatasetRef]:
    """What training reads of what is derived: all but the alignment, which is contained in the prosody."""
    return [ref for done in made if done.stage != "alignment" for ref in done.value]


def trained(
    root: str, key: str, recipe: Recipe, said: list[StageResult], utterances: list[DatasetRef], again: bool
) -> RunResult:
    """From features to report, in one Ray session and one MLflow run."""
    from pipelines.registry import tracking

    store = Store(root)
    night.check_listeners(root, recipe)
    tables = night.manifests(store, utterances)
    require_rows(recipe, tables, "test")
    said += claim(root, recipe.name)
    identity = night.identity(recipe, tables)
    name = night.training_name(store, recipe, identity, again)
    with local_ray():
        made_of = derived(root, key, recipe, utterances)
        said += made_of
        made = data_of(made_of)
        data = [*tables, *night.manifests(store, made)]
        with tracking.start(root, recipe, name=name, manifests=data, tags={"motet.night": identity}) as opened:
            tracked = opened.to_json()
            said.append(train(root, key, name, utterances, made, tracked))
            said.append(register(root, key, name, utterances, made, tracked))
            version: int = said[-1].value
            said.append(evaluate(root, key, version, utterances, made, tracked))
            said.append(decide(root, key, version, utterances, made))
            decided = said[-1].value
            said.append(interpret(root, key, version, utterances, made, tracked))  # no promotion waits for it
            seen: str = said[-1].value
            lines = [done.said() for done in said]
            done = report(root, key, identity, name, version, decided, seen, utterances, made, tracked, lines)
    return done.value


def publish(outcome: RunResult) -> None:
    """The night's artifacts in Prefect: its table, its verdict, its report."""
    create_table_artifact(
        table=night.metrics_of(outcome),
        key=artifact_key("metrics", outcome.recipe),
        description=f"{outcome.model} on test, %",
    )
    verdict_text = f"{verdict.state_of(outcome.promoted)}: {outcome.reason}"
    if outcome.state == "nothing new":
        verdict_text = f"nothing new: the night before stands ({verdict_text})"
    lines = [f"## {outcome.recipe}: {outcome.model}", "", verdict_text, "", f"night `{outcome.identity}`"]
    create_markdown_artifact("\n".join(lines), key=artifact_key("night", outcome.recipe), description="verdict")
    if outcome.report:
        path = outcome.report
        link = path if "://" in path else Path(path).resolve().as_uri()
        create_link_artifact(
            link=link, key=artifact_key("report", outcome.recipe), link_text=f"report of {outcome.model}"
        )


def artifact_key(kind: str, recipe: str) -> str:
    """Prefect takes lower-case letters, digits and dashes."""
    return f"{kind}-{recipe}".replace("_", "-")


@flow(name="search", flow_run_name="search {recipe}", task_runner=THREADS)
def search(
    recipe: str = "assistant",
    root: str | None = None,
    overrides: Sequence[str] = (),
    trials: int | None = None,
    resume: bool = False,
    train_winner: bool = False,
    wait: bool = True,
    pick: str = "best",
) -> dict[str, Any]:
    """Trials of the recipe's search space; with `train_winner`, a night of the point that is picked afterwards."""
    root = root or environment.default_root()
    loaded = load(recipe, list(overrides))
    with redacted_errors(), night.one_at_a_time(root, f"search of {loaded.name}", wait), display():
        if train_winner:
            verdict.check_name(root, loaded.name)
        with extracted(root, loaded, "valid") as (key, utterances, made):
            found = searched(root, key, utterances, made, trials, resume).value
        rows = [night.trial_row(row) for row in found["leaderboard"]]
        create_table_artifact(table=rows, key=artifact_key("search", loaded.name), description="trials, best first")
    if train_winner:
        chosen = [*overrides, *picked(found, pick)["overrides"]]
        found["night"] = nightly(recipe, root=root, overrides=chosen, wait=wait)
    return found


@flow(name="study", flow_run_name="study {recipe}", task_runner=THREADS)
def study(
    recipe: str = "assistant",
    root: str | None = None,
    overrides: Sequence[str] = (),
    seeds: int = SEEDS,
    kinds: Sequence[str] = KINDS,
    split: Split = "valid",
    share: float = 1.0,
    wait: bool = True,
    labels: Sequence[float] = (),
    sparse: Sequence[str] = (),
    sharing: Sequence[str] = (),
    balancing: Sequence[str] = (),
    folds: int | None = None,
) -> dict[str, Any]:
    """Which tasks help which: the recipe's tasks alone, together, in pairs, each left out. Goes on where it was.

    labels: instead, the tasks `sparse` alone and all together, with these shares of the labels of `sparse`.
    sharing, balancing: instead, the tasks alone, and together in each of these modes and methods.
    folds: instead, the tasks alone and together with each of so many groups of speakers held out; 0: each speaker.
    """
    root = root or environment.default_root()
    loaded = load(recipe, list(overrides))
    with redacted_errors(), night.one_at_a_time(root, f"study of {loaded.name}", wait), display():
        with extracted(root, loaded, None if folds is not None else split) as (key, utterances, made):
            if labels:
                arguments = (list(labels), list(sparse), seeds, split, share)
                found: dict[str, Any] = studied_by_labels(root, key, utterances, made, *arguments).value
            elif folds is not None:
                found = studied_by_folds(root, key, utterances, made, folds, seeds).value
            elif sharing or balancing:
                variants = (list(sharing), list(balancing), seeds, split, share)
                found = studied_by_variants(root, key, utterances, made, *variants).value
            else:
                found = studied(root, key, utterances, made, seeds, list(kinds), split, share).value
        publish_study(loaded.name, found)
    return found


def publish_study(recipe: str, result: dict[str, Any]) -> None:
    """A study's artifacts in Prefect: its table and its recommendations."""
    key = artifact_key(result["kind"], recipe)
    create_table_artifact(table=result["table"], key=key, description=result["table_title"])
    if lines := "\n".join(f"- {line}" for line in result["lines"] if line):
        create_markdown_artifact(lines, key=artifact_key("advice", recipe), description="task groups")


@flow(name="promote", flow_run_name="promote {model} {version}")
def promote(
    model: str, version: int, root: str | None = None, force: bool = False, reason: str = "by hand", by: str = "unknown"
) -> dict[str, Any]:
    """Offers a registered version to the gate again, against whoever reigns now; with `force`, promotes it."""
    root = root or environment.default_root()
    with (
        redacted_errors(),
        night.one_at_a_time(root, f"promotion of {model}", wait=True, resumable=False),
        display(),
    ):
        outcome = promotion(root, model, version, force, reason, by)
    return outcome.value


class local_ray:
    """Ends the Ray session that a flow started, and leaves one that was there. Ray starts when a stage asks."""

    def __enter__(self) -> None:
        from pipelines.core import cluster

        self.before = cluster.connected()

    def __exit__(self, *raised: object) -> None:
        from pipelines.core import cluster

        if not self.before and cluster.connected():
            import ray

            ray.shutdown()


def deployments(file: Path, root: str) -> list[Any]:
    """The deployments of a prefect.yaml, to be run in this process: no work pool, and the file of `prefect deploy`."""
    flows: dict[str, Any] = {"nightly": nightly, "search": search, "study": study, "promote": promote}
    served = []
    for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]:
        parameters = dict(entry.get("parameters", {}))
        if "overrides" in parameters:
            parameters["overrides"] = hide_in_overrides(parameters["overrides"])
        made = flows[entry["entrypoint"].rpartition(":")[2]].to_deployment(
            name=entry["name"],
            description=entry.get("description"),
            tags=entry.get("tags"),
            parameters={**parameters, "root": root if "://" in root else str(Path(root).resolve())},
            schedules=[schedule_of(written) for written in entry.get("schedules", ())],
            concurrency_limit=ConcurrencyLimitConfig(**entry.get("concurrency_limit", ONE_AT_A_TIME)),
            entrypoint_type=EntrypointType.MODULE_PATH,  # found wherever this is called from
        )
        served.append(made)
    return served


def schedule_of(written: dict[str, Any]) -> Schedule:
    """A schedule of a prefect.yaml: cron, interval (seconds) or rrule, with the options that Prefect takes beside it.

    Raises:
        ValueError: none of the three is there, or more than one.
    """
    kinds: dict[str, Any] = {"cron": Cron, "interval": Interval, "rrule": RRule}
    named = sorted(kinds.keys() & written.keys())
    if len(named) != 1:
        raise ValueError(f"schedule {written}: expected exactly one of cron, interval and rrule")
    options = {key: value for key, value in written.items() if key != named[0]}
    return kinds[named[0]](written[named[0]], **options)


def mark_stale_runs() -> None:
    """Has the server mark a run crashed that fell silent: a machine that lost its power cannot say so itself.

    Without it, such a run would count as running for ever, and the one night at a time would be that one.
    """
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    automation: Any = Automation(
        name="motet: a run without a heartbeat has crashed",
        description=f"{SILENCE} s without a sign of life",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE),
        ),
        actions=[
            ChangeFlowRunState(name=None, state=StateType.CRASHED, message=f"silent for {SILENCE} s", force=False)
        ],
    )
    try:
        _: Any = Automation.read(name=automation.name)
    except ValueError:  # Prefect's way of saying that there is none
        automation.create()


def serve_deployments(file: Path, root: str) -> None:
    """Runs what a prefect.yaml schedules, in this process, until Ctrl-C. Needs a Prefect server.

    Raises:
        SchedulerError: the server registers the deployments, but plans no run for a schedule.
    """
    mark_stale_runs()
    served = deployments(file, root)
    for deployment in served:
        deployment.apply()
    await_schedules(served)
    serve(*served, pause_on_shutdown=False)  # a restart catches up with a night it missed


def await_schedules(served: Sequence[Any], seconds: float = SCHEDULER_SECONDS) -> None:
    """Returns once the server has planned a run for every active schedule that is due within Prefect's horizon.

    Raises:
        SchedulerError: it has not after `seconds`.
    """
    due = {f"{deployment.flow_name}/{deployment.name}" for deployment in served if _is_due(deployment)}
    api_url, deadline = str(PREFECT_API_URL.value()), time.monotonic() + seconds
    while idle := due & set(unscheduled(api_url)):
        if time.monotonic() > deadline:
            raise SchedulerError(f"no run of {', '.join(sorted(idle))} was planned within {seconds:.0f} s: {ADVICE}")
        time.sleep(1)


def _is_due(deployment: Any) -> bool:
    """Whether an active schedule has a date before the end of what Prefect plans."""
    end = datetime.now(UTC) + HORIZON
    active = [schedule.schedule for schedule in deployment.schedules or () if schedule.active]
    on_server = [getattr(server_schedules, type(schedule).__name__)(**schedule.model_dump()) for schedule in active]
    return any(asyncio.run(schedule.get_dates(1, end=end)) for schedule in on_server)
