"""Environment variables for Prefect, Ray and MLflow: no telemetry, little output, files under the root.

    prepare(root)       # before prefect, ray or mlflow is imported: they read most settings at import

Variables that the user has set are not changed.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.core.redaction import install_log_redaction

HEARTBEAT_SECONDS = 30  # of a flow run; Prefect's minimum
LOGGER = "motet"  # Prefect shows its messages on the page of the flow run
ROOT = "motet-root"  # in the current directory; overridden by --root or MOTET_ROOT

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is for results
}


def prepare(root: str, verbose: bool = False) -> None:
    """Sets missing variables, and redacts this process's logs.

    Without PREFECT_API_URL, Prefect runs in this process with a database under the root, or under
    ~/.motet for a root in S3.
    """
    defaults = dict(QUIET)
    if not os.environ.get("PREFECT_API_URL"):
        home = Path("~/.motet").expanduser() if "://" in root else Path(root).resolve()
        defaults["PREFECT_HOME"] = str(home / "prefect")
        # The first migration of the database takes long on a slow disk.
        defaults["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"
    defaults["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = str(HEARTBEAT_SECONDS)
    defaults["PREFECT_LOGGING_EXTRA_LOGGERS"] = LOGGER
    if not verbose:
        defaults["PREFECT_LOGGING_LEVEL"] = "ERROR"
        # A failed flow's traceback is shown on its page; the command prints the message on the terminal.
        defaults["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        defaults["PREFECT_LOGGING_TO_API_ENABLED"] = "true"
        defaults["RAY_TRAIN_VERBOSE"] = "0"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    install_log_redaction()
    # Only commands that start a flow create the folder, by make_home.
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")


def make_home() -> None:
    """Creates the folder of Prefect's database, before a flow starts."""
    if not os.environ.get("PREFECT_API_URL"):
        Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)


def default_root() -> str:
    return os.environ.get("MOTET_ROOT") or ROOT


def root_from(arguments: Sequence[str]) -> str:
    """The root in a command line, read before it is parsed: Prefect needs its home at import."""
    for position, argument in enumerate(arguments):
        if argument == "--root" and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith("--root="):
            return argument.removeprefix("--root=")
    return default_root()


def quiet_mlflow() -> Any:
    """The module mlflow, without telemetry, pickle, progress bars and the log of database migrations."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow
