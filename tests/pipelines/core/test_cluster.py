"""A cluster is asked for what it has before anybody waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from pipelines.core import cluster


def test_what_is_there_may_be_asked_for(ray_session: Any) -> None:
    assert cluster.connected()
    assert cluster.connect(cpus=2)["CPU"] == 2


def test_asking_for_too_much_fails_at_once(ray_session: Any) -> None:
    with pytest.raises(cluster.ClusterError, match=r"3 CPUs, 8 GPUs required.* has 2 CPUs, 0 GPUs in total"):
        cluster.connect(cpus=3, gpus=8)


def test_a_local_cluster_is_on_loopback(ray_session: Any) -> None:
    assert ray_session.get_runtime_context().gcs_address.startswith("127.0.0.1:")
    where = ray_session.remote(num_cpus=1)(ray_session.util.get_node_ip_address)
    assert ray_session.get(where.remote()) == "127.0.0.1"


@pytest.mark.parametrize(("faults", "starts"), [(2, True), (3, False)])
def test_a_start_that_failed_is_tried_again(
    faults: int, starts: bool, ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def init(**settings: Any) -> None:
        calls.append(settings["address"])
        if len(calls) <= faults:
            raise Exception("The current node timed out during startup.")  # Ray's own words, and its type

    monkeypatch.setattr(ray_session, "init", init)
    monkeypatch.setattr(ray_session, "shutdown", lambda: None)  # the session's cluster is still wanted
    if starts:
        cluster.start_local()
    else:
        with pytest.raises(cluster.ClusterError, match=r"cannot start a local Ray cluster: The current node timed out"):
            cluster.start_local()
    assert calls == ["local"] * 3


def test_an_address_that_leads_nowhere() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from pipelines.core import cluster; cluster.connect()"],
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ClusterError: cannot use the Ray cluster at RAY_ADDRESS=127.0.0.1:1: " in done.stderr


def test_a_local_cluster_joins_nobody_elses_and_prints_nothing() -> None:
    code = "from pipelines.core import cluster; print(cluster.connect(cpus=1)['CPU'] >= 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
