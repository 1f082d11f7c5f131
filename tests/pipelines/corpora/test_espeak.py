"""The embedded corpus, spoken for real by eSpeak NG: the same each time, disjoint where it says so, and audible."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader", reason="the extra motet[espeak] is not installed")

import mtl.tts.espeak
from mtl.tts.espeak import EspeakError, phonemes, say
from pipelines.corpora import espeak
from pipelines.recipe import Corpus
from pipelines.synthetic import synthesizer
from pipelines.synthetic.voices import ACCENTS, STYLES, VARIANTS, Voice, speakers, styled
from pipelines.utterances.utterance import CorpusError, Utterance
from tests.support.grammars import domains_of, slots_of, words_of

TEXT = "turn on the kitchen lights please"


def corpus(**options: Any) -> Corpus:
    return Corpus(name="commands", kind="espeak", options=options)


def rows(**options: Any) -> list[Utterance]:
    found = list(espeak.read(None, corpus(**options)))
    assert all(isinstance(row, Utterance) for row in found)
    return found  # type: ignore[return-value]


@pytest.fixture(scope="module")
def default() -> list[Utterance]:
    """The corpus of the recipe `assistant`, nothing of it spoken yet."""
    return rows()


def digest(samples: np.ndarray) -> str:
    return hashlib.sha256(np.asarray(samples, dtype="<f4").tobytes()).hexdigest()


def pitch(samples: np.ndarray) -> float:
    """Median over voiced frames of the autocorrelation's peak between 60 and 450 Hz."""
    found = []
    for start in range(0, len(samples) - 1024, 400):
        frame = samples[start : start + 1024]
        correlation = np.correlate(frame, frame, "full")[1023:]
        lag = 35 + int(correlation[35:266].argmax())
        if correlation[lag] > 0.6 * correlation[0] > 1e-2:
            found.append(16000 / lag)
    return float(np.median(found))


# --- sound ---


@pytest.mark.parametrize("variant", ["f3", "m3", "klatt3", "victor", "f5"])
def test_what_was_said_before_changes_nothing(variant: str) -> None:
    # Flutter, echo and noise are global state of the library; these five variants use one or more of them.
    voice = Voice("gmw/en", variant)
    first = synthesizer.synthesize(TEXT, voice)
    synthesizer.synthesize("something else entirely", Voice("gmw/en-us", "m2"))
    np.testing.assert_array_equal(first, synthesizer.synthesize(TEXT, voice))


