"""Synthesis in mtl: each part by hand, then trained: it learns, counts exactly, resumes, and speaks what it learned."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from mtl.answers import Measurement
from mtl.audio.features import log_mel
from mtl.audio.griffin_lim import GriffinLim
from mtl.balancing import Balancer
from mtl.config.features import FeatureSpec
from mtl.config.training import FitConfig
from mtl.inference.predictor import Predictor, PredictorError
from mtl.inference.speech_synthesis import synthesize, whole
from mtl.inference.synthesizer import Synthesizer, sentences
from mtl.inputs.batch import Batch, collate
from mtl.inputs.codec import Codec
from mtl.inputs.tts import NOBODY, UNKNOWN, Scale, SpeechCode, pad
from mtl.metrics.distortion import distortions
from mtl.metrics.scoring import score_rows
from mtl.models.joint import SpeechModel, build_model
from mtl.training.backward import Backward
from mtl.training.fit import fit
from mtl.tts.acoustic_model import contour, harmonics, stretch
from tests.support import tiny
from tests.support.tiny_voice import SPEC, TASKS, batches, code, codec, fresh, joined, mel, rows


@pytest.fixture(scope="module")
def trained() -> SpeechModel:
    model = fresh(dropout=0.0)
    loader = tiny.TinyLoader(batches(model.codec), per_step=3)
    fit(model, loader, FitConfig(epochs=150, learning_rate=1e-2, device="cpu"))
    return model.eval()


# --- parts ---


def test_stretch_by_hand() -> None:
    x = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [0.0]]])
    found, lengths, place = stretch(x, torch.tensor([[2, 0, 3], [1, 1, 0]]))
    assert found[..., 0].tolist() == [[1, 1, 3, 3, 3], [4, 5, 0, 0, 0]]
    assert lengths.tolist() == [5, 2]
    torch.testing.assert_close(place, torch.tensor([[0.25, 0.75, 1 / 6, 0.5, 5 / 6], [0.5, 0.5, 0, 0, 0]]))
    assert stretch(x, torch.zeros(2, 3, dtype=torch.long))[1].tolist() == [0, 0]


def test_rounded_durations_do_not_drift() -> None:
    assert whole(torch.full((6,), 1.4)).tolist() == [1, 2, 1, 2, 1, 1]  # sums 1.4, 2.8, 4.2, 5.6, 7.0, 8.4
    durations = torch.rand(200, generator=torch.Generator().manual_seed(0)) * 9
    assert (whole(durations).cumsum(0) - durations.cumsum(0)).abs().max() <= 0.5
    assert whole(durations).min() >= 0
    assert whole(torch.full((3,), 0.1)).tolist() == [0, 0, 1]  # an utterance is not nothing


def test_scales_go_down_and_up() -> None:
    scale = Scale(5.0, 2.0)
    np.testing.assert_allclose(scale.down(np.array([5.0, 9.0, np.nan])), [0, 2, 0])
    np.testing.assert_allclose(scale.up(scale.down(np.array([1.0, 6.0]))), [1, 6])
    found = code()
    pitches = np.concatenate([row["pitch"] for row in rows()])
    assert (found.pitch.mean, found.pitch.deviation) == pytest.approx((pitches.mean(), pitches.std()))
    frames = np.concatenate([mel(row) for row in rows()])
    np.testing.assert_allclose([scale.mean for scale in found.mel], frames.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose([scale.deviation for scale in found.mel], frames.std(axis=0), rtol=1e-4)


def test_the_code_is_json_and_numbers_what_it_knows() -> None:
    found = code()
    assert SpeechCode.from_json(found.to_json()) == found
    assert (found.phones, found.speakers, found.emotions) == (("_", "a", "b", "c"), ("x", "y"), ("calm", "loud"))
    assert found.number(["a", "'a", "z"]).tolist() == [3, 3, UNKNOWN]  # a stress that training never had
    assert (found.speaker("y"), found.speaker("z"), found.emotion(None)) == (2, NOBODY, NOBODY)
    assert found.encode({"phones": ["a"], "durations": None}) is None


def test_a_batch_may_hold_rows_that_are_not_for_synthesis() -> None:
    whole_codec = codec()
    first, second = rows()[:2]
    silent = {**second, "durations": None}
    batch = collate([whole_codec.encode(first), whole_codec.encode(silent)], [mel(first), mel(second)])
    assert batch.spoken is not None
    assert batch.spoken.lengths.tolist() == [4, 0]
    model = fresh()
    counts = {task: int(count) for task, count in model.counts(batch).items()}
    assert counts == {"prosody": 4, "mel": len(mel(first)), "emotion": 2, "speaker": 2}
    alone = collate([whole_codec.encode(first)], [mel(first)])
    model.eval()
    for task in ("prosody", "mel"):
        loss, count = model.losses(batch)[task]
        torch.testing.assert_close(loss, model.losses(alone)[task][0])
        assert int(count) == counts[task]
    assert pad([None, None]) is None
    assert collate([whole_codec.encode(silent)], [mel(second)]).spoken is None


def test_losses_by_hand() -> None:
    model = fresh().eval()
    row = rows()[0]
    batch = collate([model.codec.encode(row)], [mel(row)])
    heads = model.tasks["prosody"], model.tasks["mel"]
    with torch.no_grad():
        for head in heads:
            head.output.weight.zero_()
            head.output.bias.zero_()
        losses = {task: float(loss) for task, (loss, _) in model.losses(batch).items()}
    found = code()
    durations = np.log1p(np.array(row["durations"]))
    pitch, energy = found.pitch.down(row["pitch"]), found.energy.down(row["energy"])
    assert losses["prosody"] == pytest.approx(float((durations**2 + pitch**2 + energy**2).sum()), rel=1e-5)
    scaled = np.stack([scale.down(column) for scale, column in zip(found.mel, mel(row).T, strict=True)], axis=1)
    assert losses["mel"] == pytest.approx(float(np.abs(scaled).mean(axis=1).sum()), rel=1e-4)


def test_pitch_goes_straight_from_middle_to_middle() -> None:
    """Two phones of four frames, 1 and 3: level to the first middle at 2, up to the second at 6, level behind it."""
    values, durations = torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[4, 4, 0]])
    found = contour(values, durations, torch.tensor([2]), 8)
    assert found[0].tolist() == pytest.approx([1, 1, 1.25, 1.75, 2.25, 2.75, 3, 3])
    longer = torch.nn.functional.pad(values, (0, 2), value=5.0), torch.nn.functional.pad(durations, (0, 2))
    assert contour(*longer, torch.tensor([2]), 9)[0].tolist() == pytest.approx([*found[0].tolist(), 3])


def test_a_phone_without_frames_bends_the_line_only() -> None:
    found = contour(torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([[2, 0, 2]]), torch.tensor([3]), 4)
    assert found.isfinite().all()
    assert found[0, 0] < 2 < found[0].max() <= 5


def test_harmonics_are_where_the_pitch_puts_them() -> None:
    hertz = torch.linspace(50, 400, 8)  # 50, 100, … 400
    found = harmonics(torch.tensor([[math.log(100.0)]]), hertz)[0, 0]
    keeps = math.sin(math.pi / 2) ** 2 / (math.pi / 2) ** 2  # of a triangle half a harmonic wide
    assert found.tolist() == pytest.approx([keeps * (-1) ** (1 - number % 2) for number in range(8)], abs=1e-5)
    assert harmonics(torch.tensor([[math.log(20.0)]]), hertz).abs().max() < 0.02  # too close to be told apart


def test_padding_changes_nothing() -> None:
    model = fresh().eval()
    together = model.losses(joined(model.codec))
    alone = [model.losses(batch[0]) for batch in batches(model.codec)]
    for task in TASKS:
        total = sum(losses[task][0] for losses in alone)
        torch.testing.assert_close(together[task][0], total, rtol=1e-4, atol=1e-4)


# --- trained ---


@pytest.mark.parametrize("method", ["static", "pcgrad"])
def test_cut_into_micro_batches_it_is_the_same_gradient(method: str) -> None:
    def gradients(micro_batches: list[tuple[Batch, ...]]) -> dict[str, torch.Tensor]:
        model = fresh(dropout=0.0)
        Backward(model, Balancer(TASKS, {}, method), seed=0)(micro_batches, 0)
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    whole_codec = codec()
    cut, one = gradients(batches(whole_codec)), gradients([(joined(whole_codec),)])
    assert cut.keys() == one.keys()
    assert any(name.startswith("phones.") for name in cut)
    for name, gradient in cut.items():
        torch.testing.assert_close(
            gradient, one[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_resumed_run_ends_where_an_uninterrupted_one_does() -> None:
    def run(resume: Any = None) -> list[Any]:
        states: list[Any] = []
        model = fresh()
        loader = tiny.TinyLoader(batches(model.codec), per_step=2)
        config = FitConfig(epochs=3, learning_rate=1e-2, device="cpu")
        fit(model, loader, config, lambda metrics, state: states.append(copy.deepcopy(state)), resume=resume)
        return states

    states = run()
    resumed = run(resume=copy.deepcopy(states[0]))
    for name, tensor in states[-1]["model"].items():
        assert torch.equal(tensor, resumed[-1]["model"][name]), name


def test_it_says_again_what_it_was_trained_on(trained: SpeechModel) -> None:
    predictions = Predictor(trained, SPEC).predict_batch(joined(trained.codec))
    mean_mel = np.concatenate([mel(row) for row in rows()]).mean(axis=0)
    for row, prediction in zip(rows(), predictions, strict=True):
        spectral, prosody = prediction.answers["mel"], prediction.answers["prosody"]
        assert isinstance(spectral, Measurement)
        assert isinstance(prosody, Measurement)
        distortion, frames = spectral.counts["mcd"]
        assert frames == len(mel(row))
        assert distortion < 0.3 * distortions(mean_mel[None], mel(row)).sum()
        late, phones = prosody.counts["duration"]
        assert late / phones < 10  # ms, a frame


@pytest.mark.parametrize(
    ("task", "metrics"), [("mel", {"mel/mcd"}), ("prosody", {"prosody/duration", "prosody/pitch"})]
)
def test_a_task_alone_has_its_figures_alone(task: str, metrics: set[str]) -> None:
    """As the cells of a study have it, whose codec is that of all tasks."""
    model = build_model(tiny.config(tasks=(task,)), codec()).eval()
    found = Predictor(model, SPEC).predict_batch(joined(codec()))
    assert score_rows(rows(), found).keys() == metrics


def test_speaking_follows_speaker_emotion_and_rate(trained: SpeechModel) -> None:
    found = trained.codec.speech
    assert found is not None
    phones = found.number(list("_ab_"))
    quick, slow, loud = (said.mel for said in synthesize(trained, [phones] * 3, [1, 2, 1], [1, 1, 2]))
    true = {(row["speaker"], row["emotion"]): row for row in rows()}
    assert len(quick) == pytest.approx(2 + 5 + 3 + 2, abs=1)
    assert len(slow) == pytest.approx(2 * len(quick), abs=2)
    assert float(slow.mean() - quick.mean()) == pytest.approx(1.5, abs=0.4)
    assert float(loud.mean() - quick.mean()) == pytest.approx(1.0, abs=0.4)
    assert ("x", "calm") in true
    (twice,) = synthesize(trained, [phones], [1], [1], rates=[2.0])
    assert len(twice.mel) == int(twice.durations.sum()) == pytest.approx(len(quick) / 2, abs=1)
    assert len(twice.durations) == len(phones)


def test_a_model_that_does_not_speak_says_so() -> None:
    listener = build_model(tiny.config(), tiny.codec())
    with pytest.raises(ValueError, match="no task prosody, mel"):
        synthesize(listener, [np.array([2])], [1], [1])
    with pytest.raises(PredictorError, match="does not speak"):
        Synthesizer(Predictor(listener, SPEC))
    with pytest.raises(ValueError, match="needs training recordings with phones"):
        build_model(tiny.config(tasks=TASKS), Codec.build(rows(), TASKS))


# --- in use ---


@pytest.fixture(scope="module")
def voice(trained: SpeechModel) -> Synthesizer:
    return Synthesizer(Predictor(trained, SPEC))


def test_a_voice_survives_being_saved(voice: Synthesizer, trained: SpeechModel, tmp_path: Any) -> None:
    Predictor(trained, SPEC).save(tmp_path / "model")
    again = Synthesizer(Predictor.load(tmp_path / "model"))
    (one,), (other,) = voice.say(["Cab, a bac."]), again.say(["Cab, a bac."])
    np.testing.assert_array_equal(one, other)
    assert one.dtype == np.float32
    assert 0 < np.abs(one).max() <= 1


def test_who_and_how_may_be_left_out_and_must_be_known(voice: Synthesizer) -> None:
    (usual,), (first,) = voice.say(["abc"]), voice.say(["abc"], speaker="x", emotion="calm")
    np.testing.assert_array_equal(usual, first)
    with pytest.raises(PredictorError, match=r"no speaker 'z'; it knows x, y"):
        voice.say(["abc"], speaker="z")
    with pytest.raises(PredictorError, match="did you mean 'loud'"):
        voice.say(["abc"], emotion="load")
    with pytest.raises(PredictorError, match=r"rate is 9, expected 0\.25 to 4"):
        voice.say(["abc"], rate=9)


def test_sentences_come_one_by_one(voice: Synthesizer) -> None:
    assert sentences("One. Two?  Three!\nFour … \n\n--\n") == ["One.", "Two?", "Three!", "Four …"]
    assert sentences("As J. Smith said: no.") == ["As J. Smith said: no."]
    parts = list(voice.stream("Ab. Cab."))
    np.testing.assert_array_equal(parts[1], voice.say(["Cab."])[0])
    assert len(parts) == 2


def test_many_texts_are_as_each_alone(voice: Synthesizer) -> None:
    texts = ["ab", "cab a bac", "c"]
    together = voice.synthesize([voice.phones(text) for text in texts])
    for text, found in zip(texts, together, strict=True):
        (alone,) = voice.synthesize([voice.phones(text)])
        torch.testing.assert_close(found.mel, alone.mel, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.hertz, alone.hertz)


def test_the_melody_is_foretold_and_silent_in_pauses(voice: Synthesizer) -> None:
    (found,) = voice.synthesize([["_", "a", "b", "_"]])
    frames = found.durations.tolist()
    assert len(found.hertz) == len(found.mel) == sum(frames)
    assert (found.hertz[: frames[0]] == 0).all()
    assert (found.hertz[-frames[-1] :] == 0).all()
    spoken = found.hertz[frames[0] : -frames[-1]]
    assert (spoken - math.exp(5)).abs().max() < 60  # Hz: all phones are within a few semitones of 148


# --- vocoder ---


def test_griffin_lim_gives_back_what_the_mel_keeps() -> None:
    time = np.arange(16000) / 16000
    glide = (0.3 * np.sin(2 * np.pi * (200 * time + 300 * time**2))).astype(np.float32)
    spec = FeatureSpec()
    true = torch.from_numpy(log_mel(glide, spec).copy())
    vocoder = GriffinLim(spec)
    samples = vocoder(true)
    assert len(samples) == 400 + (len(true) - 1) * 160
    again = torch.from_numpy(log_mel(samples.numpy(), spec).copy())
    loud = true > true.max() - 6  # where the sound is: within 26 dB of its peak
    assert float((again - true)[loud].abs().mean()) < 0.3
    none = GriffinLim(spec, iterations=0)(true)
    assert float((torch.from_numpy(log_mel(none.numpy(), spec).copy()) - true)[loud].abs().mean()) > 0.6
    torch.testing.assert_close(samples, vocoder(true))  # the same each time


def periodicity(samples: torch.Tensor, period: int) -> float:
    """The correlation of a signal with itself a period later."""
    one, other = samples[:-period], samples[period:]
    return float((one * other).sum() / (one.norm() * other.norm()))


def test_a_smooth_mel_gets_the_harmonics_of_its_pitch() -> None:
    """A log-mel without any structure, said at 125 Hz, then without a voice: a hum and a rush, of the same log-mel."""
    spec = FeatureSpec()
    flat = torch.full((100, spec.bins), -2.0)
    hertz = torch.full((100,), 125.0)
    vocoder = GriffinLim(spec)
    hum, rush = vocoder(flat, hertz), vocoder(flat, torch.zeros(100))
    assert periodicity(hum[800:-800], 128) > 0.5
    assert abs(periodicity(rush[800:-800], 128)) < 0.2
    for samples in (hum, rush):
        found = torch.from_numpy(log_mel(samples.numpy(), spec).copy())
        assert float((found - flat)[5:-5, 40:].mean().abs()) < 0.5
    torch.testing.assert_close(hum, vocoder(flat, hertz))  # the same each time


def test_pulses_keep_time_across_phones_without_a_voice() -> None:
    vocoder = GriffinLim(FeatureSpec())
    hertz = torch.tensor([100.0] * 30 + [0.0] * 10 + [100.0] * 30)
    source = vocoder.source(hertz, torch.Generator().manual_seed(0))
    assert len(source) == 400 + 69 * 160
    at = (source > 5).nonzero()[:, 0]  # a pulse is as high as the root of its period, 12.6
    assert ((at % 160 + 1) % 160).max() <= 1  # every 160 samples, or one too early: sums round
    assert 0.7 < float(source.square().mean()) < 1.3


def test_the_vocoders_frames_are_those_of_the_features() -> None:
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    vocoder = GriffinLim(FeatureSpec())
    spectrum = vocoder.analyse(noise)
    assert spectrum.shape == (23, 257)  # 1 + (4000 - 400) // 160
    # A true spectrogram is its own signal's: what is analysed is synthesised, but where no window reaches.
    torch.testing.assert_close(vocoder.synthesise(spectrum)[40:-40], noise[40:3880], rtol=1e-3, atol=1e-3)
