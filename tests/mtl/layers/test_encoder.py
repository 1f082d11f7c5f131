"""Length-safety, rotary positions, and the subsampling's arithmetic."""

import pytest
import torch

from mtl.inputs.audio import STRIDES, AudioFrontend, normalise_bins
from mtl.inputs.text import TextFrontend, drop_shares
from mtl.layers.encoder import Encoder, padding_mask, rotate


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Encoder(blocks=2, width=16, heads=2, kernel=5, expansion=2, dropout=0.0).eval()


def test_padding_changes_nothing(encoder):
    x = torch.randn(1, 7, 16)
    alone = encoder(x, torch.tensor([7]))
    padded = torch.cat((x, torch.full((1, 5, 16), 9.0)), dim=1)
    beside = encoder(torch.cat((padded, torch.randn(1, 12, 16))), torch.tensor([7, 12]))
    torch.testing.assert_close(beside[:1, :7], alone)


def test_rotary_scores_depend_on_distance_alone():
    query, key = torch.randn(8), torch.randn(8)
    rotated = [rotate(vector.expand(1, 1, 10, 8))[0, 0] for vector in (query, key)]
    scores = rotated[0] @ rotated[1].T
    for distance in range(-9, 10):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[0, 0], query @ key)


@pytest.mark.parametrize("subsampling", sorted(STRIDES))
def test_lengths_are_those_of_the_states(subsampling):
    frontend = AudioFrontend(bins=20, width=8, subsampling=subsampling, dropout=0.0)
    for frames in (1, 5, 16, 37):
        lengths = torch.tensor([frames])
        states, found, _ = frontend(torch.randn(1, frames, 20), lengths)
        assert states.shape[1] == found.item() == frontend.lengths(lengths).item() == -(-frames // subsampling)


def test_audio_states_do_not_see_padding():
    torch.manual_seed(0)
    frontend = AudioFrontend(bins=20, width=8, subsampling=4, dropout=0.0).eval()
    features = torch.randn(1, 17, 20)
    alone, lengths, _ = frontend(features, torch.tensor([17]))
    padded = torch.cat((features, torch.full((1, 11, 20), 5.0)), dim=1)
    beside, _, _ = frontend(torch.cat((padded, torch.randn(1, 28, 20))), torch.tensor([17, 28]))
    torch.testing.assert_close(beside[:1, : lengths.item()], alone)


def test_bins_are_normalised_over_their_own_frames():
    features = torch.tensor([[[1.0, 5.0], [3.0, 5.0], [99.0, 99.0]]])
    found = normalise_bins(features, torch.tensor([2]))
    # Mean 2 and deviation 1 in the first bin; the second is constant, so its deviation is the floor.
    torch.testing.assert_close(found, torch.tensor([[[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]]))


def test_unknown_words_are_told_apart_by_their_letters():
    torch.manual_seed(0)
    frontend = TextFrontend(torch.zeros(3 + 2), characters=5, width=8, dropout=0.0).eval()
    letters = torch.zeros(1, 3, 6, dtype=torch.int64)
    letters[0, 0, :2], letters[0, 1, :2], letters[0, 2, :2] = (
        torch.tensor([2, 3]),
        torch.tensor([3, 2]),
        torch.tensor([2, 3]),
    )
    states, _ = frontend(torch.ones(1, 3, dtype=torch.int64), letters, torch.tensor([3]))
    assert not torch.allclose(states[0, 0], states[0, 1])
    torch.testing.assert_close(states[0, 0], states[0, 2])


def test_rare_words_are_read_as_unknown_more_often() -> None:
    # alpha 0.25: 0.25 / (0.25 + 1) = 0.2; 4 times: 0.25 / 4.25; 1000 times: less than the least.
    shares = drop_shares(3, (1, 4, 1000), least=0.05, rare=0.25)
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.0, 0.2, 0.25 / 4.25, 0.05]))
    assert drop_shares(2, (), least=0.1, rare=0.25).tolist() == pytest.approx([0, 0, 0.1, 0.1])
    frontend = TextFrontend(torch.tensor([0.0, 0.0, 1.0, 0.0]), characters=5, width=8, dropout=0.0)
    words, letters = torch.tensor([[2, 3]]), torch.tensor([[[2], [3]]])
    unknown, _ = frontend(torch.tensor([[1, 3]]), letters, torch.tensor([2]))
    torch.testing.assert_close(
        frontend(words, letters, torch.tensor([2]))[0], unknown
    )  # the first always, the other never
    assert not torch.allclose(frontend.eval()(words, letters, torch.tensor([2]))[0], unknown)
    assert "drops" not in frontend.state_dict()


def test_padding_mask():
    assert padding_mask(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [True, True, True]]


def test_a_sentence_is_read_in_both_directions_whatever_follows_it():
    torch.manual_seed(0)
    frontend = TextFrontend(torch.zeros(9 + 2), characters=5, width=8, dropout=0.0, lstm=2).eval()
    words = torch.tensor([[2, 3, 4], [5, 6, 0]])
    characters = torch.tensor([[[2, 3], [3, 0], [4, 2]], [[2, 0], [3, 3], [0, 0]]])
    together, lengths = frontend(words, characters, torch.tensor([3, 2]))
    assert lengths.tolist() == [3, 2]
    alone, _ = frontend(words[1:, :2], characters[1:, :2], torch.tensor([2]))
    torch.testing.assert_close(together[1, :2], alone[0])
    # The reader by hand, for the padded sentence: torch's own LSTM on exactly its words, each beside its letters.
    letters = frontend.convolution(frontend.character(characters[1, :2]).transpose(1, 2)).amax(dim=2)[None]
    beside = torch.cat((frontend.word(words[1:, :2]), letters), dim=-1)
    read, _ = frontend.reader.lstm(frontend.norm(beside))
    torch.testing.assert_close(alone, frontend.reader.merge(read))
    changed, _ = frontend(torch.tensor([[2, 3, 7], [5, 6, 0]]), characters, torch.tensor([3, 2]))
    assert not torch.allclose(changed[0, 0], together[0, 0])  # the first word knows the last
    torch.testing.assert_close(changed[1], together[1])
