"""Checks of this machine, each with a state, an observation and advice.

    for check in examine("motet-root"):
        print(check.state, check.name, check.observation, check.advice)

Changes nothing. Libraries are imported in child processes, since a broken one may end its process.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from pipelines.admin.listings import registry_problems
from pipelines.admin.scheduler import ADVICE, unscheduled
from pipelines.core.environment import QUIET
from pipelines.core.redaction import redact
from pipelines.registry.tracking import home_folder, is_embedded
from pipelines.storage.store import Store

MIN_PYTHON = (3, 11)
OK, WARN, FAIL = "ok", "warn", "fail"
MIN_CORES, MIN_MEMORY_GB, MIN_DISK_GB = 2, 6.0, 5.0  # for the demo, with some reserve
PORTS = {"Prefect": 4200, "MLflow": 5000, "Ray dashboard": 8265}
IMPORT_SECONDS = 120

# Prefect's and MLflow's servers break with other versions of fastapi than their clients, so both are imported.
IMPORTS = {
    "torch": "import torch; print(torch.__version__)",
    "ray": "import ray.train, ray.tune; print(ray.__version__)",
    "prefect": "import prefect.server.api.server; print(prefect.__version__)",
    "mlflow": "import mlflow.server; print(mlflow.__version__)",
    "audio": "import soundfile, soxr; print('soundfile', soundfile.__version__, soundfile.__libsndfile_version__)",
}


@dataclass(frozen=True)
class Check:
    """Result of one check. state: ok, warn (works with a limit) or fail (some command cannot work)."""

    name: str
    state: str
    observation: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "state": self.state, "found": self.observation, "advice": self.advice}


def examine(root: str) -> list[Check]:
    """All checks, in the order in which to fix problems."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        imports = [pool.submit(importable, name, code) for name, code in IMPORTS.items()]
        servers = pool.submit(configured_servers)
        first = [python(), cores(), memory(), disk(root), versions(), accelerator(), espeak(), store(root)]
        checks = [*first, *(check.result() for check in imports), *registry(root), *servers.result(), *ports()]
    return [replace(check, observation=redact(check.observation), advice=redact(check.advice)) for check in checks]


def check(name: str, passed: bool, observation: str, advice: str, state: str = WARN) -> Check:
    """A passed check, or one with this state and advice."""
    return Check(name, OK, observation) if passed else Check(name, state, observation, advice)


def python() -> Check:
    version = f"{sys.version.split()[0]} at {sys.executable}"
    return check("python", sys.version_info >= MIN_PYTHON, version, "Motet needs Python 3.11 or later", FAIL)


def cores() -> Check:
    count = available_cores()
    return check("cores", count >= MIN_CORES, f"{count}", f"the demo takes longer than on {MIN_CORES} cores")


