"""What the tasks share, drawn: their gradients, weights and losses over time, the sharing mode's picture, the probes.

    for drawing in drawings(night.history, night.sharing):
        drawing.title, drawing.how, drawing.charts        # how to read it, in a sentence; (caption, SVG) pairs

What a training or a mode does not have is not drawn. See mtl.training.backward for the gradients, `picture` in
mtl/sharing for
the modes, and pipelines/evaluation/inspection.py for the probes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtl.groups import group as input_group
from pipelines.report.charts import Cell, Point, grid_chart, line_chart

Epoch = Mapping[str, float]
Chart = tuple[str, str]  # caption, SVG
WHOLE = "the trunk as a whole"
PART_NAMES = {"audio": "audio front-end", "text": "text front-end"}
EVEN = 1e-6  # weights that move less are a constant


@dataclass(frozen=True)
class Drawing:
    name: str  # "cosines"; what a test or a link finds it by
    title: str
    how: str
    charts: list[Chart]
    wide: bool = False  # each chart on a line of its own


def drawings(history: Sequence[Epoch], sharing: Mapping[str, Any]) -> list[Drawing]:
    """All that there is to draw, in the order of the page."""
    found = [*_gradients(history), *_over_time(history)]
    pictures: dict[str, dict[str, Any]] = sharing.get("pictures", {})
    for name in {name: None for group in pictures.values() for name in group}:
        if name in PICTURES:
            charts: list[Chart] = []
            for group, picture in pictures.items():
                if name in picture and not (charts and name in OF_WEIGHTS):
                    charts += PICTURES[name].charts(picture[name], sharing["tasks"], _heading(name, group, pictures))
            found.append(Drawing(name, PICTURES[name].title, PICTURES[name].how, charts))
    return [*found, *_probes(sharing)]


# --- gradients, weights, losses --------------------------------------------------------------------------------------


def _gradients(history: Sequence[Epoch]) -> list[Drawing]:
    """Cosines by part of the last epoch that has them, and conflicts over all epochs."""
    cosines = _by_part(next((epoch for epoch in reversed(history) if _has(epoch, "cosine/")), {}), "cosine")
    if not cosines:
        return []
    conflicts = _by_part(next(epoch for epoch in reversed(history) if _has(epoch, "cosine/")), "conflict")
    tasks = list(dict.fromkeys(task for pairs in cosines.values() for pair in pairs for task in pair))
    maps = [(part, _cosine_map(tasks, pairs, conflicts.get(part, {}), part)) for part, pairs in cosines.items()]
    lines: dict[str, list[Point]] = {}
    for at, epoch in _numbered(history):
        for part, pairs in _by_part(epoch, "conflict").items():
            lines.setdefault(part, []).append((at, 100 * sum(pairs.values()) / len(pairs)))
    over_time = line_chart(lines, y_label="pairs in conflict, %")
    return [
        Drawing(
            "cosines",
            "Where the tasks' gradients agree",
            "The cosine between two tasks' gradients in each part, mean of the last epoch: +1 they pull it the same "
            "way, 0 they have nothing to do with each other, −1 they undo each other's work; a dash: one of the two "
            "does not reach that part.",
            maps,
        ),
        Drawing(
            "conflicts",
            "Conflicts over time",
            "The share of steps in which two tasks' gradients point apart (cosine below 0), mean over the pairs: half "
            "is what two unrelated tasks would have; a part well above it is one that the tasks fight over.",
            [("", over_time)],
        ),
    ]


def _by_part(epoch: Epoch, figure: str) -> dict[str, dict[tuple[str, str], float]]:
    """Part -> pair of tasks -> value, from "cosine/<part>/<task>:<task>"; without a part it is the whole."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for key, value in epoch.items():
        if key.startswith(f"{figure}/"):
            *place, pair = key.split("/")[1:]
            one, _, other = pair.partition(":")
            part = PART_NAMES.get(place[0], place[0]) if place else WHOLE
            found.setdefault(part, {})[one, other] = value
    return found


