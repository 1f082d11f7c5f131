"""`motet personalise` on a real MLflow: register, judge, predict, refuse; with a tiny model and recordings of tones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from click.testing import Result
from typer.testing import CliRunner

from motet.commands import app
from mtl.address import folder_address
from mtl.audio.features import log_mel
from mtl.config.features import FeatureSpec
from mtl.decoding.ngram import NGram
from mtl.inference.adaptation import LIMIT, Personal, PersonalError, PersonalPredictor
from mtl.inference.enrolment import Fitting
from mtl.inference.predictor import Predictor
from mtl.inputs.batch import collate
from mtl.inputs.codec import Codec
from mtl.models.joint import SpeechModel, build_model
from pipelines.data.ingest import IngestError
from pipelines.personalisation import enrolment
from pipelines.personalisation import personalise as personal
from pipelines.personalisation.enrolment import PersonaliseError, enrol
from pipelines.personalisation.personalise import hot_words, personalise
from pipelines.registry.registry import Registry, RegistryError
from pipelines.storage.store import Store
from tests.pipelines.registry.test_package import ABSENT, LOADS
from tests.support import tiny
from tests.support.pickles import pickles

RATE = 16000
SPEC = FeatureSpec(bins=tiny.BINS)
WORDS = {"low": 300.0, "high": 1800.0, "soft": 700.0}  # Hz of the tone that stands for each
TEXTS = ["low", "high", "soft low", "high low", "low high", "soft", "high soft", "soft high"]
PLAIN = Fitting(speed=(1.0, 1.0), time_masks=0, freq_masks=0)
QUICK = replace(PLAIN, steps=40, learning_rate=2e-2, folds=4)


def tone(text: str, shift: float, seed: int) -> np.ndarray:
    """(N,) float32: a tone a word, 0.3 s each with pauses between; a user's pitch is `shift` times another's."""
    noise = np.random.default_rng(seed)
    parts = [np.zeros(1600)]
    for word in text.split():
        frequency = WORDS[word] * shift
        parts += [0.3 * np.sin(2 * np.pi * frequency * np.arange(4800) / RATE), np.zeros(1600)]
    sound = np.concatenate(parts)
    return (sound + noise.normal(0, 0.003, len(sound))).astype(np.float32)


def manifest(folder: Path, speaker: str | None, texts: list[str], shift: float = 1.0, name: str = "rows") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, text in enumerate(texts):
        soundfile.write(folder / f"{name}{number}.wav", tone(texts[number], shift, number), RATE)
        row = {"audio_filepath": f"{name}{number}.wav", "text": text, "speaker": speaker}
        lines.append(json.dumps({key: value for key, value in row.items() if value is not None}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder / f"{name}.jsonl"


def trained(tasks: tuple[str, ...] = ("transcript", "speaker")) -> SpeechModel:
    """A recogniser of the tones at shifts 0.9 to 1.1, well enough; of a user who speaks an octave higher, badly."""
    rows = [{"text": text, "speaker": f"s{n % 2}", "audio": "x"} for n, text in enumerate(TEXTS)]
    codec = Codec.build(rows, tasks)
    torch.manual_seed(0)
    model = build_model(tiny.config(tasks=tasks, width=32, blocks=1, dropout=0.0), codec)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batches = []
    for seed, shift in enumerate((0.9, 1.0, 1.1)):
        heard = [log_mel(tone(row["text"], shift, 10 * seed + n), SPEC) for n, row in enumerate(rows)]
        batches.append(collate([codec.encode(row) for row in rows], heard))
    model.train()
    for step in range(150):
        losses = model.losses(batches[step % 3])
        optimiser.zero_grad()
        sum((loss / count for loss, count in losses.values()), torch.zeros(())).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A root with a champion `tones`, which transcribes, and `mute`, which does not."""
    base = tmp_path_factory.mktemp("personalise")
    registry = Registry(Store(base / "root"))
    model = trained()
    Predictor(model, SPEC, NGram.train(TEXTS, order=2)).save(base / "tones")
    registry.promote("tones", registry.register("tones", base / "tones").version, "first", by="test")
    codec = Codec.build([{"text": "low", "speaker": "s0", "audio": "x"}], ("speaker",))
    Predictor(build_model(tiny.config(tasks=("speaker",)), codec), SPEC).save(base / "mute")
    registry.register("mute", base / "mute")
    return str(base / "root")


