"""The trained vocoder: its losses by hand, both sides of the adversary, segments, and from a corpus to sound."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("parselmouth", reason="the extra motet[speech] is not installed")

import torch
from torch import nn

from mtl import spec
from mtl.audio.features import log_mel
from mtl.audio.pitch import pitch
from mtl.balancing import Balancer
from mtl.config.features import FeatureSpec
from mtl.config.model import ModelConfig, VocoderConfig
from mtl.config.training import FitConfig
from mtl.heads.base import States
from mtl.heads.waveform import RESOLUTIONS, Waveform, spectral_loss
from mtl.inference.predictor import Predictor, PredictorError
from mtl.inference.synthesizer import Synthesizer
from mtl.inference.vocoding import VocoderWrapper
from mtl.inputs.batch import Batch, collate
from mtl.inputs.codec import Codec
from mtl.metrics.distortion import spectral_distance, spectral_distances
from mtl.metrics.scoring import METRICS, score_rows
from mtl.models.joint import SpeechModel, build_model
from mtl.training.backward import Backward
from mtl.training.fit import fit
from mtl.tts.adversary import MATCHING, Adversary, PatchDiscriminator
from mtl.tts.vocoder import Generator
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.features import LOGMEL, PITCH, WAVEFORM, extract
from pipelines.data.loader import evaluation_batches
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.floors import floor_of
from pipelines.evaluation.gates import decide
from pipelines.evaluation.synthesis import COPY, GRIFFIN_LIM, RECORDING, counts, figures, resynthesized, spoken_rows
from pipelines.packaging.package import requirements
from pipelines.packaging.packaged_model import SpeechService
from pipelines.recipe import Recipe, RecipeError, load, parse
from pipelines.report.audio_examples import speech_content
from pipelines.sources.audio import decode
from pipelines.storage.store import Manifest, Store
from pipelines.training.prepare import Job, fit_config, prepare
from tests.support import tiny, tiny_voice
from tests.support.small_corpus import RATE, commit, spoken, written

SPEC = FeatureSpec(bins=24, window_ms=16, hop_ms=8)
SMALL = VocoderConfig(features=SPEC, width=16, blocks=1, expansion=2, segment=20, channels=2)


def noise(count: int, seed: int = 0, scale: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, count).astype(np.float32)


def line(frames: int) -> np.ndarray:
    """(T,) Hz: a rising voice after a silence."""
    return np.where(np.arange(frames) < 5, 0, 100 + np.arange(frames)).astype(np.float16)


def as_batch(*waves: np.ndarray, codec: Codec | None = None) -> Batch:
    codec = codec or Codec.build([], ("waveform",))
    examples = [codec.encode({"id": f"r{number}"}) for number in range(len(waves))]
    whole = [np.rint(wave * 32768).astype(np.int16) for wave in waves]
    mels = [log_mel(wave, SPEC) for wave in waves]
    return collate(examples, mels, whole, [line(len(mel)) for mel in mels])


def states(batch: Batch) -> States:
    assert batch.features is not None
    assert batch.feature_lengths is not None
    return States(batch.features, batch.feature_lengths)


def model(**changes: Any) -> SpeechModel:
    torch.manual_seed(0)
    config = tiny.config(tasks=("waveform",), bins=SPEC.bins, vocoder=VocoderConfig(**{**vars(SMALL), **changes}))
    return build_model(config, Codec.build([], ("waveform",)))


# --- losses ---


def test_the_spectral_loss_by_hand() -> None:
    true = torch.from_numpy(noise(4000))[None]
    assert spectral_loss(true, true).tolist() == [0]
    assert spectral_loss(2 * true, true).item() == pytest.approx(1 + math.log(2), rel=1e-3)
    assert len(RESOLUTIONS) == 3


def test_the_spectral_distance_by_hand() -> None:
    wave = noise(8000)
    assert spectral_distance(wave, wave) == 0
    assert spectral_distance(wave / 10, wave) == pytest.approx(20, abs=0.2)  # dB, but for bins that reach the floor
    assert spectral_distance(-wave, wave) == pytest.approx(0, abs=1e-4)  # phases do not matter
    assert spectral_distance(0 * wave, 0 * wave) == 0
    assert spectral_distances(noise(300), noise(300)).shape == (1,)


class _Seen(nn.Module):
    """A judge whose verdict is w x, and whose only layer sees w x as well."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self.weight * x, [self.weight * x]