def test_another_process_says_the_same() -> None:
    code = (
        "import hashlib; from pipelines.synthetic.synthesizer import render;"
        "from pipelines.synthetic.voices import Voice;"
        f"print(hashlib.sha256(render({TEXT!r}, Voice('gmw/en', 'f3'), (10.0, 3))).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = hashlib.sha256(synthesizer.render(TEXT, Voice("gmw/en", "f3"), (10.0, 3))).hexdigest()
    assert done.stdout.strip() == here


def test_threads_do_not_disturb_each_other() -> None:
    voices = [Voice("gmw/en-us", variant) for variant in ("f3", "m3", "klatt3", "Alex")] * 3
    alone = [digest(synthesizer.synthesize(TEXT, voice)) for voice in voices]
    with ThreadPoolExecutor(4) as pool:
        together = [digest(samples) for samples in pool.map(lambda voice: synthesizer.synthesize(TEXT, voice), voices)]
    assert together == alone


def test_sound_is_16_khz_at_the_asked_level_between_short_margins() -> None:
    samples = synthesizer.synthesize(TEXT, replace(Voice(), level=-26.0))
    assert samples.dtype == np.float32
    assert 1.0 < len(samples) / 16000 < 4.0
    assert 20 * np.log10(np.sqrt(np.mean(samples**2))) == pytest.approx(-26.0, abs=0.01)
    loud = np.flatnonzero(np.abs(samples) > synthesizer.SILENCE * np.abs(samples).max())
    assert loud[0] / 16000 <= synthesizer.MARGIN + 0.01
    assert (len(samples) - loud[-1]) / 16000 <= synthesizer.MARGIN + 0.01


def test_every_accent_and_every_variant_sounds_different() -> None:
    variants = [variant for split in VARIANTS.values() for variant in split]
    heard = {digest(synthesizer.synthesize("good morning", Voice("gmw/en-us", variant))) for variant in variants}
    assert len(heard) == len(variants)
    accents = {digest(synthesizer.synthesize(TEXT, Voice(accent, "m1"))) for accent in ACCENTS["en"]}
    assert len(accents) == len(ACCENTS["en"])


def test_no_variant_clips() -> None:
    for split, variants in VARIANTS.items():
        for variant in variants:
            raw, rate, _ = say("set the volume to seventy percent", "gmw/en-us", variant)
            assert rate == 22050
            assert 1000 < np.abs(raw.astype(int)).max() < 32767, (split, variant)


def test_a_style_can_be_heard() -> None:
    voice = speakers("train", 1, seed=0)[0]
    heard = {style: synthesizer.synthesize(TEXT, styled(voice, style)) for style in STYLES}
    assert len(heard["excited"]) < 0.95 * len(heard["neutral"]) < 0.95 * 0.95 * len(heard["sad"])
    assert pitch(heard["excited"]) > 1.1 * pitch(heard["neutral"]) > 1.1 * pitch(heard["sad"])
    power = {style: float(np.mean(samples**2)) for style, samples in heard.items()}
    assert power["excited"] > 2 * power["neutral"] > 4 * power["sad"]


def test_phonemes_have_times_from_end_to_end_of_the_sound() -> None:
    speech = synthesizer.speak("see the moon", Voice("gmw/en-us", "m1"))
    symbols = [symbol.lstrip("',") for symbol, _, _ in speech.phonemes]
    assert symbols == ["_", "s", "i:", "D", "@2", "m", "u:", "n", "_"]
    assert [symbol for symbol, _, _ in speech.phonemes] == phonemes("see the moon", "gmw/en-us")
    starts, ends = [start for _, start, _ in speech.phonemes], [end for _, _, end in speech.phonemes]
    assert starts == sorted(starts)
    assert starts == [0.0, *ends[:-1]]
    assert ends[-1] == pytest.approx(len(speech.samples) / 16000, abs=1e-4)
    assert 0 <= starts[1] <= synthesizer.MARGIN + 0.03
    # The fricative at the start holds its power above 3 kHz, the nasal at the end below: the times are of this sound.
    high = [
        _share_above(speech.samples[int(start * 16000) : int(end * 16000)], 3000)
        for _, start, end in speech.phonemes[1:-1]
    ]
    assert high[0] > 0.7
    assert high[-1] < 0.1


def test_phonemes_of_a_text_are_those_that_are_spoken() -> None:
    assert phonemes("turn it on, please", "gmw/en-us") == [
        *("_", "t", "'3:", "n", "I", "t#", "'O2", "n", "_", "p", "l", "'i:", "z", "_"),
    ]
    said = "what is the weather like, in new york; is it five o'clock?"
    for accent in ("gmw/en-us", "gmw/en"):
        spoken = synthesizer.speak(said, Voice(accent, "m1", rate=160)).phonemes
        assert [symbol for symbol, _, _ in spoken] == phonemes(said, accent)
    with pytest.raises(EspeakError, match="no voice 'gmw/en-mars'"):
        phonemes("hello", "gmw/en-mars")
    with pytest.raises(EspeakError, match="no sound"):
        phonemes("", "gmw/en-us")


def _share_above(samples: np.ndarray, hertz: float) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    return float(power[np.fft.rfftfreq(len(samples), 1 / 16000) > hertz].sum() / power.sum())


def test_noise_has_the_asked_ratio() -> None:
    voice = Voice()
    clean, noisy = (
        soundfile.read(io.BytesIO(synthesizer.render(TEXT, voice, noise)))[0] for noise in (None, (10.0, 7))
    )
    ratio = 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))
    assert ratio == pytest.approx(10.0, abs=0.1)


