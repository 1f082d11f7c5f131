"""Corrects paths after a root was moved, renamed or copied: MLflow's database holds absolute paths.

    located("file:///old/root/mlartifacts/models/m-1/artifacts", Path("/new/root"))     # below /new/root
    relocate(Path("/new/root"))             # rewrites the paths in /new/root/mlflow.db

Reading looks below the current root first and changes nothing. Before writing, call `relocate`: otherwise MLflow would
write new files to the old path, where another root may be by now.
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
    """The paths of a moved root cannot be corrected at the moment; the message says why."""


def located(location: str, home: Path) -> str:
    """Location of an artifact: below `home` if it exists there, else unchanged.

    home: the folder that holds mlflow.db and mlartifacts.
    """
    match = _LOCATION.fullmatch(location)
    if match is None:
        return location
    own = _below(home, match["rest"], match["home"])
    return own.as_uri() if own.exists() else location


def relocate(home: Path) -> bool:
    """Corrects the paths in the database below `home`; returns whether any was wrong.

    Raises:
        RelocationError: another process uses the root, perhaps by the other path.
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
    """Former homes of this root in the database, as written there: URIs or paths."""
    for former, rests in _homes(database).items():
        if Path(_path(former)) == home:
            continue
        # Motet's own experiments are in mlartifacts itself. A server's are numbered folders in it, which may be on
        # another disk on purpose: they have moved only if their files exist here.
        if "" in rests or any(_below(home, rest, former).exists() for rest in rests):
            yield former


def _homes(database: sqlite3.Connection) -> dict[str, set[str]]:
    """Homes of all experiments, each with the paths below its artifact folder."""
    homes: dict[str, set[str]] = {}
    try:
        experiments = [text for (text,) in database.execute("SELECT artifact_location FROM experiments")]
        others = [text for (text,) in database.execute("SELECT artifact_uri FROM runs LIMIT 1000")]
    except sqlite3.OperationalError:  # MLflow has not created its tables yet
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
    # Paths of manifests, in JSON.
    before, after = (json.dumps(str(path))[1:-1] + "/manifests/" for path in (_path(former), home))
    database.execute("UPDATE datasets SET dataset_source = replace(dataset_source, ?, ?)", (before, after))


def _refuse_in_use(home: Path, former: list[str]) -> None:
    """A root that is mounted at two paths is one root: refuses to change paths while a night uses them."""
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
