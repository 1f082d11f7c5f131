"""The training loop: the same numbers however the work is cut up, dealt out or broken off."""

import copy
import os
import pickle
import socket
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mtl.config.balancing import METHODS
from mtl.config.training import FitConfig
from mtl.models.joint import build_model
from mtl.training import checkpoint
from mtl.training.fit import NonFiniteLoss, bf16_pays, final_weights, fit, learning_rate_factor, with_settings
from tests.support import tiny

CONFIG = FitConfig(epochs=3, learning_rate=1e-2, device="cpu", seed=7)


def fresh(**settings):
    torch.manual_seed(0)
    return build_model(tiny.config(**settings), tiny.codec())


def train(model, per_step=2, config=CONFIG, **arguments):
    reports = []
    loader = tiny.TinyLoader(tiny.batches(model.codec), per_step)
    fit(model, loader, config, lambda metrics, state: reports.append((metrics, copy.deepcopy(state))), **arguments)
    return reports


def assert_same_weights(one, other, exact=False):
    bounds = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-4}  # a hundredth of one step of Adam
    for (name, a), (_, b) in zip(one.items(), other.items(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}", **bounds)


def test_losses_fall_and_every_task_is_reported():
    reports = train(fresh(dropout=0.0), config=replace(CONFIG, epochs=40))
    first, last = reports[0][0], reports[-1][0]
    for task in tiny.TASKS:
        assert last[f"train/{task}/loss"] < 0.7 * first[f"train/{task}/loss"], task


def test_a_checkpoint_goes_on_with_other_settings():
    """Of a population's member: the same settings change nothing, others hold from the next step on."""
    config = replace(CONFIG, task_weights={"intent": 0.5})
    whole = train(fresh(), config=config)
    tasks = tiny.TASKS
    same = train(fresh(), config=config, resume=with_settings(copy.deepcopy(whole[0][1]), config, tasks))
    assert_same_weights(same[-1][1]["model"], whole[-1][1]["model"], exact=True)

    other = replace(CONFIG, learning_rate=3e-2, task_weights={"intent": 2.0})
    taken = with_settings(copy.deepcopy(whole[0][1]), other, tasks)
    assert_same_weights(taken["model"], whole[0][1]["model"], exact=True)
    assert whole[0][1]["optimiser"]["param_groups"][0]["peak"] == 1e-2
    moved = train(fresh(), config=other, resume=taken)
    assert [metrics["epoch"] for metrics, _ in moved] == [2, 3]
    rates = [metrics["learning_rate"] for metrics, _ in moved]
    assert rates == pytest.approx([3 * metrics["learning_rate"] for metrics, _ in whole[1:]])
    assert [metrics["weight/intent"] for metrics, _ in moved] == pytest.approx([2.0, 2.0])
    assert [metrics["weight/intent"] for metrics, _ in whole] == pytest.approx([0.5] * 3)
    assert moved[-1][1]["optimiser"]["state"].keys() == whole[-1][1]["optimiser"]["state"].keys()


def test_golden_losses():
    """A change that should not alter results must leave these as they are. Made on CPU, fp32, torch 2.13."""
    found = [report[0] for report in train(fresh(dropout=0.0))]
    for task, expected in GOLDEN.items():
        assert [round(metrics[f"train/{task}/loss"], 3) for metrics in found] == pytest.approx(expected, abs=2e-3), task


GOLDEN = {
    "transcript": [6.756, 4.076, 3.543],
    "intent": [1.13, 1.036, 0.999],
    "slots": [1.103, 0.789, 0.699],
    "domain": [0.745, 0.659, 0.666],
    "speaker": [1.225, 1.098, 1.082],
}


def test_accumulation_is_one_large_batch():
    model, other = fresh(dropout=0.0, word_dropout=0.0), fresh(dropout=0.0, word_dropout=0.0)
    train(model, per_step=6)
    fit(other, tiny.TinyLoader([tiny.joined(other.codec)], 1), CONFIG)
    assert_same_weights(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("balancing", ["static", "uncertainty"])
@pytest.mark.parametrize("sharing", ["hard", "soft"])
def test_resumed_is_uninterrupted(tmp_path, balancing, sharing):
    chosen = METHODS.select(balancing)
    config = replace(CONFIG, balancing=chosen, ema=0.9, checkpoint_seconds=0.0)  # a checkpoint after every step
    whole = fresh(sharing=sharing)
    reports = train(whole, config=config)
    in_mid_epoch = reports[5]  # three steps and a report an epoch: this is the first step of the second
    assert in_mid_epoch[0] == {}
    checkpoint.save(tmp_path, in_mid_epoch[1])
    resumed = fresh(sharing=sharing)
    rest = train(resumed, config=config, resume=checkpoint.load(tmp_path))
    assert_same_weights(whole.state_dict(), resumed.state_dict(), exact=True)
    for task in tiny.TASKS:
        assert rest[-1][0][f"train/{task}/loss"] == reports[-1][0][f"train/{task}/loss"]
        assert rest[-1][0][f"weight/{task}"] == reports[-1][0][f"weight/{task}"]


def _rank(rank, world, port, folder, config, settings):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.manual_seed(rank)  # ranks that start apart must be brought together
    model = build_model(tiny.config(**settings), tiny.codec()) if rank else fresh(**settings)
    loader = tiny.TinyLoader(tiny.batches(model.codec), 2, rank, world)
    metrics = fit(model, loader, config)
    checkpoint.save(f"{folder}/{rank}", {"model": dict(model.state_dict()), "metrics": metrics})
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("balancing", "sharing"),
    [("static", "soft"), ("uncertainty", "hard"), ("static", "mmoe"), ("static", "ple")],
)
def test_two_ranks_are_one(tmp_path, balancing, sharing):
    """Dropout on; in most steps one of the ranks lacks every label of some task."""
    config = replace(CONFIG, balancing=METHODS.select(balancing))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, (2, port, str(tmp_path), config, {"sharing": sharing}), nprocs=2)
    alone = fresh(sharing=sharing)
    metrics = fit(alone, tiny.TinyLoader(tiny.batches(alone.codec), 2), config)
    ranks = [checkpoint.load(tmp_path / str(rank)) for rank in range(2)]
    assert_same_weights(ranks[0]["model"], ranks[1]["model"], exact=True)
    assert_same_weights(ranks[0]["model"], alone.state_dict())
    for task in tiny.TASKS:
        assert ranks[1]["metrics"][f"train/{task}/loss"] == pytest.approx(metrics[f"train/{task}/loss"], rel=1e-4)


