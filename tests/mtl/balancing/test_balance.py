"""Balancing against published values, torchjd itself, hand-worked values and independent solvers."""

import contextlib
import math

import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torchjd import aggregation, scalarization

from mtl.balancing import Balancer
from mtl.balancing.adam import VectorAdam
from mtl.config.balancing import METHODS
from mtl.training.backward import Backward, cosines_of

TASKS = ("a", "b", "c")
ALL = torch.tensor([True, True, True])
BUT_B = torch.tensor([True, False, True])
LOSSES = torch.tensor([1.0, 2.0, 4.0])
GRAMIANS = sorted(method for method in METHODS if Balancer(TASKS, {}, method).needs == "gramian")


def settings(method, **values):
    return METHODS.select(method, **values).settings


def gramian(count=3, seed=0):
    torch.manual_seed(seed)
    rows = torch.randn(count, 8, dtype=torch.float64)
    return rows @ rows.T


def test_static_weights_are_the_lambdas():
    balancer = Balancer(TASKS, {"a": 2.0, "c": 0.5})
    assert balancer.weights(ALL).tolist() == [2.0, 1.0, 0.5]
    assert balancer.weights(BUT_B).tolist() == [2.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # (L1 L2 L3)^(1/3) = 2; dS/dL_k = 2 / (3 L_k)
        ("geometric_mean", [2 / 3, 1 / 3, 1 / 6]),
        # weights 1/3 softmax(L_k / 3 mu), mu = 1/3: softmax(1, 2, 4) / 3
        ("stch", [value / 3 for value in (0.04201, 0.11420, 0.84379)]),
        # at first z = 1/3: (z / L_k) / sum(z / L), 1 / L = 1, 1/2, 1/4
        ("famo", [4 / 7, 2 / 7, 1 / 7]),
        ("uncertainty", [0.5, 0.5, 0.5]),
        ("imtl_l", [1.0, 1.0, 1.0]),
        ("dwa", [1.0, 1.0, 1.0]),
        ("gradnorm", [1.0, 1.0, 1.0]),
    ],
)
def test_weights_worked_by_hand(method, expected):
    balancer = Balancer(TASKS, {}, method, settings(method, smoothing=1 / 3))
    assert balancer.weights(ALL, LOSSES, torch.eye(3)).tolist() == pytest.approx(expected, abs=1e-5)


def test_lambda_multiplies_the_loss_before_the_scalarizer():
    """S = sqrt(2 L_a L_c): dS/dL_a = S / 2 L_a."""
    weights = Balancer(TASKS, {"a": 2.0}, "geometric_mean").weights(BUT_B, LOSSES)
    assert weights.tolist() == pytest.approx([math.sqrt(8) / 2, 0.0, math.sqrt(8) / 8])


def test_learned_scales_have_torchjd_s_gradients():
    for method, reference in (("uncertainty", scalarization.UW(3)), ("imtl_l", scalarization.IMTLL(3))):
        balancer = Balancer(TASKS, {"c": 0.5}, method)
        values = torch.tensor([0.3, -1.0, 0.7])
        for module in (balancer, reference):
            with torch.no_grad():
                next(module.parameters()).copy_(values)
        losses = LOSSES.clone().requires_grad_()
        reference(losses * torch.tensor([1.0, 1.0, 0.5])).backward()
        torch.testing.assert_close(balancer.weights(ALL), losses.grad)
        balancer.accumulate(LOSSES, BUT_B)
        (ours,), (theirs,) = balancer.parameters(), reference.parameters()
        torch.testing.assert_close(ours.grad, theirs.grad * BUT_B)


def test_momentum_does_not_move_the_scale_of_an_absent_task():
    balancer = Balancer(TASKS, {}, "uncertainty")
    before = [torch.tensor([1.0, 2.0, 3.0])]
    balancer.hold(before, BUT_B)
    assert next(balancer.parameters()).tolist() == [0.0, 2.0, 0.0]


def test_random_weights_are_the_step_s_and_a_simplex_over_the_present():
    balancer = Balancer(TASKS, {}, "random")
    torch.manual_seed(1)
    first = balancer.weights(BUT_B, seed=5)
    torch.manual_seed(2)
    assert torch.equal(first, balancer.weights(BUT_B, seed=5))
    assert not torch.equal(first, balancer.weights(BUT_B, seed=6))
    assert first[1] == 0
    assert first.sum() == pytest.approx(1.0)


