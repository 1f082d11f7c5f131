"""What a voice is worth: distances, what listeners hear, figures with intervals, and the counts that the gate sees."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("parselmouth", reason="the extra motet[speech] is not installed")
pytest.importorskip("espeakng_loader", reason="the extra motet[espeak] is not installed")

from mtl.config.features import FeatureSpec
from mtl.inference.predictor import Predictor
from mtl.inference.synthesizer import Synthesizer
from mtl.models.joint import build_model
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.judges import SPEECH_SCHEMA, Judge, MissingJudge, judges_of
from pipelines.evaluation.synthesis import (
    COPY,
    MEAN,
    RECORDING,
    SYNTHESIS,
    counts,
    figures,
    judge_speech,
    judged_speech,
    resynthesized,
    spoken_rows,
)
from pipelines.recipe import Judges, RecipeError, load
from pipelines.registry.registry import Registry
from pipelines.report.audio_examples import lines, spectrogram, speech_content
from pipelines.storage.store import Store
from pipelines.training.prepare import labelled, model_config, prepare
from tests.nights.test_expressive import made, recipe
from tests.support import tiny

__all__ = ["made"]  # a fixture
TASKS = ("prosody", "mel")
SPOKEN = (RECORDING, COPY, SYNTHESIS, MEAN)  # of a voice without a vocoder of its own


def row(id_: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "kind": kind, "text": "play some jazz", "emotion": "sad", "speaker": "x", **more}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SPEECH_SCHEMA)


SAID_BY_HAND = table(
    row("a", RECORDING, heard="play some jazz", heard_emotion="sad", heard_speaker="x"),
    row("a", SYNTHESIS, heard="play jazz now", heard_emotion="sad", heard_speaker="y", mcd=4.0, duration=-0.1),
    row("b", RECORDING, heard="play some chess", heard_emotion="neutral", heard_speaker="x"),
    row("b", SYNTHESIS, heard="play some chess", heard_emotion="sad", heard_speaker="x", mcd=6.0, duration=0.3),
)


def test_counts_by_hand() -> None:
    found = counts(SAID_BY_HAND, TASKS)
    assert list(found["mel/wer"].ids) == ["a", "b"]
    assert found["mel/wer"].counts.tolist() == [[2, 3], [1, 3]]
    assert found["mel/added_wer"].counts.tolist() == [[2, 3], [0, 3]]
    assert found["mel/emotion"].counts.tolist() == [[1, 1], [1, 1]]
    assert found["mel/speaker"].counts.tolist() == [[0, 1], [1, 1]]


def test_nobody_listened_and_nothing_is_claimed() -> None:
    assert counts(table(row("a", RECORDING), row("a", SYNTHESIS, mcd=4.0)), TASKS) == {}


def test_figures_by_hand() -> None:
    found = figures(SAID_BY_HAND)
    said = found[SYNTHESIS]
    assert said["mcd, dB"].value == 5.0
    assert said["WER, %"].value == pytest.approx(50)
    assert said["duration error, %"].value == pytest.approx(20)
    assert said["emotion, %"].value == 100
    assert said["speaker, %"].value == 50
    assert found[RECORDING]["emotion, %"].value == 50
    assert "mcd, dB" not in found[RECORDING]
    assert said["mcd, dB"].low == 4.0 < said["mcd, dB"].high == 6.0


@pytest.fixture(scope="module")
def voice(made: Any) -> Synthesizer:
    """Untrained: how it sounds is no matter here."""
    dataset = labelled(open_dataset(*made), recipe())
    codec, _, _ = prepare(recipe(), dataset)
    return Synthesizer(Predictor(build_model(model_config(recipe()), codec), recipe().features))


@pytest.fixture(scope="module")
def valid(made: Any) -> Dataset:
    return open_dataset(*made).split("valid")


def listener(voice: Synthesizer) -> Judge:
    """The voice's own model, which hears emotion and speaker: a real one, if a partial judge."""
    return Judge("ear", lambda: Predictor(voice.model, voice.features))


def test_recordings_are_said_again_and_heard(voice: Synthesizer, valid: Dataset) -> None:
    ear = listener(voice)
    said = pa.concat_tables(resynthesized(voice, valid, {"emotion": ear, "speaker": ear}))
    assert said.schema == SPEECH_SCHEMA
    rows = said.to_pylist()
    assert [row["kind"] for row in rows] == [*SPOKEN] * len(valid)
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in SPOKEN}
    assert all(row["mcd"] is None for row in by_kind[RECORDING])
    mcd = {kind: np.mean([row["mcd"] for row in by_kind[kind]]) for kind in (COPY, SYNTHESIS, MEAN)}
    assert mcd[COPY] < 0.5 * mcd[MEAN]
    assert mcd[COPY] < mcd[SYNTHESIS]
    assert all(row["likeness"] == pytest.approx(1, abs=1e-5) for row in by_kind[RECORDING])
    assert all(row["heard_emotion"] in voice.code.emotions for row in rows)
    assert all(row["heard"] is None for row in rows)  # nobody wrote it down
    assert all(abs(row["duration"]) < 0.02 for row in by_kind[COPY])


