"""A front as inline SVG: every pair of tasks as a scatter with its steps, all tasks as parallel coordinates.

    scatter({"a1": (12.0, 4.0), ...}, on_front={"a1"}, knee="a1", x_label="transcript/wer", y_label="100 − intent/…")

Errors in percent on every axis: nearer to the corner, or lower, is better. Colours are classes, as in charts.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from itertools import combinations

from mtl.metrics.scoring import METRICS
from pipelines.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Point, number, ticks

MANY = 3  # tasks up to which pairs alone are drawn
AXIS, MARGIN = 120, 64  # between two parallel axes and beside the outer ones, SVG units


def axis_label(metric: str) -> str:
    """Of a metric as an error in percent."""
    return metric if METRICS[metric].better == "lower" else f"100 − {metric}"


def pair_charts(
    costs: Mapping[str, Mapping[str, float]], metrics: Mapping[str, str], on_front: Collection[str], knee: str | None
) -> list[str]:
    """A scatter for each pair of tasks; none for one task, which has nothing to trade."""
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
    """Every trial; those on the front are filled, the knee has a ring. The steps are the front of these two tasks."""
    xs, ys = _axis([x for x, _ in points.values()]), _axis([y for _, y in points.values()])

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    label = f"{y_label} against {x_label}"
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in ys:
        y = place((xs[0], tick))[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{number(tick)}</text>')
    for tick in xs:
        x = place((tick, ys[0]))[0]
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{number(tick)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>')
    corners = [place(corner) for corner in steps(list(points.values()))]
    path = " ".join(f"{x},{y}" for x, y in corners)
    parts.append(f'<g class="s0"><polyline stroke-opacity=".5" points="{path}"/></g>')
    for trial, point in sorted(points.items(), key=lambda item: item[0] in on_front):  # the front on top
        tooltip = f"{trial}: {x_label} {number(point[0])}, {y_label} {number(point[1])}"
        parts.append(_mark(place(point), tooltip, trial in on_front, trial == knee))
    return f'<div><div class="soft">{escape(y_label)}</div>{"".join(parts)}</svg></div>'


def steps(points: Sequence[Point]) -> list[Point]:
    """Corners of the border between what two tasks' trials dominate and what they do not, from left to right."""
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
    """One axis a task, one line a trial of the front, lower is better; empty up to MANY tasks."""
    shown = {trial: costs[trial] for trial in costs if trial in on_front}
    if len(metrics) <= MANY or not shown:
        return ""
    axes = {task: _axis([row[task] for row in shown.values()]) for task in metrics}
    width, top, bottom = 2 * MARGIN + AXIS * (len(axes) - 1), TOP + 18, HEIGHT - 14

    def place(position: int, task: str, value: float) -> Point:
        low, high = axes[task][0], axes[task][-1]
        return MARGIN + AXIS * position, round(bottom - (value - low) / (high - low) * (bottom - top), 1)

    size = f'viewBox="0 0 {width} {HEIGHT}" style="max-width:{width * 1.3:.0f}px"'
    parts = [f'<svg class="chart" {size} role="img" aria-label="parallel coordinates of the front">']
    for position, (task, scale) in enumerate(axes.items()):
        x = MARGIN + AXIS * position
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{TOP + 4}" text-anchor="middle">{escape(axis_label(metrics[task]))}</text>'
        )
        for value in (scale[0], scale[-1]):
            y = place(position, task, value)[1]
            parts.append(f'<text class="tick" x="{x - 4}" y="{y + 4}" text-anchor="end">{number(value)}</text>')
    for trial, row in sorted(shown.items(), key=lambda item: item[0] == knee):
        line = " ".join("{},{}".format(*place(position, task, row[task])) for position, task in enumerate(axes))
        told = escape(trial + (", the knee" if trial == knee else ""))
        strong = "" if trial == knee else ' stroke-opacity=".45"'
        parts.append(
            f'<g class="{"s1" if trial == knee else "s0"}"><polyline{strong} points="{line}"><title>{told}</title>'
            "</polyline></g>"
        )
    return "".join([*parts, "</svg>"])


def _axis(values: Sequence[float]) -> list[float]:
    """Ticks that enclose the values, between 0 and 100 where these do."""
    low, high = min(values), max(values)
    if math.isclose(low, high):
        low, high = max(0.0, low - 1), high + 1
    return ticks(low, high, 5)


def _mark(place: Point, tooltip: str, filled: bool, knee: bool) -> str:
    x, y = place
    ring = f'<circle cx="{x}" cy="{y}" r="7" style="fill:none;stroke:currentColor;stroke-width:1.8"/>' if knee else ""
    style = "" if filled else ' style="fill-opacity:.25"'
    dot = f'<circle cx="{x}" cy="{y}" r="{4 if filled else 3}"{style}><title>{escape(tooltip)}</title></circle>'
    return f'<g class="{"s1" if knee else "s0"}">{ring}{dot}</g>'
