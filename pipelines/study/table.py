"""A study as it is asked for and as it is printed. Needs nothing else, so that the command line starts quickly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

SEEDS = 3
KINDS = ("single", "joint", "pairs", "leave-one-out")  # of cells
SPARSE = ("intent", "slots")  # tasks whose labels are made few, where a recipe has them
Split = Literal["valid", "test"]


def gain_rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of gains as it is printed, from Findings as JSON."""
    from mtl.metrics.scoring import in_unit  # late: this file is read by the command line, which can do without torch

    return [
        {
            "trained together": row["cell"],
            "metric": row["metric"],
            "value": in_unit(row["metric"], row["value"]),
            "single": in_unit(row["metric"], row["single"]),
            "gain, %": _signed(row["gain"]),
            "low": _signed(row["low"]),
            "high": _signed(row["high"]),
        }
        for row in content["gains"]
    ] + [
        {
            "trained together": row["cell"],
            "metric": "mean of tasks",
            "value": "",
            "single": "",
            "gain, %": _signed(row["gain"]),
            "low": _signed(row["low"]),
            "high": _signed(row["high"]),
        }
        for row in content["means"]
    ]


def fold_rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table as it is printed, from folds.Pooled as JSON."""
    return [
        {
            "task": row["task"],
            "model": row["model"],
            "trained together": row["trained"],
            "unweighted recall, %": f"{row['recall']:.1f} ({row['recall_low']:.1f}-{row['recall_high']:.1f})",
            "accuracy, %": f"{row['accuracy']:.1f} ({row['accuracy_low']:.1f}-{row['accuracy_high']:.1f})",
        }
        for row in content["rows"]
    ]


def label_rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of shares as it is printed, from study_labels.Sparse as JSON."""
    return [
        {
            "task": task,
            "metric": curve["metric"],
            "labels, %": f"{100 * point['share']:g}",
            "rows": f"{point['labels']:,}",
            "joint, %": f"{point['joint']['value']:.2f}",
            "single, %": f"{point['single']['value']:.2f}",
            "gain, %": _signed(point["gain"]["gain"]),
            "low": _signed(point["gain"]["low"]),
            "high": _signed(point["gain"]["high"]),
        }
        for task, curve in content["curves"].items()
        for point in curve["points"]
    ]


def variant_rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of variants as it is printed, from study_variants.Compared as JSON: the best mean gain first."""
    rows = [
        {
            "joint model": row["variant"],
            "parameters": f"{row['parameters']:,}",
            "seconds": f"{row['seconds']:.0f}",
            **{content["metrics"][task]: _percent(row["values"][task]) for task in content["tasks"]},
            "gain, %": _signed((row["mean"] or _NOTHING)["gain"]),
            "low": _signed((row["mean"] or _NOTHING)["low"]),
            "high": _signed((row["mean"] or _NOTHING)["high"]),
            "than the recipe, %": "" if row["over"] is None else _signed(row["over"]["gain"]),
        }
        for row in sorted(content["rows"], key=lambda row: -((row["mean"] or _NOTHING)["gain"] or 0.0))
    ]
    single = {content["metrics"][task]: _percent(content["single"][task]) for task in content["tasks"]}
    return [*rows, {**dict.fromkeys(rows[0], ""), "joint model": "each task alone", **single}]


_NOTHING: dict[str, float | None] = {"gain": None, "low": None, "high": None}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def group_lines(content: Mapping[str, Any]) -> list[str]:
    """A line for each number of models."""
    found = []
    for group in content["groups"]:
        models = " | ".join(_model(model) for model in group["models"])
        mark = "  <- suggested" if group["suggested"] else ""
        found.append(f"{len(group['models'])} model(s), mean gain {_signed(group['gain'])} %: {models}{mark}")
    return found


def _model(model: Mapping[str, Any]) -> str:
    beside = [task for task in model["trains"] if task not in model["serves"]]
    text = ", ".join(model["serves"]) + (f" (training {', '.join(beside)} beside)" if beside else "")
    return text if model["measured"] else f"{text} [estimated from pairs]"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"
