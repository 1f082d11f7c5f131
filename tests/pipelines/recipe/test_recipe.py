"""Recipes: mistakes are named with what was meant, overrides reach everywhere, addresses move only when results may."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mtl.config.balancing import METHODS
from mtl.config.sharing import MODES
from mtl.config.training import Stage
from pipelines import recipe as recipes
from pipelines.recipe import (
    Corpus,
    Features,
    Loader,
    Model,
    Recipe,
    RecipeError,
    Task,
    Trainer,
    load,
    parse,
    shipped,
)
from pipelines.recipe.address import stated
from pipelines.report.builder import stages
from pipelines.training.prepare import fit_config, model_config
from tests.conftest import ROOT

SMALL = {
    "name": "small",
    "corpora": [
        {"name": "commands", "kind": "espeak", "options": {"hours": 0.1}},
        {"name": "atis", "kind": "atis", "source": "atis"},
    ],
    "tasks": {"transcript": {}, "intent": {"weight": 0.5}},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    return file


def changed(**changes: object) -> dict[str, object]:
    return {**SMALL, **changes}


@pytest.mark.parametrize(
    ("content", "key", "near"),
    [
        (changed(trainr={"epochs": 3}), "trainr", "trainer"),
        (changed(trainer={"epoch": 3}), "trainer.epoch", "epochs"),
        (changed(trainer={"learning-rate": 1e-3}), "trainer.learning-rate", "learning_rate"),
        (changed(sharing={"mod": "hard"}), "sharing.mod", "mode"),
        (changed(tasks={"intent": {"wieght": 2}}), "tasks.intent.wieght", "weight"),
        (changed(gates={"tolerances": {}}), "gates.tolerances", "tolerance"),
        (changed(trainer={"curriculum": [{"epoch": 1}]}), "trainer.curriculum.0.epoch", "epochs"),
        (changed(corpora=[{"name": "a", "kind": "espeak", "sorce": "x"}]), "corpora.0.sorce", "source"),
        (
            changed(corpora=[{"name": "a", "kind": "espeak", "fractions": {"trian": 1}}]),
            "corpora.0.fractions.trian",
            "train",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest(content: dict[str, object], key: str, near: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(content)
    assert f"{key}: unknown key; did you mean '{near}'?" in str(caught.value)


def test_every_balancing_method_can_be_asked_for_and_gets_its_settings() -> None:
    for method in METHODS:
        assert fit_config(parse(changed(balancing={"method": method}))).balancing.method == method
    config = fit_config(parse(changed(balancing={"method": "cagrad", "radius": 0.3})))
    assert (config.balancing.method, config.balancing.settings.radius) == ("cagrad", 0.3)


def test_a_key_like_no_other_lists_what_is_valid() -> None:
    with pytest.raises(RecipeError, match="valid keys: mode, strength, distance"):
        parse(changed(sharing={"zzzz": 1}))


@pytest.mark.parametrize(
    ("content", "near"),
    [
        (changed(sharing={"mode": "hart"}), "hard"),
        (changed(balancing={"method": "uncertanty"}), "uncertainty"),
        (changed(corpora=[{"name": "a", "kind": "espaek"}]), "espeak"),
        (changed(tasks={"transcipt": {}}), "transcript"),
    ],
)
def test_a_mistyped_word_names_the_nearest(content: dict[str, object], near: str) -> None:
    with pytest.raises(RecipeError, match=f"did you mean '{near}'"):
        parse(content)


def staged(*stages: dict[str, object]) -> dict[str, object]:
    return changed(trainer={"curriculum": list(stages)}, tasks={"transcript": {}, "intent": {}})


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (changed(trainer={"epochs": 0}), r"trainer.epochs: .*greater than or equal to 1 \(given 0\)"),
        (changed(model={"width": 100, "heads": 8}), "width 100 is not a multiple of 2 x heads 8"),
        (changed(model={"kernel": 4}), "kernel 4 is even"),
        (changed(features={"high_hz": 9000}), "sample_rate / 2 does not hold"),
        (changed(corpora=[SMALL["corpora"][0]] * 2), "two corpora are named commands"),
        (changed(tasks={"intent": {"corpora": ["comands"]}}), r"tasks.intent.corpora names 'comands'"),
        (changed(tasks={"intent": {}}), "gates name the metric 'transcript/wer'"),
        (changed(corpora=[]), "corpora"),
        (changed(sharing={"experts": 0}), r"sharing.experts: .*greater than or equal to 1 \(given 0\)"),
        (changed(sharing={"graph": [["intent", "intent"]]}), r"\[intent, intent\] joins a task with itself"),
        (
            changed(sharing={"graph": [["intent", "slots"]]}),
            r"sharing.graph names slots; the recipe's tasks are \['int",
        ),
        (changed(sharing={"graph": [["intent"]]}), r"sharing.graph.0.1: Field required"),
        (changed(sharing={"graph": [["intent", "slotz"]]}), r"sharing.graph.0.1: 'slotz'.*did you mean 'slots'"),
        (changed(sharing={"mode": "ple", "expert_blocks": 7}), "expert_blocks is 7, but the model has 6 blocks; lower"),
        (changed(sharing={"expert_blocks": 7}, search={"modes": ["mmoe"]}), "expert_blocks is 7"),
        (changed(search={"modes": []}), "search.modes"),
        (changed(name="Bad Name"), "name"),
        (staged({"name": "a", "tasks": ["slots"], "epochs": 1}), "'a' names slots; the tasks are"),
        (staged({"name": "a", "tasks": ["intent"], "epochs": 0}), r"curriculum.0.epochs: .*than or equal to 1"),
        (staged({"name": "a", "tasks": [], "epochs": 1}), "curriculum.0.tasks"),
        (staged({"name": "a", "tasks": ["intnt"], "epochs": 1}), "did you mean 'intent'"),
        (staged({"name": "a", "tasks": ["intent"], "epochs": 20}), "take 20 epochs of 20; at least one must be left"),
        (staged(*[{"name": "a", "tasks": ["intent"], "epochs": 1}] * 2), "two stages are named a"),
        (staged({"name": "a", "tasks": ["intent"], "epochs": 1, "train": "trunk"}), "expected 'all' or 'heads'"),
        (changed(understanding={"recognised": 1.5}), "understanding.recognised"),
        (changed(understanding={"error_limit": 1.0}), "understanding.error_limit: .*less than 1"),
        (
            changed(tasks={"intent": {}}, gates={"primary": "intent/accuracy"}, understanding={"read": True}),
            "what the recogniser hears; add tasks.transcript",
        ),
    ],
)
def test_values_that_cannot_be_are_refused(content: dict[str, object], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        parse(content)


def test_stages_and_recognised_words_reach_the_training() -> None:
    stage = {"name": "ear", "tasks": ["transcript"], "epochs": 3, "train": "heads"}
    loaded = parse({**staged(stage), "understanding": {"recognised": 0.5, "error_limit": 0.25, "read": True}})
    assert fit_config(loaded).curriculum == (Stage("ear", ("transcript",), 3, "heads"),)
    shape = model_config(loaded)
    assert (shape.recognised, shape.error_limit, shape.read) == (0.5, 0.25, True)
    assert stages(loaded) == [
        "epochs 1-3 ear (transcript, what they share rests)",
        "epochs 4-20 joint (all tasks)",
    ]
    assert stages(parse(SMALL)) == []


def test_every_fault_has_a_line_of_its_own() -> None:
    with pytest.raises(RecipeError) as caught:
        parse(changed(trainr={}, sharing={"mode": "hart"}), where="x.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "x.yaml is not a valid recipe:"
    assert len(lines) == 3


def test_overrides_reach_sections_tasks_corpora_and_options(path: Path) -> None:
    loaded = load(
        str(path),
        [
            "trainer.epochs=3",
            "trainer.learning_rate=1e-3",
            "tasks.intent.weight=2",
            "tasks.domain={}",
            "corpora.commands.options.hours=2",
            "corpora.1.source=/data/atis",
            "loader.speed=[0.9, 1.1]",
            "gates.minimum={transcript/wer: 8}",
            "trainer.gpus=null",
        ],
    )
    assert loaded.trainer.epochs == 3
    assert loaded.trainer.learning_rate == pytest.approx(1e-3)
    assert loaded.tasks["intent"].weight == 2
    assert "domain" in loaded.tasks
    assert loaded.corpora[0].options == {"hours": 2}
    assert loaded.corpora[1].source == "/data/atis"
    assert loaded.loader.speed == (0.9, 1.1)
    assert loaded.gates.minimum == {"transcript/wer": 8}
    assert loaded.trainer.gpus is None


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("trainer.epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("trainer.epcohs=3", "did you mean 'epochs'"),
        ("corpora.comands.source=x", r"no item 'comands'; expected one of \['commands', 'atis'\] or 0..1"),
        ("name.x=3", "holds 'small', which has no keys below it"),
        ("trainer.epochs=[1", "is not a YAML value"),
    ],
)
def test_an_override_that_fits_nowhere_says_so(path: Path, override: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        load(str(path), [override])


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe file"):
        load(str(tmp_path / "none.yaml"))
    with pytest.raises(RecipeError, match="no recipe named 'asistant'"):
        load("asistant")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(RecipeError, match="holds list, expected a mapping"):
        load(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(RecipeError, match="is not YAML"):
        load(str(tmp_path / "broken.yaml"))


def test_yaml_round_trip() -> None:
    small = parse(SMALL)
    assert parse(yaml.safe_load(small.to_yaml())) == small


def test_the_address_is_pinned() -> None:
    # Moves only with a deliberate change of what a recipe means; then every night of every user is trained again.
    assert parse(SMALL).address() == "e42a5b386fa18af8"
    assert parse(json.loads(json.dumps(SMALL))).address() == "e42a5b386fa18af8"


SECTIONS = (Corpus, Features, Loader, Model, MODES.section(), METHODS.section(), Task, Trainer)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_a_new_setting_with_a_default_moves_no_address(section: Any) -> None:
    required = {"name": "c", "kind": "espeak"} if section is Corpus else {}
    later: Any = type(section.__name__, (section,), {"__annotations__": {"later": float}, "later": 0.5})
    later = dataclass(frozen=True)(later) if is_dataclass(section) else later
    assert stated(later(**required)) == stated(section(**required))
    assert stated(later(**required, later=0.6)) == {**stated(section(**required)), "later": 0.6}


@pytest.mark.parametrize(
    ("recipe", "settings", "address"),
    [
        ("assistant", [], "56997e1214455829"),
        ("assistant", ["text.context=10", "domains.by=domain", "trainer.max_failures=1"], "56997e1214455829"),
        ("assistant", ["model.crf=true", "loader.substitute=0.3", "fold=[0, 5]"], "0ab367161b49015b"),
        ("dialogue", ["text.context=10"], "270931b7207b8e3e"),
        ("translate", ["translation.beam=2"], "e1019f5f69aa2f68"),
        ("expressive", ["synthesis.adversarial=0.1", "tasks.emotion.reversal=0.3"], "20fca5fc2753ea6d"),
        ("vocoder", ["vocoder.width=64"], "d94b2a948f8fac4e"),
    ],
)
def test_addresses_are_those_of_version_0_1(recipe: str, settings: list[str], address: str) -> None:
    assert load(recipe, settings).address() == address


@pytest.mark.parametrize(
    "change",
    [
        {"summary": "another sentence"},
        {"search": {"trials": 99}},
        {"interpret": {"gradients": 0, "probes": False, "rows": 20}},
        {"gates": {"confidence": 0.9}},
        {"trainer": {"workers": 1, "gpus": False, "checkpoint_minutes": 9.0, "max_failures": 0}},
    ],
)
def test_what_cannot_change_a_result_keeps_the_address(change: dict[str, object]) -> None:
    assert parse(changed(**change)).address() == parse(SMALL).address()


def test_workers_share_the_micro_batches_evenly() -> None:
    four = {"micro_batches": 4}
    assert parse(changed(trainer={**four, "workers": 2})).address() == parse(changed(trainer=four)).address()
    with pytest.raises(RecipeError, match=r"micro_batches 4 cannot be dealt evenly over 3 workers; set .* multiple"):
        parse(changed(trainer={**four, "workers": 3}))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"trainer": {"epochs": 21}},
        {"trainer": {"micro_batches": 2}},
        {"features": {"bins": 64}},
        {"quality": {"max_seconds": 20.0}},
        {"tasks": {"transcript": {}, "intent": {"weight": 0.6}}},
        {"name": "other"},
    ],
)
def test_what_can_change_a_result_moves_the_address(change: dict[str, object]) -> None:
    assert parse(changed(**change)).address() != parse(SMALL).address()


def test_the_json_schema_accepts_what_parse_accepts() -> None:
    schema = Recipe.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(SMALL, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(trainr={}), schema)


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTET_DATA", "/where/the/corpora/lie")
    loaded = load(name)
    assert loaded.name == name
    assert loaded.summary
    assert load(name, ["trainer.epochs=1"]).trainer.epochs == 1


def test_sources_may_name_environment_variables(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPORA", "/big/disk")
    corpus = load(str(path), ["corpora.atis.source=$CORPORA/atis"]).corpora[1]
    assert corpus.location() == "/big/disk/atis"
    assert corpus.source == "$CORPORA/atis"  # what is stored
    monkeypatch.delenv("CORPORA")
    with pytest.raises(RecipeError, match=r"source of corpus 'atis' .* that variable is not set"):
        load(str(path), ["corpora.atis.source=$CORPORA/atis"])


def test_a_search_may_try_every_sharing_mode() -> None:
    everything = parse(changed(search={"modes": list(MODES)}))
    assert everything.search.modes == tuple(MODES)


def test_sharing_reaches_the_model() -> None:
    sharing = {"mode": "graph", "graph": [["intent", "transcript"]], "experts": 2, "bottleneck": 8, "strength": 0.5}
    config = model_config(parse(changed(sharing=sharing, model={"hidden": 100})))
    found = config.sharing
    assert (found.mode, found.graph, found.experts, found.bottleneck, found.strength, config.hidden) == (
        "graph",
        (("intent", "transcript"),),
        2,
        8,
        0.5,
        100,
    )
    shared = parse(changed(sharing={"shared_experts": 2, "expert_blocks": 3}))
    assert (model_config(shared).sharing.shared_experts, model_config(shared).sharing.expert_blocks) == (2, 3)


def test_shipped_recipes_are_package_data() -> None:
    assert recipes.SHIPPED.is_dir()


def test_another_language_model_is_another_recipe(path: Path, tmp_path: Path) -> None:
    arpa, moved = tmp_path / "lm.arpa", tmp_path / "moved.arpa"
    arpa.write_text("one")
    first = load(str(path), [f"decoding.arpa={arpa}"])
    assert first.decoding.arpa_checksum == hashlib.sha256(b"one").hexdigest()
    moved.write_text("one")
    assert load(str(path), [f"decoding.arpa={moved}"]).address() == first.address() != load(str(path)).address()
    arpa.write_text("two")
    assert load(str(path), [f"decoding.arpa={arpa}"]).address() != first.address()
    with pytest.raises(RecipeError, match=r"decoding.arpa names .*none.arpa, which is no file"):
        load(str(path), ["decoding.arpa=none.arpa"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"blocks": 0}}, "blocks and model.lstm are both 0"),
        ({"model": {"blocks": 0, "lstm": 1}}, "the tasks transcript hear recordings"),
        ({"model": {"blocks": 0, "lstm": 1}, "tasks": {"intent": {}}}, "nothing that soft could share"),
    ],
)
def test_a_model_without_blocks_reads_sentences_alone(changes: dict[str, object], said: str) -> None:
    gates = {"primary": f"{next(iter(changes.get('tasks', SMALL['tasks'])))}/accuracy"}  # type: ignore[call-overload]
    with pytest.raises(RecipeError, match=said):
        parse(changed(gates=gates, **changes))


def test_the_recipe_for_sentences_alone_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTET_DATA", "/data")
    recipe = load(str(ROOT / "tests/bench/atis.yaml"))
    assert (recipe.model.blocks, recipe.model.lstm) == (0, 1)
    assert recipe.corpora[0].location() == "/data/atis"