def test_dwa_is_torchjd_s_where_nothing_is_missing():
    balancer, reference = Balancer(TASKS, {}, "dwa", settings("dwa", temperature=1.5)), scalarization.DWA(1.5)
    torch.manual_seed(0)
    for _ in range(4):
        for _ in range(3):
            losses = (torch.rand(3) + 0.1).requires_grad_()
            reference(losses).backward()
            torch.testing.assert_close(balancer.weights(ALL, losses.detach()), losses.grad)
            balancer.observe(losses.detach(), ALL)
        reference.step()
        balancer.end_epoch()


def test_dwa_takes_a_task_s_mean_over_the_steps_that_had_it():
    balancer = Balancer(TASKS, {}, "dwa", settings("dwa", temperature=1.0))
    for epoch in ((4.0, 1.0, 1.0), (2.0, 1.0, 1.0)):
        balancer.observe(torch.tensor(epoch), ALL)
        balancer.observe(torch.tensor([epoch[0], 0.0, 1.0]), BUT_B)
        balancer.end_epoch()
    shares = torch.softmax(torch.tensor([0.5, 1.0, 1.0]), 0)  # b: 1 / 1, although it was absent half of the time
    torch.testing.assert_close(balancer.weights(ALL), 3 * shares)


def test_famo_is_torchjd_s_where_nothing_is_missing():
    balancer, reference = Balancer(TASKS, {}, "famo", settings("famo", rate=0.1)), scalarization.FAMO(3, lr=0.1)
    torch.manual_seed(0)
    for _ in range(5):
        losses, after = (torch.rand(3) + 0.1).requires_grad_(), torch.rand(3) + 0.1
        reference(losses).backward()
        torch.testing.assert_close(balancer.weights(ALL, losses.detach()), losses.grad)
        reference.update(after)
        balancer.observe_change(losses.detach(), after, ALL)


def test_famo_leaves_an_absent_task_s_logit():
    balancer = Balancer(TASKS, {}, "famo")
    balancer.observe_change(LOSSES, LOSSES / torch.tensor([2.0, 1.0, 4.0]), ALL)
    before = balancer.method.logits.clone()
    balancer.observe_change(LOSSES, LOSSES / 3, BUT_B)
    assert balancer.method.logits[1] == before[1]
    assert balancer.method.logits[2] != before[2]


def test_adam_is_torch_s():
    values, ours = nn.Parameter(torch.tensor([1.0, -2.0])), torch.tensor([1.0, -2.0])
    adam, reference = VectorAdam(2, 0.1, 0.01), torch.optim.Adam([values], 0.1, weight_decay=0.01)
    for step in range(4):
        values.grad = torch.tensor([1.0, -3.0]) * (step - 1.5)
        adam.step(ours, values.grad.clone(), torch.tensor([True, True]))
        reference.step()
    torch.testing.assert_close(ours, values.detach())


class Linear(nn.Module):
    """L_k = J_k theta + 1: what `Backward` asks of a model, with J as the tasks' gradients."""

    def __init__(self, jacobian):
        super().__init__()
        self.jacobian, self.theta = jacobian, nn.Parameter(torch.zeros(jacobian.shape[1]))
        self.config = type("Config", (), {"tasks": TASKS[: len(jacobian)]})

    def shared_parameters(self):
        return [p for part in self.shared_parts().values() for p in part]

    def shared_parts(self):
        return {"block 1": [self.theta]}

    def front_parts(self):
        return {}

    def entries(self):
        return contextlib.nullcontext([])

    def counts(self, batch):
        return {task: torch.tensor(2) for task in batch}

    def losses(self, batch, labelled):
        rows = dict(zip(self.config.tasks, self.jacobian @ self.theta + 1, strict=True))
        return {task: (2 * rows[task], torch.tensor(2)) for task in labelled}


PUBLISHED = {  # by TorchJD, for J = [[-4, 1, 1], [6, 1, 1]]
    "pcgrad": (0.5848, 3.8012, 3.8012),
    "mgda": (0.0, 1.0, 1.0),
    "imtl_g": (0.0767, 1.0, 1.0),
    "aligned_mtl": (0.2133, 0.9673, 0.9673),
    "upgrad": (0.2929, 1.9004, 1.9004),
    "cagrad": (0.1835, 1.2041, 1.2041),
    "nash_mtl": (0.0542, 0.7061, 0.7061),
}


