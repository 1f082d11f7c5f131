"""The settings that other programs read from the environment: quiet, offline, and their files under the root.

    prepare(root)       # before prefect, ray or mlflow is imported: most of them read their settings once

What a user has set stays as it is.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from pipelines.core.redaction import install_log_redaction

HEARTBEAT_SECONDS = 30  # of a flow run; the least that Prefect takes
LOGGER = "motet"  # what a night says goes there too: Prefect's pages show it with the run
ROOT = "motet-root"  # in the current directory, unless --root or MOTET_ROOT says otherwise

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output holds results alone
}


def prepare(root: str, verbose: bool = False) -> None:
    """Fills in what the environment leaves open, and keeps secrets out of this process's logs.

    Without PREFECT_API_URL, Prefect runs in this process on a database under the root, so that a project's
    nights are shown together; a root in S3 keeps it under the home directory.
    """
    defaults = dict(QUIET)
    if not os.environ.get("PREFECT_API_URL"):
        home = Path("~/.motet").expanduser() if "://" in root else Path(root).resolve()
        defaults["PREFECT_HOME"] = str(home / "prefect")
        # The API in this process is given the time that a slow disk needs for the database's first migration.
        defaults["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"
    defaults["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = str(HEARTBEAT_SECONDS)
    defaults["PREFECT_LOGGING_EXTRA_LOGGERS"] = LOGGER
    if not verbose:
        defaults["PREFECT_LOGGING_LEVEL"] = "ERROR"
        # A failed flow's traceback goes to its page; on the terminal the command itself says what was wrong, once.
        defaults["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        defaults["PREFECT_LOGGING_TO_API_ENABLED"] = "true"
        defaults["RAY_TRAIN_VERBOSE"] = "0"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    install_log_redaction()
    # Commands that start no flow leave no folder behind; those that do call make_home.
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")


def make_home(root: str) -> None:
    """The folder where Prefect keeps its database, for a flow that is about to start."""
    if not os.environ.get("PREFECT_API_URL"):
        Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)


def default_root() -> str:
    return os.environ.get("MOTET_ROOT") or ROOT


def root_from(arguments: Sequence[str]) -> str:
    """The root that a command line asks for, read before the command line is: Prefect wants its home at import."""
    for position, argument in enumerate(arguments):
        if argument == "--root" and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith("--root="):
            return argument.removeprefix("--root=")
    return default_root()