@pytest.fixture(scope="module")
def ana(root: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What personalising came to for a user whose tones are higher than any in training."""
    folder = tmp_path_factory.mktemp("ana")
    given = manifest(folder, "ana", 2 * TEXTS, shift=1.6)
    base = Registry(root).folder("models:/tones/1")
    before = folder_address(base)
    outcome = personalise(root, "tones", str(given), words=["Zanzibar!"], fitting=QUICK)
    assert folder_address(base) == before
    return {"folder": folder, "manifest": given, "outcome": outcome}


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_it_is_a_version_of_its_own_that_names_its_base(root: str, ana: dict[str, Any]) -> None:
    outcome, registry = ana["outcome"], Registry(root)
    assert (outcome.model, outcome.base) == ("models:/tones.ana/1", "models:/tones/1")
    assert outcome.promoted, outcome.reason
    version = registry.champion("tones.ana")
    assert version is not None
    tags = {key: version.tags[f"motet.{key}"] for key in ("speaker", "base", "base_version", "base_digest")}
    digest = folder_address(registry.folder("models:/tones/1"))
    assert tags == {"speaker": "ana", "base": "tones", "base_version": "1", "base_digest": digest}
    assert digest == registry.version("tones", 1).address
    assert [name for name in version.datasets if name.startswith("utterances/personal-")]
    assert outcome.wer < 0.7 * outcome.base_wer
    assert version.metrics["transcript/wer"] == pytest.approx(outcome.wer, abs=1e-3)
    (line,) = registry.history("tones.ana")
    assert (line.action, line.by, line.reason) == ("promote", "personalise", outcome.reason)
    file = registry.adapter("models:/tones.ana@champion")
    assert file is not None
    assert file.stat().st_size == outcome.bytes < LIMIT
    assert Personal.load(file).about.hot_words == ("zanzibar",)


def test_it_leaves_no_pickle(root: str, ana: dict[str, Any]) -> None:
    assert pickles(root) == []


def test_it_predicts_as_the_user_speaks(root: str, ana: dict[str, Any]) -> None:
    recordings = [str(ana["folder"] / f"rows{n}.wav") for n in range(len(TEXTS))]
    answers = {}
    for name, options in {
        "base": [], "personal": ["--personal", "ana"], "model": ["--model", "tones.ana"],
    }.items():  # fmt: skip
        done = call("predict", *recordings, "--root", root, "--json", *options)
        assert done.exit_code == 0, done.output
        answers[name] = [answer["text"] for answer in json.loads(done.stdout)]
    right = {name: sum(a == b for a, b in zip(heard, TEXTS, strict=True)) for name, heard in answers.items()}
    assert answers["personal"] == answers["model"]
    assert right["personal"] > right["base"]


def test_another_base_is_refused(root: str, ana: dict[str, Any], tmp_path: Path) -> None:
    registry = Registry(root)
    model = registry.load("models:/tones/1").model
    Predictor(model, SPEC).save(tmp_path / "changed")  # without its language model: another folder, another digest
    other = registry.register("tones", tmp_path / "changed")
    recording = str(ana["folder"] / "rows0.wav")
    refused = call("predict", recording, "--root", root, "--model", f"tones/{other.version}", "--personal", "ana")
    assert refused.exit_code == 1
    assert isinstance(refused.exception, PersonalError)
    assert "was made for models:/tones/1" in str(refused.exception)
    assert "`motet personalise` again" in str(refused.exception)


def test_people_without_an_adapter_are_told_of(root: str, ana: dict[str, Any]) -> None:
    recording = str(ana["folder"] / "rows0.wav")
    unknown = call("predict", recording, "--root", root, "--personal", "ben")
    assert isinstance(unknown.exception, RegistryError)
    assert "tones knows no 'ben'; it knows ana" in str(unknown.exception)
    itself = call("personalise", "tones.ana", str(ana["manifest"]), "--root", root)
    assert "is itself an adapter; name its base, tones" in str(itself.exception)
    folder = Registry(root).folder("models:/tones/1")
    with pytest.raises(PersonaliseError, match="expected a model of the registry"):
        personalise(root, str(folder), str(ana["manifest"]))


def test_what_is_worse_is_refused(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transcripts that belong to other recordings: the adapter that learns them is kept, and not used."""
    given = manifest(tmp_path, "eva", TEXTS)
    lines = [json.loads(line) for line in given.read_text().splitlines()]
    shuffled = [{**line, "text": TEXTS[(number + 3) % len(TEXTS)]} for number, line in enumerate(lines)]
    given.write_text("\n".join(json.dumps(line) for line in shuffled))
    monkeypatch.setattr(personal, "hot_words", lambda *_: ())
    true_texts = [{**row, "text": text} for row, text in zip(lines, TEXTS, strict=True)]
    scored = _scored_on_the_truth(monkeypatch, true_texts)
    outcome = personalise(root, "tones", str(given), fitting=QUICK)
    assert scored
    assert not outcome.promoted
    assert outcome.wer > outcome.base_wer
    assert outcome.reason.startswith("no fewer errors than the base: transcript/wer")
    registry = Registry(root)
    (version,) = registry.versions("tones.eva")
    assert version.aliases == ()
    assert registry.champion("tones.eva") is None
    assert [line.action for line in registry.history("tones.eva")] == ["keep"]
    refused = call("predict", str(tmp_path / "rows0.wav"), "--root", root, "--personal", "eva")
    assert "no adapter of 'eva' beat tones: 1 tried, none promoted" in str(refused.exception)


def _scored_on_the_truth(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> list[int]:
    """Has the judge look at the true transcripts, which the adapter was not given."""
    scored: list[int] = []
    judge = personal.judge

    def judged(predictor: Predictor, made: Any, given: Any, significant: bool) -> Any:
        true = [{**row, "text": other["text"]} for row, other in zip(given.rows, rows, strict=True)]
        scored.append(len(true))
        return judge(predictor, made, replace(given, rows=true), significant)

    monkeypatch.setattr(personal, "judge", judged)
    return scored


def test_the_command_says_so_and_exits_with_1(root: str, tmp_path: Path) -> None:
    given = manifest(tmp_path, None, TEXTS[:5])
    refused = call(
        "personalise",
        "tones",
        str(given),
        "--speaker",
        "gil",
        "--significant",
        "--steps",
        "6",
        "--root",
        root,
        "--json",
    )
    assert refused.exit_code == 1, refused.output
    outcome = json.loads(refused.stdout)
    assert not outcome["promoted"]  # five utterances, most of them right before
    assert outcome["base_wer"] < 50
    assert outcome["reason"].startswith("not significantly better: transcript/wer")


def test_the_package_needs_nothing_of_the_pipeline(root: str, ana: dict[str, Any], tmp_path: Path) -> None:
    registry = Registry(root)
    file = registry.adapter("models:/tones.ana/1")
    assert file is not None
    package, recording = file.parents[1], ana["folder"] / "rows2.wav"
    rows = {"audio": [str(recording)], "text": [None]}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    script = LOADS.format(absent=set(ABSENT), package=str(package), rows=rows)

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**environment, "MLFLOW_TRACKING_URI": registry.uri},  # where models:/tones/1 is looked up
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("ANSWER"))[7:])
    wanted = registry.load("models:/tones.ana/1")
    assert isinstance(wanted, PersonalPredictor)
    samples, _ = soundfile.read(recording, dtype="float32")
    assert pd.DataFrame(answer)["text"].tolist() == [wanted.predict([samples])[0].text]