@pytest.mark.parametrize("method", sorted(PUBLISHED))
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_published_values_come_out_of_a_step(method, micro_batches):
    model = Linear(torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))
    step = Backward(model, Balancer(model.config.tasks, {}, method), seed=0)([(("a", "b"),)] * micro_batches, 0)
    assert model.theta.grad.tolist() == pytest.approx(PUBLISHED[method], abs=6e-4)
    assert step.cosines[0, 1].item() == pytest.approx(-22 / math.sqrt(18 * 38))


class TwoBlocks(Linear):
    """The same, with the first parameter in a block of its own, and a head for each task that is nobody else's."""

    def __init__(self, jacobian):
        super().__init__(jacobian)
        self.theta, self.second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(jacobian.shape[1] - 1))
        self.head = nn.Parameter(torch.zeros(len(jacobian)))

    def shared_parts(self):
        return {"block 1": [self.theta], "block 2": [self.second]}

    def losses(self, batch, labelled):
        found = self.jacobian @ torch.cat((self.theta, self.second)) + 1 + 5 * self.head
        return {task: (2 * found[TASKS.index(task)], torch.tensor(2)) for task in labelled}


@pytest.mark.parametrize("method", ["mgda", "static", "imtl_l"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_gramians_of_two_blocks_by_hand(method, micro_batches):
    """J = [[-4, 1, 1], [6, 1, 1]]: the tasks are opposed in the first block (-4, 6) and one in the second."""
    model = TwoBlocks(torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))
    backward = Backward(model, Balancer(model.config.tasks, {}, method), seed=0, inspect_every=1)
    step = backward([(("a", "b"),)] * micro_batches, 0)
    torch.testing.assert_close(step.gramians, torch.tensor([[[16.0, -24], [-24, 36]], [[2, 2], [2, 2]]]))
    assert step.front_gramians.shape == (0, 2, 2)
    torch.testing.assert_close(cosines_of(step.gramians)[:, 0, 1], torch.tensor([-1.0, 1.0]))
    assert step.cosines[0, 1].item() == pytest.approx(-22 / math.sqrt(18 * 38))


def test_a_task_without_labels_has_no_cosine():
    model = TwoBlocks(torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    step = Backward(model, Balancer(TASKS, {}, "static"), seed=0, inspect_every=1)([(("a", "c"),)], 0)
    found = cosines_of(step.gramians)
    assert found[0, 0, 2] == -1
    assert found[1, 0, 2].isnan()  # c has no gradient in the second block
    assert found[:, 1].isnan().all()


def test_looks_are_taken_when_they_are_due():
    model = TwoBlocks(torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))
    backward = Backward(model, Balancer(model.config.tasks, {}), seed=0, inspect_every=3)
    assert [step for step in range(7) if backward([(("a", "b"),)], step).gramians is not None] == [0, 3, 6]
    assert Backward(model, backward.balancer, seed=0)([(("a", "b"),)], 0).gramians is None


@pytest.mark.parametrize("method", GRAMIANS)
def test_a_step_without_a_task_is_a_step_of_the_others(method):
    """For the losses' gradients and for the tasks' absent one's weight alike, whatever its row of the Gramian holds."""
    three, two = Balancer(TASKS, {}, method), Balancer(("a", "c"), {}, method)
    whole = gramian()
    for seed in range(3):
        weights = three.weights(BUT_B, LOSSES, whole, seed)
        part = two.weights(torch.tensor([True, True]), LOSSES[BUT_B], whole[BUT_B][:, BUT_B], seed)
        torch.testing.assert_close(weights[BUT_B], part)
        assert weights[1] == 0


def test_gradvac_keeps_a_pair_s_target_through_steps_without_it():
    reference, balancer = aggregation.GradVacWeighting(), Balancer(TASKS, {}, "gradvac")
    first, last = gramian(seed=1), gramian(seed=2)
    for weighting in (lambda: reference(first), lambda: balancer.weights(ALL, gramian=first, seed=0)):
        torch.manual_seed(0)
        weighting()
    targets = balancer.method.targets.clone()
    balancer.weights(BUT_B, gramian=first, seed=1)
    assert torch.equal(balancer.method.targets[1], targets[1])
    balancer.method.targets.copy_(targets)
    torch.manual_seed(7)
    expected = reference(last)
    torch.testing.assert_close(balancer.weights(ALL, gramian=last, seed=7), expected.float())
    assert targets.abs().sum() > 0


def test_fairgrad_is_torchjd_s():
    for fairness in (0.5, 1.0, 2.0):
        expected = aggregation.FairGradWeighting(fairness)(gramian())
        found = Balancer(TASKS, {}, "fairgrad", settings("fairgrad", fairness=fairness)).weights(ALL, gramian=gramian())
        torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-4)