def _cosine_map(
    tasks: Sequence[str], pairs: Mapping[tuple[str, str], float], conflicts: Mapping[tuple[str, str], float], part: str
) -> str:
    def cell(one: str, other: str) -> Cell | None:
        pair = (one, other) if (one, other) in pairs else (other, one)
        if pair not in pairs:
            return None
        often = f", in conflict in {100 * conflicts[pair]:.0f} % of the steps" if pair in conflicts else ""
        return Cell(pairs[pair], f"{pairs[pair]:+.2f}", f"{one} and {other}, {part}: {pairs[pair]:+.3f}{often}")

    return grid_chart(tasks, tasks, [[cell(one, other) for other in tasks] for one in tasks])


def _over_time(history: Sequence[Epoch]) -> list[Drawing]:
    weights, losses = _series(history, "weight/", ""), _series(history, "train/", "/loss")
    found = []
    if any(abs(value - points[0][1]) > EVEN for points in weights.values() for _, value in points):
        found.append(
            Drawing(
                "weights",
                "Task weights over time",
                "The weight with which a task's loss (or its gradient) went into a step, mean of each epoch, the "
                "recipe's own weight included: a task that rises was given more say.",
                [("", line_chart(weights, y_label="weight"))],
            )
        )
    # A first loss of nothing leaves nothing to compare with.
    ratios = {
        task: [(at, value / points[0][1]) for at, value in points] for task, points in losses.items() if points[0][1]
    }
    if any(len(points) > 1 for points in ratios.values()):
        found.append(
            Drawing(
                "losses",
                "Losses over time",
                "Each task's training loss as a share of its own in the first epoch: a line that stays high while the "
                "others fall is a task that waits, or cannot be learned here.",
                [("", line_chart(ratios, y_label="share of the first epoch's loss"))],
            )
        )
    return found


def _series(history: Sequence[Epoch], head: str, tail: str) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for at, epoch in _numbered(history):
        for key, value in epoch.items():
            if key.startswith(head) and key.endswith(tail):
                found.setdefault(key.removeprefix(head).removesuffix(tail), []).append((at, value))
    return found


def _numbered(history: Sequence[Epoch]) -> list[tuple[float, Epoch]]:
    return [(float(epoch.get("epoch", position)), epoch) for position, epoch in enumerate(history, start=1)]


def _has(epoch: Epoch, head: str) -> bool:
    return any(key.startswith(head) for key in epoch)


# --- pictures of the sharing modes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """How one entry of a mode's `picture` is drawn: charts(values, tasks, heading) -> (caption, SVG) pairs."""

    title: str
    how: str
    charts: Callable[[Any, Sequence[str], str], list[Chart]]


def _heading(name: str, group: str, pictures: Mapping[str, Any]) -> str:
    """Which rows, where it makes a difference."""
    return "" if name in OF_WEIGHTS or len(pictures) < 2 else input_group(group).items


def _caption(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _grid(
    values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str], scale: float, tell: str
) -> str:
    """Shaded by value over scale; tell: a tooltip with {row}, {column} and {value}."""
    return grid_chart(
        rows,
        columns,
        [
            [
                None
                if value is None
                else Cell(value / scale, f"{value:.2f}", tell.format(row=row, column=column, value=f"{value:.3f}"))
                for column, value in zip(columns, line, strict=True)
            ]
            for row, line in zip(rows, values, strict=True)
        ],
    )


def _largest(values: Any) -> float:
    """Of nested lists; 1 where all is zero or unseen."""
    if isinstance(values, list):
        return max((_largest(value) for value in values), default=1.0)
    return abs(values) if values else 1e-9