def test_each_side_of_the_adversary_gets_its_own_gradient() -> None:
    adversary = Adversary([_Seen()], [lambda x: x])
    made, true = torch.tensor([[0.4, -0.8]], requires_grad=True), torch.tensor([[1.0, 1.2]])
    found = adversary(made, true)
    # judge: mean of 1 - w true, plus mean of 1 + w made; maker: mean of 1 - w made, plus the distance of w made, w true
    judged = (0.5 + 0.4) / 2 + (1.2 + 0.6) / 2
    led = (0.8 + 1.4) / 2 + MATCHING * (0.3 + 1.0) / 2
    assert found.item() == pytest.approx(judged + led)
    found.sum().backward()
    assert adversary.judges[0].weight.grad.item() == pytest.approx(-(1.0 + 1.2) / 2 + (0.4 - 0.8) / 2)
    assert made.grad is not None
    # of each of two places: -w / 2 to be believed, and -w / 2 to come nearer to the true one
    assert made.grad.tolist() == [pytest.approx([-0.25 - 0.25 * MATCHING] * 2)]


def test_a_judge_sees_patches() -> None:
    verdict, seen = PatchDiscriminator(4, planes=2)(torch.zeros(3, 2, 10, 33))
    assert verdict.shape == (3, 1, 10, 5)
    assert [layer.shape[1:] for layer in seen] == [(4, 10, 33), (4, 10, 17), (4, 10, 9), (4, 10, 5)]


# --- the task ---


def test_a_generator_gives_as_many_samples_as_its_frames_cover() -> None:
    generator = Generator(SMALL)
    wave = noise(4000)
    mel = torch.from_numpy(log_mel(wave, SPEC))[None]
    hertz = torch.from_numpy(line(mel.shape[1]))[None]
    made = generator(mel, hertz)
    assert made.shape == (1, generator.start.window + (mel.shape[1] - 1) * generator.start.hop)
    made.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())
    loud = generator(torch.full((1, 5, SPEC.bins), 30.0), torch.zeros(1, 5))
    assert loud.isfinite().all()  # beyond what a recording can be


def test_segments_are_cut_where_they_lie() -> None:
    task = Waveform(spec.task("waveform"), SMALL)
    batch = as_batch(noise(4000, 1), noise(9000, 2), noise(1000, 3))
    assert task.rows(batch).tolist() == [True, True, False]  # the last is shorter than a segment
    assert task.count(batch, torch.tensor([0])).item() == 2 * 20
    mels, hertz, waves = task._segments(states(batch).hidden, batch)
    assert mels.shape == (2, 20, 24)
    for row, (mel, found, wave) in enumerate(zip(mels, hertz, waves, strict=True)):
        np.testing.assert_allclose(log_mel(wave, SPEC), mel, atol=2e-2)  # of samples rounded to 16 bits
        (first,) = (states(batch).hidden[row].unfold(0, 20, 1).mT == mel).all(dim=(1, 2)).nonzero()[:, 0].tolist()
        np.testing.assert_array_equal(found, line(first + 20)[first:])
    torch.testing.assert_close(task._log_mel(waves), torch.stack([torch.from_numpy(log_mel(w, SPEC)) for w in waves]))
    again = [task._segments(states(batch).hidden, batch)[2] for _ in range(8)]
    assert any(not torch.equal(waves, other) for other in again)


def test_recordings_without_a_waveform_are_left_out() -> None:
    one = model()
    batch = as_batch(noise(4000))
    assert one.counts(batch)["waveform"] == 20
    nothing = [np.zeros(0, np.int16)], [np.zeros(0, np.float16)]
    gone = collate([one.codec.encode({"id": "a"})], [log_mel(noise(4000), SPEC)], *nothing)
    assert one.counts(gone)["waveform"] == 0
    assert one.losses(gone) == {}
    assert "waveform" not in one.counts(collate([one.codec.encode({"id": "a"})], [log_mel(noise(4000), SPEC)]))


@pytest.mark.parametrize("adversarial", [0.0, 0.5])
def test_the_adversary_may_be_left_out(adversarial: float) -> None:
    one = model(adversarial=adversarial)
    task = one.task("waveform")
    assert isinstance(task, Waveform)
    assert (task.adversary is None) == (adversarial == 0)
    (loss, count) = one.losses(as_batch(noise(4000), noise(5000)))["waveform"]
    assert count == 40
    (loss / count).backward()
    used = {name for name, p in one.named_parameters() if p.grad is not None}
    assert used == {name for name, _ in one.named_parameters() if name.startswith("tasks.waveform")}


