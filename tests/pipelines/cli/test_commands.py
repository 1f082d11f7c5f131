"""The command line: help with an example, tables for people, JSON for scripts, exit codes, and errors in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import soundfile
from click.testing import Result
from typer.main import get_command
from typer.testing import CliRunner

from motet.__main__ import app, main
from pipelines.core import environment, progress
from tests.conftest import ROOT, FinishedNight


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def as_json(*arguments: str) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def motet(*arguments: str, cwd: Path, **environment_: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "motet", *arguments]
    variables = {**os.environ, **environment_}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables, timeout=300)


COMMANDS = [[name] for name in get_command(app).commands if name != "recipe"] + [  # type: ignore[attr-defined]
    ["recipe", "list"],
    ["recipe", "show"],
    ["recipe", "schema"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert f"Example: motet {' '.join(command)}" in " ".join(result.output.split())


def test_the_promised_commands_are_there_in_order() -> None:
    output = call("--help").output
    first = ["nightly", "search", "study", "deploy", "ingest", "evaluate", "predict"]
    promised = [*first, "leaderboard", "promote", "rollback", "history", "up", "doctor", "gc", "fsck"]
    places = [output.index(f" {name} ") for name in promised]
    assert places[0] == min(places)


def test_a_recipe_with_a_mistake_is_a_wrong_call(tmp_path: Path) -> None:
    done = motet("nightly", "assistent", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr.strip().splitlines()[-1].startswith("motet: no recipe named 'assistent'; did you mean 'assistant'?")
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "motet-root").exists()


def test_an_error_of_motet_is_one_line_and_code_1(tmp_path: Path) -> None:
    done = motet("ingest", "manifest", "no/such/folder", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == f"motet: {tmp_path / 'no/such/folder'}: no such file or folder"


def test_an_mlflow_that_is_away_is_told_in_one_line_without_its_password(tmp_path: Path) -> None:
    nobody_listens = "http://ann:hunter2@127.0.0.1:9"
    variables = {"MLFLOW_TRACKING_URI": nobody_listens, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = motet("leaderboard", "assistant", "--root", "root", cwd=tmp_path, **variables)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("motet: MLflow refused, or does not answer: API request to http://127.0.0.1:9")
    assert "hunter2" not in line


def test_a_night_that_cannot_find_its_corpus_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "lost.yaml").write_text(
        "name: lost\ncorpora: [{name: trips, kind: atis, source: no/such/folder}]\n"
        "tasks: {intent: {}, slots: {}}\ngates: {primary: slots/f1}\n"
    )
    done = motet("nightly", "lost.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == f"motet: {tmp_path / 'no/such/folder'}: no such file or folder"


def test_ingest_counts_what_it_turned_away(tmp_path: Path) -> None:
    from pipelines.synthetic.synthesizer import SAMPLE_RATE, synthesize

    soundfile.write(tmp_path / "good.wav", synthesize("stop the music"), SAMPLE_RATE)
    (tmp_path / "bad.wav").write_bytes(b"RIFF no more")
    rows = [{"audio_filepath": f"{name}.wav", "text": "stop the music"} for name in ("good", "bad")]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    root = str(tmp_path / "root")
    options = ("--name", "calls", "--split-by", "sentence", "--root", root)
    found = as_json(
        "ingest", "manifest", str(tmp_path / "rows.jsonl"), *options, "--set", "quality.max_quarantined=0.5"
    )
    assert (found["dataset"], found["version"], found["rows"]) == ("utterances/calls", 1, 1)
    assert found["reasons"] == {"undecodable": 1}
    strict = call("ingest", "manifest", str(tmp_path / "rows.jsonl"), *options)
    assert strict.exit_code == 1
    assert "undecodable" in str(strict.exception)


def test_settings_of_a_corpus_are_checked(tmp_path: Path) -> None:
    from pipelines.recipe import RecipeError

    result = call("ingest", "espeak", "--root", str(tmp_path), "--set", "hours=1")
    assert isinstance(result.exception, RecipeError)
    assert "options.KEY=VALUE" in str(result.exception)


def test_say_speaks(tmp_path: Path) -> None:
    result = call("say", "turn on the light", "--espeak", "f3", "-o", str(tmp_path / "new" / "light.wav"))
    assert result.exit_code == 0
    samples, rate = soundfile.read(tmp_path / "new" / "light.wav")
    assert rate == 16000
    assert 0.5 < len(samples) / rate < 4
    assert abs(samples).max() > 0.05


def test_predict_a_recording_and_a_sentence(finished_night: FinishedNight, tmp_path: Path) -> None:
    call("say", "turn on the light", "--espeak", "f3", "-o", str(tmp_path / "light.wav"))
    options = ("--root", finished_night.root, "--model", "small/1")
    heard, read = as_json("predict", str(tmp_path / "light.wav"), "--text", "play some jazz", *options)
    assert heard["input"] == str(tmp_path / "light.wav")
    assert isinstance(heard["text"], str)
    assert read["text"] is None
    for answer in (heard, read):
        assert answer["model"] == "models:/small/1"
        assert 0 < answer["intent"]["confidence"] <= 1
        assert isinstance(answer["slots"], list)
    shown = call("predict", "--text", "play some jazz", *options)
    assert "intent" in shown.stdout


def test_a_domain_that_the_model_does_not_know_is_told_in_a_line(finished_night: FinishedNight, tmp_path: Path) -> None:
    call("say", "turn on the light", "--espeak", "f3", "-o", str(tmp_path / "light.wav"))
    options = ("--root", finished_night.root, "--model", "small/1", "--domain", "moon")
    done = motet("predict", "light.wav", *options, cwd=tmp_path)
    assert done.returncode == 1
    told = "motet: the model has no domain 'moon': it is told of none; without one a recording's is unknown"
    assert done.stderr.strip().splitlines()[-1] == told
    assert "Traceback" not in done.stderr


def test_domains_that_differ_in_nothing_but_the_draw(tmp_path: Path) -> None:
    options = "utterances: 24, speakers: 12, valid_utterances: 1, test_utterances: 1, text_only_sentences: 0"
    (tmp_path / "two.yaml").write_text(
        "name: two\ncorpora:\n"
        + "".join(f"  - {{name: {n}, kind: espeak, options: {{seed: {k}, {options}}}}}\n" for k, n in enumerate("ab"))
        + "tasks: {transcript: {}}\ngates: {primary: transcript/wer}\n"
    )
    (pair,) = as_json("domains", str(tmp_path / "two.yaml"), "--root", str(tmp_path / "root"))
    assert (pair["one"], pair["other"]) == ("a", "b")
    assert pair["channel"]["low"] < 0.5
    assert pair["warning"] is None
    shown = call("domains", str(tmp_path / "two.yaml"), "--root", str(tmp_path / "root"))
    assert "a - b" in shown.stdout


def test_predict_with_hot_words_and_alternatives(finished_night: FinishedNight, tmp_path: Path) -> None:
    call("say", "turn on the light", "--espeak", "f3", "-o", str(tmp_path / "light.wav"))
    (tmp_path / "hot.txt").write_text("anna stone\n\nturn on\n")
    options = ("--root", finished_night.root, "--model", "small/1", "--n-best", "3", "--hot-weight", "20")
    hot = ("--hot-word", "zanzibar", "--hot-words", str(tmp_path / "hot.txt"))
    (plain,) = as_json("predict", str(tmp_path / "light.wav"), *options)
    (heard,) = as_json("predict", str(tmp_path / "light.wav"), *options, *hot)
    assert len(plain["n_best"]) == len(heard["n_best"]) == 3
    shares = [other["confidence"] for other in heard["n_best"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-9
    assert heard["text"] == heard["n_best"][0]["text"]
    assert any(phrase in heard["text"] for phrase in ("zanzibar", "anna stone", "turn on"))
    for word in heard["words"]:
        assert 0 <= word["start"] < word["end"]
    shown = call("predict", str(tmp_path / "light.wav"), *options)
    assert plain["n_best"][1]["text"] in shown.stdout
    wrong = call("predict", str(tmp_path / "light.wav"), *options, "--hot-word", "?!")
    assert "'?!' has no letter" in str(wrong.exception)


def test_predict_names_the_file_that_it_cannot_read(finished_night: FinishedNight, tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"not a recording")
    result = call("predict", str(tmp_path / "noise.wav"), "--root", finished_night.root, "--model", "small/1")
    assert result.exit_code == 1
    assert "noise.wav" in str(result.exception)


def test_a_study_of_cells_that_there_are_not_is_a_wrong_call() -> None:
    result = call("study", "assistant", "--cells", "pairs,triples")
    assert result.exit_code == 2
    shown = " ".join(result.output.replace("│", " ").split())  # in a box as wide as the terminal
    assert "triples: expected some of single, joint, pairs, leave-one-out" in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--labels", "0.1,2"), "--labels 0.1,2: expected shares above 0, up to 1"),
        (("--labels", "few"), "--labels few: expected shares"),
        (("--labels", ","), "expected shares"),
        (("--sparse", "intent"), "says whose labels are few, and needs --labels"),
        (("--labels", "0.1", "--sparse", "language"), "--sparse language: expected some of transcript, intent"),
    ],
)
def test_shares_of_labels_that_cannot_be_are_a_wrong_call(arguments: tuple[str, ...], complaint: str) -> None:
    result = call("study", "assistant", *arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())


def test_predict_without_input_is_a_wrong_call() -> None:
    result = call("predict")
    assert result.exit_code == 2
    assert "give a recording" in result.output


def test_predict_without_a_model_says_how_to_get_one(tmp_path: Path) -> None:
    result = call("predict", "--text", "hello", "--root", str(tmp_path))
    assert result.exit_code == 1
    assert "`motet nightly RECIPE` makes one" in str(result.exception)


def test_evaluate_gives_intervals(finished_night: FinishedNight) -> None:
    options = ("--set", "options.utterances=4", "--set", "options.valid_utterances=4", "--set", "options.speakers=4")
    options += ("--set", "options.test_utterances=12", "--set", "options.text_only_sentences=0")
    found = as_json("evaluate", "small/1", "espeak", "--split", "test", "--root", finished_night.root, *options)
    wer = found["metrics"]["transcript/wer"]
    assert wer["rows"] == 12
    assert wer["low"] <= wer["value"] <= wer["high"]
    assert found["cost"]["parameters"] > 10_000


def test_evaluate_by_the_best_path_and_with_hot_words(finished_night: FinishedNight) -> None:
    options = ("--set", "options.utterances=4", "--set", "options.valid_utterances=4", "--set", "options.speakers=4")
    options += ("--set", "options.test_utterances=12", "--set", "options.text_only_sentences=0")
    asked = ("evaluate", "small/1", "espeak", "--split", "test", "--root", finished_night.root, *options)
    greedy = as_json(*asked, "--greedy")["metrics"]["transcript/cer"]
    hot = as_json(*asked, "--hot-word", "the", "--distractors", "3")["metrics"]
    assert hot["transcript/biased_wer"]["rows"] == 12
    assert {"value", "without"} <= set(hot["transcript/unbiased_wer"])
    assert set(greedy) == {"value", "low", "high", "rows"}
    for options in (("--greedy", "--hot-word", "the"), ("--distractors", "3")):
        assert call(*asked, *options).exit_code == 2


def test_evaluate_on_an_empty_split_says_what_there_is(finished_night: FinishedNight, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,text,split\na,hello there,train\n")
    options = ("--root", finished_night.root, "--split", "test")
    result = call("evaluate", "small/1", "manifest", str(tmp_path / "rows.csv"), *options)
    assert result.exit_code == 1
    assert "no rows in split 'test'; it has train 1" in str(result.exception)


def test_the_registry_is_listed(finished_night: FinishedNight) -> None:
    rows = as_json("leaderboard", "small", "--metric", "transcript/wer", "--root", finished_night.root)
    assert {"model", "version", "alias", "metrics"} <= set(rows[0])
    assert "transcript/wer" in rows[0]["metrics"]
    lines = as_json("history", "small", "--root", finished_night.root)
    assert [line["action"] for line in lines[:2]] == ["keep", "promote"]
    assert lines[0]["decision"]["promote"] is False
    shown = call("history", "small", "--root", finished_night.root).stdout.splitlines()
    assert "not promoted" in shown[1]
    assert "promoted" in shown[2]
    assert "not promoted" not in shown[2]
    missing = call("leaderboard", "ghost", "--root", finished_night.root)
    assert missing.exit_code == 1
    assert "there are: small" in str(missing.exception)


def test_nights_and_versions_are_listed(finished_night: FinishedNight) -> None:
    nights = as_json("runs", "--root", finished_night.root)
    assert finished_night.outcome["identity"] in [row["night"] for row in nights]
    datasets = as_json("versions", "--root", finished_night.root)
    assert {"utterances/commands", "nights/small"} <= {row["dataset"] for row in datasets}
    assert [row["version"] for row in as_json("versions", "utterances/commands", "--root", finished_night.root)] == [1]


def test_gc_is_a_dry_run_unless_told(finished_night: FinishedNight) -> None:
    orphan = Path(finished_night.root) / "features" / "orphan.parquet"
    orphan.write_bytes(b"nobody reaches me")
    options = ("--older-than", "0", "--root", finished_night.root)
    assert [row["key"] for row in as_json("gc", *options)["objects"]] == ["features/orphan.parquet"]
    assert orphan.exists()
    assert as_json("gc", "--delete", *options)["deleted"] is True
    assert not orphan.exists()


def test_promote_without_a_challenger_says_so(finished_night: FinishedNight) -> None:
    result = call("promote", "ghost", "--root", finished_night.root)
    assert result.exit_code == 1
    assert "ghost has no challenger" in str(result.exception)


def test_deploy_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    result = call("deploy")
    assert result.exit_code == 1
    assert "PREFECT_API_URL is not set" in str(result.exception)


def test_the_schema_describes_the_shipped_recipe() -> None:
    schema = json.loads(call("recipe", "schema").stdout)
    jsonschema.validate(as_json("recipe", "show", "assistant"), schema)
    assert "assistant" in [row["recipe"] for row in as_json("recipe", "list")]


def test_the_root_is_known_before_prefect_is_imported() -> None:
    assert environment.root_from(["motet", "nightly", "x", "--root", "a"]) == "a"
    assert environment.root_from(["motet", "--root=s3://b/c"]) == "s3://b/c"
    assert environment.root_from(["motet", "runs"]) == environment.ROOT


def test_prepare_keeps_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    environment.prepare(str(tmp_path))
    assert os.environ["DO_NOT_TRACK"] == "0"
    assert "PREFECT_HOME" not in os.environ


def test_bars_are_drawn_on_a_terminal_and_lines_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    import io

    from rich.console import Console

    drawn, plain = io.StringIO(), io.StringIO()
    for stream, terminal in ((drawn, True), (plain, False)):
        with progress.Screen(console=Console(file=stream, force_terminal=terminal, width=120)) as screen:
            with screen.bar("features", unit="rec") as report:
                report(5, 10, "a.wav")
                screen._bars.refresh()
            screen.line("features", "10 recordings [all new]", seconds=1.23)
    assert "5/10" in drawn.getvalue()
    assert "ETA" in drawn.getvalue()
    assert plain.getvalue() == "features   10 recordings [all new]  1.2 s\n"


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    heavy = "print([name for name in ('torch', 'prefect', 'ray', 'mlflow') if name in sys.modules])"
    code = f"import sys, motet.__main__; {heavy}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_script_is_main() -> None:
    import tomllib

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {
        "motet": "motet.__main__:main"
    }
    assert callable(main)