def _gates(values: Any, tasks: Sequence[str], heading: str) -> list[Chart]:
    """(K, experts) of mmoe, or (levels, K, 1 + shared) of ple, whose first expert is the task's own."""
    told = "{row} takes {value} of its states from {column}"
    if not isinstance(values[0][0], list):
        experts = [f"expert {number + 1}" for number in range(len(values[0]))]
        return [(heading, _grid(values, tasks, experts, 1.0, told))]
    experts = ["own", *(f"shared {number}" for number in range(1, len(values[0][0])))]
    return [
        (_caption(heading, f"level {depth + 1}" if len(values) > 1 else ""), _grid(level, tasks, experts, 1.0, told))
        for depth, level in enumerate(values)
    ]


def _shared_gates(values: Any, tasks: Sequence[str], heading: str) -> list[Chart]:
    experts = [*tasks, *(f"shared {number + 1}" for number in range(len(values[0]) - len(tasks)))]
    levels = [f"level {depth + 1}" for depth in range(len(values))]
    return [(heading, _grid(values, levels, experts, 1.0, "the shared path takes {value} from {column} at {row}"))]


def _per_block(tell: str) -> Callable[[Any, Sequence[str], str], list[Chart]]:
    """Of (blocks, K, K): a grid of tasks for each block, on one scale."""

    def charts(values: Any, tasks: Sequence[str], heading: str) -> list[Chart]:
        scale = _largest(values)
        return [
            (_caption(heading, f"block {depth + 1}"), _grid(block, tasks, tasks, scale, tell))
            for depth, block in enumerate(values)
        ]

    return charts


def _by_block(tell: str) -> Callable[[Any, Sequence[str], str], list[Chart]]:
    """Of (blocks, K): one grid, tasks by blocks."""

    def charts(values: Any, tasks: Sequence[str], heading: str) -> list[Chart]:
        blocks = [f"block {depth + 1}" for depth in range(len(values))]
        turned = [list(line) for line in zip(*values, strict=True)]
        return [(heading, _grid(turned, tasks, blocks, _largest(values), tell))]

    return charts


