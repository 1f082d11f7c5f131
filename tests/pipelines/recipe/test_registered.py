"""A sharing mode and a balancing method, registered at run time with a setting: recipe, model, schema, addresses."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl.balancing import Balancer
from mtl.balancing.method import Method
from mtl.config.balancing import METHODS
from mtl.config.model import ModelConfig
from mtl.config.setting import setting
from mtl.config.sharing import MODES, HardSettings, ModeSettings, SoftSettings
from mtl.models.joint import build_model
from mtl.sharing.hard import HardTrunk
from pipelines.recipe import Recipe, RecipeError, load, parse, shipped
from pipelines.training.prepare import fit_config, model_config
from tests.conftest import ROOT
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


@dataclass(frozen=True)
class SharpSettings:
    sharpness: float = setting(2.0, "Exponent of the losses.", ge=1)


class Sharp(Method):
    def __init__(self, count: int, settings: SharpSettings) -> None:
        super().__init__()
        self.sharpness = settings.sharpness

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        return losses**self.sharpness * present


@pytest.fixture
def scaled(addresses: dict[str, str]) -> Iterator[None]:
    MODES.register("scaled", ScaledTrunk, ScaledSettings)
    METHODS.register("sharp", Sharp, SharpSettings)
    yield
    MODES.unregister("scaled")
    METHODS.unregister("sharp")


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


def test_recipe_and_step_take_the_setting_of_a_balancing_method(scaled: None) -> None:
    recipe = parse(changed(balancing={"method": "sharp", "sharpness": 3}))
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    selection = fit_config(recipe).balancing
    balancer = Balancer(("a", "b"), {}, selection.method, selection.settings)
    assert balancer.weights(torch.tensor([True, True]), torch.tensor([1.0, 2.0])).tolist() == [1.0, 8.0]
    with pytest.raises(RecipeError, match=r"balancing.sharpness: .*greater than or equal to 1 \(given 0\)"):
        parse(changed(balancing={"sharpness": 0}))


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
    balancing = Recipe.model_json_schema()["properties"]["balancing"]["properties"]
    assert balancing["sharpness"]["description"] == "sharp: Exponent of the losses."
    assert balancing["rate"]["description"].startswith("famo, gradnorm: ")
    assert "sharp" in balancing["method"]["enum"]
    assert sharing["expert_blocks"]["description"].startswith("mmoe, ple: ")
    assert sharing["bottleneck"]["description"].count(": Hidden units") == 2  # attention and adapter


def test_no_address_moves(scaled: None, addresses: dict[str, str]) -> None:
    assert {name: load(name).address() for name in addresses} == addresses
    for change in ("sharing.scale=0.6", "balancing.sharpness=3"):
        assert load("assistant", [change]).address() != addresses["assistant"]


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


def test_every_key_has_a_description() -> None:
    schema = Recipe.model_json_schema()

    def described(properties: dict[str, Any]) -> Iterator[tuple[str, bool]]:
        for name, entry in properties.items():
            yield name, "description" in (entry if "$ref" not in entry else schema["$defs"][entry["$ref"][8:]] | entry)
            yield from described(entry.get("properties", {}))

    sections = [schema, *schema["$defs"].values()]
    assert [name for one in sections for name, fine in described(one["properties"]) if not fine] == []


def test_sections_of_earlier_versions_keep_their_names() -> None:
    old = parse(changed(tasks={"transcript": {}, "waveform": {}}, listening={"transcript": "assistant"}))
    new = parse(changed(tasks={"transcript": {}, "waveform": {}}, judges={"transcript": "assistant"}))
    assert old == new
    with pytest.raises(RecipeError, match=r"judges\.emotoin: unknown key; did you mean 'emotion'"):
        parse(changed(listening={"emotoin": "judge"}))


def test_reading_a_recipe_needs_no_torch() -> None:
    code = "import sys; from pipelines.recipe import load; load('assistant'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
