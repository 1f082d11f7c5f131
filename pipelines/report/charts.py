"""Small charts as inline SVG, coloured by the style sheet of the page.

    svg = line_chart({"train": [(1, 2.3), (2, 1.1)], "valid": [(1, 2.0), (2, 1.4)]}, x_label="epoch")

Colours are CSS classes (`s0`, `s1`, ... for series; `grid`, `cell`), so a page may be light or dark. matplotlib 3.11
writes fixed colours, has no tooltips, and is slower and larger (2 cores, SVG without embedded fonts): two lines of 10
epochs take 28 ms and 14 kB (here 0.1 ms and 3 kB), a 9 x 9 grid 58 ms and 47 kB (here 0.2 ms and 15 kB).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 30
CELL = 26  # height of a cell of a grid, and width with turned labels, SVG units
NARROW_CELL, MAX_CELL = 40, 110  # width of a cell otherwise: that of the columns' names between these
LETTER = 6.4  # width of a letter of a row's label
COLOURS = 10  # classes s0..s9 that a style sheet has to define

Point = tuple[float, float]
Interval = tuple[float, float, float, float]  # x, value, and the ends of its interval
P = TypeVar("P", Point, Interval)


@dataclass(frozen=True)
class Axes:
    """Scales and frame of a chart: x and y from their lowest to their highest value."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    inset: float = 0.0  # free space left and right within the frame

    def x(self, value: float) -> float:
        width = WIDTH - LEFT - RIGHT - 2 * self.inset
        return round(LEFT + self.inset + (value - self.x_low) / ((self.x_high - self.x_low) or 1.0) * width, 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM), 1)

    def at(self, point: Point) -> Point:
        return self.x(point[0]), self.y(point[1])

    def horizontal(self, value: float) -> str:
        return line(LEFT, self.y(value), WIDTH - RIGHT, self.y(value))

    def vertical(self, value: float, style: str = "grid") -> str:
        return line(self.x(value), TOP, self.x(value), HEIGHT - BOTTOM, style)

    def chart(self, marks: Sequence[str], x_ticks: Mapping[float, str], y_ticks: Sequence[float], x_label: str,
              label: str) -> str:  # fmt: skip
        """The SVG of these marks with ticks at both axes; label: of the whole chart, for screen readers."""
        parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
        for tick in y_ticks:
            parts += [self.horizontal(tick), text(LEFT - 6, self.y(tick) + 4, number(tick), "end")]
        parts += [text(self.x(tick), HEIGHT - BOTTOM + 14, name) for tick, name in x_ticks.items()]
        parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, x_label))
        return "".join([*parts, *marks, "</svg>"])


def text(x: float, y: float, content: str, anchor: str = "middle", style: str = "tick", more: str = "") -> str:
    """A label."""
    return f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{more}>{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, style: str = "grid") -> str:
    """A straight line."""
    return f'<line class="{style}" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"/>'


def line_chart(
    series: Mapping[str, Sequence[Point]], x_label: str = "epoch", y_label: str = "", marks: Sequence[float] = ()
) -> str:
    """One line per series, with tooltips and the last value in the legend; a vertical line at each mark.

    Non-finite points are left out; without points the result is an empty string.
    """
    lines = _finite(series)
    if not lines:
        return ""
    xs, ys = zip(*(point for points in lines.values() for point in points), strict=True)
    y_ticks = ticks(min(0.0, *ys), max(ys), 5)
    axes = Axes(min(xs), max(max(xs), min(xs) + 1), y_ticks[0], y_ticks[-1])
    x_ticks = {tick: number(tick) for tick in ticks(min(xs), max(xs), 6, whole=True) if _within(tick, axes)}
    drawn = [axes.vertical(mark, "grid between") for mark in marks if _within(mark, axes)]
    for position, (name, points) in enumerate(lines.items()):
        drawn.append(_series(name, points, [axes.at(point) for point in points], position, x_label))
    return axes.chart(drawn, x_ticks, y_ticks, x_label, y_label or x_label) + _legend(lines)


def interval_chart(
    series: Mapping[str, Sequence[Interval]], x_label: str, y_label: str, x_ticks: Mapping[float, str]
) -> str:
    """One line per series over a logarithmic x, with an interval bar at each point; x_ticks: labels by x.

    Non-finite points are left out; without points the result is an empty string.
    """
    lines = _finite(series)
    if not lines:
        return ""
    ends = [end for points in lines.values() for _, _, *interval in points for end in interval]
    y_ticks = ticks(min(ends), max(ends), 5)
    axes = Axes(math.log(min(x_ticks)), math.log(max(x_ticks)), y_ticks[0], y_ticks[-1], inset=14)
    drawn = []
    for position, (name, points) in enumerate(lines.items()):
        shift = 4.0 * (position - (len(lines) - 1) / 2)  # bars of one x side by side
        xs = [round(axes.x(math.log(x)) + shift, 1) for x, *_ in points]
        bars = "".join(
            line(x, axes.y(low), x, axes.y(high), "bar") for x, (_, _, low, high) in zip(xs, points, strict=True)
        )
        dots = [(x, axes.y(point[1])) for x, point in zip(xs, points, strict=True)]
        drawn.append(_series(name, [point[:2] for point in points], dots, position, x_label, bars))
    labels = {math.log(x): label for x, label in x_ticks.items()}
    values = {name: [point[:2] for point in points] for name, points in lines.items()}
    return axes.chart(drawn, labels, y_ticks, x_label, y_label) + _legend(values)


def _finite(series: Mapping[str, Sequence[P]]) -> dict[str, list[P]]:
    finite = {name: [point for point in points if all(map(math.isfinite, point))] for name, points in series.items()}
    return {name: points for name, points in finite.items() if points}


def _within(x: float, axes: Axes) -> bool:
    return axes.x_low <= x <= axes.x_high


def _series(
    name: str, points: Sequence[Point], dots: Sequence[Point], position: int, x_label: str, more: str = ""
) -> str:
    """The group of a series; dots: the points in the chart's coordinates."""
    path = " ".join(f"{x},{y}" for x, y in dots)
    circles = "".join(
        f'<circle cx="{x}" cy="{y}" r="{2.4 if len(points) <= 60 else 1.2}"><title>{escape(name)}, {escape(x_label)} '
        f"{number(at)}: {number(value)}</title></circle>"
        for (x, y), (at, value) in zip(dots, points, strict=True)
    )
    return f'<g class="s{position % COLOURS}"><polyline points="{path}"/>{circles}{more}</g>'


def _legend(series: Mapping[str, Sequence[Point]]) -> str:
    items = (
        f'<span class="key s{position % COLOURS}">{escape(name)} <b>{number(points[-1][1])}</b></span>'
        for position, (name, points) in enumerate(series.items())
    )
    return f'<div class="legend">{"".join(items)}</div>'


@dataclass(frozen=True)
class Cell:
    """A cell of a grid. shade: -1 (bad or negative) to 1 (good or large); its magnitude is the opacity."""

    shade: float
    text: str
    tooltip: str
    strong: bool = False  # text on a dark cell


def grid_chart(
    rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[Cell | None]], turned: bool = False
) -> str:
    """A table of shaded values; None is a dash. turned: columns as narrow as rows are high, with vertical labels."""
    left = 12 + LETTER * max((len(label) for label in rows), default=0)
    step = CELL if turned else min(MAX_CELL, max(NARROW_CELL, 10 + 5.6 * max(map(len, columns), default=0)))
    top = 12 + LETTER * max((len(label) for label in columns), default=0) if turned else 22
    width, height = left + step * len(columns) + 4, top + CELL * len(rows) + 4
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" style="max-width:{width * 1.1:.0f}px"'
    parts = [f'<svg class="confusion" {size}>']
    for position, label in enumerate(columns):
        x = left + (position + 0.5) * step
        if turned:
            turn = f' transform="rotate(-90 {x + 4:.1f} {top - 6:.1f})"'
            parts.append(text(round(x + 4, 1), round(top - 6, 1), label, "start", more=turn))
        else:
            parts.append(text(round(x, 1), 16, label))
    for row, (label, line) in enumerate(zip(rows, cells, strict=True)):
        y = top + row * CELL
        parts.append(text(round(left - 6, 1), round(y + CELL / 2 + 4, 1), label, "end"))
        parts += [_cell(cell, left + column * step, y, step) for column, cell in enumerate(line)]
    return "".join([*parts, "</svg>"])


def _cell(cell: Cell | None, x: float, y: float, width: float) -> str:
    middle = f'x="{x + width / 2:.1f}" y="{y + CELL / 2 + 4:.1f}"'
    if cell is None:
        return f'<text class="count" {middle}>–</text>'
    square = (
        f'<rect class="cell {"wrong" if cell.shade < 0 else "right"}" x="{x:.1f}" y="{y:.1f}" '
        f'width="{width - 1:.1f}" height="{CELL - 1}" fill-opacity="{min(1.0, 0.05 + 0.65 * abs(cell.shade)):.2f}">'
        f"<title>{escape(cell.tooltip)}</title></rect>"
    )
    style = "count strong" if cell.strong else "count"
    return square + (f'<text class="{style}" {middle}>{escape(cell.text)}</text>' if cell.text else "")


def confusion_chart(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Rows are labels, columns predictions; the shade is the share of the row."""

    def cell(row: int, column: int) -> Cell:
        count = counts[row][column]
        share = count / max(1, sum(counts[row]))
        shade = (0.1 + 0.85 * share) / 0.65 if count else 0.0  # opaque where all of a row is in one cell
        tooltip = f"{labels[row]} → {labels[column]}: {count}"
        return Cell(shade if row == column else -shade, str(count or ""), tooltip, strong=share > 0.5)

    positions = range(len(labels))
    return grid_chart(labels, labels, [[cell(row, column) for column in positions] for row in positions], turned=True)


def interval_bar(low: float, high: float, value: float, champion: float | None, scale: tuple[float, float]) -> str:
    """A value with its interval on a scale, and the champion as a mark."""
    span = max(scale[1] - scale[0], 1e-9)

    def x(shown: float) -> float:
        return round(4 + 112 * (min(max(shown, scale[0]), scale[1]) - scale[0]) / span, 1)

    mark = "" if champion is None else line(x(champion), 2, x(champion), 16, "mark")
    return (
        f'<svg class="interval" viewBox="0 0 120 18" role="img">{line(4, 9, 116, 9)}'
        f'{line(x(low), 9, x(high), 9, "span")}{mark}<circle cx="{x(value)}" cy="9" r="4"/></svg>'
    )


def ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    rough = span / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(position * step, 12) for position in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """Three significant digits, thousands separators, no trailing zeros."""
    if not math.isfinite(value):
        return "–"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
