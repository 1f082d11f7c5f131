"""Balancing against torchjd itself, and against autograd on the formula."""

import pytest
import torch
from torchjd.scalarization import UW

from mtl.balance import SCALARIZERS, Balancer

TASKS = ("a", "b", "c")
ALL = torch.tensor([True, True, True])


def test_static_weights_are_the_lambdas():
    balancer = Balancer(TASKS, {"a": 2.0, "c": 0.5})
    assert balancer.weights(ALL).tolist() == [2.0, 1.0, 0.5]
    assert balancer.accumulate(torch.tensor([1.0, 2.0, 4.0]), ALL).item() == pytest.approx(6.0)


def test_an_absent_task_has_no_say():
    balancer = Balancer(TASKS, {}, "uncertainty")
    present = torch.tensor([True, False, True])
    assert balancer.weights(present)[1] == 0
    balancer.accumulate(torch.tensor([1.0, 0.0, 2.0]), present)
    assert balancer.scalarizer.log_var.grad[1] == 0
    assert balancer.scalarizer.log_var.grad[2] != 0


def test_uncertainty_is_torchjd_s_with_the_same_gradients():
    torch.manual_seed(0)
    balancer = Balancer(TASKS, {}, "uncertainty")
    reference = UW(3)
    with torch.no_grad():
        values = torch.tensor([0.3, -1.0, 0.7])
        balancer.scalarizer.log_var.copy_(values)
        reference.log_var.copy_(values)
    losses = torch.tensor([2.0, 0.5, 1.0], requires_grad=True)
    reference(losses).backward()
    torch.testing.assert_close(balancer.weights(ALL), losses.grad)
    total = balancer.accumulate(losses, ALL)
    torch.testing.assert_close(total, reference(losses).detach())
    torch.testing.assert_close(balancer.scalarizer.log_var.grad, reference.log_var.grad)


@pytest.mark.parametrize("method", sorted(SCALARIZERS))
def test_weights_do_not_depend_on_the_losses(method):
    """`fit` takes the weights before any forward pass, which is right only for scalarizers linear in the losses."""
    scalarizer = SCALARIZERS[method](3)
    gradients = []
    for losses in (torch.zeros(3), torch.tensor([5.0, 0.1, 2.0])):
        losses.requires_grad_()
        gradients.append(torch.autograd.grad(scalarizer(losses), losses)[0])
    torch.testing.assert_close(*gradients)


def test_unknown_method_names_the_known():
    with pytest.raises(ValueError, match="static"):
        Balancer(TASKS, {}, "uncertian")
