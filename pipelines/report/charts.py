"""Small charts as inline SVG: crisp at any size, a few kilobytes each, coloured by the page's own style sheet.

    svg = line_chart({"train": [(1, 2.3), (2, 1.1)], "valid": [(1, 2.0), (2, 1.4)]}, x_label="epoch")

Colours are CSS classes (`s0`, `s1`, … for series; `axis`, `grid`, `cell`), so that a page may be light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 30
CELL = 26  # of a confusion matrix, in SVG units
WIDE_CELL = 52  # of a heat map: wide enough for "+12.3*"
NARROW_CELL, MAX_CELL = 40, 110  # of a grid: as wide as its columns' names between these
COLOURS = 10  # classes s0..s9 that a style sheet has to define

Point = tuple[float, float]


def line_chart(
    series: Mapping[str, Sequence[Point]], x_label: str = "epoch", y_label: str = "", marks: Sequence[float] = ()
) -> str:
    """One line a series: a dot and a tooltip on each point, the last value in the legend; an upright at each mark.

    Points that are not finite are left out; a chart without any point is an empty string.
    """
    drawn = {name: [point for point in points if all(map(math.isfinite, point))] for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 6, whole=True), ticks(min(0.0, *ys), max(ys), 5)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label or x_label)}">']
    for tick in y_ticks:
        _, y = place((x_low, tick))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{number(tick)}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            x, _ = place((tick, y_low))
            parts.append(
                f'<text class="tick" x="{x}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{number(tick)}</text>'
            )
    for mark in marks:
        if x_low <= mark <= x_high:
            x, _ = place((mark, y_low))
            parts.append(f'<line class="grid between" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>')
    for position, (name, points) in enumerate(drawn.items()):
        parts.append(_line(name, points, [place(point) for point in points], position % COLOURS, x_label))
    return "".join([*parts, "</svg>", _legend(drawn)])


Measured = tuple[float, float, float, float]  # x, value, and the ends of its interval


def interval_chart(
    series: Mapping[str, Sequence[Measured]], x_label: str, y_label: str, named: Mapping[float, str]
) -> str:
    """One line a series over a logarithmic x, each point with its interval as a bar; `named`: the ticks of x.

    Points that are not finite are left out; a chart without any point is an empty string.
    """
    drawn = {name: [point for point in points if all(map(math.isfinite, point))] for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    ends = [end for points in drawn.values() for _, _, *interval in points for end in interval]
    y_ticks = ticks(min(ends), max(ends), 5)
    x_low, x_high = math.log(min(named)), math.log(max(named))
    inset = 14  # so that the bars of the first and the last point stand clear of the frame

    def across(x: float, shift: float = 0.0) -> float:
        share = (math.log(x) - x_low) / ((x_high - x_low) or 1.0)
        return round(LEFT + inset + share * (WIDTH - LEFT - RIGHT - 2 * inset) + shift, 1)

    def up(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM), 1)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick)}" y2="{up(tick)}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{up(tick) + 4}" text-anchor="end">{number(tick)}</text>')
    for x, label in named.items():
        place = f'x="{across(x)}" y="{HEIGHT - BOTTOM + 14}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{escape(label)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>')
    for position, (name, points) in enumerate(drawn.items()):
        shift = 4.0 * (position - (len(drawn) - 1) / 2)  # bars of one x beside each other
        places = [(across(x, shift), up(value)) for x, value, _, _ in points]
        bars = "".join(
            f'<line class="bar" x1="{across(x, shift)}" x2="{across(x, shift)}" y1="{up(low)}" y2="{up(high)}"/>'
            for x, _, low, high in points
        )
        shown = [(x, value) for x, value, _, _ in points]
        line = _line(name, shown, places, position % COLOURS, x_label)
        parts.append(line.replace("</g>", f"{bars}</g>"))
    return "".join([*parts, "</svg>", _legend({name: [p[:2] for p in points] for name, points in drawn.items()})])


def _line(name: str, points: Sequence[Point], places: Sequence[Point], colour: int, x_label: str) -> str:
    path = " ".join(f"{x},{y}" for x, y in places)
    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="{2.4 if len(points) <= 60 else 1.2}"><title>{escape(name)}, {escape(x_label)} '
        f"{number(at)}: {number(value)}</title></circle>"
        for (x, y), (at, value) in zip(places, points, strict=True)
    )
    return f'<g class="s{colour}"><polyline points="{path}"/>{dots}</g>'


def _legend(series: Mapping[str, Sequence[Point]]) -> str:
    items = (
        f'<span class="key s{position % COLOURS}">{escape(name)} <b>{number(points[-1][1])}</b></span>'
        for position, (name, points) in enumerate(series.items())
    )
    return f'<div class="legend">{"".join(items)}</div>'


def confusion_chart(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Rows are what was said, columns what was recognised; the shade is the share of the row."""
    widest = max((len(label) for label in labels), default=0)
    margin = 12 + 6.4 * widest
    size = CELL * len(labels)
    parts = [f'<svg class="confusion" viewBox="0 0 {margin + size + 4:.0f} {margin + size + 4:.0f}" role="img">']
    parts[0] = parts[0].replace('role="img"', f'role="img" style="max-width:{(margin + size) * 1.1:.0f}px"')
    for position, label in enumerate(labels):
        middle = margin + (position + 0.5) * CELL
        parts.append(
            f'<text class="tick" x="{margin - 6:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        )
        turned = f"rotate(-90 {middle + 4:.1f} {margin - 6:.1f})"
        parts.append(
            f'<text class="tick" x="{middle + 4:.1f}" y="{margin - 6:.1f}" transform="{turned}">{escape(label)}</text>'
        )
    for row, line in enumerate(counts):
        total = max(1, sum(line))
        for column, count in enumerate(line):
            parts.append(_cell(margin, row, column, count, count / total, labels))
    return "".join([*parts, "</svg>"])


def _cell(margin: float, row: int, column: int, count: int, share: float, labels: Sequence[str]) -> str:
    x, y = margin + column * CELL, margin + row * CELL
    kind = "right" if row == column else "wrong"
    tooltip = f"<title>{escape(labels[row])} → {escape(labels[column])}: {count}</title>"
    square = (
        f'<rect class="cell {kind}" x="{x:.1f}" y="{y:.1f}" width="{CELL - 1}" height="{CELL - 1}" '
        f'fill-opacity="{0.04 if not count else 0.15 + 0.85 * share:.2f}">{tooltip}</rect>'
    )
    if not count:
        return square
    strong = " strong" if share > 0.5 else ""
    return square + f'<text class="count{strong}" x="{x + CELL / 2:.1f}" y="{y + CELL / 2 + 4:.1f}">{count}</text>'


def heat_map(
    labels: Sequence[str], values: Sequence[Sequence[float | None]], sure: Sequence[Sequence[bool]], tooltip: str
) -> str:
    """Gains and losses: rows act on columns; the shade is the size, a star a value that is `sure`, None a dash.

    tooltip: of a cell, with {row}, {column} and {value} to be filled in.
    """
    margin = 12 + 6.4 * max((len(label) for label in labels), default=0)
    width, height = margin + WIDE_CELL * len(labels) + 4, 22 + CELL * len(labels) + 4
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" style="max-width:{width * 1.2:.0f}px"'
    largest = max((abs(value) for line in values for value in line if value is not None), default=0.0) or 1.0
    parts = [f'<svg class="confusion" {size}>']
    for position, label in enumerate(labels):
        x, y = margin + (position + 0.5) * WIDE_CELL, 22 + (position + 0.5) * CELL + 4
        shown = label if len(label) <= 9 else f"{label[:8]}…"
        parts.append(f'<text class="tick" x="{margin - 6:.1f}" y="{y:.1f}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="16" text-anchor="middle">{escape(shown)}</text>')
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            x, y = margin + column * WIDE_CELL, 22 + row * CELL
            middle = f'x="{x + WIDE_CELL / 2:.1f}" y="{y + CELL / 2 + 4:.1f}"'
            if value is None:
                parts.append(f'<text class="count" {middle}>–</text>')
                continue
            told = escape(tooltip.format(row=labels[row], column=labels[column], value=f"{value:+.1f} %"))
            opacity = 0.08 + 0.6 * abs(value) / largest
            parts.append(
                f'<rect class="cell {"right" if value >= 0 else "wrong"}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{WIDE_CELL - 1}" height="{CELL - 1}" fill-opacity="{opacity:.2f}"><title>{told}</title></rect>'
                f'<text class="count" {middle}>{value:+.1f}{"*" if sure[row][column] else ""}</text>'
            )
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class Cell:
    """shade: -1 (bad) over 0 (nothing) to 1 (good, or simply much)."""

    shade: float
    text: str
    tooltip: str


def grid_chart(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[Cell | None]]) -> str:
    """A table of shaded figures, as wide as its labels need; None is a dash."""
    margin = 12 + 6.4 * max((len(label) for label in rows), default=0)
    step = min(MAX_CELL, max(NARROW_CELL, 10 + 5.6 * max((len(label) for label in columns), default=0)))
    width, height = margin + step * len(columns) + 4, 22 + CELL * len(rows) + 4
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" style="max-width:{width * 1.1:.0f}px"'
    parts = [f'<svg class="confusion" {size}>']
    for position, label in enumerate(columns):
        x = margin + (position + 0.5) * step
        parts.append(f'<text class="tick" x="{x:.1f}" y="16" text-anchor="middle">{escape(label)}</text>')
    for row, (label, line) in enumerate(zip(rows, cells, strict=True)):
        y = 22 + row * CELL
        middle_y = f'y="{y + CELL / 2 + 4:.1f}"'
        parts.append(f'<text class="tick" x="{margin - 6:.1f}" {middle_y} text-anchor="end">{escape(label)}</text>')
        for column, cell in enumerate(line):
            x = margin + column * step
            middle = f'x="{x + step / 2:.1f}" {middle_y}'
            if cell is None:
                parts.append(f'<text class="count" {middle}>–</text>')
                continue
            opacity = 0.05 + 0.65 * min(1.0, abs(cell.shade))
            parts.append(
                f'<rect class="cell {"wrong" if cell.shade < 0 else "right"}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{step - 1:.1f}" height="{CELL - 1}" fill-opacity="{opacity:.2f}">'
                f'<title>{escape(cell.tooltip)}</title></rect><text class="count" {middle}>{escape(cell.text)}</text>'
            )
    return "".join([*parts, "</svg>"])


def interval_bar(low: float, high: float, value: float, champion: float | None, scale: tuple[float, float]) -> str:
    """A value with its interval on a scale, and the champion as a mark."""
    span = max(scale[1] - scale[0], 1e-9)

    def place(number_: float) -> float:
        return round(4 + 112 * (min(max(number_, scale[0]), scale[1]) - scale[0]) / span, 1)

    mark = (
        "" if champion is None else f'<line class="mark" x1="{place(champion)}" x2="{place(champion)}" y1="2" y2="16"/>'
    )
    return (
        '<svg class="interval" viewBox="0 0 120 18" role="img">'
        f'<line class="grid" x1="4" x2="116" y1="9" y2="9"/>'
        f'<line class="span" x1="{place(low)}" x2="{place(high)}" y1="9" y2="9"/>'
        f'{mark}<circle cx="{place(value)}" cy="9" r="4"/></svg>'
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
    """Three significant digits, thousands set off, no trailing zeros."""
    if not math.isfinite(value):
        return "–"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