def test_a_voice_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"no variant 'nobody'; it has .*Alex"):
        synthesizer.synthesize(TEXT, Voice("gmw/en", "nobody"))
    with pytest.raises(CorpusError, match="no voice 'gmw/en-mars"):
        synthesizer.synthesize(TEXT, Voice("gmw/en-mars", "f3"))


def test_silence_is_an_error() -> None:
    with pytest.raises(CorpusError, match="made no sound of ''"):
        synthesizer.synthesize("", Voice())


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    mtl.tts.espeak.installed.cache_clear()
    try:
        with pytest.raises(CorpusError, match=r"pip install 'motet\[espeak\]'"):
            rows(utterances=1)
    finally:
        mtl.tts.espeak.installed.cache_clear()


# --- the corpus ---


def test_default_corpus_is_as_large_as_asked(default: list[Utterance]) -> None:
    spoken = [row for row in default if row.recording is not None]
    counts = {split: sum(row.split == split for row in spoken) for split in ("train", "valid", "test")}
    assert counts == {"train": 2000, "valid": 200, "test": 400}
    assert len(default) - len(spoken) == 2000
    sample = [row for row in spoken if row.split == "train"][::40]
    seconds = [soundfile.info(io.BytesIO(row.recording.load())).duration for row in sample]  # type: ignore[union-attr,misc]
    assert np.mean(seconds) == pytest.approx(espeak.SECONDS_PER_UTTERANCE, rel=0.1)
    assert max(seconds) < 10


def test_splits_share_no_speaker_variant_or_sentence(default: list[Utterance]) -> None:
    for name in ("speaker", "text"):
        found = {split: {getattr(row, name) for row in default if row.split == split} - {None} for split in VARIANTS}
        assert found["train"].isdisjoint(found["valid"] | found["test"]), name
        assert found["valid"].isdisjoint(found["test"]), name
        if name == "speaker":
            assert {split: len(voices) for split, voices in found.items()} == {"train": 80, "valid": 12, "test": 24}
    variants = [variant for split in VARIANTS.values() for variant in split]
    assert len(set(variants)) == len(variants)


def test_unseen_sentences_are_made_of_seen_words(default: list[Utterance]) -> None:
    words = {split: {word for row in default if row.split == split for word in row.tokens or ()} for split in VARIANTS}
    assert words["valid"] | words["test"] <= words["train"]
    heard = {word for row in default if row.split == "train" and row.recording for word in row.tokens or ()}
    assert len(words["test"] - heard) == 0


def test_every_label_is_there_in_every_split(default: list[Utterance]) -> None:
    for split in ("train", "test"):
        spoken = [row for row in default if row.split == split and row.recording]
        assert {row.labels.get("intent") for row in spoken} == set(espeak.GRAMMARS["en"].intents)
        assert {row.labels.get("domain") for row in spoken} == domains_of(espeak.GRAMMARS["en"])
        assert {row.labels.get("emotion") for row in spoken} == set(STYLES)
        slots = {tag[2:] for row in spoken for tag in row.slots or () if tag != "O"}
        assert slots == slots_of(espeak.GRAMMARS["en"])
    written = [row for row in default if row.recording is None]
    assert {(row.split, row.speaker, row.labels.get("emotion")) for row in written} == {("train", None, None)}


def test_more_utterances_change_none_of_those_that_were_there() -> None:
    settings = {"valid_utterances": 3, "test_utterances": 3, "text_only_sentences": 5}
    before = {row.id: row for row in rows(utterances=40, **settings)}
    after = {row.id: row for row in rows(utterances=50, **settings)}
    assert sorted(after.keys() - before.keys()) == [f"train-{number:06d}" for number in range(40, 50)]
    assert before.keys() <= after.keys()
    for name, row in before.items():
        other = after[name]
        assert replace(row, recording=None) == replace(other, recording=None)
        if row.recording is not None and other.recording is not None:
            assert row.recording.stamp == other.recording.stamp
            if int(name.split("-")[1]) % 8 == 0:
                assert row.recording.load() == other.recording.load()  # type: ignore[misc]


