"""How the tasks' losses become one step: scalarizers of the losses, and weightings of the tasks' gradients.

    balancer = Balancer(tasks, lambdas, "pcgrad")
    weights = balancer.weights(present, losses, gramian, seed)      # (K,), the same on every rank

Three families, by what a step's weights need (`balancer.needs`); `mtl.training.backward` brings it:
    "nothing"    scalarizers linear in the losses: known before the forward pass
    "losses"     other scalarizers S: w_k = dS/dL_k at the losses' global means
    "gramian"    weightings of the K x K Gramian of the tasks' gradients of the shared parameters, after the sum over
                 ranks and accumulation (the Gramian of a rank's own gradients is a different thing)
Methods are torchjd's; those here are written anew where torchjd's would take an absent task for a loss of zero (DWA,
FAMO), needs an optional solver (see mtl.balancing.solver), or has none (GradNorm). A static weight lambda_k multiplies
its loss before any method sees it. A task absent from a step takes no part in it and keeps its state.
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
    """Static weights lambda_k and a method. Tasks keep one order on every rank; its state_dict is all its state."""

    def __init__(
        self,
        tasks: Sequence[str],
        weights: Mapping[str, float],
        method: str = "static",
        settings: Any = None,
    ) -> None:
        """settings: those of the method, an instance of its own dataclass; its defaults if left out."""
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
        """ "nothing", "losses" or "gramian"; see the module's docstring."""
        return self.method.needs

    @property
    def observes_change(self) -> bool:
        """Whether `observe_change` wants the same batch's losses after the step."""
        return self.method.observes_change

    def weights(
        self, present: Tensor, losses: Tensor | None = None, gramian: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """(K,) dS/dL_k, lambda_k included, detached, zero for tasks absent from the step.

        present (K,) bool; losses (K,): global means; gramian (K, K): of the gradients of lambda_k x L_k; `seed` is the
        step's, for methods that draw. NaN where the Gramian is not finite.
        """
        if losses is None:
            losses = torch.zeros_like(self.static)
        with _seeded(seed):
            found = self.method(losses * self.static, present, gramian)
        return found * self.static * present

    def accumulate(self, losses: Tensor, present: Tensor) -> None:
        """Gives the method's learned parameters their gradient, from the global means: equal on every rank."""
        parameters = list(self.parameters())
        if parameters:
            total = self.method.total(losses.detach() * self.static)
            for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
                parameter.grad = gradient * present

    @torch.no_grad()
    def hold(self, before: Sequence[Tensor], present: Tensor) -> None:
        """Puts the parameters (K,) of absent tasks back to `before` an optimiser's step, whose momentum moves them."""
        for parameter, old in zip(self.parameters(), before, strict=True):
            parameter.copy_(torch.where(present, parameter, old))

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Called once a step with its global mean losses (K,)."""
        self.method.observe(losses * self.static, present)

    def observe_change(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        """The losses (K,) of a step's batch before and after the step, where `observes_change`."""
        self.method.observe_change(before * self.static, after * self.static, present)

    def end_epoch(self) -> None:
        self.method.end_epoch()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torchjd draws from the CPU's global generator: here from the step's seed, alike on all ranks, and put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
