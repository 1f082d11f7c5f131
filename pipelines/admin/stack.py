"""The local stack: Prefect, MLflow and Ray with their pages, on loopback, as children of one process.

    with running(plan(root), log_folder) as processes: ...      # every service answers; all end with the block

All services listen on 127.0.0.1 only: Ray's dashboard can run code, and none of the three asks for a password. Each
leads a process group, so that ending it ends its children.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.admin.doctor import port_free
from pipelines.core.environment import QUIET
from pipelines.core.redaction import redact
from pipelines.registry.relocation import relocate
from pipelines.registry.tracking import home_folder

HOST = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT, RAY_PORT, RAY_GCS_PORT = 4200, 5000, 8265, 6379
READY_SECONDS = 180.0  # the first start migrates two databases, maybe on a slow disk
STOP_SECONDS = 20.0
KILLED_SECONDS = 5.0  # the kernel needs a moment to end a killed process
_PORTS_TRIED = 100  # from the default port on


class StackError(RuntimeError):
    """A service cannot be started; the message names it and shows the end of its log."""


@dataclass(frozen=True)
class Service:
    """A program to run. page: URL to open; health: URL that answers 200 when it is ready."""

    name: str
    command: tuple[str, ...]
    page: str
    health: str
    environment: dict[str, str] = field(default_factory=dict)  # of the service itself
    exports: dict[str, str] = field(default_factory=dict)  # for its clients
    before: tuple[str, ...] = ()  # a command that runs before it starts


def plan(
    root: str, prefect: int | None = None, mlflow: int | None = None, ray: int | None = None, cpus: int | None = None
) -> list[Service]:
    """The three services, on the given ports or on free ones.

    Raises:
        StackError: a given port is taken.
    """
    taken: set[int] = set()
    home = home_folder(root)
    return [
        prefect_service(home, _port("prefect", prefect, PREFECT_PORT, taken)),
        _mlflow(home, _port("mlflow", mlflow, MLFLOW_PORT, taken)),
        _ray(_port("ray", ray, RAY_PORT, taken), _port("ray", None, RAY_GCS_PORT, taken), cpus),
    ]


def prefect_service(home: Path, port: int) -> Service:
    api = f"http://{HOST}:{port}/api"
    return Service(
        "Prefect",
        (sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)),
        page=f"http://{HOST}:{port}",
        health=f"{api}/health",
        environment={"PREFECT_HOME": str(home / "prefect"), "PREFECT_API_URL": api, "PREFECT_UI_API_URL": api},
        exports={"PREFECT_API_URL": api},
    )


def _mlflow(home: Path, port: int) -> Service:
    url = f"http://{HOST}:{port}"
    storage = (
        "--backend-store-uri",
        f"sqlite:///{home / 'mlflow.db'}",
        # File URIs, not the server's proxy: a night without the server must read models of a night with it.
        "--no-serve-artifacts",
        "--default-artifact-root",
        (home / "mlartifacts").as_uri(),
    )
    return Service(
        "MLflow",
        (sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1", *storage),
        page=url,
        health=f"{url}/health",
        exports={"MLFLOW_TRACKING_URI": url},
    )


def _ray(port: int, gcs: int, cpus: int | None) -> Service:
    cores = () if cpus is None else (f"--num-cpus={cpus}",)
    page = f"http://{HOST}:{port}"
    address = (
        "--head",
        f"--node-ip-address={HOST}",
        f"--port={gcs}",
        f"--dashboard-host={HOST}",
        f"--dashboard-port={port}",
    )
    return Service(
        "Ray",
        (sys.executable, "-m", "ray.scripts.scripts", "start", *address, "--include-dashboard=true", "--block", *cores),
        page=page,
        health=f"{page}/api/gcs_healthz",
        # Ray's own ports are reachable from outside, whatever the dashboard is bound to: a token protects them.
        environment={"RAY_AUTH_MODE": "token"},
        exports={"RAY_ADDRESS": f"{HOST}:{gcs}", "RAY_AUTH_MODE": "token"},
        before=(sys.executable, "-m", "ray.scripts.scripts", "get-auth-token", "--generate"),
    )


@contextmanager
def running(
    services: list[Service], logs: Path, ready: Callable[[Service], None] | None = None
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Starts the services, waits until each answers, and ends all of them when the block ends.

    ready: called with each service as it answers. logs: folder for one log per service.

    Raises:
        StackError: a service ended, or did not answer within READY_SECONDS.
    """
    logs.mkdir(parents=True, exist_ok=True)
    children: list[subprocess.Popen[bytes]] = []
    try:
        for service in services:
            children.append(_start(service, logs))
        for service, child in zip(services, children, strict=True):
            _await(service, child, logs)
            if ready:
                ready(service)
        yield children
    finally:
        _stop(children)