def test_a_missing_label_trains_nothing_and_decays_nothing():
    model = fresh()
    before = copy.deepcopy(model.tasks["domain"].state_dict())
    batches = [
        batch
        for batch in tiny.batches(model.codec)
        if not any(part.targets["domain"].labelled().any() for part in batch)
    ]
    assert len(batches) >= 2
    fit(model, tiny.TinyLoader(batches, 1), replace(CONFIG, weight_decay=0.5))
    assert_same_weights(before, model.tasks["domain"].state_dict(), exact=True)


def test_not_a_number_names_task_and_rows_and_leaves_the_model():
    model = fresh()
    micro_batches = tiny.batches(model.codec)
    heard, read = micro_batches[2]
    micro_batches[2] = (heard.with_inputs("audio", features=heard.features * torch.nan), read)
    good = fresh()
    fit(good, tiny.TinyLoader(micro_batches[:2], 1), replace(CONFIG, epochs=1), resume=None)
    with pytest.raises(NonFiniteLoss, match=r"transcript.*step 2.*a3") as caught:
        fit(model, tiny.TinyLoader(micro_batches, 1), replace(CONFIG, epochs=1))
    assert "a3" in caught.value.ids
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # it travels between processes
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_average_is_validated_kept_and_not_trained_on():
    seen = []
    model = fresh()

    def validate(model):
        seen.append(copy.deepcopy(dict(model.named_parameters())))
        return {"valid/transcript/wer": 1.0}

    reports = train(model, config=replace(CONFIG, ema=0.9), validate=validate)
    kept = final_weights(reports[-1][1])
    assert reports[-1][0]["valid/transcript/wer"] == 1.0
    assert_same_weights({name: kept[name] for name in seen[-1]}, seen[-1], exact=True)
    assert_same_weights(dict(model.named_parameters()), seen[-1], exact=True)
    plain = fresh()
    train(plain)
    assert_same_weights(reports[-1][1]["model"], plain.state_dict(), exact=True)


def test_bf16_trains():
    reports = train(fresh(dropout=0.0), config=replace(CONFIG, epochs=30, precision="bf16"))
    assert reports[-1][0]["train/intent/loss"] < 0.5 * reports[0][0]["train/intent/loss"]


def test_schedule():
    factors = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[6] == pytest.approx(0.5)
    assert factors[-1] == pytest.approx(0.0381, abs=1e-4)  # 0.5 (1 + cos(7 pi / 8))


@pytest.mark.parametrize(
    ("amx", "avx", "width", "pays"),
    [(True, True, 128, False), (True, True, 384, True), (False, True, 128, True), (False, False, 384, False)],
)
def test_bf16_is_taken_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool, width: int, pays: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert bf16_pays(torch.device("cpu"), width) == pays
