"""Stitches, gates, masks, messages and adapters: by hand on a tiny case, and where they must equal plain sharing."""

import math

import pytest
import torch

from mtl.config.sharing import MODES
from mtl.sharing.adapter import Adapter
from mtl.sharing.experts import Gate
from mtl.sharing.graph import directed
from tests.mtl.sharing.test_sharing import TASKS, Times, build, encoder, rows, stirred

ONE = torch.ones(1, 1, 8), torch.tensor([1])  # a row of one frame


def single(blocks=2):
    """The encoder that `build` makes first."""
    torch.manual_seed(0)
    return encoder(blocks).eval()


def set_gate(gate, *weights):
    """An even reading of the states, so that the gate gives these weights to whatever it hears."""
    with torch.no_grad():
        gate.linear.weight.zero_()
        gate.linear.bias.copy_(torch.tensor(weights).log())


def test_cross_stitch_at_identity_is_separate_trunks():
    trunk = stirred("cross_stitch")
    with torch.no_grad():
        trunk.matrices().copy_(torch.eye(3).expand(2, 3, 3))
    x, lengths = rows()
    states = trunk(x, lengths, TASKS)
    for task in TASKS:
        assert torch.equal(states[task], trunk.encoders[task](x, lengths))
    (states["a"] * torch.randn_like(x)).sum().backward()
    assert all(not p.grad.any() for p in trunk.encoders["b"].parameters())  # nothing passes,
    assert trunk.units.grad.view(2, 3, 3)[:, 0, 1].abs().min() > 0  # but that more should pass is learned


def test_cross_stitch_starts_as_one_encoder_near_identity():
    trunk = build("cross_stitch").eval()
    torch.testing.assert_close(trunk.diagnostics()["units"][1], 0.85 * torch.eye(3) + 0.05)
    x, lengths = rows()
    for state in trunk(x, lengths, TASKS).values():
        torch.testing.assert_close(state, single()(x, lengths))


def test_cross_stitch_by_hand():
    trunk = build("cross_stitch", tasks=("a", "b"))
    for task, factor in (("a", 2.0), ("b", 10.0)):
        trunk.encoders[task].blocks[0] = trunk.encoders[task].blocks[1] = Times(factor)
    # 2, 10 -> 0.9 x 2 + 0.1 x 10 = 2.8 and 9.2 -> 5.6 and 92 -> 0.9 x 5.6 + 9.2 = 14.24 and 0.56 + 82.8 = 83.36.
    states = trunk(*ONE, ("a", "b"))
    assert states["a"][0, 0, 0].item() == pytest.approx(14.24)
    assert states["b"][0, 0, 0].item() == pytest.approx(83.36)


def test_a_task_alone_keeps_its_states():
    x, lengths = rows()
    torch.testing.assert_close(
        build("cross_stitch", tasks=("a",)).eval()(x, lengths, ("a",))["a"], single()(x, lengths)
    )


def test_gate_is_the_softmax_of_a_linear_layer():
    gate = Gate(2, 3)
    assert gate(torch.randn(4, 2)).tolist() == [[pytest.approx(1 / 3)] * 3] * 4  # starts even
    with torch.no_grad():
        gate.linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        gate.linear.bias.copy_(torch.tensor([0.0, 0.0, math.log(2.0)]))
    # Logits log 3, log 4, log 2: 3/9, 4/9, 2/9.
    assert gate(torch.tensor([[3.0, 4.0]]).log())[0].tolist() == pytest.approx([3 / 9, 4 / 9, 2 / 9])


@pytest.mark.parametrize("expert_blocks", [1, 2])
def test_mmoe_with_one_expert_is_the_single_encoder(expert_blocks):
    trunk = build("mmoe", experts=1, expert_blocks=expert_blocks).eval()
    x, lengths = rows()
    for state in trunk(x, lengths, TASKS).values():
        assert torch.equal(state, single()(x, lengths))


