"""Plots of what tasks share: gradients, weights and losses over time, activations of the sharing mode, probes.

    for plot in plots(night.history, night.sharing):
        plot.title, plot.how, plot.charts        # explanation in a sentence; (caption, SVG) pairs

Plots without data are left out. See mtl.training.backward for the gradients, `Trunk.picture` in mtl/sharing for the
activations, and pipelines/evaluation/inspection.py for the probes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtl.groups import group as input_group
from pipelines.report.charts import Cell, Point, grid_chart, line_chart

Epoch = Mapping[str, float]
Chart = tuple[str, str]  # caption, SVG
Draw = Callable[[Any, Sequence[str], str], list[Chart]]
WHOLE = "the trunk as a whole"
PART_NAMES = {"audio": "audio front-end", "text": "text front-end"}
CONSTANT = 1e-6  # weights that change less are constant


@dataclass(frozen=True)
class Plot:
    """Charts with one explanation. name: of the anchor. how: how to read them. wide: one chart per line."""

    name: str
    title: str
    how: str
    charts: list[Chart]
    wide: bool = False


def plots(history: Sequence[Epoch], sharing: Mapping[str, Any]) -> list[Plot]:
    """All plots with data, in the order of the page."""
    groups: dict[str, dict[str, Any]] = sharing.get("pictures", {})
    activations = []
    for name in [
        name for name in dict.fromkeys(name for group in groups.values() for name in group) if name in ACTIVATION_PLOTS
    ]:
        title, how, draw = ACTIVATION_PLOTS[name]
        drawn = {group: values[name] for group, values in groups.items() if name in values}
        if name in OF_WEIGHTS:
            charts = draw(next(iter(drawn.values())), sharing["tasks"], "")
        else:
            headings = {group: input_group(group).items if len(groups) > 1 else "" for group in drawn}
            charts = [chart for group in drawn for chart in draw(drawn[group], sharing["tasks"], headings[group])]
        activations.append(Plot(name, title, how, charts))
    return [*_gradients(history), *_over_time(history), *activations, *_probes(sharing)]


# --- gradients, weights, losses --------------------------------------------------------------------------------------


def _gradients(history: Sequence[Epoch]) -> list[Plot]:
    """Cosines by part of the last epoch that has them, and conflicts over all epochs."""
    last = next((epoch for epoch in reversed(history) if any(key.startswith("cosine/") for key in epoch)), {})
    cosines, conflicts = _by_part(last, "cosine"), _by_part(last, "conflict")
    if not cosines:
        return []
    tasks = list(dict.fromkeys(task for pairs in cosines.values() for pair in pairs for task in pair))
    maps = [(part, _cosine_map(tasks, pairs, conflicts.get(part, {}), part)) for part, pairs in cosines.items()]
    shares: dict[str, list[Point]] = {}
    for number, epoch in _numbered(history):
        for part, pairs in _by_part(epoch, "conflict").items():
            shares.setdefault(part, []).append((number, 100 * sum(pairs.values()) / len(pairs)))
    return [
        Plot(
            "cosines",
            "Cosines of the tasks' gradients",
            "The cosine between two tasks' gradients in each part of the model, mean over the last epoch: +1 parallel, "
            "0 orthogonal, −1 opposite; a dash: one of the two has no gradient in that part.",
            maps,
        ),
        Plot(
            "conflicts",
            "Conflicts over time",
            "The share of steps in which the cosine of two tasks' gradients is below 0, mean over the pairs. Unrelated "
            "tasks have 50 %; a part well above it has conflicting tasks.",
            [("", line_chart(shares, y_label="pairs in conflict, %"))],
        ),
    ]


def _by_part(epoch: Epoch, figure: str) -> dict[str, dict[tuple[str, str], float]]:
    """Part -> pair of tasks -> value, from "cosine/<part>/<task>:<task>"; without a part, of the whole trunk."""
    by_part: dict[str, dict[tuple[str, str], float]] = {}
    for key, value in epoch.items():
        if key.startswith(f"{figure}/"):
            *parts, pair = key.split("/")[1:]
            one, _, other = pair.partition(":")
            part = PART_NAMES.get(parts[0], parts[0]) if parts else WHOLE
            by_part.setdefault(part, {})[one, other] = value
    return by_part


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


def _over_time(history: Sequence[Epoch]) -> list[Plot]:
    weights, losses = _series(history, "weight/", ""), _series(history, "train/", "/loss")
    # A first loss of zero cannot be divided by.
    ratios = {
        task: [(epoch, value / points[0][1]) for epoch, value in points]
        for task, points in losses.items()
        if points[0][1]
    }
    over_time = []
    if any(abs(value - points[0][1]) > CONSTANT for points in weights.values() for _, value in points):
        how = "The weight of each task's loss or gradient, mean of each epoch, including the weight of the recipe."
        chart = line_chart(weights, y_label="weight")
        over_time.append(Plot("weights", "Task weights over time", how, [("", chart)]))
    if any(len(points) > 1 for points in ratios.values()):
        how = (
            "Each task's training loss divided by that of the first epoch. A line that stays high while the others "
            "fall belongs to a task that is not learned."
        )
        chart = line_chart(ratios, y_label="share of the first epoch's loss")
        over_time.append(Plot("losses", "Losses over time", how, [("", chart)]))
    return over_time


def _series(history: Sequence[Epoch], head: str, tail: str) -> dict[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for number, epoch in _numbered(history):
        for key, value in epoch.items():
            if key.startswith(head) and key.endswith(tail):
                series.setdefault(key.removeprefix(head).removesuffix(tail), []).append((number, value))
    return series


def _numbered(history: Sequence[Epoch]) -> list[tuple[float, Epoch]]:
    return [(float(epoch.get("epoch", position)), epoch) for position, epoch in enumerate(history, start=1)]


# --- activations of the sharing modes ---------------------------------------------------------------------------------


def _caption(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _grid(
    values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str], scale: float, tooltip: str
) -> str:
    """Shaded by value over scale; tooltip: with {row}, {column} and {value}."""

    def cell(value: float | None, row: str, column: str) -> Cell | None:
        if value is None:
            return None
        return Cell(value / scale, f"{value:.2f}", tooltip.format(row=row, column=column, value=f"{value:.3f}"))

    cells = [
        [cell(value, row, column) for value, column in zip(line, columns, strict=True)]
        for line, row in zip(values, rows, strict=True)
    ]
    return grid_chart(rows, columns, cells)


def _largest(values: Any) -> float:
    """Of nested lists; a tiny number where all is zero or None."""
    if isinstance(values, list):
        return max((_largest(value) for value in values), default=1.0)
    return abs(values) if values else 1e-9


def _gates(values: Any, tasks: Sequence[str], heading: str) -> list[Chart]:
    """(K, experts) of mmoe, or (levels, K, 1 + shared) of ple, whose first expert is the task's own."""
    tooltip = "{row} takes {value} of its states from {column}"
    if not isinstance(values[0][0], list):
        experts = [f"expert {number + 1}" for number in range(len(values[0]))]
        return [(heading, _grid(values, tasks, experts, 1.0, tooltip))]
    experts = ["own", *(f"shared {number}" for number in range(1, len(values[0][0])))]
    return [
        (_caption(heading, f"level {depth + 1}" if len(values) > 1 else ""), _grid(level, tasks, experts, 1.0, tooltip))
        for depth, level in enumerate(values)
    ]


