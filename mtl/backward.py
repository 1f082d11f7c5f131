"""One step's gradients: exact for every balancing method, however its micro-batches are dealt over ranks and time.

    step = Backward(model, balancer, seed, bf16)(micro_batches, step)      # leaves them in .grad, summed over ranks

L_k, a task's loss, is its sum over the whole step divided by the whole step's count of labelled items. For a
scalarizer the gradient is sum_k w_k grad L_k, w_k = dS/dL_k: known beforehand when S is linear; otherwise the losses
come first, from the same forward pass when this rank has one micro-batch, and from an additional one without graphs
when it has several (same dropout masks, about 1.3 times the cost; keeping all their graphs would cost memory that
accumulation is there to save). For a weighting of gradients each micro-batch is run forward once and back once per
task, as far as the trunk's input; the gradients of the trunk's shared parameters stand in one (tasks present x shared
parameters) matrix, which is summed over ranks before its Gramian is taken. With the weights known, one more pass takes
the weighted sum on through the front-ends: they follow, and have no say in the Gramian. (A fifth of a PCGrad step on a
CPU; compare MGDA-UB of Sener and Koltun 2018, which stops at the shared states and leaves out the trunk as well.)
A task's own parameters get their plain gradient, lambda_k grad L_k.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl import parallel
from mtl.balance import Balancer
from mtl.batch import Batch
from mtl.model import SpeechModel

MicroBatch = tuple[Batch, ...]  # one batch per input group
Labelled = list[list[list[str]]]  # the tasks labelled in each batch of each micro-batch of this rank
TINY = 1e-30


@dataclass(frozen=True)
class Step:
    """sums, counts, weights (K,), over all ranks; labelled, of this rank; cosines (K, K) between the tasks' gradients,
    NaN where there are not two, None where the method does not look at gradients."""

    sums: Tensor
    counts: Tensor
    weights: Tensor
    labelled: Labelled
    cosines: Tensor | None = None

    @property
    def present(self) -> Tensor:
        """(K,) bool: the tasks with a label in this step, on any rank."""
        return self.counts > 0

    @property
    def losses(self) -> Tensor:
        """(K,) mean losses, zero for absent tasks."""
        return per_item(self.sums, self.counts)


class Backward:
    def __init__(self, model: SpeechModel, balancer: Balancer, seed: int, bf16: bool = False) -> None:
        self.model, self.balancer, self.seed, self.bf16 = model, balancer, seed, bf16
        self.tasks = list(model.config.tasks)
        self.active = frozenset(self.tasks)  # others count as not labelled: a stage of a curriculum

    def __call__(self, micro_batches: list[MicroBatch], step: int) -> Step:
        labelled, counts = self._count(micro_batches)
        if self.balancer.needs == "gramian" and any(p.requires_grad for p in self.model.shared_parameters()):
            return self._balance_gradients(micro_batches, labelled, counts, step)
        return self._weigh_losses(micro_batches, labelled, counts, step)

    @torch.no_grad()
    def losses_again(self, micro_batches: list[MicroBatch], step: int, first: Step) -> Tensor:
        """The losses (K,) of the step that was `first`, with the weights as they are now, same dropout masks."""
        sums = torch.zeros_like(first.counts)
        for position, group in enumerate(micro_batches):
            self._add(sums, self._forward(group, first.labelled[position], step, position))
        return per_item(parallel.all_sum(sums), first.counts)

    def _count(self, micro_batches: list[MicroBatch]) -> tuple[Labelled, Tensor]:
        """Which tasks are labelled where, and how many items each has over all ranks, (K,)."""
        zero = torch.zeros((), device=self.balancer.static.device)
        rows = []
        for batch in (batch for group in micro_batches for batch in group):
            found = self.model.counts(batch)
            there = self.active.intersection(found)
            rows.append(torch.stack([found[task].to(zero) if task in there else zero for task in self.tasks]))
        counts = torch.stack(rows) if rows else zero.new_zeros(0, len(self.tasks))
        names = iter([[task for task, c in zip(self.tasks, row, strict=True) if c > 0] for row in counts.tolist()])
        return [[next(names) for _ in group] for group in micro_batches], parallel.all_sum(counts.sum(dim=0))

    def _forward(
        self, group: MicroBatch, labelled: list[list[str]], step: int, position: int
    ) -> list[tuple[int, Tensor]]:
        """(task, summed loss) of each batch and task of one micro-batch; `position` among this rank's."""
        index = position * parallel.world_size() + parallel.rank()  # how the loader deals micro-batches
        torch.manual_seed(self._seed(step, index))
        found = []
        # One context for all of the micro-batch's groups: autocast then casts each weight once.
        with torch.autocast(self.balancer.static.device.type, torch.bfloat16, enabled=self.bf16):
            for batch, names in zip(group, labelled, strict=True):
                for task, (loss, _) in self.model.losses(batch, names).items():
                    found.append((self.tasks.index(task), loss))
        return found

    def _add(self, sums: Tensor, found: list[tuple[int, Tensor]]) -> None:
        for task, loss in found:
            sums[task] += loss.detach()

    def _weigh_losses(self, micro_batches: list[MicroBatch], labelled: Labelled, counts: Tensor, step: int) -> Step:
        sums, kept = torch.zeros_like(counts), None
        known = self.balancer.needs == "losses"
        if known:
            with torch.set_grad_enabled(len(micro_batches) == 1):
                for position, group in enumerate(micro_batches):
                    kept = self._forward(group, labelled[position], step, position)
                    self._add(sums, kept)
            parallel.all_sum(sums)
        if self.balancer.needs == "gramian":  # no shared parameter trains, so there is nothing to balance
            weights = self.balancer.static * (counts > 0)
        else:
            weights = self.balancer.weights(counts > 0, per_item(sums, counts), seed=self._seed(step))
        scale = per_item(weights, counts)  # (K,): dS/dL_k over the global count
        for position, group in enumerate(micro_batches):
            if kept is None or len(micro_batches) > 1:
                kept = self._forward(group, labelled[position], step, position)
                if not known:
                    self._add(sums, kept)
            if kept:
                torch.stack([scale[task] * loss for task, loss in kept]).sum().backward()
        if not known:
            parallel.all_sum(sums)
        parallel.sum_gradients(self.model.parameters())
        return Step(sums, counts, weights, labelled)

    def _balance_gradients(
        self, micro_batches: list[MicroBatch], labelled: Labelled, counts: Tensor, step: int
    ) -> Step:
        present = counts > 0
        sums = torch.zeros_like(counts)
        scale = per_item(self.balancer.static, counts)
        rows = _Rows(self.model, [task for task, there in enumerate(present.tolist()) if there])
        for position, group in enumerate(micro_batches):
            with self.model.entries() as entries:
                found = self._forward(group, labelled[position], step, position)
            self._add(sums, found)
            rows.add(found, scale, entries)
        parallel.all_sum(sums)
        gramian = rows.gramian(len(self.tasks))
        weights = self.balancer.weights(present, per_item(sums, counts), gramian, self._seed(step))
        rows.combine(weights / self.balancer.static.clamp(min=TINY))  # the rows hold lambda_k already
        parallel.sum_gradients([*rows.front, *rows.own])
        return Step(sums, counts, weights, labelled, cosines(gramian))

    def _seed(self, *place: int) -> int:
        """The random state of a step, or of a step's micro-batch."""
        return hash((self.seed, *place)) & 0x7FFFFFFF