def test_the_package_refuses_another_base(
    root: str, ana: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.packaging.packaged_model import ADAPTER, SpeechService

    registry = Registry(root)
    file, folder = registry.adapter("models:/tones.ana/1"), registry.folder("models:/tones/1")
    context: Any = SimpleNamespace(artifacts={ADAPTER: str(file)})
    monkeypatch.setenv("MOTET_BASE", str(folder))
    service = SpeechService()
    service.load_context(context)
    assert isinstance(service.predictor, PersonalPredictor)
    Predictor(registry.load("models:/tones/1").model, SPEC).save(tmp_path / "other")
    monkeypatch.setenv("MOTET_BASE", str(tmp_path / "other"))
    with pytest.raises(PersonalError, match="'ana' was made for models:/tones/1"):
        service.load_context(context)


def test_manifests_that_do_not_fit(root: str, tmp_path: Path) -> None:
    few = manifest(tmp_path, "ana", TEXTS[:4], name="few")
    with pytest.raises(PersonaliseError, match="4 of them with audio and transcript; expected at least 5"):
        personalise(root, "tones", str(few))
    nobody = manifest(tmp_path, None, TEXTS, name="nobody")
    with pytest.raises(PersonaliseError, match="does not name the speaker"):
        personalise(root, "tones", str(nobody))
    with pytest.raises(PersonaliseError, match="'a/b' cannot be part of a model's name"):
        personalise(root, "tones", str(nobody), speaker="a/b")
    two = tmp_path / "two.jsonl"
    lines = few.read_text().splitlines()
    two.write_text("\n".join([*lines, lines[0].replace("ana", "ben"), *nobody.read_text().splitlines()]))
    with pytest.raises(PersonaliseError, match="holds 2 speakers"):
        personalise(root, "tones", str(_without_repeats(two, few, tmp_path)))
    silent = tmp_path / "silent.jsonl"
    rows = [{k: v for k, v in json.loads(line).items() if k != "text"} for line in nobody.read_text().splitlines()]
    silent.write_text("\n".join(json.dumps({**row, "speaker": "ana"}) for row in rows))
    with pytest.raises(PersonaliseError, match="8 utterances, 0 of them with audio and transcript"):
        personalise(root, "tones", str(silent))
    (tmp_path / "nobody3.wav").write_bytes(b"RIFF no more")
    with pytest.raises(IngestError, match=r"nobody3\.wav"):
        personalise(root, "tones", str(nobody), speaker="ana")
    with pytest.raises(PersonaliseError, match="needs one with 'transcript'"):
        personalise(root, "mute/1", str(few))
    with pytest.raises(RegistryError, match="no model is named 'ghost'"):
        personalise(root, "ghost", str(few))


def _without_repeats(two: Path, few: Path, folder: Path) -> Path:
    """The rows of `few`, and as many of another speaker from recordings of their own."""
    other = manifest(folder, "ben", TEXTS, shift=1.2, name="ben")
    two.write_text(few.read_text() + "\n" + other.read_text())
    return two


def test_hot_words_are_what_the_base_lacks_or_rates_low() -> None:
    model = build_model(tiny.config(), tiny.codec())
    language = NGram.train(["play jazz"] * 4000 + ["play rare"], order=2)
    predictor = Predictor(model, SPEC, language)
    # ln P(rare) is about -ln 8,000; "play" is every third word, and "rare play" is in the mean not rare enough.
    found = hot_words(predictor, ["play rare jazz", "zanzibar jazz"], ["Anna Karenina", "rare play", "play jazz"])
    assert found == ("anna karenina", "rare", "zanzibar")
    alone = Predictor(model, SPEC)  # training knew play, jazz, stop, soft, rock …
    assert hot_words(alone, ["play soft polka"], ["rock on"]) == ("polka", "rock on")
    with pytest.raises(ValueError, match="has no letter"):
        hot_words(predictor, [], ["?!"])


def test_a_voice_stands_beside_the_mean_of_the_training_speakers(root: str, tmp_path: Path) -> None:
    """A base whose training rows are in the store, and one whose are gone."""
    from pipelines.adhoc.prediction import ingest_one
    from pipelines.data.features import extract
    from pipelines.recipe import Features

    store, registry = Store(root), Registry(root)
    for speaker, shift in (("s0", 0.95), ("s1", 1.05)):
        manifest(tmp_path, speaker, TEXTS[:3], shift, name=speaker)
    both = tmp_path / "both.csv"
    rows = [json.loads(line) for name in ("s0", "s1") for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
    pd.DataFrame(rows).assign(split="train").to_csv(both, index=False)
    table = ingest_one(root, {"name": "two", "kind": "manifest", "source": str(both)}, [])
    features = extract([table], Features(bins=tiny.BINS), store, parallel="local")
    folder = registry.folder("models:/tones/1")
    base = registry.register("lineage", folder, manifests=[table, *features])
    predictor = registry.load(base.uri)
    given = enrol(store, predictor, str(manifest(tmp_path, "ana", TEXTS, 1.6)))
    voice, mean = enrolment.voices(registry, base, predictor, given.utterances)
    embedded = []
    for row in rows[:2] + rows[3:5]:  # two of each
        sound, _ = soundfile.read(tmp_path / row["audio_filepath"], dtype="float32")
        embedded.append(predictor.predict([sound])[0].voice)
    np.testing.assert_allclose(mean.numpy(), np.mean(embedded, axis=0), atol=0.02)  # features are kept in float16
    assert voice.shape == mean.shape == (32,)
    gone = replace(base, datasets={"utterances/two": "0" * 16})
    alone = enrolment.voices(registry, gone, predictor, given.utterances)
    assert [tensor.tolist() for tensor in alone] == [[1.0], [0.0]]
