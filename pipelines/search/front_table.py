"""Tables of a search for the command line. Imports nothing, so that the command line starts quickly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class PickError(ValueError):
    """No such trial."""


def picked(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The leaderboard row of "best", "knee", or a trial's name. Raises PickError."""
    rows = {row["trial"]: row for row in result["leaderboard"] if row["state"] != "failed"}
    if name == "best":
        return next(iter(rows.values()))
    if name == "knee":
        if result["front"]["knee"] is None:
            raise PickError(
                f"the front of {len(result['front']['trials'])} trials has no knee; pick one of them by its name "
                f"({', '.join(result['front']['trials'])}), or best"
            )
        name = result["front"]["knee"]
    if name not in rows:
        raise PickError(f"no trial {name!r}; expected best, knee, or one of {', '.join(rows)}")
    return rows[name]


def front_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The printed table of the front: each task's metric, and the knee."""
    front, rows = result["front"], {row["trial"]: row for row in result["leaderboard"]}
    return [
        {
            "trial": trial,
            **{metric: f"{rows[trial]['metrics'][f'valid/{metric}']:.2f}" for metric in front["metrics"].values()},
            result["objective"]["label"]: f"{rows[trial]['objective']:.2f}",
            "state": rows[trial]["state"],
            "": "knee" if trial == front["knee"] else "",
        }
        for trial in front["trials"]
    ]


def front_lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Explanations of a search's numbers: pairs of a term and its explanation."""
    front = result["front"]
    point = ", ".join(f"{metric} {front['reference'][task]:g}" for task, metric in front["metrics"].items())
    lines = [("objective", result["objective"]["words"])]
    if front["trials"]:
        lines.append(("hypervolume", f"{front['hypervolume']:.2f} % of the box between no errors and {point}"))
    schedule = result["leaderboard"][0]["schedule"]
    if len(schedule) > 1:
        lines += [("schedule", line) for line in schedule_lines(schedule)]
        lines.append(
            ("note", "this is the best member's schedule; a nightly training uses its last settings throughout.")
        )
    return [*lines, *(("note", note) for note in front["notes"])]


def schedule_lines(schedule: Sequence[Mapping[str, Any]]) -> list[str]:
    """A population's schedule (pbt.py), a line for each change of settings or weights."""
    lines = []
    for number, part in enumerate(schedule):
        taken = number and part["trial"] != schedule[number - 1]["trial"]
        origin = f", from the weights of {schedule[number - 1]['trial']}" if taken else ""
        lines.append(f"epoch {part['after'] + 1}: {part['trial']}{origin}: {'  '.join(part['overrides'])}")
    return lines


def trial_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the leaderboard as it is printed."""
    return {
        "trial": row["trial"],
        "objective": f"{row['objective']:.2f}",
        "state": row["state"],
        "epochs": row["epochs"],
        "seconds": f"{row['seconds']:.0f}",
        "point": "  ".join(row["overrides"]),
        "error": row["error"],
    }