def test_more_speakers_change_none_of_those_that_were_there() -> None:
    assert speakers("train", 200, seed=0)[:80] == speakers("train", 80, seed=0)
    many = speakers("train", 38 * 4, seed=0)
    assert len({(voice.accent, voice.variant) for voice in many}) == len(many)


def test_another_seed_is_another_corpus() -> None:
    settings = {"utterances": 20, "text_only_sentences": 0}
    assert [row.text for row in rows(seed=0, **settings)] != [row.text for row in rows(seed=1, **settings)]


def test_two_languages_say_the_same_and_split_the_same() -> None:
    settings = {"utterances": 300, "valid_utterances": 40, "test_utterances": 80, "text_only_sentences": 60}
    found = rows(languages=["en", "de"], **settings)
    assert [row.language for row in found[:4]] == ["en", "de", "en", "de"]
    # Neither a sentence nor its translation is in two splits, in either language.
    said = {
        split: {text for row in found if row.split == split for text in (row.text, row.labels.get("translation"))}
        for split in VARIANTS
    }
    assert said["train"].isdisjoint(said["valid"] | said["test"])
    assert said["valid"].isdisjoint(said["test"])
    german = [row for row in found if row.language == "de"]
    assert {row.labels.get("intent") for row in german} <= set(espeak.GRAMMARS["de"].intents)
    english_words, german_words = (words_of(espeak.GRAMMARS[language]) for language in ("en", "de"))
    assert all(word in german_words for row in german for word in row.tokens or ())
    assert all(word in english_words for row in german for word in (row.labels.get("translation") or "").split())
    # One throat speaks both, in two accents: a language is not told by who speaks.
    voices = {name: {(row.speaker or "").split("+")[1].split("-")[0] for row in found if row.recording
                     and row.language == name and row.split == "test"} for name in ("en", "de")}  # fmt: skip
    assert len(voices["en"] & voices["de"]) >= 8
    assert {row.speaker.split("+")[0] for row in german if row.speaker} == {"de"}


def test_english_may_carry_its_german() -> None:
    found = rows(utterances=60, valid_utterances=10, test_utterances=20, text_only_sentences=20, translate="de")
    assert {row.language for row in found} == {"en"}
    english_words, german_words = (words_of(espeak.GRAMMARS[language]) for language in ("en", "de"))
    for row in found:
        assert all(word in english_words for word in row.tokens or ())
        assert all(word in german_words for word in (row.labels.get("translation") or "?").split())
        assert espeak.split_of(row.labels.get("translation") or "") == row.split


def test_english_alone_has_no_translation_and_is_what_it_was(default: list[Utterance]) -> None:
    assert {row.labels.get("translation") for row in default} == {None}
    told = [
        (r.id, r.split, r.text, r.slots, r.speaker, r.labels.get("emotion"), r.recording and r.recording.stamp)
        for r in default
    ]
    if importlib.metadata.version("espeakng-loader") == "0.2.4":  # part of each stamp
        assert hashlib.sha256(repr(told).encode()).hexdigest()[:16] == "bcb2e5ec2e64baf8"
    assert rows(languages=["de"], utterances=1)[0].labels["translation"] is None


