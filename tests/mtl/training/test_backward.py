"""Every balancing method: the same numbers however a step is dealt over ranks, cut up, or broken off."""

import copy
import os
import socket
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mtl.balancing import Balancer
from mtl.config.balancing import METHODS
from mtl.config.training import FitConfig
from mtl.models.joint import build_model
from mtl.training import checkpoint
from mtl.training.backward import Backward
from mtl.training.fit import fit
from tests.support import tiny

EPOCHS = {"dwa": 4}  # its weights move from the third on
ALL_METHODS = pytest.mark.parametrize("method", sorted(METHODS))
BOUNDS = {"rtol": 1e-3, "atol": 3e-4}  # a thirtieth of one step of Adam


def config(method, **changes):
    made = FitConfig(
        epochs=EPOCHS.get(method, 2), learning_rate=1e-2, device="cpu", seed=7, clip_norm=1e9,
        balancing=METHODS.select(method), inspect_every=2,
    )  # fmt: skip
    return replace(made, task_weights={"intent": 0.5, "domain": 2.0}, **changes)


def fresh(**settings):
    torch.manual_seed(0)
    return build_model(tiny.config(**settings), tiny.codec())


def train(method, micro_batches=None, per_step=3, rank=0, world=1, changes=None, model=None, **arguments):
    model = model or fresh()
    reports = []
    loader = tiny.TinyLoader(micro_batches or tiny.batches(model.codec), per_step, rank, world)
    metrics = fit(
        model,
        loader,
        config(method, **(changes or {})),
        lambda metrics, state: reports.append((metrics, copy.deepcopy(state))),
        **arguments,
    )
    return dict(model.state_dict()), metrics, reports


def assert_same(one, other, exact=False):
    for name, tensor in one.items():
        bounds = {"rtol": 0, "atol": 0} if exact else BOUNDS
        torch.testing.assert_close(tensor, other[name], msg=lambda text, name=name: f"{name}: {text}", **bounds)


