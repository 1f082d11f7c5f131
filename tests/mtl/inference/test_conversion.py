"""Hearing phones, saying them again with another emotion, and what that is worth beside doing nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl import answers
from mtl.answers import Prediction
from mtl.config.training import FitConfig
from mtl.heads.phones import Phones
from mtl.inference import conversion
from mtl.inference.conversion import ConversionError, Converter, envelope, placed, warped
from mtl.inference.predictor import Predictor, PredictorError
from mtl.inputs.batch import collate
from mtl.inputs.codec import Codec
from mtl.metrics.scoring import score_rows
from mtl.models.joint import build_model
from mtl.spec import task
from mtl.training.fit import fit
from tests.support import tiny
from tests.support.tiny_voice import SPEC, TASKS, code, codec, joined, mel, rows

HEARING = (*TASKS, "phones")
PHONES = Phones(task("phones"), 8, 6)


def hearing_codec() -> Codec:
    return dataclasses.replace(Codec.build(rows(), HEARING), speech=code())


# --- the task `phones` ---


def test_targets_are_the_phones_of_labelled_rows() -> None:
    batch = joined(hearing_codec())
    units, lengths = PHONES.targets(batch)
    assert lengths.tolist() == [len(row["phones"]) for row in rows()]
    assert list(code().named(units[0, : lengths[0]].tolist())) == rows()[0]["phones"]
    assert code().named([0, 1, *code().number(["a"])]) == ("a",)


def test_a_batch_of_text_has_no_phones_to_hear() -> None:
    batch = collate([hearing_codec().encode({"tokens": ["a"], "text": "a"})])
    units, lengths = PHONES.targets(batch)
    assert units.shape == (1, 1)
    assert lengths.tolist() == [0]
    assert PHONES.count(batch, torch.tensor([3])) == 0


def test_repeats_need_a_frame_between_them() -> None:
    """_cc_ has four phones and one repeat: five frames are the least."""
    row = rows()[5]
    assert row["phones"] == ["_", "c", "c", "_"]
    batch = collate([hearing_codec().encode(row)], [mel(row)])
    assert PHONES.alignable(batch, torch.tensor([5])).tolist() == [True]
    assert PHONES.alignable(batch, torch.tensor([4])).tolist() == [False]
    assert PHONES.count(batch, torch.tensor([4])) == 0


@pytest.fixture(scope="module")
def trained() -> Predictor:
    torch.manual_seed(0)
    model = build_model(tiny.config(tasks=HEARING, dropout=0.0, subsampling=2), hearing_codec())
    loader = tiny.TinyLoader([(joined(model.codec),)], per_step=1)
    fit(model, loader, FitConfig(epochs=150, learning_rate=1e-2, device="cpu"))
    return Predictor(model, SPEC)


def heard(predictor: Predictor) -> list[Any]:
    return predictor.predict_batch(joined(predictor.codec))


def test_it_hears_the_phones_that_it_was_trained_on(trained: Predictor) -> None:
    found = heard(trained)
    # But for the last row's double phone, for which two frames a state leave no room between.
    assert [list(one.phones) for one in found[:5]] == [row["phones"] for row in rows()[:5]]
    assert found[0].to_json()["phones"] == "_ a b _"


def test_the_phone_error_rate_by_hand(trained: Predictor) -> None:
    """One phone of four left out, then one of five too many; the next rows are right."""
    said = heard(trained)
    said[0] = Prediction({"phones": answers.Phones(("_", "a", "_"))})
    said[1] = Prediction({"phones": answers.Phones(("_", "c", "a", "b", "b", "_"))})
    scored = score_rows(rows(), said)["phones/per"]
    assert scored.counts[:5].tolist() == [[1, 4], [1, 5], [0, 3], [0, 5], [0, 4]]


# --- conversion ---


class Ears(Predictor):
    """A Predictor whose recordings are the tiny problem's log-mels, which no waveform has."""

    def predict(self, inputs: Any, contexts: Any = None) -> list[Any]:
        return [heard(self)[len(wave)] for wave in inputs]


@pytest.fixture
def converter(trained: Predictor, monkeypatch: pytest.MonkeyPatch) -> Converter:
    """Whose `sound` gives the log-mel back."""
    made = Converter(Ears(trained.model, trained.features))
    monkeypatch.setattr(conversion, "log_mel", lambda wave, _: mel(rows()[len(wave)]))
    monkeypatch.setattr(made.voice, "sound", lambda one, _: one.numpy())
    return made


