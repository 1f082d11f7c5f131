"""Registered models, finished nights and dataset versions, as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipelines.registry import health
from pipelines.registry.registry import Registry, RegistryError
from pipelines.stages.outcome import location
from pipelines.storage.store import Store

if TYPE_CHECKING:
    from pipelines.storage.fsck import Check, Problem  # imports torch, by safetensors

NIGHTS = "nights/"


def short_time(moment: str) -> str:
    """2026-11-20T22:48:42+00:00 -> 2026-11-20 22:48, UTC."""
    return moment[:16].replace("T", " ")


def leaderboard_rows(root: str, model: str | None, metric: str | None) -> list[dict[str, Any]]:
    """Versions of one model or of all, best by `metric` first.

    Raises:
        RegistryError: no model of that name.
    """
    from mtl.metrics.scoring import METRICS

    registry = Registry(root)
    names = [model] if model else registry.models()
    if metric is not None and metric not in METRICS:
        raise RegistryError(f"no metric is named {metric!r}; there are {', '.join(METRICS)}")
    lower = metric is None or METRICS[metric].better == "lower"
    rows = [
        {
            "model": version.name,
            "version": version.version,
            "alias": ", ".join(version.aliases),
            "created": datetime.fromtimestamp(version.created / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            "parameters": version.parameters,
            "metrics": {name: round(value, 2) for name, value in version.metrics.items()},
            "run": version.run_id,
        }
        for name in names
        for version in registry.leaderboard(name, metric, lower_is_better=lower)
    ]
    if model and not rows:
        raise RegistryError(f"no model is named {model!r}; there are: {', '.join(registry.models()) or 'none yet'}")
    return rows


def registry_problems(root: str, model: str | None) -> list[str]:
    """Disagreements between the ledgers and MLflow, of one model or of all."""
    registry = Registry(root)
    names = [model] if model else health.names(registry)
    return [problem for name in names for problem in health.problems(registry, name)]


def night_rows(root: str, recipe: str | None) -> list[dict[str, Any]]:
    """Finished nights of one recipe or of all, newest first."""
    store = Store(root)
    names = [f"{NIGHTS}{recipe}"] if recipe else [name for name in store.datasets() if name.startswith(NIGHTS)]
    rows = []
    for name in names:
        for manifest in reversed(store.versions(name)):
            outcome = manifest.meta["outcome"]
            rows.append(
                {
                    "recipe": outcome["recipe"],
                    "night": outcome["identity"],
                    "ended": short_time(manifest.created),
                    "model": outcome["model"],
                    "verdict": "promoted" if outcome["promoted"] else "not promoted",
                    "reason": outcome["reason"],
                    "report": location(store, manifest.files[0]),  # current path: the root may have been moved
                }
            )
    return sorted(rows, key=lambda row: str(row["ended"]), reverse=True)


def version_rows(root: str, dataset: str | None) -> list[dict[str, Any]]:
    """Versions of a dataset, newest first; without a name, the newest version of each dataset."""
    store = Store(root)
    if dataset is not None:
        manifests = list(reversed(store.versions(dataset)))
    else:
        manifests = [newest for name in store.datasets() if (newest := store.latest(name)) is not None]
    return [
        {
            "dataset": manifest.dataset,
            "version": manifest.version,
            "address": manifest.address,
            "created": short_time(manifest.created),
            "files": len(manifest.files),
            "rows": rows if isinstance(rows := manifest.meta.get("rows"), int) else None,
        }
        for manifest in manifests
    ]


def fsck_lines(checked: Check, problems: Sequence[Problem]) -> tuple[str, list[dict[str, Any]]]:
    """A summary, and a row for each damaged or missing file and for each dataset with files of unknown checksum."""
    counts = []
    for state in ("damaged", "missing", "unknown"):
        some = [problem for problem in problems if problem.state == state]
        counts.append(f"{len(some):,} {state} ({sum(problem.size for problem in some) / 1e6:,.1f} MB)")
    repaired = sum(problem.repaired for problem in problems)
    counts += [f"{repaired:,} repaired"] if repaired else []
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for problem in sorted(problems, key=lambda problem: (problem.state, problem.file.key)):
        unknown = problem.state == "unknown"
        name = problem.file.dataset if unknown else problem.file.key
        row = rows.setdefault(
            (problem.state, name),
            {
                "state": problem.state,
                "file": f"files of {name}" if unknown else name,
                "files": 0,
                "MB": 0.0,
                "detail": problem.detail,
                "what to do": problem.advice,
            },
        )
        row["files"] += 1
        row["MB"] = round(row["MB"] + problem.size / 1e6, 2)
    return f"{checked.files:,} files, {checked.bytes / 1e6:,.1f} MB: {', '.join(counts)}", list(rows.values())
