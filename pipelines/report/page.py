"""The report of a night: one HTML page that needs neither a server nor a network.

    html = render(night)                 # Night is plain data; pipelines/stages/report.py collects it

Charts are inline SVG (charts.py, plots.py), recordings are inline FLAC (audio_examples.py), and the page follows the
light or dark setting of the reader.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mtl.answers import SLOT_SEPARATOR
from mtl.metrics.scoring import in_unit
from pipelines.evaluation.domains import Row
from pipelines.report import charts
from pipelines.report.audio_examples import lines
from pipelines.report.plots import plots

TEMPLATES = Path(__file__).parent / "templates"
SYNTHETIC = "synthetic speech (eSpeak NG): the scores show that the system works, not how well it does on real voices"
MAX_CLASSES = 30  # of a confusion matrix; of more, those with the most errors are shown
LOSSES = ("train", "valid")


@dataclass(frozen=True)
class Fault:
    """A test row with an error. expected, predicted: by task; audio: base64 of a FLAC file, or empty."""

    id: str
    expected: dict[str, str]
    predicted: dict[str, str]
    audio: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class Translated:
    """A test row's translation. source: its transcript or sentence, if known; chrf: of this row alone, percent."""

    id: str
    source: str
    expected: str
    predicted: str
    chrf: float


@dataclass(frozen=True)
class Confusion:
    """counts[i][j]: test rows of class i that were recognised as class j."""

    task: str
    labels: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class Night:
    """Everything that a report shows, as plain data."""

    name: str
    recipe: str
    recipe_yaml: str
    identity: str
    created: str
    synthetic: bool
    seconds: float
    promoted: bool | None  # None: not offered to a gate
    reason: str
    model: str  # "assistant v3"
    champion: str  # that it was compared with, or empty
    metrics: list[Row]
    by_corpus: dict[str, dict[str, float]] = field(default_factory=dict)  # metrics of each, if there are several
    by_domain: dict[str, list[Row]] = field(default_factory=dict)  # error rates, by the column that names the domain
    channels: list[dict[str, Any]] = field(default_factory=list)  # channel.Pair of each two domains, and its warning
    by_language: dict[str, dict[str, float]] = field(default_factory=dict)
    stages: list[tuple[str, str, float]] = field(default_factory=list)  # stage, summary, seconds
    history: list[dict[str, float]] = field(default_factory=list)
    curriculum: list[str] = field(default_factory=list)  # a line per stage of the training, if there are several
    confusions: list[Confusion] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    faulty_rows: int = 0
    translations: list[Translated] = field(default_factory=list)  # a sample, right and wrong
    corpora: list[dict[str, Any]] = field(default_factory=list)  # meta of each utterance manifest
    quarantine: list[dict[str, Any]] = field(default_factory=list)  # a sample of rows
    decision: dict[str, Any] | None = None
    lineage: dict[str, str] = field(default_factory=dict)
    speech: dict[str, Any] = field(default_factory=dict)  # see audio_examples.speech_content
    sharing: dict[str, Any] = field(default_factory=dict)  # see evaluation.inspection.interpret
    warnings: list[str] = field(default_factory=list)  # of the registry: a champion that was deleted


def environment() -> Environment:
    """The Jinja environment of the pages; escapes all values."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": percent, "figure": charts.number, "svg": Markup, "in_unit": in_unit}
    templates.filters["diff"] = lambda pair: Markup(diff(pair[0], pair[1]))
    return templates


def render(night: Night) -> str:
    """The page."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            night=night,
            note=SYNTHETIC,
            intervals={row.metric: Markup(_interval(row)) for row in night.metrics},
            curves={task: [Markup(chart) for chart in panels] for task, panels in curves(night.history).items()},
            throughput=[Markup(chart) for chart in _throughput(night.history)],
            speech_lines=lines(night.speech["figures"]) if night.speech else [],
            emotions=Markup(charts.confusion_chart(**night.speech["confusion"])) if night.speech else "",
            plots=plots(night.history, night.sharing),
            confusions=[(item.task, Markup(_confusion(item)), len(item.labels)) for item in night.confusions],
        )
    )


def curves(history: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    """Charts of each task: its losses together, then each validation metric. Keys are '<split>/<task>/<figure>'."""
    tasks: dict[str, dict[str, dict[str, list[charts.Point]]]] = {}
    for position, epoch in enumerate(history, start=1):
        for key, value in epoch.items():
            split, _, rest = key.partition("/")
            task, _, figure = rest.partition("/")
            if split in LOSSES and figure:
                label = f"{split} {figure.replace('_', ' ')}"
                points = tasks.setdefault(task, {}).setdefault(figure, {}).setdefault(label, [])
                points.append((float(epoch.get("epoch", position)), float(value)))
    marks = _stage_borders(history)
    return {
        task: [
            charts.line_chart(panels[panel], y_label=panel, marks=marks)
            for panel in sorted(panels, key=lambda p: (p != "loss", p))
        ]
        for task, panels in sorted(tasks.items())
    }


def _stage_borders(history: Sequence[Mapping[str, float]]) -> list[float]:
    """Between which epochs a curriculum's stages change: 2.5 is between the second and the third."""
    return [after["epoch"] - 0.5 for before, after in pairwise(history) if before.get("stage") != after.get("stage")]


def _throughput(history: Sequence[Mapping[str, float]]) -> list[str]:
    names = {"utterances_per_second": "utterances per second", "padding": "padding, %", "seconds": "seconds per epoch"}
    epochs = [(float(epoch.get("epoch", position)), epoch) for position, epoch in enumerate(history, start=1)]
    series = {name: [(n, float(epoch[key])) for n, epoch in epochs if key in epoch] for key, name in names.items()}
    return [charts.line_chart({name: points}, y_label=name) for name, points in series.items() if points]


def _interval(row: Row) -> str:
    """An interval bar from 0 to 100 %, or on the best end of that range if all values are there."""
    shown = [value for value in (row.low, row.high, row.value, row.champion) if value is not None]
    if row.better == "higher":
        scale = (max(0.0, min(90.0, min(shown) - 1)), 100.0)
    else:
        scale = (0.0, max(10.0, max(shown) + 1))
    return charts.interval_bar(row.low, row.high, row.value, row.champion, scale)


def _confusion(item: Confusion) -> str:
    if len(item.labels) <= MAX_CLASSES:
        return charts.confusion_chart(item.labels, item.counts)
    columns = list(zip(*item.counts, strict=True))
    errors = [sum(row) + sum(columns[i]) - 2 * row[i] for i, row in enumerate(item.counts)]
    shown = sorted(sorted(range(len(errors)), key=lambda i: -errors[i])[:MAX_CLASSES])
    return charts.confusion_chart([item.labels[i] for i in shown], [[item.counts[i][j] for j in shown] for i in shown])


def diff(expected: str, predicted: str) -> str:
    """HTML of `predicted` with deletions and insertions relative to `expected`, word by word.

    Slots ("room = kitchen · device = light") are compared one by one.
    """
    separator = SLOT_SEPARATOR if " = " in expected + predicted else " "
    left, right = ([part for part in text.split(separator) if part] for text in (expected, predicted))
    parts = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(escape(separator.join(right[k:m])))
            continue
        if j > i:
            parts.append(f"<del>{escape(separator.join(left[i:j]))}</del>")
        if m > k:
            parts.append(f"<ins>{escape(separator.join(right[k:m]))}</ins>")
    return " ".join(parts) or "<i>nothing</i>"


def percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