def test_a_table_is_made_once(voice: Synthesizer, valid: Dataset, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    made: list[Predictor] = []

    def load() -> Predictor:
        made.append(Predictor(voice.model, voice.features))
        return made[-1]

    ear = listener(voice)
    first = judged_speech(store, "v1", load, {"emotion": ear}, valid, rows=2)
    again = judged_speech(store, "v1", load, {"emotion": ear}, valid, rows=2)
    assert len(first) == 2 * len(SPOKEN)
    assert first.equals(again)
    assert len(made) == 1
    judged_speech(store, "v1", load, {"emotion": replace(ear, address="another")}, valid, rows=2)
    assert len(made) == 2


def test_rows_without_phones_are_left_out(made: Any) -> None:
    store, rows, features = made
    bare = [manifest for manifest in features if manifest.dataset.startswith("features/")]
    assert len(spoken_rows(open_dataset(store, rows, bare), 10)) == 0
    whole = open_dataset(store, rows, features)
    some, more = spoken_rows(whole, 5), spoken_rows(whole, 9)
    assert set(some.rows["id"].to_pylist()) < set(more.rows["id"].to_pylist())


def test_scores_take_the_counts_in(voice: Synthesizer, valid: Dataset) -> None:
    scores = evaluate(Predictor(voice.model, voice.features), valid, recipe().loader)
    said = pa.concat_tables(resynthesized(voice, valid, {"emotion": listener(voice)}))
    joined = scores.with_counts(counts(said, TASKS))
    assert joined.metrics.keys() - scores.metrics.keys() == {"mel/emotion"}
    assert joined.metrics["mel/mcd"] == scores.metrics["mel/mcd"]
    assert list(joined.scored_model("x").counts["mel/emotion"].ids) == valid.rows["id"].to_pylist()
    assert figures(said)[SYNTHESIS]["emotion, %"].value == pytest.approx(joined.metrics["mel/emotion"])


def test_a_report_shows_each_emotion(voice: Synthesizer, valid: Dataset) -> None:
    said = pa.concat_tables(resynthesized(voice, valid, {"emotion": listener(voice)}))
    shown = speech_content(said, voice, valid, {"emotion": "ear"})
    assert sum(map(sum, shown["confusion"]["counts"])) == len(valid)
    assert speech_content(SPEECH_SCHEMA.empty_table(), voice, valid, {})["confusion"]["labels"] == []
    emotions = [example["emotion"] for example in shown["examples"]]
    assert set(emotions) == set(valid.rows["emotion"].to_pylist())
    assert emotions == sorted(emotions)
    for example in shown["examples"]:
        assert [sound["kind"] for sound in example["sounds"]] == [RECORDING, COPY, SYNTHESIS]
        assert all(sound["audio"] and "<svg" in sound["plot"] for sound in example["sounds"])
    printed = lines(shown["figures"])
    assert [line["kind"] for line in printed] == [*SPOKEN]
    assert all("(" in line["mcd, dB"] for line in printed[1:])
    assert printed[0]["mcd, dB"] is None


def test_a_picture_has_the_borders_of_the_phones() -> None:
    svg = spectrogram(np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32), ["_", "'a", "<"], [4, 10, 6])
    assert [f'x1="{3 * end}"' in svg for end in (4, 14, 20)] == [True] * 3
    assert "&lt;" in svg
    assert "data:image/png;base64,iVBOR" in svg


def test_listeners_have_to_reign_and_to_hear(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "root"))
    with pytest.raises(MissingJudge, match="`motet nightly ear` makes one"):
        judges_of(registry, Judges(emotion="ear"))
    Predictor(build_model(tiny.config(), tiny.codec()), FeatureSpec(bins=tiny.BINS)).save(tmp_path / "model")
    version = registry.register("ear", tmp_path / "model", None, [], {})
    registry.promote("ear", version.version, "by hand", "test")
    with pytest.raises(MissingJudge, match="and no emotion"):
        judges_of(registry, Judges(emotion="ear"))
    heard = judges_of(registry, Judges(transcript="ear"))
    assert heard["transcript"].address == version.address


def test_recipes_name_their_listeners() -> None:
    assert load("expressive").judges.models == {"transcript": "assistant", "emotion": "judge", "speaker": "judge"}
    with pytest.raises(RecipeError, match=r"set judges\.transcript"):
        load("expressive", ["listening.transcript=null"])
    with pytest.raises(RecipeError, match="nothing makes sound"):
        load("assistant", ["listening.emotion=judge"])
    other = load("expressive", ["listening.rows=20"])
    assert other.address() == load("expressive").address()


def test_unheard_figures_are_left_out() -> None:
    silent = table(row("a", SYNTHESIS, mcd=math.nan, pitch=math.nan))
    assert figures(silent) == {}


def test_many_rows_are_shared_out_over_the_cluster(
    voice: Synthesizer, valid: Dataset, ray_session: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipelines.evaluation.synthesis.PART", 4)
    Predictor(voice.model, voice.features).save(tmp_path / "model")
    folder = tmp_path / "model"

    def load() -> Predictor:
        return Predictor.load(folder)

    ears = {"emotion": Judge("ear", load)}
    shared = judge_speech(load, valid, valid, ears, 0)
    alone = pa.concat_tables(resynthesized(voice, valid, ears))
    assert len(shared) == len(alone) == len(SPOKEN) * len(valid) > 4 * len(SPOKEN)
    for name in ("id", "kind", "heard_emotion"):
        assert shared[name].to_pylist() == alone[name].to_pylist()
    np.testing.assert_allclose(shared["mcd"].drop_null(), alone["mcd"].drop_null(), rtol=1e-2)