def test_dialogues_are_spoken_by_one_voice_each_and_split_whole() -> None:
    settings = {"utterances": 1, "text_only_sentences": 0, "valid_dialogues": 5, "test_dialogues": 12}
    found = [row for row in rows(dialogues=20, text_only_dialogues=6, **settings) if row.labels.get("dialogue_act")]
    assert {row.id.rsplit("-", 1)[0] for row in found} == {
        *(f"train-dialogue-{n:05d}" for n in range(20)),
        *(f"valid-dialogue-{n:05d}" for n in range(5)),
        *(f"test-dialogue-{n:05d}" for n in range(12)),
        *(f"text-dialogue-{n:05d}" for n in range(6)),
    }
    by_dialogue: dict[str, list[Utterance]] = {}
    for row in found:
        by_dialogue.setdefault(row.id.rsplit("-", 1)[0], []).append(row)
    for name, said in by_dialogue.items():
        assert len({(row.speaker, row.labels.get("emotion"), row.split) for row in said}) == 1
        assert (said[0].speaker is None) == (said[0].recording is None) == name.startswith("text-")
        assert said[0].context == []
    whole = {split: {tuple(row.context or ()) for row in found if row.split == split and len(row.context or ()) > 2}
             for split in VARIANTS}  # fmt: skip
    assert whole["train"].isdisjoint(whole["test"])
    voices = {split: {row.speaker for row in found if row.split == split} - {None} for split in VARIANTS}
    assert voices["train"].isdisjoint(voices["test"])
    # Longer or not, the dialogues before stay as they are.
    more = {row.id: row.text for row in rows(dialogues=25, text_only_dialogues=6, **settings)}
    assert all(more[row.id] == row.text for row in found)


def test_a_recording_is_flac_and_its_stamp_follows_its_bytes() -> None:
    clean, noisy = (rows(utterances=1, noise_db=noise)[0].recording for noise in (None, (10, 20)))
    assert clean is not None
    assert noisy is not None
    info = soundfile.info(io.BytesIO(clean.load()))  # type: ignore[misc]
    assert (info.format, info.samplerate, info.channels) == ("FLAC", 16000, 1)
    assert clean.name == "train-000000.flac"
    assert clean.stamp != noisy.stamp
    assert clean.load() != noisy.load()  # type: ignore[misc]


def test_fingerprint_stays_until_an_option_changes() -> None:
    assert espeak.READER.fingerprint(None, corpus()) == espeak.READER.fingerprint(None, corpus(hours=1.5))
    options: list[dict[str, Any]] = [{}, {"utterances": 10}, {"seed": 1}, {"noise_db": [5, 10]}, {"speakers": 81}]
    assert len({espeak.READER.fingerprint(None, corpus(**each)) for each in options}) == len(options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"utterence": 3}, "options.utterence: unknown option; did you mean 'utterances'"),
        ({"zzz": 3}, "unknown option; a corpus of kind espeak has seed, hours"),
        ({"hours": -1}, r"options.hours: .*greater than 0 \(given -1\)"),
        ({"languages": ["xx"]}, "options.languages.0"),
        ({"languages": ["en", "en"]}, "options.languages: .*named twice"),
        ({"languages": ["en", "de"], "translate": "de"}, "translate is for languages: .en."),
        ({"noise_db": [20, 5]}, "options.*low"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CorpusError, match=complaint):
        espeak.options_of(corpus(**options))


def test_a_source_is_refused(tmp_path: Path) -> None:
    from pipelines.sources.open import open_source

    with pytest.raises(CorpusError, match="leave out its source"):
        list(espeak.read(open_source(str(tmp_path)), corpus()))


def test_ten_new_utterances_are_ten_new_rows(store: Any) -> None:
    from pipelines.data.ingest import ingest, utterances
    from pipelines.recipe import Quality

    settings = {"valid_utterances": 2, "test_utterances": 2, "text_only_sentences": 3}
    tables = []
    for count in (10, 10, 20):
        manifest = ingest(corpus(utterances=count, **settings), Quality(), store)
        tables.append({row["id"]: row for row in utterances(store, manifest).to_pylist()})
    assert tables[0] == tables[1]
    assert len(tables[0]) == 17
    assert len(tables[2]) == 27
    assert all(tables[2][name] == row for name, row in tables[0].items())
    assert len({row["digest"] for row in tables[2].values() if row["digest"]}) == 24
