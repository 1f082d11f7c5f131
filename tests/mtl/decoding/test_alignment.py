"""Viterbi against every path of a small lattice, and word spans worked by hand."""

from itertools import product

import numpy as np
import torch

from mtl.decoding.alignment import viterbi, word_spans


def collapse(path):
    return [unit for i, unit in enumerate(path) if unit and (i == 0 or path[i - 1] != unit)]


def best_by_exhaustion(log_probs, units):
    paths = [p for p in product(range(log_probs.shape[1]), repeat=log_probs.shape[0]) if collapse(p) == units]
    return max(paths, key=lambda path: sum(log_probs[t, u].item() for t, u in enumerate(path))) if paths else None


def spans_of(path, count):
    found, unit, previous = [[-1, -1] for _ in range(count)], -1, 0
    for frame, label in enumerate(path):
        if label and label != previous:
            unit += 1
            found[unit][0] = frame
        if label:
            found[unit][1] = frame + 1
        previous = label
    return found


def test_viterbi_finds_the_best_of_all_paths():
    torch.manual_seed(0)
    targets = [[1, 2], [1, 1], [2], [1, 2, 1]]
    lengths = torch.tensor([6, 6, 4, 5])
    log_probs = torch.randn(4, 6, 3).log_softmax(-1)
    units = torch.zeros(4, 3, dtype=torch.int64)
    for row, target in enumerate(targets):
        units[row, : len(target)] = torch.tensor(target)
    spans = viterbi(log_probs, lengths, units, torch.tensor([len(target) for target in targets]))
    for row, target in enumerate(targets):
        best = best_by_exhaustion(log_probs[row, : lengths[row]], target)
        assert spans[row, : len(target)].tolist() == spans_of(best, len(target))
        assert (spans[row, len(target) :] == -1).all()


def test_a_transcript_longer_than_its_frames_has_no_path():
    log_probs = torch.zeros(2, 3, 3).log_softmax(-1)
    units = torch.tensor([[1, 1, 1], [1, 2, 0]])  # "111" needs five frames for its two blanks
    spans = viterbi(log_probs, torch.tensor([3, 3]), units, torch.tensor([3, 2]))
    assert (spans[0] == -1).all()
    assert (spans[1, :2] >= 0).all()


def test_words_of_characters_and_of_pieces():
    frames = np.array([[0, 1], [2, 3], [3, 4], [5, 7], [8, 9]])
    assert word_spans(list("on it"), frames) == [("on", 0, 3), ("it", 5, 9)]
    assert word_spans([" o", "n", " it"], frames[:3]) == [("on", 0, 3), ("it", 3, 4)]
    assert word_spans([" ", "a", " ", " ", "b"], frames) == [("a", 2, 3), ("b", 8, 9)]
    assert word_spans([], np.zeros((0, 2), dtype=int)) == []