def test_nash_is_the_bargaining_solution():
    whole = gramian() / 1e4  # so short that the step is not cut to length 1
    alpha = Balancer(TASKS, {}, "nash_mtl").weights(ALL, gramian=whole).double()
    torch.testing.assert_close(whole / whole.norm() @ alpha, 1 / alpha, rtol=1e-4, atol=1e-4)


def test_cagrad_is_no_worse_than_scipy_s_solution():
    whole = gramian(5, seed=3)
    matrix = (whole / whole.trace()).numpy()
    mean, reach = matrix.mean(axis=1), 0.5 * math.sqrt(matrix.mean())

    def worst(w):
        return w @ mean + reach * math.sqrt(w @ matrix @ w)

    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1}
    found = minimize(worst, [0.2] * 5, method="SLSQP", bounds=[(0, 1)] * 5, constraints=simplex, tol=1e-12)
    weights = Balancer(range(5), {}, "cagrad").weights(torch.ones(5).bool(), gramian=whole).double().numpy() - 0.2
    ours = weights / weights.sum()
    assert worst(ours) <= found.fun + 1e-8
    assert weights.sum() == pytest.approx(reach / math.sqrt(ours @ matrix @ ours), rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_upgrad_s_step_conflicts_with_no_task(seed):
    whole = gramian(5, seed)
    weights = Balancer(range(5), {}, "upgrad").weights(torch.ones(5).bool(), gramian=whole).double()
    assert (whole @ weights > -1e-5 * whole.trace()).all()
    assert (weights >= 0.2 - 1e-6).all()


@pytest.mark.parametrize("method", ["nash_mtl", "fairgrad", "cagrad", "upgrad", "mgda", "aligned_mtl", "imtl_g"])
def test_gradients_that_cancel_give_finite_weights(method):
    """Two opposite gradients, and a third that is zero."""
    singular = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    weights = Balancer(TASKS, {}, method).weights(ALL, LOSSES, singular)
    assert torch.isfinite(weights).all()
    assert weights[0] == pytest.approx(weights[1].item(), rel=1e-3, abs=1e-3)


def test_gradnorm_turns_to_the_task_that_falls_slowly_and_has_a_short_gradient():
    balancer = Balancer(TASKS, {}, "gradnorm", settings("gradnorm", rate=0.1))
    norms = torch.diag(torch.tensor([1.0, 9.0, 25.0]))
    balancer.weights(ALL, torch.ones(3), norms)
    # Norms 1, 3, 5, mean 3, equal rates: the first rises, the second stands, the third falls; Adam's first step is
    # its rate whole, and 1.1 + 1.0 + 0.9 is 3 already.
    assert balancer.weights(ALL, torch.ones(3), norms).tolist() == pytest.approx([1.1, 1.0, 0.9], abs=1e-5)
    slow = Balancer(TASKS, {}, "gradnorm", settings("gradnorm", rate=0.1))
    slow.weights(ALL, torch.ones(3), torch.eye(3))
    weights = slow.weights(ALL, torch.tensor([1.0, 0.5, 0.5]), torch.eye(3))
    assert weights.tolist() == [1.0, 1.0, 1.0]  # decided before these losses were seen
    weights = slow.weights(ALL, torch.tensor([1.0, 0.5, 0.5]), torch.eye(3))
    assert weights[0] > 1 > weights[1]
    assert weights.sum() == pytest.approx(3.0)


def test_what_is_not_finite_stays_so():
    for method in GRAMIANS:
        weights = Balancer(TASKS, {}, method).weights(ALL, LOSSES, torch.full((3, 3), torch.nan))
        assert weights.isnan().all(), method


def test_unknown_method_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'uncertainty'"):
        Balancer(TASKS, {}, "uncertanty")
