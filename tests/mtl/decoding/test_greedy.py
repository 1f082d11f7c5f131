"""Greedy CTC decoding, worked by hand."""

import torch

from mtl.decoding.greedy import best_path


def test_repeats_collapse_and_blanks_part_them():
    labels = [[0, 1, 1, 0, 1, 2], [2, 2, 0, 0, 1, 1]]
    log_probs = torch.full((2, 6, 3), 0.1)
    for row, path in enumerate(labels):
        for frame, unit in enumerate(path):
            log_probs[row, frame, unit] = 0.8
    first, second = best_path(log_probs.log(), torch.tensor([6, 3]))
    assert first.units.tolist() == [1, 1, 2]
    assert first.frames.tolist() == [[1, 3], [4, 5], [5, 6]]
    assert first.confidence.tolist() == [torch.tensor(0.8).item()] * 3
    assert second.units.tolist() == [2]  # what lies behind the length is not heard
    assert second.frames.tolist() == [[0, 2]]


def test_silence_gives_no_units():
    (path,) = best_path(torch.tensor([[[0.9, 0.1]] * 4]).log(), torch.tensor([4]))
    assert path.units.tolist() == []
    assert path.frames.shape == (0, 2)