def _shared_gates(values: Any, tasks: Sequence[str], heading: str) -> list[Chart]:
    experts = [*tasks, *(f"shared {number + 1}" for number in range(len(values[0]) - len(tasks)))]
    levels = [f"level {depth + 1}" for depth in range(len(values))]
    return [(heading, _grid(values, levels, experts, 1.0, "the shared path takes {value} from {column} at {row}"))]


def _per_block(tooltip: str) -> Draw:
    """Of (blocks, K, K): a grid of tasks for each block, on one scale."""

    def charts(values: Any, tasks: Sequence[str], heading: str) -> list[Chart]:
        scale = _largest(values)
        return [
            (_caption(heading, f"block {depth + 1}"), _grid(block, tasks, tasks, scale, tooltip))
            for depth, block in enumerate(values)
        ]

    return charts


def _by_block(tooltip: str) -> Draw:
    """Of (blocks, K): one grid, tasks by blocks."""

    def charts(values: Any, tasks: Sequence[str], heading: str) -> list[Chart]:
        blocks = [f"block {depth + 1}" for depth in range(len(values))]
        turned = [list(line) for line in zip(*values, strict=True)]
        return [(heading, _grid(turned, tasks, blocks, _largest(values), tooltip))]

    return charts


def _masks(values: Any, tasks: Sequence[str], heading: str) -> list[Chart]:
    """(blocks, K, D): mean of each mask, and its distance from the tasks' mean mask."""
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
    edges = [[value or None for value in line] for line in values]
    tooltip = "message from {column} to {row}: {value} of the norm of its own states"
    return [(heading, _grid(edges, tasks, tasks, _largest(values), tooltip))]


