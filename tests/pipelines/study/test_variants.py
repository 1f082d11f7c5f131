"""Modes and methods compared: equal sizes, gains by hand, shared cells, a page that stands; real models on real Ray."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mtl.analysis.equal_size import TOLERANCE, count_parameters
from mtl.config.balancing import METHODS
from mtl.config.sharing import MODES
from pipelines.data.dataset import open_dataset
from pipelines.stages.context import Context
from pipelines.study.cells import CellRun, Study, StudyError
from pipelines.study.result import render
from pipelines.study.study import study
from pipelines.study.variants import result_of, study_variants, variants
from pipelines.training.prepare import labelled, model_config, prepare
from tests.pipelines.report.test_page import read
from tests.pipelines.study.test_study import handmade, small, two_tasks  # noqa: F401
from tests.support import small_night


def test_variants_differ_from_the_recipe_in_one_thing_and_are_as_large(small: SimpleNamespace) -> None:  # noqa: F811
    recipe = small_night.recipe()
    dataset = labelled(open_dataset(small.store, small.utterances, small.features), recipe)
    codec = prepare(recipe, dataset)[0]
    with pytest.raises(StudyError, match="mmoe with 3 tasks cannot be made as small as"):
        variants(recipe, codec, ("mmoe",), ())  # four experts of one small block
    modes = tuple(mode for mode in MODES if mode not in ("mmoe", "ple"))
    found = variants(recipe, codec, modes, METHODS)
    assert next(iter(found)) == "hard, static"
    assert found["hard, static"] is recipe
    assert set(found) - {"hard, static"} == {*modes, *METHODS} - {"hard", "static"}
    size = count_parameters(model_config(recipe), codec)
    for name, variant in list(found.items())[1:]:
        assert (variant.sharing.mode, variant.balancing.method) in ((name, "static"), ("hard", name))
        assert variant.tasks == recipe.tasks
        assert abs(count_parameters(model_config(variant), codec) / size - 1) <= TOLERANCE
    with pytest.raises(StudyError, match="sharing mode softly: not known; expected some of hard, soft"):
        variants(recipe, codec, ("softly",), ())
    with pytest.raises(StudyError, match="balancing method pcgrab: not known"):
        variants(recipe, codec, (), ("pcgrab",))


def test_gains_by_hand(tmp_path: Path) -> None:
    # Ten asked a row, two rows, two seeds. WER: alone 20 %, the recipe 10 %, pcgrad 15 %. Intent: 80, 90, 60 % right.
    recipe = two_tasks()

    def at(name: str, wer: int, wrong: int, alone: bool) -> Study:
        cells = {"transcript+intent": {"transcript/wer": [[wer] * 2] * 2, "intent/accuracy": [[wrong] * 2] * 2}}
        if alone:
            cells |= {"transcript": {"transcript/wer": [[2] * 2] * 2}, "intent": {"intent/accuracy": [[2] * 2] * 2}}
        return replace(handmade(tmp_path / name, cells, recipe=recipe), tasks=("transcript", "intent"))

    method = recipe.balancing.replace(method="pcgrad")
    worse = replace(at("worse", 1, 4, False), recipe=recipe.model_copy(update={"balancing": method}))
    found = result_of({"hard, static": at("own", 1, 1, True), "pcgrad": worse})
    own, pcgrad = found.figures["rows"]
    assert (own["kind"], pcgrad["kind"]) == ("recipe", "balancing")
    assert found.figures["single"] == {"transcript": 20.0, "intent": 80.0}
    assert own["values"] == {"transcript": 10.0, "intent": 90.0}
    assert own["gains"]["transcript"] == {"gain": 50.0, "low": 50.0, "high": 50.0}
    assert own["gains"]["intent"]["gain"] == pytest.approx(12.5)
    assert own["mean"]["gain"] == pytest.approx(31.25)
    assert own["over"] is None
    assert pcgrad["gains"]["intent"]["gain"] == pytest.approx(-25)
    assert pcgrad["mean"]["gain"] == pytest.approx(12.5)
    assert pcgrad["over"]["gain"] == pytest.approx((0 - 100 * 30 / 90) / 2, abs=1e-3)

    rows = found.table
    assert [row["joint model"] for row in rows] == ["hard, static", "pcgrad", "each task alone"]
    assert rows[0]["gain, %"] == "+31.25"
    assert rows[1]["than the recipe, %"] == "-16.67"
    assert rows[2]["transcript/wer"] == "20.00"

    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    page = read(render(found))
    text = " ".join(" ".join(page.text).split())
    assert page.sources == []
    assert "+31.25" in text
    assert "-16.67" in text
    assert "each task alone" in text


def test_variants_share_their_cells_with_any_study(ray_session: Any, small: SimpleNamespace) -> None:  # noqa: F811
    context = Context(small.store, small_night.two_tasks(), small.utterances, small.features)
    counted: list[tuple[int, int]] = []
    found = study_variants(
        context,
        sharing=("hard", "adapter"),
        balancing=("uncertainty",),
        seeds=1,
        progress=lambda done, total, _: counted.append((done, total)),
    )
    assert list(found) == ["hard, static", "adapter", "uncertainty"]
    assert counted[0] == (0, 5)
    assert counted[-1] == (5, 5)
    assert counted == sorted(counted)
    cells = {name: [one.name(cell) for cell in one.cells] for name, one in found.items()}
    assert cells["hard, static"] == ["transcript", "intent", "transcript+intent"]
    assert cells["adapter"] == cells["uncertainty"] == ["transcript+intent"]
    assert len({CellRun(one, one.joint, 0).name for one in found.values()}) == 3
    assert study(context, seeds=1, kinds=("joint",)).identity == found["hard, static"].identity
    rows = result_of(found).figures["rows"]
    sizes = [row["parameters"] for row in rows]
    assert sizes[2] == sizes[0] != sizes[1]
    assert abs(sizes[1] / sizes[0] - 1) <= TOLERANCE
    weights = [found[name].record(found[name].joint, 0)["history"][-1].get("weight/intent") for name in found]
    assert weights[2] != weights[0]  # another method did weigh
