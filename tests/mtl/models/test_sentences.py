"""Models of text alone that an LSTM reads: what slots are told of the sentence, and an encoder of no blocks."""

from __future__ import annotations

import pytest
import torch

from mtl import spec
from mtl.config.balancing import METHODS
from mtl.config.training import FitConfig
from mtl.heads import States
from mtl.heads.slots import Slots
from mtl.models.joint import SpeechModel, build_model
from mtl.sharing.hard import HardTrunk
from mtl.training.fit import fit
from tests.support import tiny

TASKS = ("intent", "slots")


def model(**settings: object) -> SpeechModel:
    torch.manual_seed(0)
    codec = tiny.codec()
    return build_model(tiny.config(**{"tasks": TASKS, "blocks": 0, "lstm": 1, "dropout": 0.5, **settings}), codec)


def test_slots_are_told_the_sentences_maximum_by_hand() -> None:
    head = Slots(spec.task("slots"), width=2, tags=2, dropout=0.5, read=True).eval()
    assert head.sequence is None
    with torch.no_grad():
        head.norm.weight.copy_(torch.tensor([1.0, 2.0]))
        head.gist.weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]))  # type: ignore[union-attr]
        head.gist.bias.copy_(torch.tensor([0.0, 3.0]))  # type: ignore[union-attr]
        head.output.weight.copy_(torch.eye(2))
        head.output.bias.zero_()
    # Norm makes (1, -2) and (-1, 2) of the two words, so the maximum is (1, 2); what stands in the padding is not seen.
    hidden = torch.tensor([[[5.0, 3.0], [-7.0, 1.0], [1e6, -1e6]]])
    silu = torch.nn.functional.silu(torch.tensor([2.0, 4.0, 2.0, 2.0]))
    expected = torch.tensor([[1 + silu[0], -2 + silu[1]], [-1 + silu[2], 2 + silu[3]]])
    logits = head.logits(States(hidden, torch.tensor([2])))
    torch.testing.assert_close(logits[0, :2], expected, atol=1e-4, rtol=1e-4)


def test_a_sentences_tags_do_not_depend_on_its_batch() -> None:
    head = Slots(spec.task("slots"), width=8, tags=3, dropout=0.5, read=True).eval()
    hidden = torch.randn(2, 5, 8)
    together = head.logits(States(hidden, torch.tensor([5, 3])))
    torch.testing.assert_close(together[1:, :3], head.logits(States(hidden[1:, :3], torch.tensor([3]))))
    changed = hidden.index_fill(1, torch.tensor([0]), 2.0)
    assert not torch.allclose(head.logits(States(changed, torch.tensor([5, 3])))[0, 4], together[0, 4])


def test_without_blocks_tasks_are_given_what_was_read_and_their_heads() -> None:
    trunk = model().trunk.train()
    assert isinstance(trunk, HardTrunk)
    x, lengths = torch.randn(2, 3, 16), torch.tensor([3, 2])
    assert all(torch.equal(state, x) for state in trunk(x, lengths, TASKS).values())  # at the start
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter)
    found = trunk(x, lengths, TASKS)
    for task in TASKS:  # twice the same in training: no dropout lies on the heads
        torch.testing.assert_close(found[task], x + trunk.shared_head(x) + trunk.task_heads[task](x))
    assert trunk.layers() == {}
    assert trunk.shared_parameters()
    assert model(blocks=1).trunk.shared_head.dropout.p == 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize("balancing", ["static", "pcgrad"])
def test_it_learns_its_sentences(balancing: str) -> None:
    made = model(dropout=0.0, word_dropout=0.0)
    _, sentences = tiny.joined(made.codec)
    before = {task: float(loss / count) for task, (loss, count) in made.losses(sentences).items()}
    config = FitConfig(
        epochs=60, learning_rate=1e-2, balancing=METHODS.select(balancing), device="cpu", inspect_every=20
    )
    fit(made, tiny.TinyLoader([(sentences,)], 1), config)
    after = {task: float(loss / count) for task, (loss, count) in made.eval().losses(sentences).items()}
    assert before.keys() == after.keys() == set(TASKS)
    assert all(after[task] < 0.2 * before[task] for task in TASKS)
    assert made.task("slots").sequence is None
    assert model(lstm=0, blocks=1).task("slots").gist is None
