"""What a model shows of itself: its layers' states, linear probes on them, and splits that keep speakers apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtl.analysis.inspection import (
    FRONT_END,
    HEAD_INPUT,
    chance,
    diagnostics,
    fit_line,
    inspect,
    numbered,
    probe,
    split_by_group,
)
from mtl.analysis.inspection import split_within_class as split_within
from mtl.config.sharing import MODES
from mtl.inputs.batch import collate
from mtl.inputs.codec import Codec
from mtl.layers.encoder import padding_mask
from mtl.models.joint import build_model
from mtl.sharing.base import SHARED, Layer
from tests.mtl.heads import test_dialogue
from tests.support import tiny

BLOCKS = 3


def fresh(mode="hard", **settings):
    torch.manual_seed(0)
    shape = {"sharing": mode, "blocks": BLOCKS, "experts": 2, **settings}
    return build_model(tiny.config(**shape), tiny.codec()).eval()


def planted(rows=900, width=12, classes=3, strength=2.0):
    """States in which a class moves one direction; the rest is noise."""
    random = np.random.default_rng(0)
    y = torch.from_numpy(random.integers(classes, size=rows))
    x = torch.from_numpy(random.normal(size=(rows, width))).float()
    x[:, 4] += strength * y
    return x, y


def test_a_probe_finds_a_planted_feature_and_nothing_in_shuffled_labels() -> None:
    x, y = planted()
    found = probe(x[:600], y[:600], x[600:], y[600:], 3)
    assert found.accuracy > 75  # two boundaries, 2 deviations apart: 79 % for the best of all classifiers
    assert abs(found.shuffled - 100 / 3) < 10
    x[:, 4] = 0
    nothing = probe(x[:600], y[:600], x[600:], y[600:], 3)
    assert abs(nothing.accuracy - 100 / 3) < 8


def test_a_probe_is_logistic_regression() -> None:
    """Beside scikit-learn's, whose C is one over twice the rows times our penalty."""
    from sklearn.linear_model import LogisticRegression

    x, y = planted(strength=0.7)
    weight, bias = fit_line(x, y, 3, penalty=0.01)
    other = LogisticRegression(C=1 / (2 * len(x) * 0.01), tol=1e-6, max_iter=1000).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(weight.T.numpy(), other.coef_, atol=2e-3)
    logits = (x @ weight + bias).softmax(dim=1).numpy()
    np.testing.assert_allclose(logits, other.predict_proba(x.numpy()), atol=2e-3)


def test_chance_names_the_commonest_class_of_the_training_side() -> None:
    assert chance(torch.tensor([1, 1, 0, 2]), torch.tensor([1, 0, 0, 2])) == 25.0


def test_speakers_are_on_one_side_each() -> None:
    speakers = [f"s{number % 7}" for number in range(70)]
    split = split_by_group(speakers)
    assert split is not None
    assert {speakers[i] for i in split.train}.isdisjoint(speakers[i] for i in split.test)
    assert sorted(split.train + split.test) == list(range(70))
    assert len(split.test) == 20  # two of seven speakers: three would be more than a third
    assert split_by_group(["one"] * 9) is None


def test_the_largest_speaker_is_learned_from() -> None:
    split = split_by_group(["big"] * 8 + ["small"] * 2)
    assert split is not None
    assert split.test == [8, 9]


def test_classes_on_one_side_alone_are_left_out() -> None:
    split = split_by_group(["a"] * 4 + ["b"] * 2)
    assert split is not None
    known = split.of_known(["happy", "sad", "happy", "angry", "happy", "bored"])
    assert (known.train, known.test) == ([0, 2], [4])


def test_utterances_of_a_speaker_are_on_both_sides() -> None:
    labels = ["x"] * 9 + ["y"] * 3 + ["z"] * 2
    ids = [f"u{number}" for number in range(14)]
    split = split_within(labels, ids)
    assert [sum(labels[i] == label for i in split.train) for label in "xyz"] == [6, 2, 0]
    assert [sum(labels[i] == label for i in split.test) for label in "xyz"] == [3, 1, 0]
    assert set(split.train).isdisjoint(split.test)
    order = list(reversed(range(14)))  # the split is the rows' own, whatever the order they come in
    turned = split_within([labels[i] for i in order], [ids[i] for i in order])
    assert sorted(order[i] for i in turned.test) == split.test


def test_labels_are_numbered_in_order() -> None:
    numbers, names = numbered(["b", "a", "b"])
    assert (numbers.tolist(), names) == ([1, 0, 1], ["a", "b"])


def test_hard_sharing_shows_every_block() -> None:
    model = fresh()
    batch, _ = tiny.joined(model.codec)
    view = inspect(model, batch)
    shared = [Layer(SHARED, label) for label in (FRONT_END, "block 1", "block 2", "block 3")]
    assert list(view.states) == shared + [Layer(task, HEAD_INPUT) for task in tiny.TASKS]
    x, lengths, *_ = model.audio(batch.features, batch.feature_lengths)
    mask = padding_mask(lengths, x.shape[1])
    for layer, block in zip(shared[1:], model.trunk.shared.blocks, strict=True):
        x = block(x, mask)
        torch.testing.assert_close(view.states[layer], x, rtol=0, atol=0)
    assert torch.equal(view.states[Layer("intent", HEAD_INPUT)], model.encode(batch, ["intent"])["intent"].hidden)


