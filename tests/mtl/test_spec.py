"""Tasks describe themselves: the registry, what follows from it, and a task that is added at run time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mtl import spec
from mtl.heads import head_class
from mtl.heads.classification import Classification
from mtl.inputs.batch import IGNORE
from mtl.inputs.codec import Codec
from mtl.spec import AUDIO, Column, TaskSpec
from mtl.tasks import SHIPPED
from pipelines.data.ingest import ingest, utterances
from pipelines.recipe import Corpus, Quality, RecipeError, parse
from pipelines.storage.store import Store
from pipelines.utterances.schema import hashed_values, utterance_schema
from tests.conftest import ROOT

ACCENT = TaskSpec(
    "accent",
    label="accent",
    groups=(AUDIO,),
    answer="label",
    head="mtl.heads.classification:Classification",
    columns=(Column("accent", aliases=("dialect",)),),
)


@pytest.fixture
def accent() -> Iterator[TaskSpec]:
    yield spec.register(ACCENT)
    spec.unregister("accent")


def test_a_file_and_a_line_make_a_task() -> None:
    files = {path.stem for path in (ROOT / "mtl" / "tasks").glob("*.py")} - {"__init__"}
    assert files == set(SHIPPED)
    assert tuple(one.name for one in spec.tasks()) == SHIPPED
    assert all(issubclass(head_class(one), object) and head_class(one).build for one in spec.tasks())


def test_specs_need_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, mtl.spec; mtl.spec.tasks(); print([m for m in ('torch', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_and_columns_must_not_clash(accent: TaskSpec) -> None:
    assert spec.register(ACCENT) == ACCENT  # the same again is no error
    other = TaskSpec("accent", label="accent", groups=(AUDIO,), answer="number", head="x:Y")
    with pytest.raises(ValueError, match="two tasks are named 'accent'"):
        spec.register(other)
    clash = TaskSpec("b", "accent", (AUDIO,), "number", "x:Y", columns=(Column("accent", kind="number"),))
    with pytest.raises(ValueError, match="column 'accent' is declared differently"):
        spec.register(clash)


def test_an_unknown_task_names_those_there_are() -> None:
    with pytest.raises(KeyError, match="no task is named 'acent'; there are transcript, intent"):
        spec.task("acent")
    content = {"name": "a", "corpora": [{"name": "c", "kind": "espeak"}], "tasks": {"intnt": {}}}
    with pytest.raises(RecipeError, match="did you mean 'intent'"):
        parse(content)


def test_a_task_of_run_time_reaches_table_manifest_and_recipe(accent: TaskSpec, tmp_path: Path) -> None:
    assert utterance_schema().names[-1] == "accent"
    manifest = tmp_path / "rows.csv"
    manifest.write_text("text,dialect,split\nhello there,scots,train\ngood morning,,train\n")
    corpus = Corpus(name="c", kind="manifest", source=str(manifest))
    store = Store(str(tmp_path / "root"))
    rows = utterances(store, ingest(corpus, Quality(), store))
    assert rows["accent"].to_pylist() == ["scots", None]
    recipe = parse({"name": "a", "corpora": [corpus.model_dump()], "tasks": {"transcript": {}, "accent": {}}})
    assert list(recipe.tasks) == ["transcript", "accent"]
    codec = Codec.build(rows.to_pylist(), ("transcript", "accent"))
    assert codec.labels["accent"] == ("scots",)
    assert [codec.encode(row).targets["accent"] for row in rows.to_pylist()] == [0, IGNORE]
    assert head_class(accent) is Classification


def test_a_new_column_moves_no_address_of_rows_without_it(tmp_path: Path) -> None:
    manifest = tmp_path / "rows.csv"
    manifest.write_text("text,split\nhello there,train\n")
    corpus = Corpus(name="c", kind="manifest", source=str(manifest))

    def address(root: str) -> str:
        store = Store(str(tmp_path / root))
        return ingest(corpus, Quality(), store).address

    before = address("before")
    spec.register(ACCENT)
    try:
        assert address("after") == before
        assert "accent" not in hashed_values({"id": "1", "accent": None})
    finally:
        spec.unregister("accent")


def test_a_number_is_a_number_or_quarantined(tmp_path: Path) -> None:
    age = TaskSpec("age", "age", (AUDIO,), "number", "x:Y", columns=(Column("age", kind="number"),))
    spec.register(age)
    try:
        manifest = tmp_path / "rows.csv"
        manifest.write_text("text,age,split\na b,41.5,train\nc d,,train\ne f,old,train\n")
        store = Store(str(tmp_path / "root"))
        corpus = Corpus(name="c", kind="manifest", source=str(manifest))
        made = ingest(corpus, Quality(max_quarantined=0.5), store)
        ages = utterances(store, made)["age"].to_pylist()
        assert ages == [41.5, None]
        assert np.isfinite(ages[0])
        assert made.meta["reasons"] == {"bad_row": 1}
    finally:
        spec.unregister("age")
