"""What the tasks share, drawn: every picture of every mode, gradients, weights and losses, and nothing that is not."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import torch

from mtl.analysis.inspection import diagnostics
from mtl.config.sharing import MODES
from mtl.models.joint import build_model
from pipelines.evaluation.inspection import _plain
from pipelines.report.charts import Cell, grid_chart
from pipelines.report.page import Night, render
from pipelines.report.plots import plots
from tests.pipelines.report.test_page import night, read  # noqa: F401  # a fixture
from tests.support import tiny

EXPECTED = {
    "hard": [],
    "soft": ["distances"],
    "cross_stitch": ["units"],
    "mmoe": ["gates"],
    "ple": ["gates", "shared_gates"],
    "attention": ["masks"],
    "graph": ["edges"],
    "adapter": ["adapters"],
}
PAIRS = {"transcript:intent": -0.25, "intent:slots": 0.5}
HISTORY = [
    {
        "epoch": float(epoch),
        **{f"cosine/{part}{pair}": value for part in ("", "audio/", "block 1/") for pair, value in PAIRS.items()},
        **{f"conflict/{part}{pair}": 0.1 * epoch for part in ("", "audio/", "block 1/") for pair in PAIRS},
        "weight/transcript": 1.0,
        "weight/intent": 0.5 + 0.1 * epoch,
        "train/transcript/loss": 4.0 / epoch,
        "train/intent/loss": 2.0,
    }
    for epoch in (1, 2)
]
LAYERS = [
    {"path": "shared", "label": "front-end", "accuracy": 40.0, "shuffled": 21.0},
    {"path": "shared", "label": "block 1", "accuracy": 75.0, "shuffled": 19.0},
    {"path": "intent", "label": "given", "accuracy": 30.0, "shuffled": 20.0},
]
PROBE = {"target": "speaker", "classes": 5, "train": 80, "test": 40, "chance": 20.0, "layers": LAYERS}


def sharing(mode: str) -> dict[str, object]:
    torch.manual_seed(0)
    levels = {"expert_blocks": 2} if mode == "ple" else {}
    model = build_model(tiny.config(sharing=mode, blocks=2, **levels), tiny.codec())
    groups = zip(("audio", "text"), tiny.joined(model.codec), strict=True)
    shown = {group: {k: v.tolist() for k, v in diagnostics(model, [batch]).items()} for group, batch in groups}
    return {"mode": mode, "tasks": list(tiny.TASKS), "rows": 12, "pictures": _plain(shown), "probes": [], "skipped": {}}


def svgs(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page)]


@pytest.mark.parametrize("mode", sorted(MODES))
def test_every_picture_of_a_mode_is_on_the_page(night: Night, mode: str) -> None:  # noqa: F811
    content = sharing(mode)
    page = render(replace(night, history=[], sharing=content))
    read(page)
    shown = re.findall(r'data-plot="(\w+)"', page)
    assert shown == EXPECTED[mode]
    assert ("What the tasks share" in page) is bool(shown)
    for drawn in plots([], content):
        assert drawn.how.endswith(".")
        for _, chart in drawn.charts:
            (svg,) = svgs(chart)
            words = {text.text for text in svg.findall("text")}
            assert set(tiny.TASKS) <= words or drawn.name == "shared_gates"


def test_the_figures_are_those_of_the_picture() -> None:
    content = sharing("cross_stitch")
    (units,) = plots([], content)
    assert [caption for caption, _ in units.charts] == ["block 1", "block 2"]  # once, though there are two groups
    shown = [text.text for text in svgs(units.charts[0][1])[0].findall("text") if text.attrib["class"] == "count"]
    assert shown == [f"{0.9 if row == column else 0.025:.2f}" for row in range(5) for column in range(5)]


def test_gates_of_recordings_and_sentences_are_drawn_apart() -> None:
    (gates,) = plots([], sharing("mmoe"))
    assert [caption for caption, _ in gates.charts] == ["recordings", "sentences"]
    read_only = svgs(gates.charts[1][1])[0]
    shown = [text.text for text in read_only.findall("text") if text.attrib["class"] == "count"]
    assert shown[:4] == ["–"] * 4  # the transcript is not asked of a sentence
    assert shown[4:8] == ["0.25"] * 4


def test_gradients_weights_and_losses_over_time() -> None:
    cosines, conflicts, weights, losses = plots(HISTORY, {})
    assert [drawn.name for drawn in (cosines, conflicts, weights, losses)] == [
        *("cosines", "conflicts", "weights", "losses")
    ]
    assert [caption for caption, _ in cosines.charts] == ["the trunk as a whole", "audio front-end", "block 1"]
    whole = svgs(cosines.charts[0][1])[0]
    shown = [text.text for text in whole.findall("text") if text.attrib["class"] == "count"]
    assert shown == ["–", "-0.25", "–", "-0.25", "–", "+0.50", "–", "+0.50", "–"]
    told = [title.text for title in whole.iter("title")]
    assert "transcript and intent, the trunk as a whole: -0.250, in conflict in 20 % of the steps" in told
    assert "block 1 <b>20</b>" in conflicts.charts[0][1]
    assert "intent <b>0.7</b>" in weights.charts[0][1]
    assert "transcript <b>0.5</b>" in losses.charts[0][1]
    assert "intent <b>1</b>" in losses.charts[0][1]


def test_what_is_not_there_is_not_drawn() -> None:
    plain = [{name: value for name, value in epoch.items() if name.startswith("train/")} for epoch in HISTORY]
    constant = [{**epoch, "weight/intent": 0.3} for epoch in plain]
    assert [drawn.name for drawn in plots(constant, {})] == ["losses"]
    assert plots([], {}) == []


def test_probes_stand_beside_their_control(night: Night) -> None:  # noqa: F811
    content = {**sharing("hard"), "probes": [PROBE], "skipped": {"emotion": "no valid recording says it"}}
    (drawn,) = plots([], content)
    (svg,) = svgs(drawn.charts[0][1])
    labels = [text.text for text in svg.findall("text") if text.attrib["class"] == "tick"]
    assert labels == ["front-end", "block 1", "given", "shared", "intent", "shuffled labels", "chance"]
    shown = [text.text for text in svg.findall("text") if text.attrib["class"] == "count"]
    assert shown == ["40", "75", "–", "–", "–", "30", "21", "19", "20", "20", "20", "20"]
    assert "tested on other utterances of the training speakers" in drawn.charts[0][0]
    page = render(replace(night, sharing=content))
    assert "No probe of the emotion: no valid recording says it." in page


def test_a_grid_is_as_wide_as_its_labels() -> None:
    cells = [[Cell(0.5, "0.50", "a<b"), None]]
    svg = ElementTree.fromstring(grid_chart(["row"], ["a", "transcript"], cells))
    (rect,) = svg.findall("rect")
    assert float(rect.attrib["width"]) == pytest.approx(10 + 5.6 * 10 - 1)
    assert rect.find("title").text == "a<b"
    assert rect.attrib["fill-opacity"] == "0.38"
