"""A curriculum by hand: who trains when, with which learning rate, and what is refused."""

import pytest
import torch

from mtl.config.training import FitConfig, Stage
from mtl.training.curriculum import Curriculum
from mtl.training.fit import _Run
from tests.mtl.training.test_backward import fresh, train
from tests.support import tiny

EAR, HEADS = Stage("ear", ("transcript",), 1), Stage("heads", ("intent", "slots"), 2, "heads")


def test_an_epoch_belongs_to_one_stage():
    curriculum = Curriculum((EAR, HEADS), tiny.TASKS, 5)
    assert [curriculum.at(epoch).name for epoch in range(6)] == ["ear", "heads", "heads", "joint", "joint", "joint"]
    assert curriculum.at(4) == Stage("joint", tiny.TASKS, 2)
    assert [stage.name for stage in Curriculum((), tiny.TASKS, 1).stages] == ["joint"]


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        ((Stage("a", ("emotion",), 1),), "'a' names emotion; the tasks are transcript, intent"),
        ((Stage("a", ("intent",), 0),), "'a' has 0 epochs"),
        ((Stage("a", (), 1),), "1 epochs and 0 tasks"),
        ((EAR, EAR), "two stages are named ear"),
        ((Stage("joint", ("intent",), 1),), "two stages are named joint"),
        ((EAR, HEADS), "take 3 epochs of 3; at least one must be left"),
    ],
)
def test_what_cannot_be_followed_is_refused(stages, fault):
    with pytest.raises(ValueError, match=fault):
        Curriculum(stages, tiny.TASKS, 3)


def changed(before, after):
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@pytest.mark.parametrize("method", ["static", "famo", "pcgrad", "gradnorm"])
def test_a_stage_moves_its_own_tasks_alone(method):
    model = fresh()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    shared = {name for name, p in model.named_parameters() if any(p is one for one in model.shared_parameters())}
    changes = {"epochs": 4, "curriculum": (EAR, HEADS)}
    _, metrics, reports = train(method, changes=changes, model=model)
    first, third, last = (reports[epoch][1]["model"] for epoch in (0, 2, 3))

    moved = changed(before, first)
    assert {name for name in moved if name.startswith("tasks.")} == {
        name for name in before if name.startswith("tasks.transcript.")
    }
    assert not any(name.startswith("trunk.task_heads") and "transcript" not in name for name in moved)
    assert "trunk.shared.blocks.0.norm.weight" in moved
    assert reports[0][0].keys().isdisjoint({"train/intent/loss", "train/speaker/loss"})

    moved = changed(first, third)
    assert moved.isdisjoint(shared)
    assert {name.split(".")[1] for name in moved if name.startswith("tasks.")} == {"intent", "slots"}
    assert "train/transcript/loss" not in reports[2][0]

    assert {name.split(".")[1] for name in changed(third, last) if name.startswith("tasks.")} == set(tiny.TASKS)
    assert "trunk.shared.blocks.0.norm.weight" in changed(third, last)
    assert [metrics["stage"] for metrics, _ in reports] == [0, 1, 1, 2]
    assert all(p.requires_grad for p in model.parameters())
    assert {"train/transcript/loss", "train/slots/loss"} < metrics.keys()


def test_the_learning_rate_follows_all_steps_or_each_stage():
    model = fresh()
    loader = tiny.TinyLoader(tiny.batches(model.codec), 1)  # 6 steps an epoch
    settings = {"epochs": 3, "warmup": 0.5, "device": "cpu", "curriculum": (EAR,)}
    whole = _Run(model, loader, FitConfig(**settings))
    each = _Run(model, loader, FitConfig(**settings, restart=True))
    assert whole.spans == [(0, 18)]
    assert each.spans == [(0, 6), (6, 12)]
    found = {}
    for run in (whole, each):
        factors = []
        for run.step in (0, 2, 3, 6, 11, 12):
            factors.append(round(run.learning_rate_factor(), 6))
        found[run] = factors
    # Warm-up takes half: 9 of 18 steps, or 3 of the first 6 and 6 of the other 12; then half a cosine to zero.
    assert found[whole] == [round(x, 6) for x in (1 / 9, 3 / 9, 4 / 9, 7 / 9, 0.883022, 0.75)]
    assert found[each] == [round(x, 6) for x in (1 / 3, 1, 1, 1 / 6, 1, 1)]