def test_mmoe_by_hand():
    trunk = build("mmoe", experts=2, expert_blocks=2).eval()  # nothing below the experts
    trunk.experts[0], trunk.experts[1] = Times(10.0), Times(20.0)
    set_gate(trunk.gates["a"], 0.25, 0.75)
    set_gate(trunk.gates["b"], 1.0, 1e-9)
    states = trunk(*ONE, ("a", "b"))
    assert states["a"][0, 0, 0].item() == pytest.approx(17.5)
    assert states["b"][0, 0, 0].item() == pytest.approx(10.0)
    gates = trunk.diagnostics()["gates"]
    torch.testing.assert_close(gates[:2], torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert gates[2].isnan().all()  # never asked for


@pytest.mark.parametrize("mode", ["mmoe", "ple"])
def test_gates_sum_to_one_ignore_padding_and_count_rows(mode):
    x, lengths = rows()
    seen = []
    for parts in ([(x, lengths)], [(x[:1], lengths[:1]), (x[1:, :3], lengths[1:])]):
        trunk = stirred(mode, expert_blocks=2)
        for part in parts:
            trunk(*part, TASKS)
        seen.append(trunk.diagnostics())
    for name, gates in seen[0].items():
        torch.testing.assert_close(gates.sum(dim=-1), torch.ones(gates.shape[:-1]))
        torch.testing.assert_close(gates, seen[1][name])
    assert (seen[0]["gates"].flatten(0, -2).std(dim=0) > 1e-3).all()  # tasks do differ


@pytest.mark.parametrize("mode", ["mmoe", "ple"])
@pytest.mark.parametrize("expert_blocks", [0, 3])
def test_more_expert_blocks_than_blocks_are_refused(mode, expert_blocks):
    with pytest.raises(ValueError, match=rf"expert_blocks is {expert_blocks}, expected 1 to 2"):
        build(mode, expert_blocks=expert_blocks)


def test_ple_by_hand():
    trunk = build("ple", tasks=("a", "b"), shared_experts=1, expert_blocks=2).eval()
    for level in trunk.levels:
        level.task_experts["a"], level.task_experts["b"] = Times(2.0), Times(3.0)
        level.shared_experts[0] = Times(5.0)
    first, last = trunk.levels
    set_gate(first.gates["a"], 0.25, 0.75)
    set_gate(first.gates["b"], 0.5, 0.5)
    set_gate(first.shared_gate, 0.5, 0.25, 0.25)
    set_gate(last.gates["b"], 1 / 3, 2 / 3)
    assert last.shared_gate is None
    # Level 1: a 0.25 x 2 + 0.75 x 5 = 4.25; b 1.5 + 2.5 = 4; shared 0.5 x 2 + 0.25 x 3 + 0.25 x 5 = 3.
    # Level 2: experts 8.5, 12 and 15; a (8.5 + 15) / 2 = 11.75; b 12 / 3 + 2 x 15 / 3 = 14.
    states = trunk(*ONE, ("a", "b"))
    assert states["a"][0, 0, 0].item() == pytest.approx(11.75)
    assert states["b"][0, 0, 0].item() == pytest.approx(14.0)
    diagnostics = trunk.diagnostics()
    expected = torch.tensor([[[0.25, 0.75], [0.5, 0.5]], [[0.5, 0.5], [1 / 3, 2 / 3]]])
    torch.testing.assert_close(diagnostics["gates"], expected)
    torch.testing.assert_close(diagnostics["shared_gates"], torch.tensor([[0.5, 0.25, 0.25]]))


def test_an_expert_of_another_task_is_trained_through_the_lower_level_alone():
    trunk = stirred("ple", expert_blocks=2)
    x, lengths = rows()
    (trunk(x, lengths, ("a",))["a"] * torch.randn_like(x)).sum().backward()
    reached = {name for name, parameter in trunk.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("levels.0.task_experts.b.") for name in reached)  # by way of the shared gate
    assert not any(name.startswith(("levels.0.gates.b.", "levels.1.task_experts.b.")) for name in reached)


def set_masks(trunk, bias):
    with torch.no_grad():
        for task in TASKS:
            for mask in trunk.masks[task]:
                mask.widen.weight.zero_()
                mask.widen.bias.fill_(bias)


def test_attention_with_masks_of_one_is_the_shared_encoder():
    trunk = build("attention").eval()
    set_masks(trunk, 40.0)  # 1 in fp32
    x, lengths = rows()
    for state in trunk(x, lengths, TASKS).values():
        assert torch.equal(state, trunk.shared(x, lengths))
    assert torch.equal(trunk.diagnostics()["masks"], torch.ones(2, 3, 8))


def test_attention_by_hand():
    trunk = build("attention").eval()
    set_masks(trunk, 0.0)
    trunk.shared.blocks[0], trunk.shared.blocks[1] = Times(2.0), Times(3.0)
    assert (
        trunk(*ONE, ("b",))["b"][0, 0].tolist() == [3.0] * 8
    )  # sigmoid(0) x 2 x 3: the first mask is not multiplied in
    with torch.no_grad():
        mask = trunk.masks["b"][1]  # reads the LayerNorm of six 6s beside six 1s: of (6, 1), +1 and -1
        mask.narrow.weight.zero_()
        mask.narrow.weight[0, 0], mask.narrow.weight[0, 8] = 2.0, 1.0
        mask.narrow.bias.zero_()
        mask.widen.weight[:, 0] = 1.0
        expected = 6 / (1 + math.exp(-(2.0 - 1.0)))
        assert trunk(*ONE, ("b",))["b"][0, 0].tolist() == pytest.approx([expected] * 8, rel=1e-4)
    diagnostics = trunk.diagnostics()["masks"]
    assert diagnostics[:, 0].isnan().all()
    assert diagnostics[1, 1, 0].item() == pytest.approx((0.5 + expected / 6) / 2, rel=1e-4)  # two frames were seen


def test_graph_is_states_plus_weighted_messages():
    trunk = stirred("graph")
    x, lengths = rows()
    shared = trunk.shared(x, lengths)
    z = {task: shared + trunk.task_heads[task](shared) for task in TASKS}
    weight = dict(zip(trunk.edges, trunk.weights, strict=True))
    expected = z["b"] + weight["a", "b"] * trunk.messages["a"](z["a"]) + weight["c", "b"] * trunk.messages["c"](z["c"])
    torch.testing.assert_close(trunk(x, lengths, ("b",))["b"], expected)
    edges = trunk.diagnostics()["edges"]
    exists = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    message = weight["c", "b"] * trunk.messages["c"](z["c"])
    torch.testing.assert_close(edges[1, 2], (message.norm(dim=-1) / z["b"].norm(dim=-1))[exists].mean())
    assert edges[0, 1].isnan()  # a was not asked for
    assert edges[0, 2] == 0  # no edge


def test_graph_with_zero_edges_is_no_messages():
    x, lengths = rows()
    trunk, silent = stirred("graph"), build("graph", graph=()).eval()
    missing = silent.load_state_dict(
        {name: value for name, value in trunk.state_dict().items() if not name.startswith(("messages", "weights"))},
        strict=False,
    )
    assert missing.missing_keys == ["weights"]  # of size zero
    with torch.no_grad():
        trunk.weights.zero_()
    for task, state in trunk(x, lengths, TASKS).items():
        assert torch.equal(state, silent(x, lengths, TASKS)[task])
    assert silent.diagnostics() == {}


def test_graph_edges():
    assert directed(None, ("transcript", "intent", "slots", "domain")) == (
        ("intent", "slots"),
        ("slots", "intent"),
        ("slots", "domain"),
        ("domain", "slots"),
    )
    assert directed(None, ("slots", "intent")) == (("intent", "slots"), ("slots", "intent"))
    assert directed(None, ("transcript",)) == ()
    assert directed((("a", "b"), ("b", "a")), TASKS) == (("a", "b"), ("b", "a"))
    # Each starts at one over its receiver's neighbours: b has two.
    trunk = build("graph")
    assert dict(zip(trunk.edges, trunk.weights.tolist(), strict=True)) == {
        ("a", "b"): 0.5,
        ("b", "a"): 1.0,
        ("b", "c"): 1.0,
        ("c", "b"): 0.5,
    }
    with pytest.raises(ValueError, match=r"holds \['a', 'a'\], expected a pair of two different tasks"):
        directed((("a", "a"),), TASKS)


def test_adapters_off_are_the_base_bit_for_bit():
    trunk, base = build("adapter").eval(), single()
    x, lengths = rows()
    for state in trunk(x, lengths, TASKS).values():
        assert torch.equal(state, base(x, lengths))
    with torch.no_grad():
        trunk.adapters["b"][0].up.bias[0] += 3.0
    states = trunk(x, lengths, TASKS)
    assert torch.equal(states["a"], base(x, lengths))
    assert not torch.allclose(states["b"], states["a"], atol=0.1)


def test_adapter_by_hand():
    adapter = Adapter(width=2, bottleneck=1, dropout=0.0)
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, 0.0]]))
        adapter.down.bias.zero_()
        adapter.up.weight.copy_(torch.tensor([[2.0], [0.0]]))
    # LayerNorm of (3, 1) is (1, -1); SiLU(1) = 1 / (1 + e^-1) = 0.73106.
    assert adapter(torch.tensor([[3.0, 1.0]]))[0].tolist() == pytest.approx([3 + 2 * 0.73106, 1.0], rel=1e-4)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_what_is_not_shared_is_trained_by_one_task_alone(mode):
    trunk = stirred(mode)
    shared = {id(p) for p in trunk.shared_parameters()}
    x, lengths = rows()
    reached = {}
    for task in TASKS:
        trunk.zero_grad()
        trunk(x, lengths, TASKS)[task].square().sum().backward()
        reached[task] = {id(p) for p in trunk.parameters() if p.grad is not None and p.grad.any()}
    several = {id(p) for p in trunk.parameters() if sum(id(p) in found for found in reached.values()) > 1}
    # A message has one receiver here and may have more in a larger graph.
    assert several <= shared if mode == "graph" else several == shared
