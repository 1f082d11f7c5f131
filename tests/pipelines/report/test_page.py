"""The report: one page that stands alone, escapes what it shows, and shows the numbers it was given."""

from __future__ import annotations

import base64
import io
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from pipelines.report import charts
from pipelines.report.page import Confusion, Fault, Night, Row, Translated, curves, diff, render

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Structure(HTMLParser):
    """Checks that every element is closed in order, and collects what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Structure:
    structure = Structure()
    structure.feed(page)
    structure.close()
    assert structure.open == []
    return structure


def flac(seconds: float = 0.2) -> str:
    file = io.BytesIO()
    wave = 0.2 * np.sin(2 * math.pi * 440 * np.arange(int(16000 * seconds)) / 16000)
    soundfile.write(file, wave, 16000, format="FLAC")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def night() -> Night:
    comparison = {
        "metric": "transcript/wer",
        "better": "lower",
        "candidate": 4.2,
        "champion": 5.1,
        "rows": 812,
        "unpaired": 0,
        "gain": 0.9,
        "low": 0.31,
        "high": 1.52,
        "p": 0.004,
        "tolerance": 0.5,
        "minimum": 8.0,
        "minimum_met": True,
        "verdict": "better",
    }
    return Night(
        name="assistant-1f2e3d4c",
        recipe="assistant",
        recipe_yaml="name: assistant\n",
        identity="1f2e3d4c5b6a7988",
        created="2026-11-20 02:00 UTC",
        synthetic=True,
        seconds=431.0,
        promoted=True,
        reason="significantly better: transcript/wer 5.10 % -> 4.20 %",
        model="assistant v2",
        champion="assistant v1",
        metrics=[
            Row("transcript/wer", "lower", 4.2, 3.6, 4.9, 812, 5.1, 8.0, "better"),
            Row("intent/accuracy", "higher", 99.38, 98.8, 99.9, 812, 99.26, 98.0, "not_worse"),
            Row("slots/f1", "higher", 96.0, 94.9, 97.0, 640, None, 90.0, "new"),
        ],
        stages=[("ingest", "commands: 8,000 utterances", 9.1)],
        history=[
            {
                "epoch": epoch,
                "train/transcript/loss": 3.0 / epoch,
                "valid/transcript/loss": 3.3 / epoch,
                "valid/transcript/wer": 100 / epoch,
                "train/intent/loss": 1.0 / epoch**2,
                "valid/intent/accuracy": 100 - 40 / epoch**2,
                "utterances_per_second": 212.0,
                "padding": 3.1,
            }
            for epoch in range(1, 13)
        ],
        confusions=[Confusion("intent", ["alarm_set", "light_off", "light_on"], [[40, 0, 0], [0, 37, 2], [0, 1, 44]])],
        faults=[
            Fault(
                "commands/u17",
                {"transcript": "turn off the light", "intent": "light_off"},
                {"transcript": "turn on the light please", "intent": "light_on"},
                flac(),
                2.4,
            )
        ],
        faulty_rows=31,
        translations=[Translated("commands/u18", "turn it off", "Schalt es aus", "Schalt <es> an", 71.5)],
        corpora=[
            {
                "name": "commands",
                "rows": 8000,
                "hours": 5.5,
                "splits": {"train": 6400, "valid": 800, "test": 800},
                "quarantined": 1,
                "reasons": {"too_short": 1},
                "version": "v00000001",
            }
        ],
        quarantine=[{"file": "a<b>.wav", "row": None, "reason": "too_short", "detail": "0.05 s, expected 0.2 s"}],
        decision={
            "primary": "transcript/wer",
            "confidence": 0.95,
            "alpha": 0.05,
            "looks": 1,
            "resamples": 1000,
            "seed": 0,
            "candidate_parameters": 1_900_000,
            "champion_parameters": 1_900_000,
            "comparisons": [comparison],
            "objections": [],
            "caveats": ["slots/f1: new"],
        },
        lineage={"git commit": "0123abcd", "utterances/commands": "v1 9f8e7d6c"},
    )


def test_the_page_loads_nothing_from_elsewhere(night: Night) -> None:
    page = render(night)
    structure = read(page)
    assert structure.sources == [f"data:audio/flac;base64,{night.faults[0].audio}"]
    assert not re.search(r"https?://|@import|url\(", page)
    assert "script" not in structure.tags
    assert len(page) < 200_000


def test_the_recording_in_the_page_can_be_decoded(night: Night) -> None:
    source = read(render(night)).sources[0]
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))
    assert rate == 16000
    assert len(wave) == 3200


def test_the_page_shows_verdict_numbers_and_label(night: Night) -> None:
    text = " ".join(" ".join(read(render(night)).text).split())
    assert "promoted to champion" in text
    assert "4.20 % 3.60 – 4.90" in text
    assert "synthetic speech" in text
    assert "0.31 … 1.52" in text
    assert "31 test rows with an error" in text
    assert "synthetic speech" not in " ".join(read(render(replace(night, synthetic=False))).text)


def test_several_corpora_are_shown_apart(night: Night) -> None:
    apart = {"an4": {"transcript/wer": 20.8}, "atis": {"intent/accuracy": 98.0, "slots/f1": 97.17}}
    text = " ".join(" ".join(read(render(replace(night, by_corpus=apart))).text).split())
    assert "By corpus metric, % an4 atis transcript/wer 20.80 – intent/accuracy – 98.00 slots/f1 – 97.17" in text
    assert "By corpus" not in render(night)


def test_domains_are_shown_with_intervals_and_the_channels_warning(night: Night) -> None:
    told = {"accuracy": 0.92, "low": 0.85, "high": 0.971, "rows": 400, "speakers": 31}
    pair = {"one": "an4", "other": "calls", "channel": told, "words": None, "warning": "told apart by the <microphone>"}
    rows = [
        Row("transcript/wer@an4", "lower", 12.5, 9.0, 16.25, 115),
        Row("transcript/wer@calls", "lower", 8, 6, 9, 90),
    ]
    apart = replace(night, by_domain={"corpus": rows}, channels=[pair])
    text = " ".join(" ".join(read(render(apart)).text).split())
    assert "by corpus metric, % this model 95 % interval rows transcript/wer@an4 12.50 9.00 – 16.25 115" in text
    assert "an4 – calls 92.0 85.0 – 97.1 – too few speakers 400 31 told apart by the <microphone>" in text
    assert "Recognition in each domain" not in render(night)


def test_translations_are_shown_with_what_was_said(night: Night) -> None:
    text = " ".join(" ".join(read(render(night)).text).split())
    assert "turn it off Schalt es aus <es> an 71.5" in text
    assert "chrF" not in render(replace(night, translations=[]))


def test_a_refused_first_model_has_no_champion(night: Night) -> None:
    refused = replace(night, promoted=False, champion="", reason="slots/f1 is 80 %, expected at least 90 %")
    text = " ".join(" ".join(read(render(refused)).text).split())
    assert "not promoted" in text
    assert "of which there was none" in text


def test_hostile_names_are_escaped(night: Night) -> None:
    evil = "<script>alert(1)</script>"
    page = render(
        replace(
            night,
            reason=evil,
            faults=[Fault(evil, {"transcript": evil}, {"transcript": f"{evil} too"})],
            confusions=[Confusion("intent", [evil, "b"], [[1, 2], [3, 4]])],
        )
    )
    assert "script" not in read(page).tags
    assert "&lt;script&gt;" in page


def test_an_empty_night_still_renders(night: Night) -> None:
    bare = replace(
        night, metrics=[], history=[], confusions=[], faults=[], corpora=[], quarantine=[], decision=None, stages=[]
    )
    assert "No test row has an error" in render(bare)


def test_curves_put_losses_of_a_task_together() -> None:
    drawn = curves([{"epoch": 1, "train/intent/loss": 2.0, "valid/intent/loss": 2.5, "valid/intent/accuracy": 50.0}])
    assert list(drawn) == ["intent"]
    loss, accuracy = drawn["intent"]
    assert "train loss" in loss
    assert "valid loss" in loss
    assert "valid accuracy <b>50</b>" in accuracy


@pytest.mark.parametrize(
    ("wanted", "got", "expected"),
    [
        ("a b c", "a b c", "a b c"),
        ("a b c", "a c", "a <del>b</del> c"),
        ("a c", "a b c", "a <ins>b</ins> c"),
        ("a b", "", "<del>a b</del>"),
        ("", "", "<i>nothing</i>"),
        (
            "room = big hall · device = tv",
            "room = big hall · device = tap",
            "room = big hall <del>device = tv</del> <ins>device = tap</ins>",
        ),
        ("none", "time = noon", "<del>none</del> <ins>time = noon</ins>"),
        ("x<y", "x<z", "<del>x&lt;y</del> <ins>x&lt;z</ins>"),
    ],
)
def test_diff(wanted: str, got: str, expected: str) -> None:
    assert diff(wanted, got) == expected


@pytest.mark.parametrize(
    ("low", "high", "count", "whole", "expected"),
    [
        (0, 100, 5, False, [0, 50, 100]),
        (0, 4, 5, False, [0, 1, 2, 3, 4]),
        (0, 0.37, 5, False, [0, 0.1, 0.2, 0.3, 0.4]),
        (1, 3, 6, True, [1, 2, 3]),
        (5, 5, 5, False, [4, 6]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, count: int, whole: bool, expected: list[float]) -> None:
    found = charts.ticks(low, high, count, whole)
    assert found[0] <= low
    assert found[-1] >= high
    assert found == pytest.approx(expected)


def test_a_line_chart_places_its_points_by_hand() -> None:
    chart = charts.line_chart({"wer": [(1, 100), (2, math.nan), (3, 0)]})
    svg = ElementTree.fromstring(chart.split("<div", 1)[0])
    points = svg.find("./g/polyline").attrib["points"]
    # x: 46 … 348 over epochs 1 … 3; y: 12 (100) … 170 (0)
    assert points == "46.0,12.0 348.0,170.0"
    assert charts.line_chart({"wer": [(1, math.nan)]}) == ""


def test_a_confusion_chart_is_xml_with_every_count() -> None:
    svg = ElementTree.fromstring(charts.confusion_chart(["a", "b<"], [[3, 0], [1, 2]]))
    assert [text.text for text in svg.findall("text") if text.attrib["class"].startswith("count")] == ["3", "1", "2"]


@pytest.mark.parametrize(
    ("value", "shown"), [(3.0, "3"), (0.031, "0.031"), (12345.6, "12,346"), (1.23456, "1.23"), (math.inf, "–")]
)
def test_numbers(value: float, shown: str) -> None:
    assert charts.number(value) == shown