def _rank(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for method in METHODS:
        weights, metrics, _ = train(method, rank=rank, world=2)
        checkpoint.save(f"{folder}/{method}/{rank}", {"model": weights, "metrics": metrics})
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Every method on two ranks, in one pair of processes. Of three micro-batches a step one rank takes two, so that
    for a scalarizer it makes two passes and the other one; in most steps a rank lacks every label of some task."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, (port, str(folder)), nprocs=2)
    return folder


@ALL_METHODS
def test_two_ranks_are_one(two_ranks, method):
    ranks = [checkpoint.load(two_ranks / method / str(rank)) for rank in range(2)]
    weights, metrics, _ = train(method)
    assert_same(ranks[0]["model"], ranks[1]["model"], exact=True)
    assert_same(ranks[0]["model"], weights)
    compared = [name for name in metrics if name.startswith(("weight/", "cosine/", "conflict/", "train/"))]
    assert len(compared) >= 40
    named = {"cosine/transcript:intent", "cosine/block 1/transcript:intent", "conflict/text/intent:slots"}
    assert named <= set(compared)
    for name in compared:
        assert ranks[1]["metrics"][name] == pytest.approx(metrics[name], rel=2e-3, abs=2e-3), name


@ALL_METHODS
def test_accumulation_is_one_large_batch(method):
    still = {"dropout": 0.0, "word_dropout": 0.0}
    cut, _, _ = train(method, per_step=6, model=fresh(**still))
    model = fresh(**still)
    whole, _, _ = train(method, [tiny.joined(model.codec)], per_step=1, model=model)
    assert_same(cut, whole)


@ALL_METHODS
def test_resumed_is_uninterrupted(tmp_path, method):
    """Broken off in mid-epoch; the checkpoint goes through the disk."""
    every_step = {"checkpoint_seconds": 0.0}
    weights, metrics, reports = train(method, per_step=2, changes=every_step)
    in_mid_epoch = reports[-7]  # three steps and a report an epoch: two steps into the last but one
    assert in_mid_epoch[0] == {}
    checkpoint.save(tmp_path, in_mid_epoch[1])
    resumed, again, _ = train(method, per_step=2, changes=every_step, resume=checkpoint.load(tmp_path))
    assert_same(weights, resumed, exact=True)
    for name in metrics:
        if name.startswith(("weight/", "cosine/", "conflict/", "train/")):
            assert again[name] == metrics[name], name


@pytest.mark.parametrize("method", ["static", "uncertainty", "famo", "pcgrad"])
def test_looking_at_gradients_changes_nothing(method):
    looked, metrics, _ = train(method, per_step=2, changes={"inspect_every": 1})
    plain, others, _ = train(method, per_step=2, changes={"inspect_every": 0})
    assert_same(looked, plain, exact=True)
    seen = {name for name in metrics if name.startswith(("cosine/", "conflict/")) and name not in others}
    assert seen == metrics.keys() - others.keys()
    assert "cosine/audio/transcript:speaker" in seen
    assert ("cosine/block 1/transcript:speaker" in others) is (method == "pcgrad")


def test_parts_add_up_to_the_gramian_of_all():
    model = fresh()
    step = Backward(model, Balancer(model.config.tasks, {}), seed=0, inspect_every=1)(tiny.batches(model.codec)[:2], 0)
    assert (list(model.front_parts()), list(model.shared_parts())) == (["audio", "text"], ["block 1", "shared head"])
    text = step.front_gramians[1].diagonal()
    assert text[tiny.TASKS.index("transcript")] == 0  # it hears alone
    assert text[tiny.TASKS.index("intent")] > 0
    rows = Backward(fresh(), Balancer(model.config.tasks, {}, "pcgrad"), seed=0)(tiny.batches(model.codec)[:2], 0)
    torch.testing.assert_close(step.gramians, rows.gramians)
    assert rows.front_gramians is None


@pytest.mark.parametrize("method", ["static", "pcgrad"])
def test_gramians_of_parts_are_those_of_the_gradients(method):
    """Over two micro-batches, each part's beside torch's own gradients of the sums of the losses."""
    model = fresh(dropout=0.0, word_dropout=0.0, blocks=2)
    micro_batches = tiny.batches(model.codec)[:2]
    step = Backward(model, Balancer(model.config.tasks, {}, method), seed=0, inspect_every=1)(micro_batches, 0)
    sums = {}
    for batch in (batch for group in micro_batches for batch in group):
        for task, (loss, _) in model.losses(batch).items():
            sums[task] = sums.get(task, 0.0) + loss / step.counts[tiny.TASKS.index(task)]
    unused_are_zero = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    for parts, found in ((model.front_parts(), step.front_gramians), (model.shared_parts(), step.gramians)):
        for part, gramian in zip(parts.values(), found, strict=True):
            for one, other in (("transcript", "speaker"), ("intent", "slots"), ("intent", "intent")):
                sides = [torch.autograd.grad(sums[task], part, **unused_are_zero) for task in (one, other)]
                expected = sum((a * b).sum() for a, b in zip(*sides, strict=True))
                got = gramian[tiny.TASKS.index(one), tiny.TASKS.index(other)]
                torch.testing.assert_close(got, expected, rtol=2e-3, atol=1e-5)


def gradients(method, model):
    Backward(model, Balancer(model.config.tasks, {}, method), seed=0)(tiny.batches(model.codec)[:2], 0)
    return {name: p.grad for name, p in model.named_parameters()}


def test_rows_are_the_tasks_own_gradients():
    """`static` and a Gramian method whose weights are all 1 are one thing: GradNorm's first step."""
    plain, rows = gradients("static", fresh()), gradients("gradnorm", fresh())
    assert [name for name, grad in plain.items() if grad is None] == [n for n, grad in rows.items() if grad is None]
    assert_same({n: g for n, g in rows.items() if g is not None}, plain)


def test_a_task_s_own_parameters_get_their_plain_gradient():
    plain, projected = gradients("static", fresh()), gradients("mgda", fresh())
    model = fresh()
    shared = {id(p) for p in (*model.shared_parameters(), *model.front_parameters())}
    own = [name for name, p in model.named_parameters() if id(p) not in shared and plain[name] is not None]
    assert any(name.startswith("trunk.task_heads.intent") for name in own)
    assert any(name.startswith("tasks.slots") for name in own)
    assert_same({name: projected[name] for name in own}, plain)
    assert (projected["trunk.shared.blocks.0.norm.weight"] - plain["trunk.shared.blocks.0.norm.weight"]).norm() > 1e-3


@pytest.mark.parametrize("method", ["pcgrad", "mgda"])
def test_the_front_ends_follow_what_is_decided_in_the_trunk(method):
    """Over two micro-batches: the sum of the tasks' own gradients with the step's weights, as in the trunk."""
    model, weights = fresh(dropout=0.0, word_dropout=0.0), {"intent": 0.5, "domain": 2.0}
    micro_batches = tiny.batches(model.codec)[:2]
    step = Backward(model, Balancer(model.config.tasks, weights, method), seed=0)(micro_batches, 0)
    found = {name: p.grad for name, p in model.named_parameters() if name.startswith(("audio.", "text."))}
    model.zero_grad()
    for batch in (batch for group in micro_batches for batch in group):
        for task, (loss, _) in model.losses(batch).items():
            index = tiny.TASKS.index(task)
            (step.weights[index] / step.counts[index] * loss).backward(retain_graph=True)
    expected = {name: dict(model.named_parameters())[name].grad for name in found}
    assert {name.split(".")[0] for name in found} == {"audio", "text"}
    assert all(grad is not None for grad in found.values())
    for name, grad in expected.items():
        torch.testing.assert_close(
            found[name], grad, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_cosines_are_those_of_the_gradients():
    model = fresh(dropout=0.0, word_dropout=0.0)
    model.train()
    micro_batches = tiny.batches(model.codec)[:2]
    step = Backward(model, Balancer(model.config.tasks, {}, "pcgrad"), seed=0)(micro_batches, 0)
    sums = {}
    for batch in (batch for group in micro_batches for batch in group):
        for task, (loss, _) in model.losses(batch).items():
            sums[task] = sums.get(task, 0.0) + loss
    shared = model.shared_parameters()

    unused_are_zero = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}

    def direction(task):
        return torch.cat([g.flatten() for g in torch.autograd.grad(sums[task], shared, **unused_are_zero)])

    for one, other in (("transcript", "intent"), ("intent", "slots"), ("speaker", "domain")):
        expected = torch.cosine_similarity(direction(one), direction(other), dim=0)
        found = step.cosines[tiny.TASKS.index(one), tiny.TASKS.index(other)]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["pcgrad", "famo"])
def test_bf16_balances(method):
    _, metrics, _ = train(method, changes={"precision": "bf16"})
    assert metrics["weight/intent"] > 0
