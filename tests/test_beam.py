"""The beam against every text that a small lattice can spell."""

import math
from itertools import product

import pytest
import torch

from mtl.beam import Beam, BeamConfig
from mtl.decode import best_path
from mtl.ngram import END, NGram
from mtl.text import Characters

UNITS = Characters([" ", "a", "b"])
LANGUAGE = NGram.train(["ab a", "ab", "a"], order=2)
WIDE = BeamConfig(width=10_000, weight=0.7, bonus=0.3, unknown=-2.0, candidates=-math.inf)


def collapse(path):
    return tuple(unit for i, unit in enumerate(path) if unit and (i == 0 or path[i - 1] != unit))


def text_score(text, config):
    """The language side of a text, as the module's docstring has it."""
    score, context = 0.0, LANGUAGE.start
    for word in text.split():
        score += config.weight * LANGUAGE.score(context, word) + config.bonus
        score += config.unknown * (word not in LANGUAGE.vocabulary)
        context = (word,)
    return score + config.weight * LANGUAGE.score(context, END)


@pytest.mark.parametrize("seed", range(6))
def test_finds_the_best_of_all_texts(seed):
    torch.manual_seed(seed)
    log_probs = (2 * torch.randn(6, 4)).log_softmax(-1)
    totals = {}
    for path in product(range(4), repeat=6):
        score = sum(log_probs[t, unit].item() for t, unit in enumerate(path))
        totals.setdefault(collapse(path), []).append(score)
    scored = {
        units: torch.tensor(scores).logsumexp(0).item() + text_score(UNITS.decode(units), WIDE)
        for units, scores in totals.items()
    }
    found = tuple(Beam(UNITS, LANGUAGE, WIDE).search(log_probs.numpy()))
    assert scored[found] == pytest.approx(max(scored.values()), abs=1e-4)


def test_without_a_say_the_language_model_changes_nothing_sure():
    labels = torch.tensor([[2, 0, 3, 3, 1, 2, 0, 0]])
    log_probs = torch.full((1, 8, 4), -9.0).scatter(2, labels[..., None], -0.001)
    silent = BeamConfig(width=8, weight=0.0, bonus=0.0, unknown=0.0)
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
