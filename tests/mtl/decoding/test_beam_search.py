"""The beam against every text that a small lattice can spell."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from mtl.config.decoding import BeamConfig
from mtl.decoding.beam_search import Beam
from mtl.decoding.greedy import best_path
from mtl.decoding.hot_words import HotWords
from mtl.decoding.ngram import END, NGram
from mtl.text.units import Characters

UNITS = Characters([" ", "a", "b"])
LANGUAGE = NGram.train(["ab a", "ab", "a"], order=2)
WIDE = BeamConfig(width=10_000, weight=0.7, bonus=0.3, unknown=-2.0, spelling=-0.4, candidates=-math.inf)
HOT_WEIGHT = 0.8


def collapse(path):
    return tuple(unit for i, unit in enumerate(path) if unit and (i == 0 or path[i - 1] != unit))


def text_score(text, config, hot=()):
    """The language side of a text, as the module's docstring has it; hot words looked for one by one."""
    score, context = 0.0, LANGUAGE.start
    known = LANGUAGE.vocabulary | {word for phrase in hot for word in phrase.split()}
    for word in text.split():
        score += config.weight * LANGUAGE.score(context, word) + config.bonus
        score += (config.unknown + config.spelling * len(word)) * (word not in known)
        context = (word,)
    padded = " " + "  ".join(text.split()) + " "
    for phrase in hot:
        sought = " " + phrase.replace(" ", "  ") + " "
        score += HOT_WEIGHT * len(phrase) * padded.count(sought)
    return score + config.weight * LANGUAGE.score(context, END)


def brute_force(log_probs, config, hot=()):
    """Every text that a lattice can spell with its score, units that spell the same text added up."""
    totals = {}
    for path in product(range(4), repeat=len(log_probs)):
        score = sum(log_probs[t, unit].item() for t, unit in enumerate(path))
        text = " ".join(UNITS.decode(collapse(path)).split())
        totals.setdefault(text, []).append(score)
    return {
        text: torch.tensor(scores, dtype=torch.float64).logsumexp(0).item() + text_score(text, config, hot)
        for text, scores in totals.items()
    }


