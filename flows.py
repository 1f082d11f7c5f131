"""The Prefect flows: every stage is a task, and the flows have schedules.

    nightly    the stages of pipelines/nightly.py, in order
    search     Ray Tune over task weights, sharing mode and learning rate
    study      comparison of models by tasks, shares of the labels, sharing modes, balancing methods, speakers
    promote    the gate for one version, or a person's decision

The stages are plain functions; here they become Prefect tasks, with retries after transient errors. Prefect caches
nothing: the store caches by content, so a task whose result exists does nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipelines import nightly as night
from pipelines.admin.scheduler import ADVICE, SchedulerError, unscheduled
from pipelines.core import environment
from pipelines.core.faults import is_transient
from pipelines.core.progress import display
from pipelines.core.redaction import redacted_errors
from pipelines.core.stage import Stage, StageResult
from pipelines.recipe import load
from pipelines.recipe.variables import hide_in_overrides
from pipelines.search.front_table import picked, trial_row
from pipelines.search.stage import SEARCH
from pipelines.stages.context import Context, InProcess, with_workers
from pipelines.stages.gate import PROMOTION
from pipelines.stages.outcome import RunResult, metrics_of, state_of
from pipelines.storage.lock import one_at_a_time
from pipelines.study.options import KINDS, SEEDS, Split
from pipelines.study.stages import BY_FOLDS, BY_LABELS, BY_VARIANTS, STUDY

# Before prefect reads its settings. Deployments log to their server; the terminal shows only the lines of the stages.
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
    """Retries only after errors that another attempt may solve."""
    return is_transient(state.data if isinstance(state.data, BaseException) else None)


def as_task(name: str, retries: int = 2) -> Callable[[Callable[..., Any]], Any]:
    """Decorates a function as a Prefect task.

    Prefect stores the message of an error, so secrets are removed from it first.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        call = redacted_errors()(function)
        call.__qualname__ = name  # Prefect's key of the task
        return settings(call)

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


@cache
def task_of(stage: Stage) -> Any:
    """The Prefect task of a stage."""
    return as_task(stage.name, stage.retries)(stage.run)


class PrefectTasks(InProcess):
    """Runs stages as Prefect tasks, the parts of a stage some at a time."""

    def task(self, stage: Stage) -> Callable[..., StageResult]:
        call: Callable[..., StageResult] = task_of(stage)
        return call

    def map(self, stage: Stage, context: Context, parts: Sequence[str]) -> list[StageResult]:
        futures = [task_of(stage).submit(context, part) for part in parts]
        return [future.result() for future in futures]


@contextmanager
def session(root: str, name: str, wait: bool, resumable: bool = True) -> Iterator[None]:
    """Holds the lock of the root and shows progress; secrets are removed from errors."""
    with redacted_errors(), one_at_a_time(root, name, wait, resumable), display():
        yield


@flow(name="nightly", flow_run_name="nightly {recipe}", task_runner=THREADS)
def nightly(
    recipe: str = "assistant",
    root: str | None = None,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    again: bool = False,
    wait: bool = True,
) -> dict[str, Any]:
    """A whole night. If a finished night did exactly the same, returns its result and trains nothing.

    recipe: a shipped name or a YAML file; overrides: as `--set`; workers: instead of the recipe's trainer.workers;
    again: train even though nothing is new.
    """
    context = Context(_root(root), load(recipe, with_workers(overrides, workers)), tasks=PrefectTasks())
    with session(context.root, f"night of {context.recipe.name}", wait):
        outcome = night.run(context, again)
        publish(outcome)
        return outcome.to_json()


