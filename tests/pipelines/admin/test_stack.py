"""The local stack: free ports, waiting for an answer, and nothing left behind; the real servers in a slow test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from pipelines.admin import stack
from pipelines.admin.doctor import port_free
from pipelines.admin.stack import HOST, Service, StackError, plan, running

# A service that starts a child of its own, as servers do, before it answers.
PARENT = (
    "import http.server, subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
    "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()\n"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def service(name: str, port: int) -> Service:
    page = f"http://{HOST}:{port}"
    return Service(name, (sys.executable, "-c", PARENT, str(port)), page=page, health=page)


def alive(pid: int) -> bool:
    """Running, and not a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_services_answer_and_are_ended_with_their_children(tmp_path: Path) -> None:
    answered: list[str] = []
    services = [service("One", free_port()), service("Two", free_port())]
    with running(services, tmp_path, lambda ready: answered.append(ready.name)) as children:
        assert answered == ["One", "Two"]
        assert httpx.get(services[0].page).status_code == 200
        pids = [child.pid for child in children] + [
            int((tmp_path / f"{name}.log").read_text().split()[0]) for name in ("one", "two")
        ]
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)


def test_a_service_that_ends_at_its_start_shows_its_log_and_ends_the_others(tmp_path: Path) -> None:
    port = free_port()
    broken = Service(
        "Broken", (sys.executable, "-c", "raise SystemExit('no such database')"), page="", health="http://127.0.0.1:9"
    )
    with (
        pytest.raises(StackError, match=r"Broken ended with code 1 at its start:\n  no such database"),
        running([service("One", port), broken], tmp_path),
    ):
        pytest.fail("a stack with a broken service must not run")
    assert port_free(port)


def test_ports_are_the_usual_ones_or_the_next_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = free_port()
    monkeypatch.setattr(stack, "PREFECT_PORT", usual)
    with socket.socket() as taken:
        taken.bind((HOST, usual))
        taken.listen()
        page = plan(str(tmp_path))[0].page
        assert int(page.rpartition(":")[2]) > usual
        with pytest.raises(StackError, match=f"port {usual}, given for prefect, is taken"):
            plan(str(tmp_path), prefect=usual)
    assert plan(str(tmp_path), prefect=usual)[0].page == f"http://{HOST}:{usual}"


def test_two_services_never_get_one_port(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="given for mlflow, is taken"):
        plan(str(tmp_path), prefect=(port := free_port()), mlflow=port)


def test_everything_listens_on_loopback_and_ray_asks_for_a_token(tmp_path: Path) -> None:
    prefect, mlflow, ray = plan(str(tmp_path))
    for command in (prefect.command, mlflow.command):
        assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--dashboard-host=127.0.0.1" in ray.command
    assert ray.environment["RAY_AUTH_MODE"] == ray.exports["RAY_AUTH_MODE"] == "token"
    assert set(prefect.exports) | set(mlflow.exports) == {"PREFECT_API_URL", "MLFLOW_TRACKING_URI"}


@pytest.mark.slow
def test_motet_up_starts_the_real_servers_and_ends_them(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    options = [f"--{name}-port={port}" for name, port in zip(("prefect", "mlflow", "ray"), ports, strict=True)]
    command = [sys.executable, "-m", "motet", "up", "--root", str(tmp_path / "root"), "--cpus", "1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ}) as process:
        lines: list[str] = []
        while not lines or "Ctrl-C" not in lines[-1]:
            line = process.stdout.readline()
            assert line, "ended before it was up:\n" + "".join(lines)
            lines.append(line)
        assert httpx.get(f"http://{HOST}:{ports[0]}/api/health").json() is True
        assert httpx.get(f"http://{HOST}:{ports[1]}/health").text == "OK"
        assert httpx.get(f"http://{HOST}:{ports[2]}/api/version").status_code == 401  # who are you?
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    deadline = time.monotonic() + 10
    while not all(port_free(port) for port in ports) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert all(port_free(port) for port in ports)
