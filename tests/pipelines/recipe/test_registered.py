"""A sharing mode that is registered at run time with a setting of its own: recipe, model, schema and addresses."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from mtl.config.setting import setting
from mtl.config.sharing import MODES, HardSettings, ModeSettings, SoftSettings
from mtl.models.config import ModelConfig
from mtl.models.joint import build_model
from mtl.sharing.hard import HardTrunk
from pipelines.recipe import Recipe, RecipeError, load, parse, shipped
from pipelines.training.prepare import model_config
from tests.pipelines.recipe.test_recipe import changed
from tests.support import tiny


@dataclass(frozen=True)
class ScaledSettings(ModeSettings):
    scale: float = setting(0.5, "Factor of the states.", gt=0)


class ScaledTrunk(HardTrunk):
    def __init__(self, tasks: Any, encoder: Any, width: int, dropout: float, settings: ScaledSettings) -> None:
        super().__init__(tasks, encoder, width, dropout, HardSettings())
        self.scale = settings.scale

    def forward(self, x: Any, lengths: Any, tasks: Any) -> Any:
        return {task: self.scale * states for task, states in super().forward(x, lengths, tasks).items()}


@pytest.fixture(scope="module")
def addresses() -> dict[str, str]:
    return {name: load(name).address() for name in shipped() if name in ("assistant", "expressive", "vocoder")}


@pytest.fixture
def scaled(addresses: dict[str, str]) -> Iterator[None]:
    MODES.register("scaled", ScaledTrunk, ScaledSettings)
    yield
    MODES.unregister("scaled")


def test_recipe_and_model_take_the_setting(scaled: None) -> None:
    recipe = parse(changed(sharing={"mode": "scaled", "scale": 0.25}, search={"modes": ["scaled"]}))
    assert (recipe.sharing.mode, recipe.sharing.scale) == ("scaled", 0.25)
    assert parse(json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    config = ModelConfig.from_json(json.loads(json.dumps(model_config(recipe).to_json())))
    assert config.sharing.settings == ScaledSettings(0.25)
    torch.manual_seed(0)
    trunk: Any = build_model(tiny.config(sharing="scaled", scale=0.25), tiny.codec()).trunk
    assert isinstance(trunk, ScaledTrunk)
    assert trunk.scale == 0.25


@pytest.mark.parametrize(
    ("sharing", "message"),
    [
        ({"scale": 0}, r"sharing.scale: .*greater than 0 \(given 0\)"),
        ({"scael": 1}, "sharing.scael: unknown key; did you mean 'scale'?"),
        ({"mode": "scald"}, "'scald', expected .* or 'scaled'; did you mean 'scaled'?"),
    ],
)
def test_a_value_outside_of_the_bounds_is_refused(scaled: None, sharing: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(changed(sharing=sharing))


def test_the_schema_lists_the_setting_with_its_description(scaled: None) -> None:
    sharing = Recipe.model_json_schema()["properties"]["sharing"]["properties"]
    assert sharing["scale"] == {
        "default": 0.5, "description": "scaled: Factor of the states.", "exclusiveMinimum": 0, "title": "Scale",
        "type": "number",
    }  # fmt: skip
    assert "scaled" in sharing["mode"]["enum"]
    assert sharing["expert_blocks"]["description"].startswith("mmoe, ple: ")
    assert sharing["bottleneck"]["description"].count(": Hidden units") == 2  # attention and adapter


def test_no_address_moves(scaled: None, addresses: dict[str, str]) -> None:
    assert {name: load(name).address() for name in addresses} == addresses
    other = load("assistant", ["sharing.scale=0.6"])
    assert other.address() != addresses["assistant"]


def test_a_model_of_another_mode_is_stored_without_the_setting(scaled: None) -> None:
    content = tiny.config().to_json()
    assert "scale" not in content
    assert {"strength", "distance", "experts", "bottleneck", "graph"} <= set(content)


def test_two_declarations_of_a_setting_must_agree() -> None:
    @dataclass(frozen=True)
    class Other(ModeSettings):
        strength: float = setting(2.0, "Another default than that of soft.", ge=0)

    with pytest.raises(ValueError, match="declares 'strength' differently"):
        MODES.register("other", HardTrunk, Other)
    with pytest.raises(ValueError, match="two alternatives of Sharing are named 'soft'"):
        MODES.register("soft", HardTrunk, SoftSettings)
