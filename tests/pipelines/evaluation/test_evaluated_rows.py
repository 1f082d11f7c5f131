"""Which rows of a corpus `motet evaluate` scores, and that it says which it leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from motet.commands import app
from pipelines.data.ingest import has_own_splits
from pipelines.recipe import Corpus, parse
from pipelines.storage.store import Manifest
from pipelines.utterances.splits import SplitError, require_rows
from tests.conftest import FinishedNight

ROWS = 130


def manifest_file(folder: Path, name: str, **columns: Any) -> str:
    """130 sentences with an intent; columns: more of them, each a function of the row's number."""
    rows = [
        {"text": f"turn on light {n}", "intent": "turn_on", "speaker": f"s{n}"}
        | {column: value(n) for column, value in columns.items()}
        for n in range(ROWS)
    ]
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return str(folder / name)


def split_of(number: int) -> str:
    return "train" if number < 100 else "valid" if number < 117 else "test"


def evaluated(night: FinishedNight, file: str, *options: str, as_json: bool = True) -> Any:
    arguments = ["evaluate", "small/1", "manifest", file, "--root", night.root, *options]
    result = CliRunner().invoke(app, [*arguments, *(["--json"] if as_json else [])])
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout) if as_json else " ".join(result.stdout.split())


def test_a_test_set_without_splits_is_scored_whole(finished_night: FinishedNight, tmp_path: Path) -> None:
    file = manifest_file(tmp_path, "rows.jsonl")
    result = evaluated(finished_night, file)
    assert (result["split"], result["rows"]) == (
        "all",
        {"evaluated": ROWS, "of": ROWS, "left_out": {}, "quarantined": 0},
    )
    assert result["metrics"]["intent/text_accuracy"]["rows"] == ROWS
    assert "130 of 130 rows" in evaluated(finished_night, file, as_json=False)


def test_rows_that_are_left_out_are_counted(finished_night: FinishedNight, tmp_path: Path) -> None:
    file = manifest_file(tmp_path, "split.jsonl", split=split_of)
    result = evaluated(finished_night, file)
    left_out = {"train": 100, "valid": 17}
    assert result["rows"] == {"evaluated": 13, "of": ROWS, "left_out": left_out, "quarantined": 0}
    assert result["metrics"]["intent/text_accuracy"]["rows"] == 13
    line = "13 of 130 rows: 13 test evaluated, 117 left out (100 train, 17 valid); --split all evaluates all"
    assert result["summary"] == line
    assert line in evaluated(finished_night, file, as_json=False)
    assert evaluated(finished_night, file, "--split", "all")["rows"]["evaluated"] == ROWS


def test_a_split_that_is_asked_for_is_dealt(finished_night: FinishedNight, tmp_path: Path) -> None:
    file = manifest_file(tmp_path, "dealt.jsonl")
    for options in (("--split", "test"), ("--split-by", "speaker")):
        rows = evaluated(finished_night, file, *options)["rows"]
        assert 0 < rows["evaluated"] < ROWS
        assert rows["evaluated"] + sum(rows["left_out"].values()) == ROWS


def test_quarantined_rows_are_told(finished_night: FinishedNight, tmp_path: Path) -> None:
    file = manifest_file(tmp_path, "bad.jsonl", split=lambda n: "nowhere" if n == 0 else "test")
    result = evaluated(finished_night, file)
    assert result["summary"] == "129 of 129 rows; 1 more in quarantine"


@pytest.mark.parametrize(
    ("options", "column", "own"),
    [
        ({}, None, False),
        ({}, split_of, True),
        ({"splits": {"s1": "test"}}, None, True),
        ({"license": "CC0"}, None, False),
    ],
)
def test_splits_of_a_corpus_of_its_own(options: dict[str, Any], column: Any, own: bool, tmp_path: Path) -> None:
    file = manifest_file(tmp_path, "rows.jsonl", **({"split": column} if column else {}))
    assert has_own_splits(Corpus(name="calls", kind="manifest", source=file, options=options)) is own


def test_a_corpus_that_is_read_says_how_its_rows_are_dealt(tmp_path: Path) -> None:
    file = manifest_file(tmp_path, "split.jsonl", split=split_of)
    result = CliRunner().invoke(app, ["ingest", "manifest", file, "--root", str(tmp_path / "root")])
    assert "130 rows: 100 train, 17 valid, 13 test" in result.stdout


def test_a_night_without_test_rows_ends_before_features(
    ray_session: Any, prefect_session: None, tmp_path: Path
) -> None:
    from flows import nightly, search

    manifest_file(tmp_path, "one.jsonl", speaker=lambda n: "ana")
    (tmp_path / "ours.yaml").write_text(
        f"name: ours\ncorpora: [{{name: calls, kind: manifest, source: {tmp_path}/one.jsonl, split_by: speaker}}]\n"
        "tasks: {intent: {}}\ngates: {primary: intent/text_accuracy}\n"
    )
    for flow, split in ((nightly, "test"), (search, "valid")):
        with pytest.raises(
            SplitError, match=rf"recipe 'ours': no {split} row .* 'calls' has 130 train, 0 valid, 0 test"
        ):
            flow(str(tmp_path / "ours.yaml"), root=str(tmp_path / "root"))
    assert not (tmp_path / "root" / "features").exists()
    assert not (tmp_path / "root" / "mlflow.db").exists()


def test_counts_that_an_earlier_version_did_not_keep_are_not_known() -> None:
    recipe = parse({"name": "ours", "corpora": [{"name": "calls", "kind": "espeak"}], "tasks": {"transcript": {}}})
    require_rows(recipe, [Manifest("utterances/calls", 1, "a", "now")], "test")
    with pytest.raises(SplitError, match=r"set corpora.calls.split_by=sentence"):
        require_rows(recipe, [Manifest("utterances/calls", 1, "a", "now", meta={"splits": {"train": 3}})], "test")
