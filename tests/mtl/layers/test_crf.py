"""The chain CRF against every tagging of small sentences, and a value worked by hand."""

import json
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch

from mtl.config.model import ModelConfig
from mtl.heads import States
from mtl.heads.slots import Slots
from mtl.inputs.batch import IGNORE, Batch, Target, collate
from mtl.layers.crf import ChainCRF
from mtl.models.joint import build_model
from mtl.spec import task
from tests.support import tiny

LENGTHS = torch.tensor([4, 1, 3])


@pytest.fixture
def crf() -> ChainCRF:
    torch.manual_seed(0)
    made = ChainCRF(3)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def score(crf: ChainCRF, logits: torch.Tensor, tags: tuple[int, ...]) -> float:
    total = crf.first[tags[0]] + crf.last[tags[-1]] + sum(logits[place, tag] for place, tag in enumerate(tags))
    return float((total + sum(crf.steps[one, other] for one, other in pairwise(tags))).detach())


def all_taggings(crf: ChainCRF, logits: torch.Tensor, length: int) -> dict[tuple[int, ...], float]:
    return {tags: score(crf, logits, tags) for tags in product(range(3), repeat=length)}


def test_two_words_and_two_tags_by_hand() -> None:
    crf = ChainCRF(2)
    with torch.no_grad():
        crf.steps[0, 1] = 1.0
    logits = torch.tensor([[[0.0, 0.0], [0.0, 2.0]]])
    # Scores of 00, 01, 10, 11: 0, 1 + 2, 0, 2. The sum is 1 + e^3 + 1 + e^2.
    loss = crf.negative_log_likelihood(logits, torch.tensor([[0, 1]]), torch.tensor([2]))
    torch.testing.assert_close(loss, (2 + torch.tensor(3.0).exp() + torch.tensor(2.0).exp()).log()[None] - 3)
    assert crf.viterbi(logits, torch.tensor([2])).tolist() == [[0, 1]]


def test_likelihoods_best_path_and_marginals_are_those_of_all_taggings(crf: ChainCRF) -> None:
    logits = torch.randn(3, 4, 3)
    tags = torch.randint(3, (3, 4))
    losses = crf.negative_log_likelihood(logits, tags, LENGTHS)
    best, marginals = crf.viterbi(logits, LENGTHS), crf.marginals(logits, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        scores = all_taggings(crf, logits[row], length)
        log_sum = torch.logsumexp(torch.tensor(list(scores.values())), dim=0)
        given = tuple(tags[row, :length].tolist())
        torch.testing.assert_close(losses[row], log_sum - scores[given])
        assert tuple(best[row, :length].tolist()) == max(scores, key=scores.__getitem__)
        for place in range(length):
            for tag in range(3):
                share = sum(float((torch.tensor(s) - log_sum).exp()) for t, s in scores.items() if t[place] == tag)
                assert float(marginals[row, place, tag]) == pytest.approx(share, abs=1e-5)


def test_without_learnt_steps_it_is_the_softmax_of_each_word() -> None:
    logits, tags = torch.randn(3, 4, 3), torch.randint(3, (3, 4))
    losses = ChainCRF(3).negative_log_likelihood(logits, tags, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = torch.nn.functional.cross_entropy(logits[row, :length], tags[row, :length], reduction="sum")
        torch.testing.assert_close(losses[row], expected)


def test_padding_changes_neither_loss_nor_path(crf: ChainCRF) -> None:
    logits, tags = torch.randn(1, 3, 3), torch.randint(3, (1, 3))
    lengths = torch.tensor([3])
    longer = torch.cat((logits, torch.full((1, 2, 3), 1e4)), dim=1)
    padded = torch.cat((tags, torch.full((1, 2), -100)), dim=1)
    torch.testing.assert_close(
        crf.negative_log_likelihood(longer, padded, lengths), crf.negative_log_likelihood(logits, tags, lengths)
    )
    assert torch.equal(crf.viterbi(longer, lengths)[:, :3], crf.viterbi(logits, lengths))


def test_forbidden_steps_do_not_make_the_loss_or_its_gradient_odd() -> None:
    crf = ChainCRF(3)
    with torch.no_grad():
        crf.steps.fill_(-1e4)
        crf.steps.fill_diagonal_(0.0)
    logits = torch.randn(1, 4, 3, requires_grad=True)
    loss = crf.negative_log_likelihood(logits, torch.tensor([[1, 1, 1, 1]]), torch.tensor([4])).sum()
    loss.backward()
    # Three taggings are left: one tag throughout.
    expected = -torch.log_softmax(logits.detach().sum(dim=1), dim=1)[0, 1]
    torch.testing.assert_close(loss.detach(), expected, atol=1e-4, rtol=1e-4)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_slots_with_a_crf_learn_and_pass_over_what_is_not_labelled() -> None:
    torch.manual_seed(0)
    head = Slots(task("slots"), 8, 3, 0.0, crf=True)
    states = States(torch.randn(2, 4, 8), torch.tensor([4, 2]))
    ids = torch.zeros(2, 4, dtype=torch.long)

    def batch(slots: list[list[int]]) -> Batch:
        example = collate([tiny.codec().encode({"tokens": ["a"] * 4})] * 2)
        targets = {"slots": Target(torch.tensor(slots))}
        return replace(example, targets=targets).with_inputs("text", words=ids, lengths=torch.tensor([4, 2]))

    whole = batch([[0, 1, 2, 0], [1, 2, IGNORE, IGNORE]])
    assert head.crf is not None
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(60):
        loss, count = head.loss(states, whole)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert count == 6
    assert loss < 0.1
    assert [tags for tags, _ in head.decode(states)] == [[0, 1, 2, 0], [1, 2]]
    assert all(probability > 0.9 for _, row in head.decode(states) for probability in row)
    assert head.crf.steps.abs().max() > 0  # the steps were learned too
    # A row without labels adds nothing; nor does a word without one but to its neighbours.
    alone = head.loss(states, batch([[0, 1, 2, 0], [IGNORE] * 4]))[0]
    logits = head.logits(states)
    torch.testing.assert_close(
        alone, head.crf.negative_log_likelihood(logits[:1], whole.targets["slots"].values[:1], torch.tensor([4])).sum()
    )
    gap = head.loss(states, batch([[0, IGNORE, 2, 0], [IGNORE] * 4]))[0]
    left = logits[:1, [0, 2, 3]]
    torch.testing.assert_close(
        gap, head.crf.negative_log_likelihood(left, torch.tensor([[0, 2, 0]]), torch.tensor([3])).sum()
    )
    nothing = head.loss(states, batch([[IGNORE] * 4] * 2))[0]
    assert nothing == 0
    nothing.backward()


def test_a_model_with_a_crf_keeps_it() -> None:
    config = tiny.config(crf=True)
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    model = build_model(config, tiny.codec())
    assert isinstance(model.task("slots").crf, ChainCRF)
    for group in tiny.batches(model.codec)[:2]:
        for batch in group:
            assert all(torch.isfinite(loss) for loss, _ in model.losses(batch).values())
    assert build_model(tiny.config(), tiny.codec()).task("slots").crf is None