OF_WEIGHTS = ("units", "distances")  # which do not depend on the input group
# name in `Trunk.picture` -> title, explanation, (values, tasks, heading) -> charts
ACTIVATION_PLOTS: dict[str, tuple[str, str, Draw]] = {
    "gates": (
        "Expert use by task",
        "A row is a task's gate, mean over the inspected inputs: weights of the experts, which sum to one. Tasks with "
        "similar rows share experts; a column that is pale throughout is an unused expert.",
        _gates,
    ),
    "shared_gates": (
        "Expert use by the shared path",
        "Between two levels, the input of the shared experts is a mixture of all experts, those of the tasks included. "
        "One row for each level; weights sum to one.",
        _shared_gates,
    ),
    "units": (
        "Cross-stitch units",
        "After each block, the states of the row's task become this combination of its own states (diagonal) and the "
        "column's. Training starts with 0.9 on the diagonal.",
        _per_block("{row} takes {value} of the states of {column}"),
    ),
    "masks": (
        "Attention masks",
        "The mean of a task's mask over the shared states after each block (initially 0.88), and its distance from the "
        "mean of all tasks' masks: 0 means that all tasks use the same channels.",
        _masks,
    ),
    "edges": (
        "Messages along the task graph",
        "Messages from the column's task to the row's: norm of the message over that of the states it is added to. "
        "A dash: no edge; near 0: an unused edge.",
        _edges,
    ),
    "distances": (
        "Distance between the tasks' encoders",
        "Distance between the weights of two tasks' encoders in each block, over their mean norm; initially 0. Large "
        "values mean that the tasks need different weights there, despite the penalty.",
        _per_block("{row} and {column}: {value}"),
    ),
    "adapters": (
        "Contribution of the adapters",
        "Norm of the output of a task's adapter after each block over that of the states; initially 0. A task with "
        "large values needs states that the shared encoder does not provide.",
        _by_block("the adapter of {row} after {column} adds {value} of the states' length"),
    ),
}


# --- probes ----------------------------------------------------------------------------------------------------------

TESTED = {
    "speaker": "tested on other utterances of the training speakers",
    "emotion": "tested on other speakers",
    "phone": "a frame in the middle of each phone, tested on other speakers",
}
ON_CTC = "a frame in the middle of each {} on the model's own CTC path, tested on other speakers"


def _probes(sharing: Mapping[str, Any]) -> list[Plot]:
    charts = [(_probe_caption(probe), _probe_chart(probe)) for probe in sharing.get("probes", ())]
    how = (
        "Accuracy in percent of a linear probe on the frozen states of each layer. The last two lines are controls: "
        "probes trained on shuffled labels, and always predicting the most frequent class. An accuracy near them means "
        "that the layer does not encode the label linearly."
    )
    return [Plot("probes", "Linear probes of each layer", how, charts, wide=True)] if charts else []


def _probe_caption(probe: Mapping[str, Any]) -> str:
    target = probe["target"]
    best = max(layer["accuracy"] for layer in probe["layers"]) / 100
    # Binomial, for the best layer; frames of one utterance are not independent, so the true margin is larger.
    margin = 196 * (best * (1 - best) / probe["test"]) ** 0.5
    tested = TESTED.get(target) or ON_CTC.format(target)
    return (
        f"{target}, %: {probe['classes']} classes, {probe['train']:,} training and {probe['test']:,} test items "
        f"({tested}); margin of error about ±{max(1.0, margin):.0f}"
    )


def _probe_chart(probe: Mapping[str, Any]) -> str:
    """A line for each path (shared, or a task's own), a column for each depth, the control and chance below."""
    layers = probe["layers"]
    columns = list(dict.fromkeys(layer["label"] for layer in layers))
    columns.sort(key=lambda label: label == "given")  # the inputs of the heads come last
    paths = list(dict.fromkeys(layer["path"] for layer in layers))
    known = {(layer["path"], layer["label"]): layer for layer in layers}
    floor = probe["chance"]

    def cell(value: float, tooltip: str) -> Cell:
        return Cell(max(0.0, value - floor) / max(1.0, 100 - floor), f"{value:.0f}", tooltip)

    def read(path: str, label: str) -> Cell | None:
        layer = known.get((path, label))
        if layer is None:
            return None
        value, control = layer["accuracy"], layer["shuffled"]
        tooltip = f"{path}, {label}: {value:.1f} %, with shuffled labels {control:.1f} %, chance {floor:.1f} %"
        return cell(value, tooltip)

    def shuffled(label: str) -> Cell:
        values = [layer["shuffled"] for layer in layers if layer["label"] == label]
        return cell(sum(values) / len(values), f"{label}, shuffled labels: mean over its lines")

    lines = [[read(path, label) for label in columns] for path in paths]
    lines.append([shuffled(label) for label in columns])
    lines.append([cell(floor, "always the most frequent class") for _ in columns])
    return grid_chart([*paths, "shuffled labels", "chance"], columns, lines)
