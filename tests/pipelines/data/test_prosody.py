"""Durations, pitch and energy of phones: by hand, of a signal that is known, and as a stage that repeats nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("parselmouth", reason="the extra motet[speech] is not installed")
pytest.importorskip("espeakng_loader", reason="the extra motet[espeak] is not installed")

from mtl.audio.pitch import pitch
from mtl.tts.prosody_features import bridged, over_phones
from pipelines.data.ingest import ingest, utterances
from pipelines.data.prosody import durations_of, measure, prosody_of
from pipelines.recipe import Corpus, Features, Quality
from pipelines.sources.audio import decode
from pipelines.storage.store import Store

SPEC = Features()
RATE = SPEC.sample_rate


def voice(hertz: float, seconds: float) -> np.ndarray:
    """Ten harmonics, as a voice has them: (N,) float32."""
    time = np.arange(int(seconds * RATE)) / RATE
    return sum(0.2 / k * np.sin(2 * np.pi * k * hertz * time) for k in range(1, 11)).astype(np.float32)


# --- pitch ---


@pytest.mark.parametrize("hertz", [80.0, 123.4, 220.0, 440.0])
def test_the_pitch_of_a_known_voice(hertz: float) -> None:
    found = pitch(voice(hertz, 0.5), SPEC)
    assert len(found) == 48  # as many as the log-mel has frames: 1 + (8000 - 400) // 160
    np.testing.assert_allclose(found[2:-2], hertz, rtol=0.005)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    assert np.mean(pitch(noise, SPEC) > 0) < 0.1
    assert not pitch(np.zeros(8000, dtype=np.float32), SPEC).any()
    assert pitch(np.zeros(10, dtype=np.float32), SPEC).tolist() == [0.0]


def test_pitch_is_heard_where_it_changes() -> None:
    # 0.3 s at 100 Hz, then 0.3 s at 200 Hz: frames are centred at 12.5 ms + 10 ms a frame.
    found = pitch(np.concatenate([voice(100, 0.3), voice(200, 0.3)]), SPEC)
    np.testing.assert_allclose(found[3:24], 100, rtol=0.01)
    np.testing.assert_allclose(found[32:-3], 200, rtol=0.01)


# --- phones ---


def test_a_frame_is_of_the_phone_in_which_its_middle_lies() -> None:
    # Middles at 12.5, 22.5, 32.5, 42.5, 52.5 ms.
    assert durations_of([0.020, 0.030, 0.060], 5, SPEC).tolist() == [1, 1, 3]
    assert durations_of([0.0, 0.0125, 0.040, 0.041], 5, SPEC).tolist() == [0, 0, 3, 2]  # the last takes what is left
    assert durations_of([0.06], 5, SPEC).tolist() == [5]


def test_means_over_phones_leave_out_what_is_not_known() -> None:
    values, durations = np.array([1.0, 3.0, 5.0, 7.0, 9.0]), np.array([2, 0, 1, 2])
    np.testing.assert_array_equal(over_phones(values, durations), [2.0, np.nan, 5.0, 8.0])
    known = np.array([False, True, False, True, True])
    np.testing.assert_array_equal(over_phones(values, durations, known), [3.0, np.nan, np.nan, 8.0])


def test_pitch_is_a_line_across_phones_without_a_voice() -> None:
    gaps = np.array([np.nan, 2.0, np.nan, np.nan, 5.0, np.nan], dtype=np.float32)
    np.testing.assert_allclose(bridged(gaps), [2, 2, 3, 4, 5, 5])
    assert np.isnan(bridged(np.full(3, np.nan))).all()


def test_prosody_of_a_signal_that_is_known() -> None:
    wave = np.concatenate([np.zeros(1600, np.float32), voice(150, 0.3), 0.5 * voice(300, 0.3)])
    found = prosody_of(wave, [0.1, 0.4, 0.7], SPEC)
    assert found["durations"] == [9, 30, 29]
    assert np.exp(found["pitch"][1:]) == pytest.approx([150, 300], rel=0.06)  # the border is between two frames
    assert found["pitch"][0] == pytest.approx(found["pitch"][1], abs=0.05)
    assert found["energy"][0] < found["energy"][2] < found["energy"][1]
    # Half the amplitude is a quarter of the power; harmonics fall into filters differently, hence the slack.
    assert found["energy"][1] - found["energy"][2] == pytest.approx(np.log(4), abs=0.5)


# --- the stage ---


def corpus(count: int) -> Corpus:
    options = {"utterances": count, "valid_utterances": 2, "test_utterances": 2, "text_only_sentences": 2,
               "speakers": 2, "accents": ["gmw/en-us"]}  # fmt: skip
    return Corpus(name="c", kind="espeak", options=options, phonemes="gmw/en-us")


def test_a_night_measures_what_is_new_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    (first,) = measure([ingest(corpus(4), Quality(), store)], SPEC, store, parallel="local")
    assert (first.meta["rows"], first.meta["measured"]) == (8, 8)
    (again,) = measure([ingest(corpus(4), Quality(), store)], SPEC, store, parallel="local")
    assert again == first
    (more,) = measure([ingest(corpus(6), Quality(), store)], SPEC, store, parallel="local")
    assert (more.meta["rows"], more.meta["measured"]) == (10, 2)
    before = {row["id"]: row for row in store.read_table(first.files[0]).to_pylist()}
    after = {row["id"]: row for row in store.read_table(more.files[0]).to_pylist()}
    assert all(str(after[name]) == str(row) for name, row in before.items())  # NaN is not itself


def test_rows_fit_their_recordings(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    made = ingest(corpus(3), Quality(), store)
    (manifest,) = measure([made], SPEC, store, parallel="local")
    spoken = {row["id"]: row for row in utterances(store, made).to_pylist() if row["audio"]}
    found = store.read_table(manifest.files[0]).to_pylist()
    assert {row["id"] for row in found} == set(spoken)
    for row in found:
        said = spoken[row["id"]]
        wave = decode(store.fetch(said["audio"].removeprefix("store:")), RATE)
        assert len(row["durations"]) == len(row["pitch"]) == len(row["energy"]) == len(said["phones"])
        assert sum(row["durations"]) == 1 + (len(wave) - 400) // 160
        assert min(row["durations"]) >= 0
        assert 60 < np.exp(np.median(row["pitch"])) < 500
    vowels = [pitch_ for row in found for pitch_, phone in zip(row["pitch"], spoken[row["id"]]["phones"], strict=True)
              if phone.startswith("'")]  # fmt: skip
    assert np.isfinite(vowels).all()


def test_a_corpus_without_phones_has_no_prosody(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    plain = Corpus(name="c", kind="espeak", options=corpus(2).options)
    (manifest,) = measure([ingest(plain, Quality(), store)], SPEC, store, parallel="local")
    assert (manifest.files, manifest.meta["rows"]) == ((), 0)