def test_cut_into_micro_batches_it_counts_alike() -> None:
    """Segments are drawn by micro-batch, so the loss of two is the mean of the two, each with its own draw."""
    one = model()
    halves = [(as_batch(noise(4000, 1)),), (as_batch(noise(4000, 2)),)]

    def gradients(micro_batches: list[tuple[Batch, ...]]) -> tuple[float, dict[str, torch.Tensor]]:
        other = copy.deepcopy(one)
        backward = Backward(other, Balancer(("waveform",), {}, "static"), seed=0)
        step = backward(micro_batches, step=0)
        return step.losses.item(), {n: p.grad for n, p in other.named_parameters() if p.grad is not None}

    loss, both = gradients(halves)
    first_loss, first = gradients(halves[:1])
    other = copy.deepcopy(one)
    backward = Backward(other, Balancer(("waveform",), {}, "static"), seed=0)
    torch.manual_seed(backward._seed(0, 1))
    total, count = other.losses(halves[1][0])["waveform"]
    (total / count).backward()
    assert loss == pytest.approx((first_loss + (total / count).item()) / 2, rel=1e-5)
    for name, parameter in other.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(both[name], (first[name] + parameter.grad) / 2, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does() -> None:
    def run(stop: bool) -> tuple[SpeechModel, list[dict[str, float]]]:
        one, seen, kept = model(), [], []
        loader = tiny.TinyLoader([(as_batch(noise(4000, n)),) for n in range(4)], per_step=2)
        config = FitConfig(epochs=4, learning_rate=2e-3, device="cpu")

        def report(metrics: dict[str, float], state: dict[str, Any] | None) -> None:
            seen.append(metrics)
            kept.append(copy.deepcopy(state))

        fit(one, loader, config, report)
        if stop:
            one = model()
            loader = tiny.TinyLoader([(as_batch(noise(4000, n)),) for n in range(4)], per_step=2)
            fit(one, loader, config, report, resume=kept[1])
        return one, seen

    whole, seen = run(stop=False)
    resumed, _ = run(stop=True)
    assert seen[-1]["train/waveform/loss"] < seen[0]["train/waveform/loss"]
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_a_model_may_speak_and_sound() -> None:
    """One trunk, one trainer: phones, log-mels and sound, each row counted once by each task."""
    tasks = (*tiny_voice.TASKS, "waveform")
    torch.manual_seed(0)
    vocoder = VocoderConfig(features=tiny_voice.SPEC, width=16, blocks=1, segment=16, adversarial=0.0)
    one = build_model(tiny.config(tasks=tasks, vocoder=vocoder), tiny_voice.codec())
    rows = tiny_voice.rows()
    mels = [tiny_voice.mel(row) for row in rows]
    waves = [np.rint(noise(400 + 160 * (len(mel) - 1)) * 32768).astype(np.int16) for mel in mels]
    batch = collate([one.codec.encode(row) for row in rows], mels, waves, [line(len(mel)) for mel in mels])
    losses = one.losses(batch)
    assert losses.keys() == set(tasks)
    assert losses["waveform"][1] == 16 * sum(len(mel) >= 16 for mel in mels) > 0
    step = Backward(one, Balancer(tasks, {}, "pcgrad"), seed=0)([(batch,)], 0)
    assert step.present.all()
    grown = [name for name, p in one.named_parameters() if name.startswith("tasks.waveform") and p.grad is not None]
    assert len(grown) == len(list(one.task("waveform").parameters()))
    voice = Synthesizer(Predictor(one, tiny_voice.SPEC))
    assert voice.vocoder.learned is one.task("waveform")
    (said,) = voice.synthesize([["_", "a", "b", "_"]], "x", "calm")
    assert len(voice.sound(said.mel, said.hertz)) == 400 + 160 * (len(said.mel) - 1)


def test_a_config_is_json() -> None:
    config = model().config
    assert ModelConfig.from_json(config.to_json()) == config
    assert "vocoder" not in tiny.config().to_json()


# --- its data ---


def test_waveforms_are_the_recordings_samples(store: Store, tmp_path: Path) -> None:
    rows = {"a": spoken(tmp_path, "a", 4), "t": written("t", 2)}
    utterances = [commit(store, corpus, content) for corpus, content in rows.items()]
    spec = load("vocoder").features
    made = extract(utterances, spec, store, "local")
    kept, lines = (extract(utterances, spec, store, "local", kind=kind) for kind in (WAVEFORM, PITCH))
    assert kept[0].dataset.startswith("waveforms/")
    assert kept[0].meta["hours"] == pytest.approx(sum(row["duration"] for row in rows["a"]) / 3600, abs=1e-4)
    assert extract(utterances, spec, store, "local", kind=WAVEFORM) == kept
    dataset = open_dataset(store, utterances, [*made, *kept, *lines])
    bare = open_dataset(store, utterances, made)
    assert (dataset.sounds, bare.sounds) == (True, False)
    assert dataset.identity != bare.identity
    found = dataset.waveforms(range(6))
    for row, wave in zip(dataset.rows.to_pylist(), found, strict=True):
        wanted = np.rint(decode(row["audio"], RATE) * 32768) if row["audio"] else np.zeros(0)
        np.testing.assert_array_equal(wave, wanted)
    for row, hertz in zip(dataset.rows.to_pylist(), dataset.pitches(range(6)), strict=True):
        heard = pitch(decode(row["audio"], RATE), spec) if row["audio"] else np.zeros(0)
        np.testing.assert_array_equal(hertz, heard.astype(np.float16))
    codec = Codec.build(dataset.rows.to_pylist(), ("waveform",))
    batches = [batch for _, batch in evaluation_batches(dataset, codec, load("vocoder").loader)]
    heard = batches[0]
    assert heard.waves is not None
    assert heard.wave_lengths is not None
    assert sorted(heard.wave_lengths.tolist()) == sorted(len(wave) for wave in found if len(wave))
    assert batches[-1].waves is None  # of text


# --- from a corpus to sound ---

VOCODER = {
    "name": "small",
    "corpora": [
        {"name": "v", "kind": "espeak", "options": {
            "utterances": 16, "valid_utterances": 4, "test_utterances": 2, "text_only_sentences": 0, "speakers": 2,
            "accents": ["gmw/en-us"], "known_speakers": True}},
    ],
    "features": {"window_ms": 32},
    "tasks": {"waveform": {}},
    "loader": {"batch_seconds": 20},
    "model": {"width": 8, "blocks": 0, "heads": 1},
    "vocoder": {"width": 32, "blocks": 2, "segment": 30, "adversarial": 0.0},
    "trainer": {"epochs": 10, "learning_rate": 2e-3, "precision": "fp32"},
    "search": {"modes": ["hard"]},
    "gates": {"primary": "waveform/lsd"},
}  # fmt: skip


def recipe(**changes: Any) -> Recipe:
    return parse({**VOCODER, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Manifest], list[Manifest]]:
    """Utterances, then features and waveforms, of the corpus."""
    pytest.importorskip("espeakng_loader", reason="the extra motet[espeak] is not installed")
    from pipelines.data.ingest import ingest

    store = Store(str(tmp_path_factory.mktemp("vocoder") / "root"))
    rows = [ingest(corpus, recipe().quality, store) for corpus in recipe().corpora]
    kinds = [extract(rows, recipe().features, store, "local", kind=kind) for kind in (LOGMEL, WAVEFORM, PITCH)]
    return store, rows, [manifest for found in kinds for manifest in found]


@pytest.fixture(scope="module")
def trained(made: tuple[Store, list[Manifest], list[Manifest]]) -> tuple[Predictor, list[dict[str, float]]]:
    store, rows, features = made
    codec, _, _ = prepare(recipe(), open_dataset(store, rows, features))
    one, loader, validate = Job(recipe(), rows, features, store, codec.to_json()).open()
    seen: list[dict[str, float]] = []
    fit(one, loader, fit_config(recipe()), lambda metrics, state: seen.append(metrics), validate)
    return Predictor(one, recipe().features), [metrics for metrics in seen if metrics]


def test_it_learns_to_sound(trained: tuple[Predictor, list[dict[str, float]]], tmp_path: Path) -> None:
    predictor, epochs = trained
    first, last = epochs[0], epochs[-1]
    assert first["valid/waveform/lsd"] < 8  # dB: it begins with a source at the pitch
    assert last["valid/waveform/mcd"] < first["valid/waveform/mcd"]
    predictor.save(tmp_path / "model")
    again = VocoderWrapper.of(Predictor.load(tmp_path / "model"))
    mel = torch.from_numpy(log_mel(noise(8000), predictor.features))
    hertz = torch.full((len(mel),), 120.0)
    np.testing.assert_array_equal(again(mel, hertz), VocoderWrapper.of(predictor)(mel, hertz))
    assert not np.array_equal(again(mel), again(mel, hertz))
    assert np.abs(again(mel + 9)).max() <= 1


def test_its_sound_stands_beside_griffin_lims(
    made: tuple[Store, list[Manifest], list[Manifest]], trained: tuple[Predictor, list[dict[str, float]]]
) -> None:
    import pyarrow as pa

    voice = VocoderWrapper.of(trained[0])
    test: Dataset = spoken_rows(open_dataset(*made).split("test"), 9, speaks=False)
    said = pa.concat_tables(resynthesized(voice, test, {}))
    assert said["kind"].to_pylist() == [RECORDING, GRIFFIN_LIM, COPY] * 2
    drawn = figures(said)
    assert {"mcd, dB", "lsd, dB"} <= drawn[COPY].keys()
    assert drawn[GRIFFIN_LIM]["mcd, dB"].value < 3
    assert counts(said, ("waveform",)) == {}  # nobody listened
    shown = speech_content(said, voice, test, {})
    assert [sound["kind"] for sound in shown["examples"][0]["sounds"]] == [RECORDING, GRIFFIN_LIM, COPY]


def test_a_vocoder_that_learned_is_better_than_the_mean_of_everything(
    made: tuple[Store, list[Manifest], list[Manifest]], trained: tuple[Predictor, list[dict[str, float]]]
) -> None:
    """The floor is made from the real waveforms and log-mels of the rows, window by window and frame by frame."""
    train = open_dataset(*made).split("train")
    scores = evaluate(trained[0], train, recipe().loader)
    floor = floor_of(scores.counts, train)
    for metric in ("waveform/lsd", "waveform/mcd"):
        np.testing.assert_array_equal(floor.counts[metric].counts[:, 1], scores.counts[metric].counts[:, 1])
    lowest = {name: float(METRICS[name].value(rows.counts.sum(axis=0))) for name, rows in floor.counts.items()}
    decision = decide(scores.scored_model("a"), None, recipe().gates, METRICS, floor=floor)
    assert decision.promote, decision.reason
    assert {row.metric: row.floor for row in decision.comparisons} == pytest.approx(lowest)
    assert all(row.verdict == "better" for row in decision.comparisons)


def test_its_figures_are_of_its_own_rows(trained: tuple[Predictor, list[dict[str, float]]]) -> None:
    predictor = trained[0]
    wave = noise(8000)
    codec = predictor.codec
    mel = log_mel(wave, predictor.features)
    hertz = np.full(len(mel), 120, np.float16)
    batch = collate([codec.encode({"id": "a"})], [mel], [(wave * 32768).astype(np.int16)], [hertz])
    (prediction,) = predictor.predict_batch(batch)
    scores = score_rows([{"id": "a", "audio": "a.wav"}], [prediction])
    assert scores.keys() == {"waveform/lsd", "waveform/mcd"}
    task = predictor.model.task("waveform")
    assert isinstance(task, Waveform)
    made = task.sound(torch.from_numpy(mel), torch.from_numpy(hertz))
    wanted = spectral_distances(made.numpy(), wave).sum().item()
    assert scores["waveform/lsd"].counts[0, 0] == pytest.approx(wanted, rel=1e-2)


def test_a_package_gives_recordings_back(trained: tuple[Predictor, list[dict[str, float]]]) -> None:
    import base64
    import io

    import pandas as pd
    import soundfile

    served = SpeechService()
    served.predictor = trained[0]
    file = io.BytesIO()
    soundfile.write(file, noise(8000), RATE, format="WAV")
    table = served.predict(None, pd.DataFrame({"audio": [base64.b64encode(file.getvalue()).decode()]}))
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(table["speech"][0])))
    assert rate == RATE
    assert 7400 < len(samples) <= 8000
    assert "praat-parselmouth" in " ".join(requirements("characters", tasks=("waveform",)))


