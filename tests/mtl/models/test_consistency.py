"""What leads the log-mels beside the recordings: what the model hears in them, and a judge; and what is forgotten."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from mtl.balancing import Balancer
from mtl.config.model import ModelConfig
from mtl.heads import mel
from mtl.heads.classification import Classification
from mtl.heads.mel import Mel
from mtl.inputs.batch import Batch
from mtl.layers.gradient_reversal import reverse
from mtl.models.consistency import consistency_loss, frozen_weights
from mtl.models.joint import SpeechModel, build_model
from mtl.spec import PHONES
from mtl.training.backward import Backward
from pipelines.recipe import RecipeError, load
from tests.support import tiny
from tests.support.tiny_voice import TASKS, batches, codec, fresh, joined

HEADS = ("audio.", "tasks.emotion.", "tasks.speaker.")


def gradients(model: SpeechModel, task: str, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(0)
    loss, count = model.losses(batch, [task])[task]
    (loss / count).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# --- consistency ---


def test_it_is_the_cross_entropy_of_the_models_own_answers() -> None:
    model = fresh().eval()
    batch = joined(model.codec)
    assert batch.features is not None
    assert batch.feature_lengths is not None
    found = consistency_loss(model, batch.features.float(), batch.feature_lengths, batch)
    asked = model.encode(batch, ("emotion", "speaker"))
    wanted = torch.zeros(len(batch))
    for name, states in asked.items():
        logits = cast(Classification, model.task(name)).logits(states)
        wanted += torch.nn.functional.cross_entropy(logits, batch.targets[name].values, reduction="none") / 2
    torch.testing.assert_close(found, wanted)
    unknown = replace(
        batch, targets={name: t.only(torch.zeros(len(batch), dtype=torch.bool)) for name, t in batch.targets.items()}
    )
    assert consistency_loss(model, batch.features.float(), batch.feature_lengths, unknown).tolist() == [0] * len(batch)


def test_the_mel_is_led_and_the_heads_are_not() -> None:
    plain, led = fresh(), fresh(consistency=1.0)
    batch = joined(plain.codec)
    before, after = gradients(plain, "mel", batch), gradients(led, "mel", batch)
    assert before.keys() == after.keys()
    assert not [name for name in after if name.startswith(HEADS)]
    assert not torch.allclose(before["tasks.mel.output.weight"], after["tasks.mel.output.weight"])
    assert all(parameter.requires_grad for parameter in led.parameters())
    loss, count = led.eval().losses(batch, ["mel"])["mel"]
    bare, _ = plain.eval().losses(batch, ["mel"])["mel"]
    states = led.encode(batch, ("mel",), PHONES)["mel"]
    task = cast(Mel, led.task("mel"))
    made, lengths = task(states, cast(Any, batch.spoken))
    wrong = consistency_loss(led, task.raised(made), lengths, batch)
    torch.testing.assert_close(loss - bare, (wrong * lengths).sum(), rtol=1e-4, atol=1e-4)
    assert count == lengths.sum()


def test_weights_are_held_and_let_go_even_by_an_error() -> None:
    model = fresh()
    next(model.parameters()).requires_grad_(False)  # a stage of a curriculum

    def fail() -> None:
        with frozen_weights(model):
            assert not any(parameter.requires_grad for parameter in model.parameters())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [parameter.requires_grad for parameter in model.parameters()].count(False) == 1
    assert not model.frozen


def test_it_follows_the_front_ends_once_under_every_method() -> None:
    """Where one task is there, a weighting of gradients can only be the plain gradient."""

    def stepped(method: str) -> dict[str, Tensor]:
        model = fresh(consistency=0.5, dropout=0.0)
        backward = Backward(model, Balancer(TASKS, {}, method), seed=0)
        backward.active = frozenset({"mel"})
        backward([(joined(model.codec),)], 0)
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, weighed = stepped("static"), stepped("pcgrad")
    assert plain.keys() == weighed.keys()
    assert any(name.startswith("phones.") for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(weighed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("method", ["static", "pcgrad"])
def test_cut_into_micro_batches_it_is_the_same_gradient(method: str) -> None:
    def stepped(micro_batches: list[tuple[Batch, ...]]) -> dict[str, Tensor]:
        model = fresh(consistency=0.5, dropout=0.0)
        Backward(model, Balancer(TASKS, {}, method), seed=0)(micro_batches, 0)
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    cut, one = stepped(batches(codec())), stepped([(joined(codec()),)])
    assert cut.keys() == one.keys()
    for name, gradient in cut.items():
        torch.testing.assert_close(gradient, one[name], rtol=1e-3, atol=1e-5, msg=name)


# --- the judge of log-mels ---


def test_a_judge_adds_to_the_loss_what_it_says_of_each_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mel, "SEGMENT", 16)
    plain, judged = fresh().eval(), fresh(adversarial=0.5).eval()
    judged.load_state_dict(plain.state_dict(), strict=False)
    batch = joined(plain.codec)
    task = cast(Mel, judged.task("mel"))
    assert task.adversary is not None
    bare, _ = plain.losses(batch, ["mel"])["mel"]
    monkeypatch.setattr(task, "_judged", lambda adversary, found, wanted, lengths: lengths.sum())
    loss, count = judged.losses(batch, ["mel"])["mel"]
    torch.testing.assert_close(loss, bare + 0.5 * count)
    monkeypatch.undo()


def test_short_recordings_have_no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = fresh(adversarial=1.0)
    task = cast(Mel, judged.task("mel"))
    batch = joined(judged.codec)
    assert batch.feature_lengths is not None
    assert int(batch.feature_lengths.max()) < mel.SEGMENT
    used = gradients(judged, "mel", batch)
    assert not [name for name in used if "adversary" in name]
    monkeypatch.setattr(mel, "SEGMENT", int(batch.feature_lengths.max()))
    used = gradients(judged, "mel", batch)
    assert {name for name in used if "adversary" in name} == {
        f"tasks.mel.adversary.{name}" for name, _ in cast(Any, task.adversary).named_parameters()
    }


# --- reversal ---


def test_a_gradient_is_turned_round() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    turned = reverse(x, 0.3)
    assert turned.tolist() == x.tolist()
    (turned * torch.tensor([1.0, 10.0])).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([-0.3, -3.0]))


def test_a_head_learns_what_the_trunk_forgets() -> None:
    def of(reversal: tuple[tuple[str, float], ...]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = build_model(tiny.config(dropout=0.0, reversal=reversal), tiny.codec())
        return gradients(model, "domain", tiny.joined(model.codec)[1])

    plain, turned = of(()), of((("domain", 0.5),))
    assert plain.keys() == turned.keys()
    for name, gradient in plain.items():
        own = name.startswith("tasks.domain.")
        torch.testing.assert_close(turned[name], gradient if own else -0.5 * gradient, rtol=1e-4, atol=1e-7, msg=name)


# --- settings ---


def test_settings_are_json_and_absent_where_they_are_off() -> None:
    config = tiny.config(adversarial=0.1, consistency=0.2, reversal=(("speaker", 0.5),))
    assert ModelConfig.from_json(config.to_json()) == config
    assert not {"adversarial", "consistency", "reversal"} & tiny.config().to_json().keys()


@pytest.mark.parametrize(
    ("recipe", "setting", "message"),
    [
        ("assistant", "synthesis.adversarial=1", "synthesis is about the task mel"),
        ("assistant", "tasks.transcript.reversal=1", "tasks with one label an utterance"),
        ("expressive", "tasks.mel.reversal=1", "tasks with one label an utterance"),
    ],
)
def test_settings_that_mean_nothing_are_refused(recipe: str, setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(recipe, [setting])


def test_settings_are_in_the_address() -> None:
    plain = load("expressive")
    others = ["synthesis.adversarial=1", "synthesis.consistency=1", "tasks.speaker.reversal=1"]
    assert len({plain.address(), *(load("expressive", [other]).address() for other in others)}) == 4
