"""The contract of a sharing mode, held by all of them; and the ones whose tasks share all or nothing, by hand."""

import copy

import pytest
import torch
from torch import nn

from mtl.config import sharing
from mtl.layers.encoder import Encoder, padding_mask
from mtl.sharing.base import mix, pool
from mtl.sharing.hard import HardTrunk
from mtl.sharing.soft import DISTANCES, SoftTrunk

TASKS = ("a", "b", "c")
SETTINGS = {"experts": 3, "shared_experts": 2, "expert_blocks": 1, "bottleneck": 4, "graph": (("a", "b"), ("b", "c"))}
MODES = sorted(sharing.MODES)


def encoder(blocks=None):
    return Encoder(blocks=2 if blocks is None else blocks, width=8, heads=2, kernel=3, expansion=2, dropout=0.0)


def build(mode, tasks=TASKS, encoder=encoder, width=8, dropout=0.0, **settings):
    torch.manual_seed(0)
    chosen = sharing.MODES.select(mode, **{"strength": 0.5, **SETTINGS, **settings})
    return chosen.implementation(tasks, encoder, width, dropout, chosen.settings)


def stirred(mode, **settings):
    """A trunk in which nothing is zero or even any more, as after training."""
    trunk = build(mode, **settings).eval()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return trunk


def rows():
    """Two rows of five and three frames."""
    torch.manual_seed(1)
    return torch.randn(2, 5, 8), torch.tensor([5, 3])


@pytest.mark.parametrize("settings", [{}, {"expert_blocks": 2}], ids=["one expert block", "two"])
@pytest.mark.parametrize("mode", MODES)
def test_contract(mode, settings):
    trunk = stirred(mode, **settings)
    x, lengths = rows()
    states = trunk(x, lengths, ("c", "a"))
    assert list(states) == ["c", "a"]
    assert all(state.shape == x.shape for state in states.values())
    assert not torch.allclose(states["a"], states["c"])  # tasks have something of their own
    everything = trunk(x, lengths, TASKS)
    for task in TASKS:  # company changes nothing
        torch.testing.assert_close(trunk(x, lengths, (task,))[task], everything[task])
    assert trunk(x, lengths, ()) == {}


@pytest.mark.parametrize("mode", MODES)
def test_padding_changes_nothing(mode):
    trunk = stirred(mode, expert_blocks=2)
    x, _ = rows()
    alone = trunk(x[1:, :3], torch.tensor([3]), TASKS)
    longer = torch.cat((x, torch.full((2, 4, 8), 1e3)), dim=1)
    longer[1, 3:] = -7.0
    beside = trunk(longer, torch.tensor([5, 3]), TASKS)
    for task in TASKS:
        torch.testing.assert_close(beside[task][1, :3], alone[task][0])


@pytest.mark.parametrize("mode", MODES)
def test_under_bf16_autocast(mode):
    trunk = stirred(mode)
    x, lengths = rows()
    exact = trunk(x, lengths, TASKS)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = trunk(x, lengths, TASKS)
        total = torch.stack([(state.float() * torch.randn_like(x)).sum() for state in rounded.values()]).sum()
    (total + trunk.penalty()).backward()
    for task in TASKS:
        # bf16 keeps 8 bits; LayerNorm brings states to about 1.
        torch.testing.assert_close(rounded[task].float(), exact[task], rtol=0.1, atol=0.1)
    assert all(torch.isfinite(p.grad).all() for p in trunk.parameters() if p.grad is not None)


# Prefixes of the parameters that task "a" trains, where the expert blocks are the last of two; b is a's neighbour.
REACHED = {
    "hard": ("shared.", "shared_head.", "task_heads.a."),
    "soft": ("encoders.a.",),
    "cross_stitch": ("encoders.a.", "encoders.b.", "encoders.c.", "units"),
    "mmoe": ("stem.", "experts.0.", "experts.1.", "experts.2.", "gates.a."),
    "ple": ("stem.", "levels.0.task_experts.a.", "levels.0.shared_experts.", "levels.0.gates.a."),
    "attention": ("shared.", "masks.a."),
    "graph": ("shared.", "task_heads.a.", "task_heads.b.", "messages.b.", "weights"),
    "adapter": ("shared.", "adapters.a."),
}


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_what_a_task_uses_and_nothing_else(mode):
    trunk = stirred(mode)
    x, lengths = rows()
    (trunk(x, lengths, ("a",))["a"] * torch.randn_like(x)).sum().backward()
    reached = {name for name, parameter in trunk.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in trunk.named_parameters() if name.startswith(REACHED[mode])}
    for prefix in REACHED[mode]:
        size = sum(p.grad.abs().sum() for name, p in trunk.named_parameters() if name.startswith(prefix))
        assert size > 1e-3, prefix


@pytest.mark.parametrize("mode", MODES)
def test_diagnostics_are_made_in_use_and_kept_out_of_the_weights(mode):
    trunk = stirred(mode)
    x, lengths = rows()
    names = set(trunk.state_dict())
    before = trunk.diagnostics()
    trunk(x, lengths, ("a", "b"))
    diagnostics = trunk.diagnostics()
    assert {name: tuple(tensor.shape) for name, tensor in diagnostics.items()} == DIAGNOSTICS[mode]
    assert not any(tensor.requires_grad for tensor in diagnostics.values())
    assert set(trunk.state_dict()) == names
    twin = copy.deepcopy(trunk)
    for name, tensor in twin.diagnostics().items():
        torch.testing.assert_close(tensor, diagnostics[name], equal_nan=True)
    trunk.train()
    trunk(x, lengths, ("a", "b"))
    assert set(trunk.diagnostics()) == set(before)


DIAGNOSTICS = {
    "hard": {},
    "soft": {"distances": (2, 3, 3)},
    "cross_stitch": {"units": (2, 3, 3)},
    "mmoe": {"gates": (3, 3)},
    "ple": {"gates": (1, 3, 3)},
    "attention": {"masks": (2, 3, 8)},
    "graph": {"edges": (3, 3)},
    "adapter": {"adapters": (2, 3)},
}


def test_what_must_not_decay_is_no_matrix():
    # fit decays matrices: these would be pulled towards silence.
    assert build("cross_stitch").units.ndim == 1
    assert build("graph").weights.ndim == 1


def test_pool_is_the_mean_of_what_exists():
    x = torch.tensor([[[1.0], [3.0], [torch.nan]], [[5.0], [7.0], [9.0]], [[1.0], [1.0], [1.0]]])
    mask = padding_mask(torch.tensor([2, 3, 0]), 3)
    assert pool(x, mask).tolist() == [[2.0], [7.0], [0.0]]


def test_mix_by_hand():
    one, other = torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[[10.0]], [[20.0]]])  # (B=2, T=1, D=1)
    for_all = mix(torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 2.0]]), [one, other])
    assert for_all.flatten(1).tolist() == [[5.5, 11.0], [1.0, 2.0], [20.0, 40.0]]
    by_row = mix(torch.tensor([[[1.0, 0.0]], [[0.5, 0.1]]]), [one, other])
    assert by_row.flatten(1).tolist() == [[1.0, 3.0]]


def test_hard_is_shared_head_plus_task_head_of_the_shared_states():
    trunk = build("hard").eval()
    assert isinstance(trunk, HardTrunk)
    x, lengths = rows()
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


class Times(nn.Module):
    """A block or an encoder whose result is known by heart."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x, lengths):
        return self.factor * x