def _masks(values: Any, tasks: Sequence[str], heading: str) -> list[Chart]:
    """(blocks, K, D): how open each mask is, and how far it is from the tasks' mean mask."""
    opened = [[_mean(mask) for mask in block] for block in values]
    apart = [[_from_mean(mask, block) for mask in block] for block in values]
    shown = _by_block("the mask of {row} after {column}: {value}")
    return [
        *shown(opened, tasks, _caption(heading, "share of the states let through")),
        *shown(apart, tasks, _caption(heading, "distance from the tasks' mean mask")),
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _from_mean(mask: Sequence[float | None], block: Sequence[Sequence[float | None]]) -> float | None:
    """Mean absolute difference over the channels."""
    means = [_mean(channel) for channel in zip(*block, strict=True)]
    pairs = zip(mask, means, strict=True)
    return _mean([None if value is None or mean is None else abs(value - mean) for value, mean in pairs])


def _edges(values: Any, tasks: Sequence[str], heading: str) -> list[Chart]:
    there = [[value or None for value in line] for line in values]
    told = "{row} hears {column}: {value} of the length of its own states"
    return [(heading, _grid(there, tasks, tasks, _largest(values), told))]


OF_WEIGHTS = ("units", "distances")  # pictures that do not depend on what went through the model
PICTURES = {
    "gates": Picture(
        "Which experts the tasks use",
        "A row is a task's gate, mean over the rows looked at: what it takes from each expert, one in all; tasks with "
        "like rows share, and a column that is pale throughout is an expert that nobody uses.",
        _gates,
    ),
    "shared_gates": Picture(
        "What the shared path takes from the experts",
        "Between two levels the shared experts' next input is mixed from all experts, the tasks' own among them: one "
        "row a level, one in all.",
        _shared_gates,
    ),
    "units": Picture(
        "Cross-stitch: what a task takes from the others",
        "After each block the row's task goes on with this much of its own states (diagonal) and of the column's: "
        "training started with 0.9 on the diagonal, and what moved away from it was found useful.",
        _per_block("{row} takes {value} of the states of {column}"),
    ),
    "masks": Picture(
        "Attention masks",
        "How much of the shared states a task's mask lets through after each block (it began at 0.88), and how far the "
        "mask is from the mean of all tasks' masks: 0 means that all tasks look at the same channels.",
        _masks,
    ),
    "edges": Picture(
        "Messages along the task graph",
        "The row's task hears the column's: length of the message over that of the states it is added to; a dash: no "
        "edge, and near 0: an edge that is not used.",
        _edges,
    ),
    "distances": Picture(
        "How far the tasks' encoders have moved apart",
        "Distance between two tasks' encoders in each block, over their mean length: all began alike, at 0; large "
        "means that the tasks wanted different things there, in spite of the penalty.",
        _per_block("{row} and {column}: {value}"),
    ),
    "adapters": Picture(
        "How much the adapters add",
        "Length of what a task's adapter adds after each block over that of the states: all began at 0; a task with "
        "large figures needs states that the shared encoder does not give it.",
        _by_block("the adapter of {row} after {column} adds {value} of the states' length"),
    ),
}


# --- probes ----------------------------------------------------------------------------------------------------------

TESTED = {
    "speaker": "asked about other utterances of the speakers it learned",
    "emotion": "asked about speakers that it has not learned from",
    "phone": "a frame in the middle of each phone, of speakers that it has not learned from",
}
ON_CTC = "a frame in the middle of each {} on the model's own CTC path, of speakers that it has not learned from"


def _probes(sharing: Mapping[str, Any]) -> list[Drawing]:
    charts = [(_probe_caption(found), _probe_chart(found)) for found in sharing.get("probes", ())]
    if not charts:
        return []
    how = (
        "Percent that a straight line reads from the frozen states of each layer, to be compared with the last two "
        "lines: probes trained on shuffled labels, and naming the commonest class each time. A figure near them means "
        "that the layer does not hold it in plain sight; one that falls with depth, that the encoder lets go of it."
    )
    return [Drawing("probes", "What can be read from each layer", how, charts, wide=True)]


def _probe_caption(found: Mapping[str, Any]) -> str:
    target = found["target"]
    best = max(layer["accuracy"] for layer in found["layers"]) / 100
    # Of the best layer's share, as a binomial; frames of one utterance are less independent than that.
    margin = 196 * (best * (1 - best) / found["test"]) ** 0.5
    tested = TESTED.get(target) or ON_CTC.format(target)
    return (
        f"{target}, %: {found['classes']} classes, {found['train']:,} items to learn from and {found['test']:,} to be "
        f"asked about ({tested}); figures are good to about ±{max(1.0, margin):.0f}"
    )


def _probe_chart(found: Mapping[str, Any]) -> str:
    """A line for each path (shared, or a task's own), a column for each depth, the control and chance below."""
    layers = found["layers"]
    columns = list(dict.fromkeys(layer["label"] for layer in layers))
    columns.sort(key=lambda label: label == "given")  # what the heads are given comes last
    paths = list(dict.fromkeys(layer["path"] for layer in layers))
    known = {(layer["path"], layer["label"]): layer for layer in layers}
    floor = found["chance"]

    def cell(value: float, tooltip: str) -> Cell:
        return Cell(max(0.0, value - floor) / max(1.0, 100 - floor), f"{value:.0f}", tooltip)

    def read(path: str, label: str) -> Cell | None:
        layer = known.get((path, label))
        if layer is None:
            return None
        value, control = layer["accuracy"], layer["shuffled"]
        told = f"{path}, {label}: {value:.1f} %, with shuffled labels {control:.1f} %, chance {floor:.1f} %"
        return cell(value, told)

    def shuffled(label: str) -> Cell:
        values = [layer["shuffled"] for layer in layers if layer["label"] == label]
        return cell(sum(values) / len(values), f"{label}, shuffled labels: mean over its lines")

    lines = [[read(path, label) for label in columns] for path in paths]
    lines.append([shuffled(label) for label in columns])
    lines.append([cell(floor, "always the commonest class") for _ in columns])
    return grid_chart([*paths, "shuffled labels", "chance"], columns, lines)
