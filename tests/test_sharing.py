"""Every sharing mode on a case small enough to work by hand."""

import pytest
import torch

from mtl.encoder import Encoder
from mtl.sharing import DISTANCES, TRUNKS, HardTrunk, SoftTrunk

TASKS = ("a", "b", "c")


def encoder():
    return Encoder(blocks=1, width=8, heads=2, kernel=3, expansion=2, dropout=0.0)


def build(mode, **settings):
    torch.manual_seed(0)
    return TRUNKS[mode](tasks=TASKS, encoder=encoder, width=8, dropout=0.0, strength=0.5, **settings)


@pytest.mark.parametrize("mode", sorted(TRUNKS))
def test_contract(mode):
    trunk = build(mode).eval()
    x, lengths = torch.randn(2, 5, 8), torch.tensor([5, 3])
    states = trunk(x, lengths, ("c", "a"))
    assert list(states) == ["c", "a"]
    assert all(state.shape == x.shape for state in states.values())
    x[1, 3:] = 7.0  # padding
    torch.testing.assert_close(trunk(x, lengths, ("a",))["a"][1, :3], states["a"][1, :3])


def test_hard_is_shared_head_plus_task_head_of_the_shared_states():
    trunk = build("hard").eval()
    assert isinstance(trunk, HardTrunk)
    x, lengths = torch.randn(2, 5, 8), torch.tensor([5, 3])
    g = trunk.shared(x, lengths)
    expected = (g + trunk.shared_head(g)) + trunk.task_heads["b"](g)
    torch.testing.assert_close(trunk(x, lengths, TASKS)["b"], expected)
    assert trunk.penalty() == 0


def test_soft_starts_equal_and_pays_for_every_pair():
    trunk = build("soft")
    assert isinstance(trunk, SoftTrunk)
    assert trunk.penalty().item() == 0.0
    bias = {task: trunk.encoders[task].blocks[0].norm.bias for task in TASKS}
    with torch.no_grad():
        bias["a"][0] += 1.0
        bias["b"][0] += 3.0
    # Pairs differ by 2, 1 and 3: 0.5 x (4 + 1 + 9) = 7. d/da = 0.5 x 2 x ((1 - 3) + (1 - 0)) = -1.
    penalty = trunk.penalty()
    assert penalty.item() == pytest.approx(7.0)
    penalty.backward()
    assert bias["a"].grad[0].item() == pytest.approx(-1.0)
    assert bias["b"].grad[0].item() == pytest.approx(5.0)
    assert bias["c"].grad[0].item() == pytest.approx(-4.0)


def test_distances_by_hand():
    one, other = [torch.tensor([1.0, 2.0]), torch.tensor([0.0])], [torch.tensor([1.0, 0.0]), torch.tensor([2.0])]
    assert DISTANCES["l2"](one, other).item() == pytest.approx(8.0)
    assert DISTANCES["l1"](one, other).item() == pytest.approx(4.0)
    assert DISTANCES["cosine"](one, other).item() == pytest.approx(1 - 1 / (5**0.5 * 5**0.5))
