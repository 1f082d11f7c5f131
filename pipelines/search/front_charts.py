"""Charts of a Pareto front: a scatter for each pair of tasks, parallel coordinates for all tasks.

    scatter({"a1": (12.0, 4.0), ...}, on_front={"a1"}, knee="a1", x_label="transcript/wer", y_label="100 − intent/…")

Every axis is an error in percent, so lower is better. Colours are classes, as in charts.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from itertools import combinations

from mtl.metrics.scoring import METRICS
from pipelines.report.charts import HEIGHT, TOP, Axes, Point, line, number, text, ticks

MANY = 3  # parallel coordinates are drawn above this number of tasks
AXIS, MARGIN = 120, 64  # distance of parallel axes, and space beside the outer ones, SVG units


def axis_label(metric: str) -> str:
    """Label of a metric as an error in percent."""
    return metric if METRICS[metric].better == "lower" else f"100 − {metric}"


def pair_charts(
    costs: Mapping[str, Mapping[str, float]], metrics: Mapping[str, str], on_front: Collection[str], knee: str | None
) -> list[str]:
    """A scatter for each pair of tasks; none for a single task."""
    return [
        scatter(
            {trial: (row[one], row[other]) for trial, row in costs.items()},
            on_front,
            knee,
            axis_label(metrics[one]),
            axis_label(metrics[other]),
        )
        for one, other in combinations(metrics, 2)
        if costs
    ]


def scatter(
    points: Mapping[str, Point], on_front: Collection[str], knee: str | None, x_label: str, y_label: str
) -> str:
    """Scatter of all trials: filled on the front, with a ring at the knee. The line is the front of these two tasks."""
    xs, ys = _axis([x for x, _ in points.values()]), _axis([y for _, y in points.values()])
    axes = Axes(xs[0], xs[-1], ys[0], ys[-1])
    path = " ".join("{},{}".format(*axes.at(corner)) for corner in steps(list(points.values())))
    marks = [*map(axes.vertical, xs), f'<g class="s0"><polyline stroke-opacity=".5" points="{path}"/></g>']
    for trial, point in sorted(points.items(), key=lambda item: item[0] in on_front):  # the front on top
        tooltip = f"{trial}: {x_label} {number(point[0])}, {y_label} {number(point[1])}"
        marks.append(_mark(axes.at(point), tooltip, trial in on_front, trial == knee))
    chart = axes.chart(marks, {x: number(x) for x in xs}, ys, x_label, f"{y_label} against {x_label}")
    return f'<div><div class="soft">{escape(y_label)}</div>{chart}</div>'


def steps(points: Sequence[Point]) -> list[Point]:
    """Corners of the border of the region that the points dominate, from left to right."""
    corners: list[Point] = []
    for x, y in sorted(set(points)):
        if not corners:
            corners.append((x, y))
        elif y < corners[-1][1]:
            corners += [(x, corners[-1][1]), (x, y)]
    return corners


def parallel(
    costs: Mapping[str, Mapping[str, float]], metrics: Mapping[str, str], on_front: Collection[str], knee: str | None
) -> str:
    """One axis per task and one line per trial of the front, lower is better; empty up to MANY tasks."""
    shown = {trial: costs[trial] for trial in costs if trial in on_front}
    if len(metrics) <= MANY or not shown:
        return ""
    scales = {task: _axis([row[task] for row in shown.values()]) for task in metrics}
    width, top, bottom = 2 * MARGIN + AXIS * (len(scales) - 1), TOP + 18, HEIGHT - 14

    def at(position: int, task: str, value: float) -> Point:
        low, high = scales[task][0], scales[task][-1]
        return MARGIN + AXIS * position, round(bottom - (value - low) / (high - low) * (bottom - top), 1)

    size = f'viewBox="0 0 {width} {HEIGHT}" style="max-width:{width * 1.3:.0f}px"'
    parts = [f'<svg class="chart" {size} role="img" aria-label="parallel coordinates of the front">']
    for position, (task, scale) in enumerate(scales.items()):
        x = MARGIN + AXIS * position
        parts += [line(x, top, x, bottom), text(x, TOP + 4, axis_label(metrics[task]))]
        parts += [text(x - 4, at(position, task, end)[1] + 4, number(end), "end") for end in (scale[0], scale[-1])]
    for trial, row in sorted(shown.items(), key=lambda item: item[0] == knee):
        path = " ".join("{},{}".format(*at(position, task, row[task])) for position, task in enumerate(scales))
        style, opacity, mark = ("s1", "", ", the knee") if trial == knee else ("s0", ' stroke-opacity=".45"', "")
        polyline = f'<polyline{opacity} points="{path}"><title>{escape(trial + mark)}</title></polyline>'
        parts.append(f'<g class="{style}">{polyline}</g>')
    return "".join([*parts, "</svg>"])


def _axis(values: Sequence[float]) -> list[float]:
    """Ticks that enclose the values."""
    low, high = min(values), max(values)
    if math.isclose(low, high):
        low, high = max(0.0, low - 1), high + 1
    return ticks(low, high, 5)


def _mark(at: Point, tooltip: str, filled: bool, knee: bool) -> str:
    x, y = at
    ring = f'<circle cx="{x}" cy="{y}" r="7" style="fill:none;stroke:currentColor;stroke-width:1.8"/>' if knee else ""
    style = "" if filled else ' style="fill-opacity:.25"'
    dot = f'<circle cx="{x}" cy="{y}" r="{4 if filled else 3}"{style}><title>{escape(tooltip)}</title></circle>'
    return f'<g class="{"s1" if knee else "s0"}">{ring}{dot}</g>'