def available_cores() -> int:
    """Cores that this process may use; in a container, fewer than the machine has."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        return max(1, min(affinity, int(quota[0]) // int(quota[1])))
    return affinity


def memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    gigabytes = min(total, int(limit) if limit.isdigit() else total) / 1e9
    advice = f"the demo needs {MIN_MEMORY_GB:g} GB; choose a smaller recipe"
    return check("memory", gigabytes >= MIN_MEMORY_GB, f"{gigabytes:.1f} GB", advice)


def disk(root: str) -> Check:
    folder = Path.cwd() if "://" in root else _nearest_existing(Path(root))
    free = shutil.disk_usage(folder).free / 1e9
    advice = f"free {MIN_DISK_GB:g} GB, or choose another --root"
    return check("disk", free >= MIN_DISK_GB, f"{free:.0f} GB free at {folder}", advice)


def versions() -> Check:
    """Whether installed packages satisfy the requirements of Motet."""
    from packaging.requirements import Requirement

    try:
        required = metadata.requires("motet") or []
    except metadata.PackageNotFoundError:
        return Check("versions", WARN, "motet is not installed", "run `make setup`, or pip install -e .")
    wrong = []
    for requirement in map(Requirement, required):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} is {installed}, expected {requirement.specifier}")
    if wrong:
        return Check("versions", FAIL, "; ".join(wrong), "pip install -r requirements.lock")
    return Check("versions", OK, f"{len(required)} requirements of motet {metadata.version('motet')} hold")


def accelerator() -> Check:
    code = (
        "import torch\n"
        "names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]\n"
        "if names: torch.ones(8, device='cuda').sum().item()\n"
        "print(', '.join(names) or 'none: training runs on the CPU')"
    )
    process = _child(code)
    if process.returncode:
        advice = "the driver and this torch build do not fit; see nvidia-smi"
        return Check("gpu", FAIL, _last_line(process.stderr), advice)
    return Check("gpu", OK, _last_line(process.stdout))


def espeak() -> Check:
    code = "import espeakng_loader as e, ctypes; ctypes.CDLL(e.get_library_path()); print(e.get_data_path())"
    process = _child(code)
    if process.returncode:
        advice = 'only the embedded corpus needs it: pip install "motet[espeak]"'
        return Check("espeak", WARN, _last_line(process.stderr), advice)
    return Check("espeak", OK, "eSpeak NG library and voices found")


def store(root: str) -> Check:
    """Whether the store is writable and creates objects conditionally."""
    fresh = "://" not in root and not Path(root).exists()
    try:
        Store(root).probe()
    except Exception as error:  # file systems and object stores raise many kinds of errors
        return Check("store", FAIL, f"{root}: {error}", "give another --root, or fix its permissions or credentials")
    finally:
        if fresh and Path(root).is_dir():
            shutil.rmtree(root, ignore_errors=True)  # only the probe has written there
    return Check("store", OK, f"{root} is writable, and commits are conditional")


def registry(root: str) -> Iterator[Check]:
    """Whether MLflow agrees with the ledgers of the root, if there are any."""
    try:
        if not Store(root).list("manifests/ledger/"):
            return
        if is_embedded(root) and not (home_folder(root) / "mlflow.db").is_file():
            advice = "set MLFLOW_TRACKING_URI to the server that it was trained with, or bring back mlflow.db"
            yield Check("registry", WARN, f"{root} has ledgers of models and no MLflow", advice)
            return
        problems = registry_problems(root, None)
    except Exception as error:  # an unreachable server or a broken MLflow also fails a check of its own
        yield Check("registry", FAIL, str(error), "start MLflow, or fix the other checks about it")
        return
    for problem in problems:
        yield Check("registry", WARN, problem)
    if not problems:
        yield Check("registry", OK, "MLflow has the champions of the ledgers")


def importable(name: str, code: str) -> Check:
    try:
        process = _child(code)
    except subprocess.TimeoutExpired:
        return Check(name, FAIL, f"import took more than {IMPORT_SECONDS} s", "is the disk very slow, or full?")
    if process.returncode:
        return Check(name, FAIL, _last_line(process.stderr), "pip install -r requirements.lock")
    return Check(name, OK, _last_line(process.stdout))


def configured_servers() -> list[Check]:
    """Whether the servers that the environment names answer."""
    checks = []
    for variable in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        url = os.environ.get(variable, "")
        if url.startswith("http"):
            checks.append(_answers(variable, url, f"{url.rstrip('/')}/health"))
            if variable == "PREFECT_API_URL" and checks[-1].state == OK:
                checks.append(schedules(url))
    return checks


def schedules(api_url: str) -> Check:
    """Whether the Prefect server plans the runs of its scheduled deployments."""
    import httpx

    try:
        idle = unscheduled(api_url)
    except httpx.HTTPError as error:
        return Check("schedules", WARN, f"the Prefect server does not list its deployments: {error}")
    if idle:
        names = f"{', '.join(idle)}: a schedule is active, but no run is planned"
        return Check("schedules", FAIL, names, f"{ADVICE} (wait a minute after deploying)")
    return Check("schedules", OK, "every active schedule has a planned run")


def ports() -> Iterator[Check]:
    for name, port in PORTS.items():
        if port_free(port):
            yield Check(f"port {port}", OK, f"free for {name}")
        else:
            yield Check(
                f"port {port}", WARN, f"taken; `motet up` will put {name} on the next free one", "or is it up already?"
            )


def port_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _answers(variable: str, value: str, page: str) -> Check:
    import httpx

    try:
        httpx.get(page, timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        return Check(
            variable, FAIL, f"{value} does not answer: {error}", "start it (`motet up`), or unset the variable"
        )
    return Check(variable, OK, f"{value} answers")


def _child(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **QUIET}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_SECONDS, env=environment
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no output"


def _nearest_existing(path: Path) -> Path:
    path = path.resolve()
    return path if path.exists() else _nearest_existing(path.parent)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
