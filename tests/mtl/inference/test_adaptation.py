"""A user's adapter: FiLM by hand, strangers, off is the base bit for bit, its file, and what fitting leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mtl.config.features import FeatureSpec
from mtl.inference.adaptation import (
    LIMIT,
    STATISTICS_FRAMES,
    About,
    Personal,
    PersonalError,
    PersonalPredictor,
    Shape,
    blocks_of,
    check_base,
    read_header,
)
from mtl.inference.enrolment import Fitting, Utterance, cross_fit, fit, frozen, split, statistics_of
from mtl.inference.predictor import Predictor
from mtl.inputs.audio import SpeakerStatistics
from mtl.inputs.batch import Batch, collate
from mtl.models.joint import SpeechModel, build_model
from mtl.sharing.adapter import Film
from tests.support import tiny

SPEC = FeatureSpec(bins=tiny.BINS)
ABOUT = About(speaker="ana", base="tiny", version=3, digest="0123456789abcdef")
USUAL = torch.stack((torch.zeros(tiny.BINS), torch.ones(tiny.BINS)))
QUICK = Fitting(steps=4, batch=2, folds=2)


@pytest.fixture
def model() -> SpeechModel:
    torch.manual_seed(0)
    return build_model(tiny.config(blocks=2), tiny.codec()).eval()


def heard(model: SpeechModel) -> Batch:
    return collate([model.codec.encode(row) for row in tiny.HEARD], [tiny.features(row) for row in tiny.HEARD])


def utterances(model: SpeechModel) -> list[Utterance]:
    rows = [row for row in tiny.HEARD if "text" in row]
    return [Utterance(tiny.features(row), model.codec.encode(row)) for row in rows]


def adapter(model: SpeechModel, trained: bool = True) -> Personal:
    """voice (2,) and mean (2,); with `trained`, its maps are no longer zero."""
    torch.manual_seed(1)
    voice, mean = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    personal = Personal.beside(model, ABOUT, voice, mean, USUAL, rank=2, bottleneck=3)
    if trained:
        for parameter in personal.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return personal.eval()


def states(model: SpeechModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.encode(batch, ["transcript"])["transcript"].hidden


def test_film_by_hand() -> None:
    film = Film(width=2, rank=2)
    with torch.no_grad():
        film.up.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5], [0.0, -1.0]]))
    x = torch.tensor([[[10.0, 100.0], [0.0, 1.0]]])
    # Of the condition (3, 4): gamma = (3, 8), beta = (3.5, -4).
    wanted = torch.tensor([[[10 + 30 + 3.5, 100 + 800 - 4], [3.5, 1 + 8 - 4]]])
    assert torch.equal(film(x, torch.tensor([3.0, 4.0])), wanted)


def test_the_condition_by_hand(model: SpeechModel) -> None:
    personal = adapter(model)
    with torch.no_grad():
        personal.down.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    # The user stands (2, 0) from the mean voice, somebody else at (1, 4) from it: divided by 2, and half as far.
    for voice, condition, share in (
        (None, [2.0, 0.0], 1.0),
        (torch.tensor([2.0, 5.0]), [1.0, 6.0], 0.5),
        (torch.tensor([1.0, 1.0]), [0.0, 0.0], 0.0),
        (torch.tensor([-9.0, 1.0]), [-10.0, 0.0], 0.0),
    ):
        found, s = personal.condition(voice)
        assert found.tolist() == condition
        assert float(s) == share
    assert personal.condition(torch.tensor([9.0, 1.0]))[1] == 1


def test_off_is_the_base_bit_for_bit(model: SpeechModel) -> None:
    batch = heard(model)
    before = states(model, batch)
    untrained, trained = adapter(model, trained=False), adapter(model)
    with untrained.on(model):  # the user's statistics, and nothing else
        found = states(model, batch)
    model.audio.speaker = SpeakerStatistics(USUAL[0], USUAL[1], STATISTICS_FRAMES)
    assert torch.equal(states(model, batch), found)
    model.audio.speaker = None
    with trained.on(model):
        assert not torch.allclose(states(model, batch), before, atol=1e-2)
    assert torch.equal(states(model, batch), before)
    with pytest.raises(RuntimeError, match="in between"), trained.on(model):
        raise RuntimeError("in between")
    assert torch.equal(states(model, batch), before)


def test_a_stranger_hears_the_base(model: SpeechModel) -> None:
    batch, personal = heard(model), adapter(model)
    before = states(model, batch)
    with personal.on(model, voice=personal.mean):
        assert torch.equal(states(model, batch), before)
    x = torch.randn(2, 5, 16)
    assert torch.equal(personal.correct(0, x, personal.mean), x)  # by arithmetic too, not only by a way around it


def test_text_passes_as_ever(model: SpeechModel) -> None:
    read = collate([model.codec.encode(row) for row in tiny.READ])
    personal = adapter(model)
    with torch.no_grad():
        before = model.encode(read, ["intent"])["intent"].hidden
        with personal.on(model):
            states(model, heard(model))
            assert torch.equal(model.encode(read, ["intent"])["intent"].hidden, before)


@pytest.mark.parametrize("sharing", ["hard", "soft", "mmoe", "adapter"])
def test_every_way_of_sharing_takes_it(sharing: str) -> None:
    torch.manual_seed(0)
    model = build_model(tiny.config(blocks=2, sharing=sharing), tiny.codec()).eval()
    batch, personal = heard(model), adapter(model)
    before = states(model, batch)
    with personal.on(model):
        assert not torch.equal(states(model, batch), before)


def test_its_file_comes_back_and_is_small(model: SpeechModel, tmp_path: Path) -> None:
    personal = adapter(model)
    personal.about = About("ana", "tiny", 3, "0" * 16, ("anna karenina",), 0.7, utterances=9, steps=40)
    personal.save(tmp_path / "ana.safetensors")
    again = Personal.load(tmp_path / "ana.safetensors")
    assert (again.about, again.shape) == (personal.about, personal.shape)
    batch = heard(model)
    with personal.on(model):
        wanted = states(model, batch)
    with again.on(model):
        assert torch.equal(states(model, batch), wanted)
    assert read_header(tmp_path / "ana.safetensors")["about"]["speaker"] == "ana"
    default = Shape(144, 6, 144)  # the default recipe's model
    large = Personal(default, ABOUT, torch.ones(144), torch.zeros(144), torch.ones(2, 80))
    assert len(large.to_bytes()) < LIMIT / 2
    too_large = Personal(Shape(512, 12, 512, bottleneck=64), ABOUT, torch.ones(512), torch.zeros(512), USUAL)
    with pytest.raises(PersonalError, match="expected less than 1,000,000"):
        too_large.to_bytes()


def test_what_does_not_fit_is_refused(model: SpeechModel, tmp_path: Path) -> None:
    other = build_model(tiny.config(blocks=3), tiny.codec())
    with pytest.raises(PersonalError, match="2 blocks of width 16, the model has 3"), adapter(model).on(other):
        pass
    with pytest.raises(PersonalError, match="'ana' was made for models:/tiny/3 with digest 0123456789abcdef"):
        check_base(ABOUT, "f" * 16)
    check_base(ABOUT, ABOUT.digest)
    (tmp_path / "noise").write_bytes(b"no tensors")
    with pytest.raises(PersonalError, match="noise is no adapter"):
        Personal.load(tmp_path / "noise")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(PersonalError, match=r"expected what Personal\.save wrote"):
        Personal.load(tmp_path / "other")
    with pytest.raises(PersonalError, match="mean voice itself"):
        Personal.beside(model, ABOUT, torch.ones(4), torch.ones(4), USUAL)


def test_fitting_moves_the_adapter_alone(model: SpeechModel) -> None:
    given, personal = utterances(model), adapter(model, trained=False)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = heard(model)
    before = states(model, batch)
    rows = model.losses(batch, ("transcript",))["transcript"][0].item()
    fit(model, personal, given, SPEC, Fitting(steps=30, batch=5, learning_rate=1e-2, speed=(1, 1)))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(states(model, batch), before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    with personal.on(model):
        assert model.losses(batch, ("transcript",))["transcript"][0].item() < 0.7 * rows


def test_frozen_gives_back_what_it_took(model: SpeechModel) -> None:
    model.train()
    kept = next(model.trunk.parameters())
    kept.requires_grad_(False)
    with frozen(model):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()].count(False) == 1


def test_each_utterance_is_held_back_once() -> None:
    for count, folds in ((5, 5), (13, 4), (3, 5)):
        dealt = split(count, folds, seed=0)
        assert sorted(number for fold in dealt for number in fold) == list(range(count))
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_a_fold_is_judged_on_what_it_did_not_hear(model: SpeechModel) -> None:
    given = utterances(model)
    folds = cross_fit(model, lambda heard: adapter(model, trained=False), given, SPEC, QUICK)
    assert [fold.held_back for fold in folds] == split(len(given), QUICK.folds, QUICK.seed)
    for fold in folds:
        held_back = [given[number] for number in fold.held_back]
        batch = collate([u.example for u in held_back], [u.features for u in held_back])
        with torch.no_grad():
            before, count = model.losses(batch, ("transcript",))["transcript"]
            with fold.personal.on(model):
                after, _ = model.losses(batch, ("transcript",))["transcript"]
        assert (fold.before, fold.after, fold.units) == pytest.approx((float(before), float(after), float(count)))
    assert not torch.equal(folds[0].personal.films[0].up, folds[1].personal.films[0].up)


def test_what_is_held_back_is_not_heard(model: SpeechModel) -> None:
    given = utterances(model)
    folds = cross_fit(model, lambda heard: adapter(model, trained=False), given, SPEC, QUICK)
    number = folds[0].held_back[0]
    other = [*given]
    other[number] = Utterance(given[number].features + 1, given[number].example)
    again = cross_fit(model, lambda heard: adapter(model, trained=False), other, SPEC, QUICK)
    kept, deaf = folds[0].personal.state_dict(), again[0].personal.state_dict()
    assert all(torch.equal(tensor, deaf[name]) for name, tensor in kept.items())
    assert not torch.equal(folds[1].personal.films[0].up, again[1].personal.films[0].up)


def test_a_speakers_statistics_by_hand() -> None:
    usual = SpeakerStatistics(mean=torch.tensor([1.0]), deviation=torch.tensor([0.0]), frames=2.0)
    # Three frames 2, 4, 6 (mean 4, variance 8/3) and two of 1: 1, 1, 2, 4, 6 have mean 2.8 and variance 3.76.
    mean, deviation = usual.pooled((torch.tensor([[4.0]]), torch.tensor([[(8 / 3) ** 0.5]])), torch.tensor([3]))
    assert mean.item() == pytest.approx(2.8)
    assert deviation.item() == pytest.approx(3.76**0.5)


def test_the_users_statistics_are_pooled_with_a_recordings_own(model: SpeechModel) -> None:
    given = utterances(model)
    frames = np.concatenate([utterance.features for utterance in given])
    measured = statistics_of(given)
    np.testing.assert_allclose(measured.numpy(), np.stack((frames.mean(axis=0), frames.std(axis=0))), rtol=1e-4)
    voice, mean = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    batch = heard(model)
    before = states(model, batch)
    personal = Personal.beside(model, ABOUT, voice, mean, measured + torch.tensor([[2.0], [0.0]]))
    with personal.on(model):
        assert model.audio.speaker is not None
        assert model.audio.speaker.frames == STATISTICS_FRAMES
        assert not torch.allclose(states(model, batch), before, atol=1e-3)
    with personal.on(model, voice=torch.tensor([2.0, 1.0])):  # half as far from the mean voice: half the weight
        assert model.audio.speaker is not None
        assert model.audio.speaker.frames == STATISTICS_FRAMES / 2
    with personal.on(model, voice=mean):
        assert torch.equal(states(model, batch), before)
    assert model.audio.speaker is None
    assert torch.equal(states(model, batch), before)


@pytest.mark.parametrize(("format_", "todo"), [(1, "run `motet personalise` again"), (99, "update Motet")])
def test_a_file_of_another_format_says_what_to_do(tmp_path: Path, format_: int, todo: str) -> None:
    header = {"motet.personal": json.dumps({"format": format_})}
    save_file({"voice": torch.ones(1)}, tmp_path / "ana.safetensors", metadata=header)
    with pytest.raises(PersonalError, match=f"format {format_}, this version reads 2; {todo}"):
        Personal.load(tmp_path / "ana.safetensors")


def test_the_statistics_are_kept_with_the_adapter(model: SpeechModel, tmp_path: Path) -> None:
    measured = statistics_of(utterances(model))
    personal = Personal.beside(model, ABOUT, torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]), measured)
    personal.save(tmp_path / "ana.safetensors")
    assert torch.equal(Personal.load(tmp_path / "ana.safetensors").statistics, measured)


def test_the_predictor_hears_through_it(model: SpeechModel) -> None:
    base = Predictor(model, SPEC)
    sound = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    personal = adapter(model)
    (before,) = base.predict([sound])
    mine = PersonalPredictor(base, personal)
    (heard_,) = mine.predict([sound])
    with personal.on(model):
        (wanted,) = base.predict([sound])
    assert (heard_.text, heard_.labels) == (wanted.text, wanted.labels)
    assert heard_.labels != before.labels
    (after,) = base.predict([sound])
    assert (after.text, after.labels) == (before.text, before.labels)
    assert mine.predict(["play jazz"])[0].labels == base.predict(["play jazz"])[0].labels
    assert len(blocks_of(model)) == 2


def test_own_hot_words_are_expected(model: SpeechModel) -> None:
    personal = adapter(model)
    base = Predictor(model, SPEC)
    assert PersonalPredictor(base, personal).recogniser is None
    personal.about = About("ana", "tiny", 3, "0" * 16, ("zanzibar",), 2.0)
    mine = PersonalPredictor(base, personal)
    assert mine.recogniser.hot.phrases == ("zanzibar",)  # type: ignore[union-attr]
    assert mine.recogniser.hot.weight == 2.0  # type: ignore[union-attr]
    assert mine.with_options(["jazz"], 0.5, 3).recogniser.hot.phrases == ("zanzibar", "jazz")  # type: ignore[union-attr]
    assert mine.with_options(greedy=True).recogniser is None
    assert mine.with_options(greedy=True).personal is personal
