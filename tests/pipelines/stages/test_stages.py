"""The list of a night's stages: its order, the dataset kinds that it writes, and the identity that follows from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import nightly
from pipelines.core.stage import Stage
from pipelines.recipe import load
from pipelines.search.stage import SEARCH
from pipelines.stages.context import Context
from pipelines.stages.gate import PROMOTION
from pipelines.storage.kinds import KINDS
from pipelines.storage.manifest import Manifest
from pipelines.study.stages import BY_FOLDS, BY_LABELS, BY_VARIANTS, STUDY


def test_every_kind_of_dataset_is_written_by_a_stage() -> None:
    written = {kind for stage in (*nightly.STAGES, PROMOTION) for kind in stage.kinds}
    assert written == set(KINDS)


def test_every_input_is_an_earlier_stage_that_the_same_recipe_has() -> None:
    for recipe in (load("assistant"), load("expressive"), load("vocoder")):
        stages = [stage for stage in nightly.STAGES if stage.needed(recipe)]
        for number, stage in enumerate(stages):
            assert set(stage.inputs) <= {earlier.name for earlier in stages[:number]}, stage.name
    assert {name for stage in (SEARCH, STUDY, BY_LABELS, BY_FOLDS, BY_VARIANTS) for name in stage.inputs} == {
        "ingest",
        "features",
    }


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("assistant", ["features"]),
        ("expressive", ["features", "alignment", "prosody"]),
        ("vocoder", ["features", "waveforms"]),
    ],
)
def test_the_data_stages_follow_from_the_recipe(recipe: str, names: list[str]) -> None:
    assert [stage.name for stage in nightly.DATA if stage.needed(load(recipe))] == names


def test_a_version_that_is_raised_changes_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, table = load("assistant"), Manifest("utterances/commands", 1, "1f0c", "")
    before = nightly.identity(recipe, [table])
    raised = tuple(replace(stage, version=99) if stage.name == "prosody" else stage for stage in nightly.STAGES)
    monkeypatch.setattr(nightly, "STAGES", raised)
    assert nightly.identity(recipe, [table]) == before  # a stage that this recipe does not have
    assert nightly.identity(load("expressive"), [table]) != before
    raised = tuple(replace(stage, version=99) if stage.name == "train" else stage for stage in nightly.STAGES)
    monkeypatch.setattr(nightly, "STAGES", raised)
    assert nightly.identity(recipe, [table]) != before


def test_a_context_keeps_values_and_summaries(tmp_path: Path) -> None:
    def one(context: Any, part: str) -> tuple[str, str]:
        return part, part.upper()

    context = Context(str(tmp_path), load("assistant"))
    assert context.execute(Stage("letters", one, parts=lambda recipe: ["a", "b"])) == ["A", "B"]
    assert context.execute(Stage("silent", lambda context: ("", 1))) == 1
    assert context.values == {"letters": ["A", "B"], "silent": 1}
    assert [text for _, text, _ in context.summaries] == ["a", "b"]
