"""Domain conditioning: FiLM and adapters around the trunk by the domain of a recording.

A domain is a corpus, or a label such as reading, digits, commands; it is not the task of that name. Each domain of the
training recordings has an embedding and small adapters:

    x = film(x, e_d);  x = entry_d(x);  states = trunk(x);  states_k = exit_d(states_k) for every task k

FiLM (Perez et al. 2018) and residual adapters (Houlsby et al. 2019) start at zero, so untrained they do not change the
model. They are placed around the trunk, not inside it, so that they work with every sharing mode. They act on single
frames, so nothing depends on padding.

An unknown domain has the number 0, the embedding zero and no adapter. A share of the training recordings, `dropout`,
is treated as unknown, so that the trunk works without a domain too. Text has no domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl.config.model import DomainConfig
from mtl.sharing.adapter import Adapter, Film

UNKNOWN = 0
Routes = list[tuple[int, Tensor]]  # known domains of a batch with their rows


class Domains(nn.Module):
    """domains: how many are known; their numbers are 1..domains."""

    def __init__(self, domains: int, width: int, config: DomainConfig, dropout: float) -> None:
        super().__init__()
        self.withheld = config.dropout

        def adapters() -> nn.ModuleList:
            return nn.ModuleList(
                Adapter(width, config.bottleneck, dropout) for _ in range(domains if config.adapters else 0)
            )

        self.embedding = nn.Parameter(torch.randn(domains, config.rank)) if config.conditioning else None
        self.film = Film(width, config.rank) if config.conditioning else None
        self.entry, self.exit = adapters(), adapters()

    def with_dropout(self, domains: Tensor) -> Tensor:
        """(B,) domains that the rows are treated as: in training some are set to UNKNOWN."""
        if not self.training or not self.withheld:
            return domains
        return domains.masked_fill(torch.rand(domains.shape, device=domains.device) < self.withheld, UNKNOWN)

    def enter(self, x: Tensor, domains: Tensor) -> Tensor:
        """States before the trunk, (B, T, D) -> same; domains (B,)."""
        if self.film is not None and self.embedding is not None:
            # A row of zeros in front: for an unknown domain gamma and beta are zero, and x passes as it is.
            x = self.film(x, F.pad(self.embedding, (0, 0, 1, 0))[domains])
        return self._route(x, self._routes(domains), self.entry)

    def leave(self, states: dict[str, Tensor], domains: Tensor) -> dict[str, Tensor]:
        """Each task's states behind the trunk, (B, T, D) -> same."""
        routes = self._routes(domains)
        return {task: self._route(x, routes, self.exit) for task, x in states.items()} if routes else states

    def exit_parameters(self) -> list[nn.Parameter]:
        """Those behind the trunk, which all tasks share."""
        return list(self.exit.parameters())

    def entry_parameters(self) -> list[nn.Parameter]:
        """Those before the trunk."""
        behind = {id(parameter) for parameter in self.exit_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in behind]

    def _routes(self, domains: Tensor) -> Routes:
        if not len(self.entry):
            return []
        present = domains.unique().tolist()
        return [(number, (domains == number).nonzero()[:, 0]) for number in present if number != UNKNOWN]

    @staticmethod
    def _route(x: Tensor, routes: Routes, adapters: Sequence[nn.Module] | nn.ModuleList) -> Tensor:
        # An adapter without rows has no gradient in a step, so weight decay does not shrink it.
        for number, rows in routes:
            adapted = cast(Tensor, adapters[number - 1](x[rows]))
            x = x.index_copy(0, rows, adapted.to(x.dtype))
        return x