def test_a_vocoder_for_other_log_mels_is_refused(trained: tuple[Predictor, list[dict[str, float]]]) -> None:
    other = Predictor(trained[0].model, FeatureSpec())
    with pytest.raises(PredictorError, match=r"window_ms 32, expected 25"):
        VocoderWrapper.of(other, trained[0])
    deaf = Predictor(build_model(tiny.config(), tiny.codec()), FeatureSpec())
    with pytest.raises(PredictorError, match="no model with the task waveform"):
        VocoderWrapper.of(trained[0], deaf)
    assert VocoderWrapper.of(deaf).learned is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loader": {"speed": [0.9, 1.1]}}, "tasks.waveform learns the recordings' own sound"),
        ({"loader": {"time_masks": 1}}, "tasks.waveform learns the recordings' own sound"),
        ({"tasks": {"waveform": {}, "intent": {}}}, "blocks and model.lstm are both 0"),
        ({"gates": {"primary": "waveform/lsd", "minimum": {"waveform/wer": 5}}}, "set judges.transcript"),
        ({"vocoder": {"segment": 4}}, "segment"),
    ],
)
def test_recipes_that_cannot_sound_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(**changes)


def test_the_vocoder_is_in_the_address_of_a_recipe_that_has_one() -> None:
    assert recipe().address() != recipe(vocoder={"width": 64}).address()
    plain = load("assistant")
    assert plain.address() == load("assistant", ["vocoder.width=64"]).address()
