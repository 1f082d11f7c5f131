"""The DAG, for real and small: a night trains, the next finds nothing new, a killed one goes on, one runs at a time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import flows
from motet import commands
from pipelines import nightly as night
from pipelines.core.faults import is_transient
from pipelines.recipe import load
from pipelines.registry.ledger import Ledger
from pipelines.registry.registry import Registry
from pipelines.stages.context import Context, stored_recipe
from pipelines.stages.data import FEATURES, INGEST
from pipelines.stages.outcome import RunResult, headline, metrics_of, next_steps
from pipelines.storage.lock import Busy, one_at_a_time
from pipelines.storage.store import Store
from tests.conftest import ROOT, FinishedNight
from tests.support.pickles import pickles


def test_the_first_night_trains_and_its_model_that_knows_nothing_is_not_promoted(finished_night: FinishedNight) -> None:
    outcome = finished_night.outcome
    assert outcome["state"] == "trained"
    assert outcome["promoted"] is False
    assert outcome["model"] == "models:/small/1"
    assert outcome["synthetic"] is True
    assert set(outcome["metrics"]) >= {"transcript/wer", "transcript/cer", "intent/accuracy", "slots/f1"}
    rows = {row["metric"]: row["rows"] for row in outcome["table"]}
    assert rows["transcript/wer"] == "36"
    # One epoch, and a recipe without a minimum: everything is transcribed as nothing.
    assert outcome["metrics"]["transcript/wer"] >= 100
    assert outcome["reason"] == (
        f"first model: transcript/wer {outcome['metrics']['transcript/wer']:.2f} % is not significantly better than "
        "the floor of 100.00 % (empty transcript), gain +0.00 (at least 0.00, p 1, 36 rows)"
    )
    floors = {
        row["metric"]: (row["champion"], row["floor"], row["verdict"]) for row in metrics_of(outcome_of(finished_night))
    }
    assert floors["transcript/wer"] == (None, "100.00", "at floor")
    assert floors["intent/accuracy"][1] == "13.89"  # 5 of 36 rows play music
    assert floors["slots/f1"] == (None, "0.00", "at floor")
    page = " ".join(Path(outcome["report"]).read_text().split())
    assert "not promoted</span> first model: transcript/wer" in page
    assert "the most frequent intent with its slots" in page


def outcome_of(finished_night: FinishedNight) -> RunResult:
    return RunResult(**finished_night.outcome)


def test_the_promoted_model_answers(finished_night: FinishedNight) -> None:
    registry = Registry(finished_night.root)
    assert registry.champion("small").version == 1
    prediction = registry.load("models:/small@champion").predict(["turn on the light"])[0]
    assert 0 < prediction.labels["intent"].confidence <= 1


def test_the_report_is_in_the_store_and_in_mlflow(finished_night: FinishedNight) -> None:
    page = Path(finished_night.outcome["report"]).read_text()
    assert "models:/small/1" in page
    assert page.count("data:audio/flac;base64,") > 0
    assert "http://" not in page.replace("http://www.w3.org", "")
    registry = Registry(finished_night.root)
    run = registry.client.get_run(registry.version("small", 1).run_id)
    assert run.info.status == "FINISHED"
    assert "report.html" in [item.path for item in registry.client.list_artifacts(run.info.run_id)]
    assert run.data.metrics["test/transcript/wer"] == pytest.approx(finished_night.outcome["metrics"]["transcript/wer"])


def test_what_the_tasks_share_is_drawn_and_logged(finished_night: FinishedNight) -> None:
    registry = Registry(finished_night.root)
    run = registry.client.get_run(registry.version("small", 1).run_id)
    artifact = registry.client.download_artifacts(run.info.run_id, "sharing.json")
    shared = json.loads(Path(artifact).read_text())
    assert (shared["mode"], shared["tasks"]) == ("hard", ["transcript", "intent", "slots"])
    assert "phone" in {probe["target"] for probe in shared["probes"]}
    for part in ("", "audio/", "block 1/", "shared head/"):
        assert -1 <= run.data.metrics[f"cosine/{part}transcript:intent"] <= 1
        assert 0 <= run.data.metrics[f"conflict/{part}transcript:intent"] <= 1
    page = Path(finished_night.outcome["report"]).read_text()
    assert re.findall(r'data-plot="(\w+)"', page) == [
        "cosines",
        "conflicts",
        "probes",
    ]  # one epoch: no curve of losses
    assert {probe["target"] for probe in shared["probes"]} | shared["skipped"].keys() == {"speaker", "emotion", "phone"}
    assert all(f"No probe of the {target}" in page for target in shared["skipped"])


def test_the_record_names_everything_the_night_was_made_from(finished_night: FinishedNight) -> None:
    record = Store(finished_night.root).latest("nights/small")
    assert record.address == finished_night.outcome["identity"]
    kinds = {dataset.split("/")[0] for dataset in record.parents}
    assert kinds == {"utterances", "features"}
    stored = stored_recipe(Store(finished_night.root), record.files[1])
    assert stored == load(finished_night.recipe)


def test_nothing_new_trains_nothing(finished_night: FinishedNight, prefect_session: None) -> None:
    store, registry = Store(finished_night.root), Registry(finished_night.root)
    before = (len(store.list("train/")), len(registry.versions("small")), len(registry.history("small")))
    again = flows.nightly(finished_night.recipe, root=finished_night.root)
    assert again["state"] == "nothing new"
    assert again["metrics"] == finished_night.outcome["metrics"]
    assert (len(store.list("train/")), len(registry.versions("small")), len(registry.history("small"))) == before


def test_prefect_shows_the_table_and_the_verdict(finished_night: FinishedNight) -> None:
    from prefect.artifacts import Artifact

    table = Artifact.get("metrics-small")
    assert "transcript/wer" in [row["metric"] for row in json.loads(table.data)]
    assert "models:/small/1" in str(Artifact.get("night-small").data)
    assert "not promoted: first model" in str(Artifact.get("night-small").data)
    assert finished_night.outcome["report"] in str(Artifact.get("report-small").data)


def test_a_night_killed_before_its_record_goes_on_where_it_was(finished_night: FinishedNight) -> None:
    # What a kill between gate and report leaves: everything but the record.
    store, registry = Store(finished_night.root), Registry(finished_night.root)
    record = store.latest("nights/small")
    looked = [entry.key for entry in store.list("interpretations/")]
    assert len(looked) == 1
    key = next(entry.key for entry in store.list("manifests/nights/small"))
    store.delete(key)
    resumed = flows.nightly(finished_night.recipe, root=finished_night.root)
    assert resumed["state"] == "trained"
    assert resumed["model"] == "models:/small/1"
    assert [line.action for line in registry.history("small")] == ["keep", "promote"]
    assert store.latest("nights/small").address == record.address
    assert resumed["metrics"] == finished_night.outcome["metrics"]
    assert [entry.key for entry in store.list("interpretations/")] == looked


def test_a_changed_recipe_meets_the_champion_at_the_gate(finished_night: FinishedNight) -> None:
    changed = flows.nightly(finished_night.recipe, root=finished_night.root, overrides=["seed=7"])
    assert changed["model"] == "models:/small/2"
    assert changed["champion"] == "small v1"
    assert changed["promoted"] is False
    line = Ledger(Store(finished_night.root), "small").state().lines[-1]
    assert (line.action, line.version, line.expects) == ("keep", 2, 1)
    assert {row["metric"] for row in line.decision["comparisons"]} >= {"transcript/wer", "slots/f1"}
    # Asked again, the gate is asked again, and refuses again; a person's word is taken.
    refused = CliRunner().invoke(commands.app, ["promote", "small", "2", "--root", finished_night.root])
    assert refused.exit_code == 1
    assert refused.stdout.startswith("models:/small/2: not promoted (not significantly better: transcript/wer")
    forced = flows.promote("small", 2, root=finished_night.root, force=True, reason="trial", by="a test")
    assert forced["promoted"] is True
    assert Registry(finished_night.root).champion("small").version == 2
    Registry(finished_night.root).rollback("small", "the trial is over", "a test")
    assert Registry(finished_night.root).champion("small").version == 1


def test_ten_new_utterances_extract_ten_rows(tmp_path: Path, ray_session: Any) -> None:
    import soundfile

    from pipelines.synthetic.synthesizer import SAMPLE_RATE, synthesize

    def say(first: int, last: int) -> None:
        with open(tmp_path / "calls.jsonl", "a", encoding="utf-8") as manifest:
            for number in range(first, last):
                samples = synthesize(f"set a timer for {number} minutes")
                soundfile.write(tmp_path / f"{number}.wav", samples, SAMPLE_RATE)
                row = {"audio_filepath": f"{number}.wav", "text": f"set a timer for {number} minutes"}
                manifest.write(json.dumps({**row, "duration": len(samples) / SAMPLE_RATE}) + "\n")

    content = {
        "name": "calls",
        "corpora": [
            {"name": "calls", "kind": "manifest", "source": str(tmp_path / "calls.jsonl"), "split_by": "sentence"}
        ],
        "tasks": {"transcript": {}},
    }
    file, root = tmp_path / "calls.yaml", str(tmp_path / "root")
    file.write_text(yaml.safe_dump(content))
    context = Context(root, load(str(file)))
    for first, last, text in ((1, 31, "30 recordings, 30 extracted"), (31, 41, "40 recordings, 10 extracted")):
        say(first, last)
        context.execute(INGEST)
        assert FEATURES.run(context).text == text


def test_one_night_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pipelines.storage.lock import one_at_a_time\n"
        f"with one_at_a_time({str(tmp_path)!r}, 'night of other'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(Busy, match=f"night of other, process {holder.pid} on .* since"),
            one_at_a_time(str(tmp_path), "mine"),
        ):
            pass
        holder.kill()
    with one_at_a_time(str(tmp_path), "mine"):  # a killed process leaves no lock behind
        pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError("reset"), True),
        (TimeoutError(), True),
        (OSError(5, "I/O error"), True),
        (FileNotFoundError("gone"), False),
        (PermissionError("no"), False),
        (ValueError("bad"), False),
        (None, False),
    ],
)
def test_what_may_pass(error: BaseException | None, expected: bool) -> None:
    assert is_transient(error) is expected


def test_a_fault_below_another_error_may_pass() -> None:
    from pipelines.sources.source import SourceError

    error = SourceError("cannot read")
    error.__cause__ = ConnectionResetError("reset")
    assert is_transient(error)
    error.__cause__ = FileNotFoundError("gone")
    assert not is_transient(error)


def test_tasks_retry_what_may_pass_and_nothing_else(prefect_session: None) -> None:
    from prefect import flow

    calls: list[str] = []

    def flaky(error: str) -> str:
        calls.append(error)
        if error == "passes" and calls.count(error) < 3:
            raise ConnectionResetError("the network")
        if error == "lasts":
            raise ValueError("the recipe")
        return "done"

    work = flows.as_task("flaky")(flaky).with_options(retry_delay_seconds=[0.0, 0.0])

    @flow
    def tries() -> tuple[str, bool]:
        return work("passes"), work("lasts", return_state=True).is_failed()

    assert tries() == ("done", True)
    assert calls == ["passes", "passes", "passes", "lasts"]


@pytest.mark.slow
def test_a_search_and_a_night_of_its_winner(
    ray_session: Any, prefect_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, root = str(ROOT / "tests" / "night.yaml"), str(tmp_path / "root")
    found = flows.search(recipe, root=root, trials=2, train_winner=True)
    assert len(found["leaderboard"]) == 2
    page = Path(found["report"]).read_text()
    assert set(found["front"]["metrics"]) == {"transcript", "intent", "slots"}
    assert all(trial in page for trial in found["front"]["trials"])
    other = found["leaderboard"][1]
    commands.search_command(recipe, root, resume=True, pick=other["trial"], write=tmp_path / "other.yaml")
    assert load(str(tmp_path / "other.yaml")) == load(recipe, other["overrides"])
    told = capsys.readouterr().out
    assert f"{other['trial']}: motet nightly {recipe} --set {other['overrides'][0]}" in told
    assert "hypervolume" in told
    assert found["night"]["state"] == "trained"
    stored = stored_recipe(Store(root), Store(root).latest("nights/small").files[1])
    assert stored == load(recipe, list(found["winner"]))
    assert pickles(root) == []


@pytest.mark.slow
def test_a_study_is_shown_and_found_done(ray_session: Any, prefect_session: None, tmp_path: Path) -> None:
    from prefect.artifacts import Artifact

    recipe, root = str(ROOT / "tests" / "night.yaml"), str(tmp_path / "root")
    found = flows.study(recipe, root=root, seeds=1, kinds=["pairs"])
    assert found["tasks"] == ["transcript", "intent", "slots"]
    assert [row["cell"] for row in found["cells"]][-1] == "transcript+intent+slots"  # the pair of intent and slots
    assert found["matrix"]["transcript"]["slots"] is None
    assert set(found["advice"]) == set(found["tasks"])
    page = Path(found["report"]).read_text()
    assert "every cell with slots trains transcript too" in page
    assert "http" not in page
    assert len(json.loads(Artifact.get("study-small").data)) == len(found["gains"]) + len(found["means"])
    assert "slots" in str(Artifact.get("advice-small").data)
    before = {entry.key: entry.modified for entry in Store(root).list("study/")}
    assert flows.study(recipe, root=root, seeds=1, kinds=["pairs"]) == found
    assert {entry.key: entry.modified for entry in Store(root).list("study/")} == before


@pytest.mark.slow
def test_a_study_of_few_labels_is_shown_and_found_done(ray_session: Any, prefect_session: None, tmp_path: Path) -> None:
    from prefect.artifacts import Artifact

    recipe, root = str(ROOT / "tests" / "night.yaml"), str(tmp_path / "root")
    found = flows.study(recipe, root=root, seeds=1, labels=[0.1, 1.0], sparse=["intent"])
    assert list(found["curves"]) == ["intent"]
    assert [point["share"] for point in found["curves"]["intent"]["points"]] == [0.1, 1.0]
    assert "scores by share of the labels" in Path(found["report"]).read_text()
    assert len(json.loads(Artifact.get("labels-small").data)) == 2
    before = {entry.key: entry.modified for entry in Store(root).list("study/")}
    assert flows.study(recipe, root=root, seeds=1, labels=[0.1, 1.0], sparse=["intent"]) == found
    assert {entry.key: entry.modified for entry in Store(root).list("study/")} == before


def test_the_identity_follows_what_can_change_the_result(finished_night: FinishedNight) -> None:
    store = Store(finished_night.root)
    recipe, table = load(finished_night.recipe), store.latest("utterances/commands")
    assert night.identity(recipe, [table]) == finished_night.outcome["identity"]
    assert night.identity(load(finished_night.recipe, ["gates.confidence=0.9"]), [table]) == night.identity(
        recipe, [table]
    )
    assert night.identity(load(finished_night.recipe, ["seed=1"]), [table]) != night.identity(recipe, [table])


def test_deployments_fit_their_flows() -> None:
    content = yaml.safe_load(commands.DEPLOYMENTS.read_text())
    names = [entry["name"] for entry in content["deployments"]]
    assert names == ["nightly", "search", "study", "promote"]
    for entry in content["deployments"]:
        path, _, name = entry["entrypoint"].rpartition(":")
        assert path == "flows.py"
        given = entry["parameters"] | ({"model": "assistant", "version": 1} if name == "promote" else {})
        getattr(flows, name).validate_parameters(given)
        assert entry["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert content["deployments"][0]["schedules"][0]["cron"] == "0 2 * * *"


def test_what_is_served_is_what_the_file_says(tmp_path: Path) -> None:
    served = {made.name: made for made in flows.deployments(commands.DEPLOYMENTS, str(tmp_path))}
    assert set(served) == {"nightly", "search", "study", "promote"}
    nightly = served["nightly"]
    assert nightly.entrypoint == "flows.nightly"
    assert nightly.schedules[0].schedule.cron == "0 2 * * *"
    assert nightly.concurrency_limit == 1
    assert nightly.concurrency_options.collision_strategy == "ENQUEUE"
    assert nightly.parameters == {"recipe": "assistant", "root": str(tmp_path)}


def test_a_silent_run_is_marked_crashed_by_one_automation(prefect_session: None) -> None:
    from prefect.automations import Automation
    from prefect.client.orchestration import get_client

    flows.mark_stale_runs()
    flows.mark_stale_runs()  # serving again adds no second one
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/automations/filter", json={}).json()
    assert [item["name"] for item in found] == ["motet: a run without a heartbeat has crashed"]
    automation = Automation.read(name=found[0]["name"])
    assert automation.trigger.within.total_seconds() == 90
    assert "prefect.flow-run.Completed" in automation.trigger.expect
    assert [action.state.value for action in automation.actions] == ["CRASHED"]


def test_the_headline_says_what_happened(finished_night: FinishedNight) -> None:
    outcome = outcome_of(finished_night)
    assert headline(outcome).startswith("models:/small/1: not promoted (first model: ")
    promoted = RunResult(**{**finished_night.outcome, "promoted": True})
    assert headline(promoted).startswith("models:/small/1: promoted (")
    assert "--model small/1" in next_steps(outcome, finished_night.root)  # there is no champion to try
    assert "synthetic speech" in headline(outcome)
    assert outcome.report in next_steps(outcome, finished_night.root)
    told = {
        "transcript/wer": "motet predict FILE.wav --model small",
        "intent/text_accuracy": "motet predict --text TEXT --model small",
        "mel/mcd": 'motet say "TEXT" --model small',
        "waveform/lsd": 'motet say "TEXT" --vocoder small',
    }
    for metric, command in told.items():
        other = RunResult(**{**finished_night.outcome, "promoted": True, "metrics": {metric: 1.0}})
        assert f"{command} --root" in next_steps(other, finished_night.root)