def wave(row: int) -> np.ndarray:
    """Stands for that row's recording; its length says which it is."""
    return np.zeros(row, dtype=np.float32)


def hertz(row: int) -> np.ndarray:
    """The pitch of each frame of a row's recording."""
    return np.exp(np.repeat(rows()[row]["pitch"], rows()[row]["durations"]))


def test_to_its_own_emotion_a_recording_is_itself(converter: Converter) -> None:
    for row in range(5):
        for pitch in (None, [hertz(row)]):
            (same,) = converter.convert([wave(row)], hertz=pitch)
            np.testing.assert_allclose(same.samples, mel(rows()[row]), atol=1e-4)
            assert (same.speaker, same.emotion) == (rows()[row]["speaker"], rows()[row]["emotion"])
            assert same.phones == tuple(rows()[row]["phones"])


def test_another_emotion_is_what_the_model_knows_of_it(converter: Converter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loud is one nat above calm, in every bin; everything else stays."""
    monkeypatch.setattr(conversion, "TRUSTED", 1.0)
    (loud,) = converter.convert([wave(0)], "loud", hertz=[hertz(0)])
    assert loud.emotion == "calm"  # what was heard
    true = mel({**rows()[0], "emotion": "loud"})
    assert len(loud.samples) == pytest.approx(len(true), abs=1)
    assert float(loud.samples.mean()) == pytest.approx(float(true.mean()), abs=0.3)
    whole = float(loud.samples.mean() - mel(rows()[0]).mean())
    assert whole > 0.6
    monkeypatch.setattr(conversion, "TRUSTED", 0.5)
    (half,) = converter.convert([wave(0)], "loud", hertz=[hertz(0)])
    assert float(half.samples.mean() - mel(rows()[0]).mean()) == pytest.approx(whole / 2, abs=0.1)


def test_another_speaker_is_another_voice_and_tempo(converter: Converter) -> None:
    """y lies a nat and a half above x, and takes twice as long."""
    (other,) = converter.convert([wave(0)], speaker="y")
    assert other.speaker == "x"
    assert float(other.samples.mean() - mel(rows()[0]).mean()) == pytest.approx(1.5, abs=0.4)
    assert len(other.samples) == pytest.approx(2 * len(mel(rows()[0])), abs=3)


def test_phones_are_placed_by_the_alignment() -> None:
    """Three phones of 2, 0 and 2 frames against five frames, of which the third is the second of the model again."""
    ours, theirs = np.array([0, 1, 1, 2, 3]), np.array([0, 1, 2, 3, 4])
    assert placed(np.array([2, 0, 2]), ours, theirs, 5).tolist() == [3, 0, 2]
    assert placed(np.array([2, 2, 0]), ours, theirs, 5).tolist() == [3, 2, 0]
    assert placed(np.array([1, 1]), np.array([0, 0, 1]), np.array([0, 1, 2]), 3).tolist() == [2, 1]


def test_frames_are_taken_from_the_same_place_of_the_same_phone() -> None:
    assert warped(np.array([2, 1]), np.array([4, 2])).tolist() == [0, 0, 1, 1, 2, 2]
    assert warped(np.array([4, 2]), np.array([2, 1])).tolist() == [1, 3, 5]
    assert warped(np.array([3, 0]), np.array([3, 1])).tolist() == [0, 1, 2, 2]


def test_an_envelope_has_no_harmonics() -> None:
    smooth = torch.cos(torch.pi * 3 * (torch.arange(80) + 0.5) / 80)[None] + 5
    comb = torch.cos(torch.pi * 40 * (torch.arange(80) + 0.5) / 80)[None]
    torch.testing.assert_close(envelope(smooth + comb), smooth, atol=1e-4, rtol=0)
    few = torch.randn(3, 16)
    torch.testing.assert_close(envelope(few), few, atol=1e-4, rtol=0)  # as many cepstra as bins


def test_what_is_not_known_is_told(converter: Converter) -> None:
    with pytest.raises(PredictorError, match="no emotion 'sulky'"):
        converter.convert([wave(0)], "sulky")
    with pytest.raises(PredictorError, match="no speaker"):
        converter.convert([wave(0)], speaker="nobody")


def test_silence_is_not_converted(converter: Converter, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Prediction({"phones": answers.Phones(())})
    monkeypatch.setattr(converter.predictor, "predict", lambda *_: [silent])
    with pytest.raises(ConversionError, match="recording 1"):
        converter.convert([wave(0)], "loud")


def test_without_phones_nothing_is_converted() -> None:
    with pytest.raises(PredictorError, match="no task phones"):
        Converter(Predictor(build_model(tiny.config(tasks=TASKS), codec()), SPEC))


def test_a_package_converts_recordings(trained: Predictor) -> None:
    pytest.importorskip("parselmouth", reason="the extra motet[speech] is not installed")
    import base64
    import io

    import pandas as pd
    import soundfile

    from mtl.audio.pitch import pitch
    from pipelines.packaging.packaged_model import SpeechService, encode

    whole = Converter(trained)
    sound = whole.voice.sound(torch.from_numpy(mel(rows()[1])))
    sound = np.rint(sound * 32768).clip(-32768, 32767).astype(np.float32) / 32768  # as a 16-bit file has it
    (heard_in_it,) = trained.predict([sound])
    assert heard_in_it.phones
    served = SpeechService()
    served.predictor = trained
    given = pd.DataFrame({"audio": [encode(sound, SPEC.sample_rate)]})
    assert served.predict(None, given)["speech"].tolist() == [None]
    (answer,) = served.predict(None, given, {"emotion": "loud"})["speech"]
    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(answer)), dtype="float32")
    (true,) = whole.convert([sound], "loud", hertz=[pitch(sound, SPEC)])
    np.testing.assert_allclose(samples, true.samples, atol=1e-4)


# --- what it is worth ---


def test_pairs_are_of_one_speaker_and_text(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="the extra motet[espeak] is not installed")
    pytest.importorskip("parselmouth", reason="the extra motet[speech] is not installed")
    from pipelines.data.dataset import open_dataset
    from pipelines.data.features import extract
    from pipelines.data.ingest import ingest
    from pipelines.data.prosody import measure
    from pipelines.evaluation.conversion import CONVERTED, SOURCE, conversions, kind_of, pairs_of
    from pipelines.evaluation.synthesis import figures
    from pipelines.recipe import parse
    from pipelines.storage.store import Store
    from pipelines.training.prepare import labelled, model_config, prepare
    from tests.nights.test_expressive import SPEAKING

    corpus = SPEAKING["corpora"][0]  # type: ignore[index]
    options = {**corpus["options"], "every_style": True, "test_utterances": 6}
    recipe = parse(
        {**SPEAKING, "corpora": [{**corpus, "options": options}], "tasks": {**SPEAKING["tasks"], "phones": {}}}  # type: ignore[dict-item]
    )
    store = Store(str(tmp_path))
    tables = [ingest(one, recipe.quality, store) for one in recipe.corpora]
    features = extract(tables, recipe.features, store, parallel="local")
    features += measure(tables, recipe.features, store, parallel="local")
    dataset = labelled(open_dataset(store, tables, features), recipe)
    test = dataset.split("test")
    assert len(test) == 6  # two sentences in three styles
    pairs = pairs_of(test, 10)
    assert len(pairs) == 4
    for source, wanted in pairs:
        assert (source["speaker"], source["text"]) == (wanted["speaker"], wanted["text"])
        assert source["emotion"] == "neutral" != wanted["emotion"]
    assert pairs_of(test, 3) == pairs[:3]
    codec, _, _ = prepare(recipe, dataset)
    torch.manual_seed(0)
    model = build_model(model_config(recipe), codec)
    found = figures(next(conversions(Converter(Predictor(model, recipe.features)), test, {}, 10)))
    nothing = {emotion: found[kind_of(SOURCE, emotion)]["mcd, dB"].value for emotion in ("excited", "sad")}
    assert 1 < nothing["sad"] < nothing["excited"] < 5  # as measured on other sentences: 2.4 and 3.3
    untrained = found[kind_of(CONVERTED, "sad")]["mcd, dB"].value
    assert untrained > 2 * nothing["sad"]
    deaf = model.task("phones")
    with torch.no_grad():
        deaf.output.bias[0] = 100.0  # type: ignore[union-attr, index, operator]
    found = figures(next(conversions(Converter(Predictor(model, recipe.features)), test, {}, 10)))
    for emotion in ("excited", "sad"):  # where nothing is heard, a recording stays as it is
        assert found[kind_of(CONVERTED, emotion)] == found[kind_of(SOURCE, emotion)]