def publish(outcome: RunResult) -> None:
    """Writes a night's Prefect artifacts: its table, its decision, and a link to its report."""
    create_table_artifact(
        table=metrics_of(outcome),
        key=artifact_key("metrics", outcome.recipe),
        description=f"{outcome.model} on test, %",
    )
    decision = f"{state_of(outcome.promoted)}: {outcome.reason}"
    if outcome.state == "nothing new":
        decision = f"nothing new: the result of the earlier night stands ({decision})"
    lines = [f"## {outcome.recipe}: {outcome.model}", "", decision, "", f"night `{outcome.identity}`"]
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
    """Trials of the recipe's search space; with `train_winner`, then a night of the point that is picked."""
    context = Context(_root(root), load(recipe, list(overrides)), tasks=PrefectTasks())
    name = context.recipe.name
    with session(context.root, f"search of {name}", wait):
        if train_winner:
            context.registry.check(name)
        with night.prepared(context, "valid"):
            result: dict[str, Any] = context.execute(SEARCH, trials, resume)
        rows = [trial_row(row) for row in result["leaderboard"]]
        create_table_artifact(table=rows, key=artifact_key("search", name), description="trials, best first")
    if train_winner:
        chosen = [*overrides, *picked(result, pick)["overrides"]]
        result["night"] = nightly(recipe, root=context.root, overrides=chosen, wait=wait)
    return result


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
    """Compares the recipe's tasks alone, together, in pairs, each left out; resumes an interrupted study.

    labels: instead, the tasks `sparse` alone and all together, with these shares of the labels of `sparse`.
    sharing, balancing: instead, the tasks alone, and together in each of these modes and methods.
    folds: instead, the tasks alone and together with each of so many groups of speakers held out; 0: each speaker.
    """
    stage, arguments = STUDY, [seeds, list(kinds), split, share]
    if labels:
        stage, arguments = BY_LABELS, [list(labels), list(sparse), seeds, split, share]
    elif folds is not None:
        stage, arguments = BY_FOLDS, [folds, seeds]
    elif sharing or balancing:
        stage, arguments = BY_VARIANTS, [list(sharing), list(balancing), seeds, split, share]
    context = Context(_root(root), load(recipe, list(overrides)), tasks=PrefectTasks())
    with session(context.root, f"study of {context.recipe.name}", wait):
        with night.prepared(context, None if folds is not None else split):
            result: dict[str, Any] = context.execute(stage, *arguments)
        publish_study(context.recipe.name, result)
    return result


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
    """Compares a registered version with the current champion at the gate; with `force`, promotes it."""
    context = Context(_root(root), tasks=PrefectTasks())
    with session(context.root, f"promotion of {model}", wait=True, resumable=False):
        result: dict[str, Any] = context.execute(PROMOTION, model, version, force, reason, by)
    return result


def _root(root: str | None) -> str:
    return root or environment.default_root()


def deployments(file: Path, root: str) -> list[Any]:
    """The deployments of a prefect.yaml, for this process: without a work pool, from the file of `prefect deploy`."""
    flows: dict[str, Any] = {"nightly": nightly, "search": search, "study": study, "promote": promote}
    served = []
    for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]:
        parameters = dict(entry.get("parameters", {}))
        if "overrides" in parameters:
            parameters["overrides"] = hide_in_overrides(parameters["overrides"])
        deployment = flows[entry["entrypoint"].rpartition(":")[2]].to_deployment(
            name=entry["name"],
            description=entry.get("description"),
            tags=entry.get("tags"),
            parameters={**parameters, "root": root if "://" in root else str(Path(root).resolve())},
            schedules=[schedule_of(content) for content in entry.get("schedules", ())],
            concurrency_limit=ConcurrencyLimitConfig(**entry.get("concurrency_limit", ONE_AT_A_TIME)),
            entrypoint_type=EntrypointType.MODULE_PATH,  # importable from any working directory
        )
        served.append(deployment)
    return served


def schedule_of(content: dict[str, Any]) -> Schedule:
    """A schedule of a prefect.yaml: cron, interval (seconds) or rrule, with the other options of Prefect.

    Raises:
        ValueError: none of the three is there, or more than one.
    """
    kinds: dict[str, Any] = {"cron": Cron, "interval": Interval, "rrule": RRule}
    named = sorted(kinds.keys() & content.keys())
    if len(named) != 1:
        raise ValueError(f"schedule {content}: expected exactly one of cron, interval and rrule")
    options = {key: value for key, value in content.items() if key != named[0]}
    return kinds[named[0]](content[named[0]], **options)


def mark_stale_runs() -> None:
    """Makes the server mark a run without heartbeats as crashed, for instance after a power failure.

    Otherwise the run would count as running, and no other night would start.
    """
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    automation: Any = Automation(
        name="motet: a run without a heartbeat has crashed",
        description=f"{SILENCE} s without a heartbeat",
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
    except ValueError:  # raised when there is none
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
    """Whether an active schedule has a date before `HORIZON`."""
    end = datetime.now(UTC) + HORIZON
    active = [schedule.schedule for schedule in deployment.schedules or () if schedule.active]
    on_server = [getattr(server_schedules, type(schedule).__name__)(**schedule.model_dump()) for schedule in active]
    return any(asyncio.run(schedule.get_dates(1, end=end)) for schedule in on_server)