def watch(services: list[Service], children: list[subprocess.Popen[bytes]], logs: Path) -> None:
    """Waits until interrupted.

    Raises:
        StackError: a service ended.
    """
    while True:
        for service, child in zip(services, children, strict=True):
            if child.poll() is not None:
                raise StackError(f"{service.name} ended with code {child.returncode}:\n{_tail(logs, service)}")
        time.sleep(1)


def _start(service: Service, logs: Path) -> subprocess.Popen[bytes]:
    if service.before:
        subprocess.run(service.before, capture_output=True, check=True, env={**os.environ, **QUIET})
    with open(logs / f"{service.name.lower()}.log", "wb") as log:
        return subprocess.Popen(
            service.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **QUIET, **service.environment},
            start_new_session=True,
        )


def _await(service: Service, child: subprocess.Popen[bytes], logs: Path) -> None:
    import httpx

    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise StackError(f"{service.name} ended with code {child.returncode} at its start:\n{_tail(logs, service)}")
        try:
            # 401: Ray is up and asks for its token.
            if httpx.get(service.health, timeout=2).status_code in (200, 401):
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise StackError(
        f"{service.name} does not answer at {service.health} after {READY_SECONDS:.0f} s:\n{_tail(logs, service)}"
    )


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    """Terminates every group, last started first, and kills those that have not ended after STOP_SECONDS."""
    for child in reversed(children):
        _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=max(0.1, deadline - time.monotonic()))
        _signal(child, signal.SIGKILL)  # the group may outlive its leader
        child.wait()
        _await_end_of_group(child.pid)


def _await_end_of_group(group: int) -> None:
    """Waits until no process of a killed group is left, so that its ports are free."""
    deadline = time.monotonic() + KILLED_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.02)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _port(name: str, port: int | None, default: int, taken: set[int]) -> int:
    if port is not None:
        if port in taken or not port_free(port, HOST):
            raise StackError(f"port {port}, given for {name}, is taken; give another, or leave it out for a free one")
        taken.add(port)
        return port
    for port in range(default, default + _PORTS_TRIED):
        if port not in taken and port_free(port, HOST):
            taken.add(port)
            return port
    raise StackError(f"no free port for {name} between {default} and {default + _PORTS_TRIED - 1}")


def _tail(logs: Path, service: Service, lines: int = 15) -> str:
    text = (logs / f"{service.name.lower()}.log").read_text(errors="replace")
    return "\n".join(f"  {redact(line)}" for line in text.splitlines()[-lines:])


def serve(root: str, prefect: int | None, mlflow: int | None, ray: int | None, cpus: int | None) -> None:
    """`motet up`: runs the stack and prints its addresses, until Ctrl-C or SIGTERM.

    Raises:
        StackError: a port is taken, or a service ended. RelocationError: a moved root is in use by its other path.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)  # supervisors send SIGTERM; the children must end too
    services = plan(root, prefect, mlflow, ray, cpus)
    relocate(home_folder(root))  # so that MLflow's page shows the files of a root that was moved
    logs = home_folder(root) / "logs"
    print(f"starting {', '.join(service.name for service in services)}; logs in {logs}", flush=True)
    try:
        with running(
            services, logs, lambda service: print(f"  {service.name:<8} {service.page}", flush=True)
        ) as children:
            print("\nin another terminal:")
            for service in services:
                for name, value in service.exports.items():
                    print(f"  export {name}={value}")
            print(
                "\nRay's page asks for the token that `ray get-auth-token` prints. Ctrl-C ends all three.", flush=True
            )
            watch(services, children, logs)
    except KeyboardInterrupt:
        print("\nended", flush=True)
