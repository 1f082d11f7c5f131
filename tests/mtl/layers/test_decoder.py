"""The attention decoder: blind to what comes later and to padding; a step at a time, and searched, it says the same."""

import itertools
import math

import pytest
import torch

from mtl.config.decoding import DecoderConfig
from mtl.decoding.generation import Generated, beam_search, greedy, length_penalty
from mtl.layers.decoder import BOS_EOS, Decoder

WIDTH = 16
CONFIG = DecoderConfig(blocks=2, heads=2, expansion=2, dropout=0.0)


def decoder(units=7, sharpness=1.0, seed=0):
    """An untrained decoder; sharpness: how far from even its probabilities are.

    With tied embeddings and the norm as it begins, the likeliest next unit is the last one again, so that all answers
    would be empty: random weights of the norm mix that up.
    """
    torch.manual_seed(seed)
    made = Decoder(units, WIDTH, CONFIG).eval()
    with torch.no_grad():
        made.norm.weight.normal_(std=sharpness)
    return made.requires_grad_(False)


@pytest.fixture
def states():
    """Three rows of states, (3, 9, WIDTH), of which 9, 4 and 1 exist."""
    return torch.randn(3, 9, WIDTH, generator=torch.Generator().manual_seed(1)), torch.tensor([9, 4, 1])


def test_a_later_unit_changes_no_earlier_logit(states):
    made = decoder()
    units = torch.tensor([[BOS_EOS, 3, 5, 2, 6]] * 3)
    changed = units.clone()
    changed[:, 3] = 1
    one, other = made(*states, units), made(*states, changed)
    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])


def test_padding_changes_no_logit(states):
    hidden, lengths = states
    made = decoder()
    units = torch.tensor([[BOS_EOS, 3, 5], [BOS_EOS, 1, 2], [BOS_EOS, 4, 4]])
    together = made(hidden, lengths, units)
    noisy = hidden.masked_fill(torch.arange(9)[None, :, None] >= lengths[:, None, None], 1e3)
    torch.testing.assert_close(together, made(noisy, lengths, units))
    for row, length in enumerate(lengths.tolist()):
        alone = made(hidden[row : row + 1, :length], lengths[row : row + 1], units[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def test_step_by_step_is_all_at_once(states):
    made = decoder()
    units = torch.tensor([[BOS_EOS, 3, 5, 2], [BOS_EOS, 1, 1, 1], [BOS_EOS, 6, 2, 4]])
    whole = torch.log_softmax(made(*states, units), dim=-1)
    state = made.begin(*states)
    for position in range(units.shape[1]):
        log_probs, state = made.step(units[:, position], state)
        torch.testing.assert_close(log_probs, whole[:, position], rtol=1e-5, atol=1e-5)
        assert state.past[0][0].shape[2] == position + 1


def test_the_cache_follows_the_hypotheses(states):
    made = decoder()
    order = torch.tensor([2, 0, 0])
    _, state = made.step(torch.tensor([BOS_EOS] * 3), made.begin(*states))
    _, state = made.step(torch.tensor([3, 4, 5]), state)
    found, _ = made.step(torch.tensor([1, 1, 2]), state.select(order))
    hidden, lengths = states
    units = torch.tensor([[BOS_EOS, 5, 1], [BOS_EOS, 3, 1], [BOS_EOS, 3, 2]])
    wanted = torch.log_softmax(made(hidden[order], lengths[order], units)[:, -1], dim=-1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_beam_of_one_is_greedy(states):
    lengths = set()
    for seed, longest in itertools.product(range(6), (3, 6)):
        made = decoder(seed=seed)
        one, other = greedy(made, *states, longest), beam_search(made, *states, 1, 0.6, longest)
        assert [found.units for found in one] == [found.units for found in other]
        assert [found.log_prob for found in one] == pytest.approx([found.log_prob for found in other], abs=1e-4)
        assert all(len(found.units) <= longest for found in one)
        lengths |= {len(found.units) for found in one}
    assert {0, 6} < lengths  # at once, at the bound, and in between


def test_greedy_takes_the_likeliest_unit_at_every_step(states):
    made = decoder(seed=5)
    for row, found in enumerate(greedy(made, *states, longest=6)):
        units = [BOS_EOS, *found.units]
        hidden, lengths = states[0][row : row + 1], states[1][row : row + 1]
        log_probs = torch.log_softmax(made(hidden, lengths, torch.tensor([units])), dim=-1)[0]
        best = log_probs.argmax(dim=-1).tolist()
        assert best[: len(found.units)] == list(found.units)
        assert best[-1] == BOS_EOS or len(found.units) == 6
        total = sum(log_probs[i, unit] for i, unit in enumerate([*found.units, BOS_EOS]))
        assert found.log_prob == pytest.approx(float(total), abs=1e-5)


def test_a_wide_beam_finds_the_best_of_all_sequences(states):
    """Two units and at most three of them: fifteen sequences, each scored by itself, without the cache."""
    lengths = set()
    for seed in range(4):
        made = decoder(units=3, seed=seed)
        every = [list(every_sequence(made, states, row, 3)) for row in range(2)]
        for penalty in (0.0, 0.6, 3.0):
            found = beam_search(made, *states, width=24, penalty=penalty, longest=3)
            for row, best in enumerate(found[:2]):
                wanted = max(every[row], key=lambda other: other.score(penalty))
                assert best.units == wanted.units
                assert best.log_prob == pytest.approx(wanted.log_prob, abs=1e-4)
                lengths.add(len(best.units))
    assert len(lengths) > 2


def every_sequence(made, states, row, longest):
    hidden, lengths = states[0][row : row + 1], states[1][row : row + 1]
    for length in range(longest + 1):
        for units in itertools.product((1, 2), repeat=length):
            log_probs = torch.log_softmax(made(hidden, lengths, torch.tensor([[BOS_EOS, *units]])), dim=-1)[0]
            total = sum(log_probs[i, unit] for i, unit in enumerate((*units, BOS_EOS)))
            yield Generated(units, float(total))


def test_a_beam_finds_what_greedy_passes_by(states):
    better = worse = 0
    for seed in range(6):
        made = decoder(seed=seed)
        one, other = greedy(made, *states, 8), beam_search(made, *states, 4, 0.0, 8)
        for first, second in zip(one, other, strict=True):
            better += second.log_prob > first.log_prob + 1e-3
            worse += second.log_prob < first.log_prob - 1e-3
    assert better > 4 * worse


def test_length_normalisation_by_hand():
    """Wu et al. 2016: lp(7) = (12 / 6) ^ alpha = 2 at alpha 1."""
    assert length_penalty(7, 1.0) == 2.0
    assert length_penalty(7, 0.0) == 1.0
    assert length_penalty(1, 0.6) == 1.0
    long, short = Generated((1,) * 6, -4.0), Generated((1,), -2.5)
    assert long.score(0.0) < short.score(0.0)
    assert long.score(1.0) == -2.0 > short.score(1.0) == pytest.approx(-2.5 * 6 / 7)
    assert Generated((1, 1, 1), 4 * math.log(0.5)).confidence == pytest.approx(0.5)


def test_embeddings_are_tied():
    assert sum(p.shape == (7, WIDTH) for p in decoder().parameters()) == 1