@pytest.mark.parametrize("hot", [(), ("ba",), ("ab a", "b")], ids=str)
@pytest.mark.parametrize("lookahead", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_scores_every_text_as_brute_force_does(seed, lookahead, hot):
    torch.manual_seed(seed)
    log_probs = (2 * torch.randn(6, 4)).log_softmax(-1)
    config = replace(WIDE, look_ahead=lookahead)
    found = Beam(UNITS, LANGUAGE, config, HotWords(hot, HOT_WEIGHT)).search(log_probs.numpy())
    wanted = brute_force(log_probs, WIDE, hot)
    assert {" ".join(text.words): text.score for text in found} == pytest.approx(wanted, abs=1e-4)
    order = [wanted[" ".join(text.words)] for text in found]
    assert order == sorted(order, reverse=True)


def test_alternatives_are_shares_of_all_that_was_held():
    torch.manual_seed(7)
    log_probs = torch.randn(1, 5, 4).log_softmax(-1)
    wanted = brute_force(log_probs[0], WIDE)
    total = torch.tensor(list(wanted.values())).logsumexp(0).item()
    (path,) = Beam(UNITS, LANGUAGE, WIDE, n_best=3)(log_probs, torch.tensor([5]))
    best = sorted(wanted, key=lambda text: -wanted[text])[:3]
    assert [other.text for other in path.alternatives] == best
    shares = [math.exp(wanted[text] - total) for text in best]
    assert [other.confidence for other in path.alternatives] == pytest.approx(shares, abs=1e-4)
    assert " ".join(UNITS.decode(path.units).split()) == best[0]


def test_without_a_language_model_the_sound_decides():
    torch.manual_seed(8)
    log_probs = torch.randn(5, 4).log_softmax(-1)
    silent = BeamConfig(weight=0.0, bonus=0.0, unknown=0.0, spelling=0.0)
    wanted = brute_force(log_probs, silent)
    found = Beam(UNITS, None, WIDE).search(log_probs.numpy())
    assert {" ".join(text.words): text.score for text in found} == pytest.approx(wanted, abs=1e-4)


def test_look_ahead_finds_better_texts_more_often_than_not():
    model = NGram.train(["abba ab bab", "baa abba", "ab aab baa"], order=2)
    config = BeamConfig(width=3, weight=1.0, bonus=1.0)
    gains = []
    for seed in range(40):
        torch.manual_seed(seed)
        log_probs = (1.5 * torch.randn(12, 4)).log_softmax(-1).numpy()
        led, blind = (
            Beam(UNITS, model, replace(config, look_ahead=on)).search(log_probs)[0].score for on in (True, False)
        )
        gains.append(led - blind)
    # Not each time: what stands in for a word's score is a guess. It must be a good one more often than not.
    assert sum(gain > 0.01 for gain in gains) > sum(gain < -0.01 for gain in gains)
    assert sum(gains) > 0


def test_a_long_recording_does_not_run_out_of_numbers():
    units = torch.tensor([2, 3, 0, 1] * 300)
    log_probs = torch.full((1200, 4), -3.0).scatter(1, units[:, None], -1.0).log_softmax(-1)
    best = Beam(UNITS, LANGUAGE, BeamConfig(width=4)).search(log_probs.numpy())[0]
    assert best.words == ("ab",) * 300
    assert math.isfinite(best.score)


def test_an_unknown_word_that_is_hot_is_written():
    # "ba" is no word of the model, and "a" is heard almost as well.
    log_probs = torch.tensor([[[0.5, 0.02, 0.02, 0.46], [0.04, 0.02, 0.92, 0.02], [0.97, 0.01, 0.01, 0.01]]]).log()
    for hot, text in (((), "a"), (("ba",), "ba")):
        (path,) = Beam(UNITS, LANGUAGE, BeamConfig(), HotWords(hot, 1.0))(log_probs, torch.tensor([3]))
        assert UNITS.decode(path.units).strip() == text


def test_without_a_say_the_language_model_changes_nothing_sure():
    labels = torch.tensor([[2, 0, 3, 3, 1, 2, 0, 0]])
    log_probs = torch.full((1, 8, 4), -9.0).scatter(2, labels[..., None], -0.001)
    silent = BeamConfig(width=8, weight=0.0, bonus=0.0, unknown=0.0, spelling=0.0)
    (path,) = Beam(UNITS, LANGUAGE, silent)(log_probs, torch.tensor([8]))
    (greedy,) = best_path(log_probs, torch.tensor([8]))
    assert UNITS.decode(path.units) == "ab a"
    assert path.frames.tolist() == greedy.frames.tolist()
    assert path.confidence.tolist() == pytest.approx(greedy.confidence.tolist())


def test_a_known_word_wins_over_a_slip_of_the_ear():
    # "ab" with its b heard slightly more as a space: the best path says "a ", the language model knows better.
    log_probs = torch.tensor([[[0.01, 0.01, 0.97, 0.01], [0.02, 0.5, 0.02, 0.46], [0.97, 0.01, 0.01, 0.01]]]).log()
    lengths = torch.tensor([3])
    assert UNITS.decode(best_path(log_probs, lengths)[0].units) == "a "
    (path,) = Beam(UNITS, LANGUAGE, BeamConfig(bonus=0.0, weight=2.0))(log_probs, lengths)
    assert UNITS.decode(path.units).strip() in LANGUAGE.vocabulary


def test_silence_is_no_word():
    (path,) = Beam(UNITS, LANGUAGE, BeamConfig())(
        torch.tensor([[[0.97, 0.01, 0.01, 0.01]] * 5]).log(), torch.tensor([5])
    )
    assert path.units.tolist() == []
