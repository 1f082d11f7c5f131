"""A deployment runs by itself: a real Prefect server, `motet deploy` as users call it, and a cron of one minute."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import flows
from pipelines.admin import doctor, stack
from pipelines.admin.scheduler import SchedulerError, unscheduled
from pipelines.storage.lock import one_at_a_time
from tests.conftest import FinishedNight
from tests.pipelines.admin.test_stack import free_port

MINUTE = "* * * * *"


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.5)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


def deployment_file(folder: Path, entry: dict[str, Any]) -> Path:
    file = folder / "deployments.yaml"
    file.write_text(yaml.safe_dump({"deployments": [entry]}))
    return file


@contextmanager
def server(folder: Path, **environment: str) -> Iterator[str]:
    """The address of a Prefect server of its own, as `motet up` starts it."""
    service = stack.prefect_service(folder, free_port())
    service.environment.update(environment)
    with stack.running([service], folder / "logs"):
        yield service.exports["PREFECT_API_URL"]


@contextmanager
def deployed(api: str, folder: Path, recipe: str, root: str, cron: str = MINUTE) -> Iterator[subprocess.Popen[bytes]]:
    """`motet deploy` as a process of its own; its output is in <folder>/deploy.log."""
    entry = {
        "name": "nightly",
        "entrypoint": "flows.py:nightly",
        "parameters": {"recipe": recipe},
        "schedules": [{"cron": cron, "timezone": "UTC"}],
    }
    file = deployment_file(folder, entry)
    command = [sys.executable, "-m", "motet", "deploy", "--file", str(file), "--root", root]
    environment = {**os.environ, "PREFECT_API_URL": api, "PREFECT_LOGGING_LEVEL": "INFO"}
    with open(folder / "deploy.log", "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def runs(api: str, *states: str) -> list[dict[str, Any]]:
    """Flow runs in one of these states, the earliest first."""
    content = {"flow_runs": {"state": {"name": {"any_": list(states)}}}, "sort": "EXPECTED_START_TIME_ASC"}
    listed: list[dict[str, Any]] = httpx.post(f"{api}/flow_runs/filter", json=content).raise_for_status().json()
    return listed


def test_a_cron_of_one_minute_runs_the_night_to_its_end(
    finished_night: FinishedNight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(tmp_path) as api, deployed(api, tmp_path, finished_night.recipe, finished_night.root) as process:

        def ended() -> list[dict[str, Any]]:
            assert process.poll() is None, (tmp_path / "deploy.log").read_text()
            return runs(api, "Completed", "Failed", "Crashed")

        (run, *_) = wait_for(ended, 240, "a scheduled run that ended")
        assert run["state_name"] == "Completed"
        assert run["auto_scheduled"] is True
        artifacts = httpx.post(f"{api}/artifacts/latest/filter", json={}).raise_for_status().json()
        tables = [artifact for artifact in artifacts if artifact["key"] == "metrics-small"]
        assert "transcript/wer" in [row["metric"] for row in json.loads(tables[0]["data"])]
        assert unscheduled(api) == []
        monkeypatch.setenv("PREFECT_API_URL", api)
        checks = {check.name: check for check in doctor.configured_servers()}
        assert checks["schedules"].state == doctor.OK


def test_a_server_that_plans_no_runs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    entry = {"name": "nightly", "entrypoint": "flows.py:nightly", "schedules": [{"cron": MINUTE}]}
    (deployment,) = flows.deployments(deployment_file(tmp_path, entry), str(tmp_path))
    with server(tmp_path, PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED="false") as api:
        with temporary_settings({PREFECT_API_URL: api}):
            deployment.apply()
            with pytest.raises(SchedulerError, match="no run of nightly/nightly was planned within 2 s"):
                flows.await_schedules([deployment], seconds=2)
        monkeypatch.setenv("PREFECT_API_URL", api)
        checks = {check.name: check for check in doctor.configured_servers()}
        assert checks["schedules"].state == doctor.FAIL
        assert "nightly/nightly: a schedule is active, but no run is planned" in checks["schedules"].observation


@pytest.mark.parametrize("written", [{"cron": MINUTE}, {"interval": 3600}, {"rrule": "FREQ=DAILY"}])
def test_every_schedule_of_prefect_can_be_deployed(written: dict[str, Any], tmp_path: Path) -> None:
    entry = {"name": "often", "entrypoint": "flows.py:nightly", "schedules": [{**written, "active": True}]}
    (deployment,) = flows.deployments(deployment_file(tmp_path, entry), str(tmp_path))
    (kind,) = written
    assert kind in deployment.schedules[0].schedule.model_dump()
    assert flows._is_due(deployment)


def test_a_schedule_needs_one_kind() -> None:
    with pytest.raises(ValueError, match="expected exactly one of cron, interval and rrule"):
        flows.schedule_of({"timezone": "UTC"})


def test_what_is_due_in_years_is_not_waited_for(tmp_path: Path) -> None:
    yearly = {"rrule": "DTSTART:20990101T000000Z\nFREQ=YEARLY"}
    entry = {"name": "rare", "entrypoint": "flows.py:nightly", "schedules": [yearly]}
    (deployment,) = flows.deployments(deployment_file(tmp_path, entry), str(tmp_path))
    assert not flows._is_due(deployment)


@pytest.mark.slow
def test_a_second_run_waits_for_the_first_and_a_silent_one_is_marked_crashed(
    finished_night: FinishedNight, tmp_path: Path
) -> None:
    root = finished_night.root
    with server(tmp_path) as api:
        with (
            one_at_a_time(root, "a test that holds the root"),
            deployed(api, tmp_path, finished_night.recipe, root) as process,
        ):
            # The first run waits for the root's lock; the second one for the deployment's only place.
            (first, *_) = wait_for(lambda: runs(api, "Running"), 240, "the first run")
            wait_for(lambda: runs(api, "AwaitingConcurrencySlot"), 180, "a second run that waits")
            assert [run["id"] for run in runs(api, "Running")] == [first["id"]]
            os.killpg(process.pid, signal.SIGKILL)  # a machine that lost its power: runner and run at once
            process.wait()
            (crashed,) = wait_for(lambda: runs(api, "Crashed"), 300, "the automation")
            assert crashed["id"] == first["id"]
        with deployed(api, tmp_path, finished_night.recipe, root):  # the place is free again
            wait_for(lambda: runs(api, "Completed"), 240, "a run after the crash")
