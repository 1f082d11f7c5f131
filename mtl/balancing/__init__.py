"""Balancing of tasks: scalarizers of their losses, and weightings of their gradients.

    balancer = Balancer(tasks, lambdas, "pcgrad")
    weights = balancer.weights(present, losses, gramian, seed)      # (K,), the same on every rank

`balancer.needs` names the input of a step's weights, which `mtl.training.backward` computes:
    "nothing"    scalarizers that are linear in the losses
    "losses"     other scalarizers S: w_k = dS/dL_k at the global means of the losses
    "gramian"    weightings of the K x K Gramian of the tasks' gradients of the shared parameters, summed over ranks and
                 accumulation before the Gramian is computed
Most methods are torchjd's. Those that are implemented here would count an absent task as a loss of zero in torchjd
(DWA, FAMO), need an optional solver there (see mtl.balancing.solver), or are missing (GradNorm). The static weight
lambda_k scales a loss before the method. A task that is absent from a step gets no weight and keeps its state.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtl.balancing.method import Method
from mtl.config.balancing import METHODS


class Balancer(nn.Module):
    """Static weights lambda_k and a method. The order of the tasks must be the same on every rank."""

    def __init__(
        self,
        tasks: Sequence[str],
        weights: Mapping[str, float],
        method: str = "static",
        settings: Any = None,
    ) -> None:
        """settings: of the method, an instance of its dataclass; None for the defaults."""
        super().__init__()
        if method not in METHODS:
            near = difflib.get_close_matches(method, METHODS, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ";"
            raise ValueError(f"balancing method {method!r} is not known{hint} expected one of {', '.join(METHODS)}")
        self.tasks = tuple(tasks)
        self.static: Tensor
        self.register_buffer("static", torch.tensor([float(weights.get(task, 1.0)) for task in tasks]))
        choice = METHODS[method]
        self.method: Method = choice.load()(len(self.tasks), settings or choice.settings())

    @property
    def needs(self) -> str:
        """ "nothing", "losses" or "gramian"."""
        return self.method.needs

    @property
    def observes_change(self) -> bool:
        """Whether the method needs `observe_change`."""
        return self.method.observes_change

    def weights(
        self, present: Tensor, losses: Tensor | None = None, gramian: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """(K,) dS/dL_k with lambda_k, detached, zero for absent tasks; NaN if the Gramian is not finite.

        present (K,) bool; losses (K,): global means; gramian (K, K): of the gradients of lambda_k x L_k; seed: of the
        step, for random methods.
        """
        if losses is None:
            losses = torch.zeros_like(self.static)
        with _seeded(seed):
            weights = self.method(losses * self.static, present, gramian)
        return weights * self.static * present

    def accumulate(self, losses: Tensor, present: Tensor) -> None:
        """Sets the gradients of the method's parameters from the global mean losses (K,), equal on every rank."""
        parameters = list(self.parameters())
        if parameters:
            total = self.method.total(losses.detach() * self.static)
            for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
                parameter.grad = gradient * present

    @torch.no_grad()
    def hold(self, before: Sequence[Tensor], present: Tensor) -> None:
        """Resets the parameters of absent tasks to `before`; the optimiser's momentum has changed them."""
        for parameter, old in zip(self.parameters(), before, strict=True):
            parameter.copy_(torch.where(present, parameter, old))

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Called after each step with its global mean losses (K,)."""
        self.method.observe(losses * self.static, present)

    def observe_change(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        """Called with the losses (K,) of a batch before and after its step, if `observes_change`."""
        self.method.observe_change(before * self.static, after * self.static, present)

    def end_epoch(self) -> None:
        self.method.end_epoch()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the CPU's global generator, from which torchjd draws, the same on all ranks; restores it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
