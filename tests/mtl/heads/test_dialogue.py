"""Tasks that depend on the turns before: length-safe, right without context, and better with it than without."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from mtl.balancing import Balancer
from mtl.config.model import ModelConfig
from mtl.inference.predictor import Predictor
from mtl.inputs.batch import collate
from mtl.inputs.codec import CONTEXT_WORDS, TURN, Codec, context_of
from mtl.models.joint import SpeechModel, build_model
from mtl.training.backward import Backward
from pipelines import recipe
from pipelines.synthetic.dialogues_en import QUESTIONS, RESPONSES, draw

DIALOGUE = ("dialogue_act", "system_action")
TASKS = ("transcript", "intent", *DIALOGUE)
ROWS = [
    {"text": "the kitchen", "context": ["turn on the light", "which room"], "dialogue_act": "inform",
     "system_action": "execute"},
    {"text": "tomorrow at seven", "context": [], "dialogue_act": "request", "system_action": "confirm"},
    {"text": "yes", "context": ["wake me at six", "alarm today at six is that right"], "dialogue_act": "affirm",
     "system_action": "execute"},
    {"text": "play jazz", "intent": "play"},
]  # fmt: skip


def model_of(codec: Codec, sharing: str = "hard", width: int = 16) -> SpeechModel:
    torch.manual_seed(0)
    tasks = tuple(task for task in TASKS if task == "transcript" or codec.labels.get(task))
    config = ModelConfig(tasks=tasks, width=width, blocks=1, heads=2, kernel=5, dropout=0.0, word_dropout=0.0, bins=8)
    return build_model(ModelConfig.from_json({**config.to_json(), "sharing": sharing}), codec)


def logits(model: SpeechModel, rows: list[dict], task: str = "system_action") -> torch.Tensor:
    with torch.no_grad():
        batch = collate([model.codec.encode(row) for row in rows])
        return model.task(task).logits(model.encode(batch, [task])[task])  # type: ignore[operator]


def test_the_recipe_and_the_model_agree_on_the_length_of_a_context() -> None:
    assert recipe.Text().context == CONTEXT_WORDS


def test_context_becomes_words_behind_their_turns_and_keeps_the_latest() -> None:
    assert context_of(ROWS[0]) == [TURN, "turn", "on", "the", "light", TURN, "which", "room"]
    assert context_of({"context": None}) == []
    codec = Codec.build(ROWS, TASKS, context=3)
    assert {TURN, "which", "light"} <= set(codec.words)
    names = ["", "", *codec.words]
    assert [names[n] for n in codec.encode(ROWS[0]).context.words] == [TURN, "which", "room"]
    assert Codec.from_json(codec.to_json()).context == 3


def test_without_a_dialogue_task_nothing_is_read_or_kept() -> None:
    codec = Codec.build(ROWS, ("transcript", "intent"))
    assert codec.context == 0
    assert TURN not in codec.words
    assert "context" not in codec.to_json()
    assert codec.encode(ROWS[0]).context is None
    assert collate([codec.encode(row) for row in ROWS]).context is None


@pytest.mark.parametrize("sharing", ["hard", "soft", "cross_stitch", "mmoe", "ple", "attention", "graph", "adapter"])
def test_a_row_is_told_the_same_alone_and_beside_longer_contexts(sharing: str) -> None:
    model = model_of(Codec.build(ROWS, TASKS), sharing).eval()
    together = logits(model, ROWS)
    for number, row in enumerate(ROWS):
        torch.testing.assert_close(together[number], logits(model, [row])[0], atol=1e-5, rtol=1e-5)


def test_no_context_is_the_learned_empty_one_and_context_matters() -> None:
    model = model_of(Codec.build(ROWS, TASKS)).eval()
    bare = {**ROWS[0], "context": None}
    torch.testing.assert_close(logits(model, [bare]), logits(model, [{**ROWS[0], "context": []}]))
    assert not torch.allclose(logits(model, [bare]), logits(model, [ROWS[0]]))
    with torch.no_grad():
        model.task("system_action").nothing += 1.0  # type: ignore[operator]
    assert not torch.allclose(logits(model, [bare]), logits(model_of(model.codec).eval(), [bare]))


def test_rows_without_dialogue_labels_train_the_other_tasks() -> None:
    model = model_of(Codec.build(ROWS, TASKS))
    batch = collate([model.codec.encode(row) for row in ROWS])
    counts = {task: int(count) for task, count in model.counts(batch).items()}
    assert counts == {"intent": 1, "dialogue_act": 3, "system_action": 3}
    losses = model.losses(batch)
    sum(loss for loss, _ in losses.values()).backward()  # type: ignore[union-attr]
    found = model.task("dialogue_act").nothing.grad  # type: ignore[union-attr]
    assert found is not None
    assert found.abs().sum() > 0


def test_a_recording_is_heard_with_its_context_and_so_are_its_words() -> None:
    model = model_of(Codec.build(ROWS, TASKS)).eval()
    from mtl.config.features import FeatureSpec

    predictor = Predictor(model, FeatureSpec(bins=8), reread=True)
    wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    inputs: list = [wave, wave, "yes", "yes"]
    contexts = [["Turn on the light!", "Which room?"], [], ["Turn on the light!"], []]
    said = predictor.predict(inputs, contexts)
    action = [prediction.labels["system_action"].confidence for prediction in said]
    assert action[0] != action[1]
    assert action[2] != action[3]
    assert predictor.predict(inputs)[1].labels == said[1].labels
    with pytest.raises(ValueError, match="4 inputs and 1 contexts"):
        predictor.predict(inputs, [[]])


@pytest.fixture(scope="module")
def turns() -> list:
    return [turn for number in range(300) for turn in draw(Random(f"{number}"))]


def test_dialogues_are_a_function_of_what_was_said_and_not_of_the_turn_alone(turns: list) -> None:
    acts = {"request", "inform", "affirm", "deny", "correct", "repeat", "thank", "cancel"}
    assert {turn.act for turn in turns} == acts
    assert {turn.action for turn in turns} == {*(f"ask_{slot}" for slot in QUESTIONS), "confirm", "repeat", *RESPONSES}
    whole, alone = defaultdict(set), defaultdict(Counter)
    for turn in turns:
        whole[turn.context, turn.text].add(turn.action)
        alone[turn.kind][turn.action] += 1
    assert [said for said, actions in whole.items() if len(actions) > 1] == []
    # The best that any model can do that hears the turn alone: the most frequent action of each kind of turn.
    blind = sum(actions.most_common(1)[0][1] for actions in alone.values()) / len(turns)
    assert 0.85 < blind < 0.95
    assert len(alone["inform_time time"]) == len(alone["affirm"]) == len(alone["deny"]) == 2


def test_a_dialogue_goes_back_and_forth(turns: list) -> None:
    for number in range(20):
        said = draw(Random(f"{number}"))
        assert said == draw(Random(f"{number}"))
        assert said[0].context == ()
        for before, after in pairwise(said):
            assert after.context[: len(before.context)] == before.context
            assert after.context[len(before.context)] == before.text
            assert len(after.context) == len(before.context) + 2


def test_context_teaches_what_the_turn_cannot_tell() -> None:
    """Two turns of equal words and opposite actions: only a model that reads the context can learn both."""
    rows = [
        {"text": "yes", "context": [question], "system_action": action, "dialogue_act": "affirm"}
        for question, action in (("shall i do it", "execute"), ("shall i forget it", "stop"))
    ]
    accuracy = {}
    for words in (CONTEXT_WORDS, 0):
        model = model_of(Codec.build(rows, DIALOGUE, context=words))
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        batch = collate([model.codec.encode(row) for row in rows])
        for _ in range(30):
            optimiser.zero_grad()
            model.losses(batch)["system_action"][0].backward()
            optimiser.step()
        model.eval()
        names = model.codec.labels["system_action"]
        found = [names[label] for label in logits(model, rows).argmax(dim=1).tolist()]
        accuracy[words] = sum(a == row["system_action"] for a, row in zip(found, rows, strict=True)) / 2
    assert accuracy == {CONTEXT_WORDS: 1.0, 0: 0.5}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    from mtl.config.features import FeatureSpec

    return Predictor(model_of(Codec.build(ROWS, TASKS)).eval(), FeatureSpec(bins=8))


def test_a_saved_model_still_knows_the_turns_before(predictor: Predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path / "model")
    loaded = Predictor.load(tmp_path / "model", device="cpu")
    before = [["wake me at six", "alarm today at six is that right"]]
    assert loaded.predict(["yes"], before)[0].labels == predictor.predict(["yes"], before)[0].labels
    assert loaded.predict(["yes"], before)[0].labels != loaded.predict(["yes"])[0].labels


def test_the_command_line_takes_the_turns_before(predictor: Predictor, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from motet.commands import app

    predictor.save(tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--root", str(tmp_path / "root"), "--json"]
    turns = ["Wake me at six!", "Alarm today at six; is that right?"]
    done = CliRunner().invoke(app, ["predict", "--text", "yes", "--context", turns[0], "--context", turns[1], *options])
    assert done.exit_code == 0, done.output
    (answered,) = json.loads(done.stdout)
    said = predictor.predict(["yes"], [turns])[0].labels["system_action"]
    assert answered["system_action"] == {"value": said.value, "confidence": pytest.approx(said.confidence, abs=1e-4)}

    blind = Predictor(model_of(Codec.build(ROWS, TASKS, context=0)).eval(), predictor.features)
    blind.save(tmp_path / "model")
    refused = CliRunner().invoke(app, ["predict", "--text", "yes", "--context", "so", *options])
    assert "reads no context" in str(refused.exception or refused.output)


def test_the_packaged_model_takes_the_turns_before(predictor: Predictor) -> None:
    import pandas as pd

    from pipelines.packaging.package import signature
    from pipelines.packaging.packaged_model import SpeechService

    assert [column.name for column in signature(TASKS).inputs] == ["audio", "text", "context"]
    assert [column.name for column in signature(("intent",)).inputs] == ["audio", "text"]
    service = SpeechService()
    service.predictor = predictor
    before = [["wake me at six", "alarm today at six is that right"], None, np.array(["so"])]
    table = service.predict(None, pd.DataFrame({"text": ["yes"] * 3, "context": before}))  # type: ignore[arg-type]
    said = predictor.predict(["yes"] * 3, [before[0], [], ["so"]])  # type: ignore[list-item]
    assert table["system_action_confidence"].tolist() == pytest.approx(
        [prediction.labels["system_action"].confidence for prediction in said], abs=1e-4
    )
    with pytest.raises(ValueError, match="row 0: its 'context' is"):
        service.predict(None, pd.DataFrame({"text": ["yes"], "context": [[1]]}))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["static", "upgrad"])
def test_gradients_reach_the_words_of_the_turns_before(method: str) -> None:
    """One task alone, whose weight is one: what a step leaves is the gradient of its mean loss, context and all."""
    model = model_of(Codec.build(ROWS, TASKS))
    batch = collate([model.codec.encode({**row, "dialogue_act": None, "intent": None}) for row in ROWS])
    total, count = model.losses(batch)["system_action"]
    gradients = torch.autograd.grad(total / count, list(model.parameters()), allow_unused=True)
    wanted = dict(zip((name for name, _ in model.named_parameters()), gradients, strict=True))
    Backward(model, Balancer(model.config.tasks, {}, method), seed=0)([(batch,)], 0)
    for name, parameter in model.named_parameters():
        if wanted[name] is not None and wanted[name].abs().max() > 1e-7:
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-3, msg=name)
    assert wanted["text.word.weight"][model.codec.encode(ROWS[0]).context.words[0]].abs().max() > 0


def test_recordings_read_as_sentences_keep_the_turns_before_them() -> None:
    from mtl.models.asr_hypotheses import TrainingWords, read

    model = model_of(Codec.build(ROWS, TASKS))
    frames = [np.zeros((40, 8), dtype=np.float32)] * 3
    batch = collate([model.codec.encode(row) for row in ROWS[:3]], frames)
    heard = [
        TrainingWords([("kitchen", 0, 1)], None, True),
        TrainingWords([], None, False),
        TrainingWords([("yes", 0, 1)], None, False),
    ]
    sentences = read(batch, torch.tensor([True, False, True]), heard, model.codec, None)
    assert batch.context is not None
    assert sentences.context is not None
    torch.testing.assert_close(sentences.context.words, batch.context.words[[0, 2]])
    assert sentences.context.lengths.tolist() == batch.context.lengths[[0, 2]].tolist()