def test_pooled_states_leave_the_padding_out() -> None:
    model = fresh()
    batch, _ = tiny.joined(model.codec)
    view = inspect(model, batch)
    row, layer = 1, Layer(SHARED, "block 3")
    length = int(view.lengths[row])
    assert length < view.states[layer].shape[1]
    torch.testing.assert_close(view.pooled()[layer][row], view.states[layer][row, :length].mean(dim=0))
    torch.testing.assert_close(view.at([row, 0], [2, 5])[layer][1], view.states[layer][0, 5])


@pytest.mark.parametrize("mode", sorted(MODES))
def test_every_mode_shows_layers_and_leaves_no_hook(mode: str) -> None:
    model = fresh(mode, expert_blocks=2 if mode == "ple" else 1)
    for batch in tiny.joined(model.codec):
        view = inspect(model, batch)
        assert next(iter(view.states)) == Layer(SHARED, FRONT_END)
        assert len(view.states) > BLOCKS
        assert all(state.shape[:2] == (6, int(view.lengths.max())) for state in view.states.values())
        asked = [task for task in tiny.TASKS if batch.group in model.task(task).groups]
        given = model.encode(batch, asked)
        for task in asked:  # the last of a task's own layers is what its head is given
            last = [layer for layer in view.states if layer.path == task][-1]
            torch.testing.assert_close(view.states[last], given[task].hidden)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_turns_before_are_not_taken_for_the_sentence() -> None:
    """A dialogue task sends them through the trunk too, behind the sentence's own words."""
    model = test_dialogue.model_of(Codec.build(test_dialogue.ROWS, test_dialogue.TASKS)).eval()
    batch = collate([model.codec.encode(row) for row in test_dialogue.ROWS])
    assert batch.context is not None
    assert batch.context.words.shape[1] != batch.words.shape[1]
    view = inspect(model, batch)
    assert {state.shape[:2] for state in view.states.values()} == {batch.words.shape}


@pytest.mark.parametrize("mode", sorted(MODES))
def test_parts_hold_every_shared_parameter_once(mode: str) -> None:
    model = fresh(mode)
    held = [id(p) for parameters in model.shared_parts().values() for p in parameters]
    assert sorted(held) == sorted(id(p) for p in model.shared_parameters())
    front = [id(p) for parameters in model.front_parts().values() for p in parameters]
    assert sorted(front) == sorted(id(p) for p in model.front_parameters())
    blocks = [part for part in model.shared_parts() if part.startswith("block ")]
    count = {"soft": 0, "mmoe": BLOCKS - 1, "ple": BLOCKS - 1}.get(mode, BLOCKS)
    assert blocks == [f"block {number + 1}" for number in range(count)]


def test_soft_distances_by_hand() -> None:
    model = fresh("soft")
    with torch.no_grad():
        for p in model.trunk.encoders["intent"].blocks[1].parameters():
            p.mul_(3)
    (distances,) = diagnostics(model, []).values()
    transcript, intent, slots = (tiny.TASKS.index(task) for task in ("transcript", "intent", "slots"))
    # |3 w - w| over the mean of |3 w| and |w|
    assert distances[1, transcript, intent] == pytest.approx(1.0, rel=1e-5)
    assert distances[0].abs().max() == 0
    assert distances[1, transcript, slots] == 0


def test_an_adapter_s_size_is_what_it_adds() -> None:
    model = fresh("adapter")
    batch, _ = tiny.joined(model.codec)
    assert diagnostics(model, [batch])["adapters"].abs().max() == 0  # they begin as nothing
    adapter = model.trunk.adapters["intent"][0]
    torch.nn.init.normal_(adapter.up.bias)
    view = inspect(model, batch)
    before = view.states[Layer(SHARED, "block 1")]
    mask = padding_mask(view.lengths, before.shape[1])
    expected = (adapter.up.bias.norm() / before.norm(dim=-1))[mask].mean()
    found = diagnostics(model, [batch])["adapters"]
    assert found[0, tiny.TASKS.index("intent")] == pytest.approx(expected.item(), rel=1e-4)
    assert found[0, tiny.TASKS.index("slots")] == 0


def test_gates_are_those_of_these_batches_alone() -> None:
    model = fresh("mmoe")
    heard, read = tiny.joined(model.codec)
    for task in tiny.TASKS:
        torch.nn.init.normal_(model.trunk.gates[task].linear.weight)
    once = diagnostics(model, [heard])["gates"]
    diagnostics(model, [read])
    assert torch.equal(diagnostics(model, [heard])["gates"], once)
    torch.testing.assert_close(once.sum(dim=1), torch.ones(len(tiny.TASKS)))
