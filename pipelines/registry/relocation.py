"""A root that was moved, renamed or copied: MLflow's database in it holds the absolute paths of its files.

    located("file:///old/root/mlartifacts/models/m-1/artifacts", Path("/new/root"))     # below /new/root
    relocate(Path("/new/root"))             # rewrites the paths in /new/root/mlflow.db

Reading looks below the present root first and changes nothing. Writing needs the database to be right: MLflow would
write new files to the old path, where another root may lie by now. So whoever is about to write calls `relocate`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

DATABASE, FOLDER = "mlflow.db", "mlartifacts"
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
_LOCATION = re.compile(rf"(?P<home>(?:file:)?/.*)/{FOLDER}(?P<rest>/.*)?")
_BUSY_SECONDS = 60.0  # wait for another writer of the database


class RelocationError(RuntimeError):
    """The paths of a moved root cannot be corrected now; the message says why."""


def located(location: str, home: Path) -> str:
    """The location of an artifact, below `home` where the same artifact lies there; else as MLflow has it.

    home: the folder that holds mlflow.db and mlartifacts.
    """
    match = _LOCATION.fullmatch(location)
    if match is None:
        return location
    own = _below(home, match["rest"], match["home"])
    return own.as_uri() if own.exists() else location


def relocate(home: Path) -> bool:
    """Corrects the paths in the database below `home`; says whether there was anything to correct.

    Raises:
        RelocationError: another process works on the root, perhaps through the other path.
    """
    home = home.resolve()
    if not (home / DATABASE).is_file():
        return False
    with closing(sqlite3.connect(home / DATABASE, timeout=_BUSY_SECONDS)) as database:
        homes = list(_former_homes(database, home))
        if not homes:
            return False
        _refuse_in_use(home, homes)
        with database:
            for former in homes:
                _rewrite(database, former, home)
    return True


def _former_homes(database: sqlite3.Connection, home: Path) -> Iterator[str]:
    """Homes that the database names and that were this one's, as URIs or paths, as they are written there."""
    for former, rests in _homes(database).items():
        if Path(_path(former)) == home:
            continue
        # An experiment that Motet made lies in mlartifacts itself; a server's are numbered folders in it, and may have
        # been put on another disk on purpose: those moved only if their files are found here.
        if "" in rests or any(_below(home, rest, former).exists() for rest in rests):
            yield former


def _homes(database: sqlite3.Connection) -> dict[str, set[str]]:
    """Every home that experiments name, and what lies below its folder of artifacts."""
    homes: dict[str, set[str]] = {}
    try:
        experiments = [text for (text,) in database.execute("SELECT artifact_location FROM experiments")]
        others = [text for (text,) in database.execute("SELECT artifact_uri FROM runs LIMIT 1000")]
    except sqlite3.OperationalError:  # a database that MLflow has not set up yet
        return {}
    for text in experiments:
        if match := _LOCATION.fullmatch(text or ""):
            homes.setdefault(match["home"], set()).add(match["rest"] or "")
    for text in others:
        if (match := _LOCATION.fullmatch(text or "")) and match["home"] in homes and match["rest"]:
            homes[match["home"]].add(match["rest"])
    return homes


def _rewrite(database: sqlite3.Connection, former: str, home: Path) -> None:
    old = f"{former}/{FOLDER}"
    new = f"{home.as_uri() if former.startswith('file:') else home}/{FOLDER}"
    for table, column in COLUMNS:
        database.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
        )
    # Where a dataset's manifest lies, as JSON.
    before, after = (json.dumps(str(path))[1:-1] + "/manifests/" for path in (_path(former), home))
    database.execute("UPDATE datasets SET dataset_source = replace(dataset_source, ?, ?)", (before, after))


def _refuse_in_use(home: Path, former: list[str]) -> None:
    """A root that is mounted at two paths is one root: paths must not change while a night writes by them."""
    try:
        with open(home / ".lock", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = file.read().strip()
                if not re.search(rf"\bprocess {os.getpid()} on\b", holder):
                    raise RelocationError(
                        f"{home} was at {', '.join(map(_path, former))} when MLflow's database was last written, and "
                        f"is in use: {holder or 'another process'}. Its paths are corrected when that has ended; "
                        "call again then"
                    ) from None
    except FileNotFoundError:
        return


def _path(home: str) -> str:
    return unquote(re.sub(r"^file:(//)?", "", home))


def _below(home: Path, rest: str | None, former: str) -> Path:
    name = (rest or "").lstrip("/")
    return home / FOLDER / (unquote(name) if former.startswith("file:") else name)