class _Rows:
    """The gradients of the present tasks' losses for the shared parameters, one row a task; no other copy is kept.

    The graphs of the front-ends live on until `combine`, with every task's gradient of the trunk's inputs.
    """

    def __init__(self, model: SpeechModel, present: list[int]) -> None:
        self.present = present
        parameters = [p for p in model.parameters() if p.requires_grad]
        shared, front = ({id(p) for p in part} for part in (model.shared_parameters(), model.front_parameters()))
        self.shared = [p for p in parameters if id(p) in shared]
        self.front = [p for p in parameters if id(p) in front]
        self.own = [p for p in parameters if id(p) not in shared | front]
        sizes = [p.numel() for p in self.shared]
        device = parameters[0].device
        self.matrix = torch.zeros(len(present), sum(sizes), device=device)  # (M, P)
        self.used = torch.zeros(len(sizes), device=device)
        self._pieces = {task: row.split(sizes) for task, row in zip(present, self.matrix, strict=True)}
        self._entered: list[tuple[Tensor, int, Tensor]] = []  # an input of the trunk, a task, its gradient there

    def add(self, found: list[tuple[int, Tensor]], scale: Tensor, entries: list[Tensor]) -> None:
        """Goes back once per task through one micro-batch's graph, which ends with it but for the front-ends' part."""
        entries = [entry for entry in entries if entry.requires_grad]
        parameters = [*self.shared, *self.own, *entries]
        used = [False] * len(self.shared)
        last = found[-1][0] if found else None
        for task, total in _by_task(found, scale, last):
            gradients = torch.autograd.grad(total, parameters, retain_graph=task != last, allow_unused=True)
            for position, piece in enumerate(self._pieces[task]):
                gradient = gradients[position]
                if gradient is not None:
                    piece.view_as(gradient).add_(gradient)
                    used[position] = True
            for parameter, gradient in zip(self.own, gradients[len(self.shared) :], strict=False):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            for entry, gradient in zip(entries, gradients[len(self.shared) + len(self.own) :], strict=True):
                if gradient is not None:
                    self._entered.append((entry, task, gradient))
        self.used += torch.tensor(used, device=self.used.device)

    def gramian(self, tasks: int) -> Tensor:
        """(K, K), zero for absent tasks, after the rows have been summed over ranks."""
        parallel.all_sum(self.matrix)
        found = self.matrix.new_zeros(tasks, tasks)
        index = torch.tensor(self.present, device=found.device, dtype=torch.long)
        found[index[:, None], index] = self.matrix @ self.matrix.T
        return parallel.from_first(found)

    def combine(self, weights: Tensor) -> None:
        """The weighted sum of the rows becomes .grad of every shared parameter that some rank used, and goes on through
        the front-ends; weights (K,)."""
        total = weights[self.present] @ self.matrix
        pieces = total.split([p.numel() for p in self.shared])
        for parameter, piece, used in zip(self.shared, pieces, parallel.all_sum(self.used).tolist(), strict=True):
            if used:
                parameter.grad = piece.view_as(parameter).to(parameter.dtype)
        sums: dict[Tensor, Tensor] = {}
        for entry, task, gradient in self._entered:
            weighted = weights[task].to(gradient.dtype) * gradient
            sums[entry] = sums[entry] + weighted if entry in sums else weighted
        torch.autograd.backward(list(sums), list(sums.values()))


def _by_task(found: list[tuple[int, Tensor]], scale: Tensor, last: int | None) -> Iterator[tuple[int, Tensor]]:
    """Each task once with its loss over the micro-batch's groups; `last` comes last."""
    for task in sorted({task for task, _ in found}, key=lambda task: (task == last, task)):
        yield task, torch.stack([scale[task] * loss for other, loss in found if other == task]).sum()


def per_item(total: Tensor, counts: Tensor) -> Tensor:
    """(K,) over the step's counts (K,) of labelled items; as it is for a task without any."""
    return total / counts.clamp(min=1)


def cosines(gramian: Tensor) -> Tensor:
    """(K, K) from a Gramian (K, K); NaN for a task without a gradient."""
    norm = gramian.diagonal().clamp(min=0).sqrt()
    found = gramian / (norm[:, None] * norm).clamp(min=TINY)
    there = norm > 0
    return found.masked_fill(~(there[:, None] & there), torch.nan)
