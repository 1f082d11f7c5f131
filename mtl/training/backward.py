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

The Gramian is the sum of those of the trunk's parts, whose cosines say in which block tasks disagree. At every
`look_every`-th step the tasks' gradients are taken on through the front-ends too, to look at them there; a scalarizer,
which has no need of the tasks' gradients, then takes them in a pass of their own with the same dropout masks. That
costs about three times such a step, and leaves no trace: a training gives the same numbers, bit for bit, without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mtl.balancing import Balancer
from mtl.inputs.batch import Batch
from mtl.models.joint import SpeechModel
from mtl.training import parallel

MicroBatch = tuple[Batch, ...]  # one batch per input group
Labelled = list[list[list[str]]]  # the tasks labelled in each batch of each micro-batch of this rank
TINY = 1e-30


@dataclass(frozen=True)
class Step:
    """sums, counts, weights (K,), over all ranks; labelled, of this rank.

    gramians (P, K, K): of the tasks' gradients in each of the trunk's parts; front_gramians (F, K, K): in the
    front-ends. None in a step that did not look there.
    """

    sums: Tensor
    counts: Tensor
    weights: Tensor
    labelled: Labelled
    gramians: Tensor | None = None
    front_gramians: Tensor | None = None

    @property
    def present(self) -> Tensor:
        """(K,) bool: the tasks with a label in this step, on any rank."""
        return self.counts > 0

    @property
    def losses(self) -> Tensor:
        """(K,) mean losses, zero for absent tasks."""
        return per_item(self.sums, self.counts)

    @property
    def cosines(self) -> Tensor | None:
        """(K, K) over all the trunk's shared parameters, NaN where there are not two gradients; None without any."""
        return None if self.gramians is None else cosines_of(self.gramians.sum(dim=0))


class Backward:
    def __init__(
        self, model: SpeechModel, balancer: Balancer, seed: int, bf16: bool = False, look_every: int = 0
    ) -> None:
        """look_every: steps; 0 for never."""
        self.model, self.balancer, self.seed, self.bf16 = model, balancer, seed, bf16
        self.look_every = look_every
        self.tasks = list(model.config.tasks)
        self.active = frozenset(self.tasks)  # others count as not labelled: a stage of a curriculum

    def __call__(self, micro_batches: list[MicroBatch], step: int) -> Step:
        labelled, counts = self._count(micro_batches)
        # In a stage that trains heads alone there is nothing to balance.
        if self.balancer.needs == "gramian" and any(map(_trained, self.model.shared_parts().values())):
            return self._balance_gradients(micro_batches, labelled, counts, step)
        seen = self._look(micro_batches, labelled, counts, step) if self._looks(step) else (None, None)
        taken = self._weigh_losses(micro_batches, labelled, counts, step)
        return replace(taken, gramians=seen[0], front_gramians=seen[1])

    def _looks(self, step: int) -> bool:
        """Whether a look is due, and there is something to see: a stage of a curriculum may hold all that is shared."""
        parts = (*self.model.front_parts().values(), *self.model.shared_parts().values())
        return self.look_every > 0 and step % self.look_every == 0 and any(map(_trained, parts))

    def _look(
        self, micro_batches: list[MicroBatch], labelled: Labelled, counts: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """The Gramians of the step's plain gradients, in the trunk and in the front-ends; no .grad is touched."""
        rows = _Rows(self.model, counts > 0, shared_only=True)
        for position, group in enumerate(micro_batches):
            with self.model.entries() as entries:
                found = self._forward(group, labelled[position], step, position)
            rows.add(found, per_item(self.balancer.static, counts), entries)
        return rows.gramians(), rows.front_gramians()

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
        rows = _Rows(self.model, present)
        for position, group in enumerate(micro_batches):
            with self.model.entries() as entries:
                found = self._forward(group, labelled[position], step, position)
            self._add(sums, found)
            rows.add(found, scale, entries)
        parallel.all_sum(sums)
        gramians = rows.gramians()
        front = rows.front_gramians() if self._looks(step) else None
        weights = self.balancer.weights(present, per_item(sums, counts), gramians.sum(dim=0), self._seed(step))
        rows.combine(weights / self.balancer.static.clamp(min=TINY))  # the rows hold lambda_k already
        parallel.sum_gradients([*rows.front, *rows.own])
        return Step(sums, counts, weights, labelled, gramians, front)

    def _seed(self, *place: int) -> int:
        """The random state of a step, or of a step's micro-batch."""
        return hash((self.seed, *place)) & 0x7FFFFFFF


class _Rows:
    """The gradients of the present tasks' losses for the shared parameters, one row a task; no other copy is kept.

    The graphs of the front-ends live on until `combine`, with every task's gradient of the trunk's inputs.
    """

    def __init__(self, model: SpeechModel, present: Tensor, shared_only: bool = False) -> None:
        """present (K,) bool; shared_only: without the gradients of the tasks' own parameters."""
        self.tasks, self.present = len(present), [task for task, there in enumerate(present.tolist()) if there]
        # A part's parameters are neighbours in the matrix.
        self.parts = [_trained(part) for part in model.shared_parts().values()]
        self.front_parts = [_trained(part) for part in model.front_parts().values()]
        self.shared = [p for part in self.parts for p in part]
        self.front = [p for part in self.front_parts for p in part]
        held = {id(p) for p in (*self.shared, *self.front)}
        self.own = [] if shared_only else [p for p in _trained(model.parameters()) if id(p) not in held]
        sizes = [p.numel() for p in self.shared]
        self.matrix = torch.zeros(len(self.present), sum(sizes), device=present.device)  # (M, S)
        self.used = torch.zeros(len(sizes), device=present.device)
        self._pieces = {task: row.split(sizes) for task, row in zip(self.present, self.matrix, strict=True)}
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

    def gramians(self) -> Tensor:
        """(P, K, K) of the trunk's parts, zero for absent tasks, after the rows have been summed over ranks."""
        return self._gramians(parallel.all_sum(self.matrix), self.parts)

    def front_gramians(self) -> Tensor:
        """(F, K, K) of the front-ends: each task's gradient of the trunk's inputs is taken on through them."""
        matrix = self.matrix.new_zeros(len(self.present), sum(p.numel() for p in self.front))
        for task, row in zip(self.present, matrix, strict=True):
            entered = [(entry, gradient) for entry, other, gradient in self._entered if other == task]
            if entered and self.front:
                entries, gradients = zip(*entered, strict=True)
                found = torch.autograd.grad(entries, self.front, gradients, retain_graph=True, allow_unused=True)
                for piece, gradient in zip(row.split([p.numel() for p in self.front]), found, strict=True):
                    if gradient is not None:
                        piece.view_as(gradient).add_(gradient)
        return self._gramians(parallel.all_sum(matrix), self.front_parts)

    def _gramians(self, matrix: Tensor, parts: list[list[nn.Parameter]]) -> Tensor:
        found = matrix.new_zeros(len(parts), self.tasks, self.tasks)
        index = torch.tensor(self.present, device=found.device, dtype=torch.long)
        sizes = [sum(p.numel() for p in part) for part in parts]
        for gramian, part in zip(found, matrix.split(sizes, dim=1), strict=True):
            gramian[index[:, None], index] = part @ part.T
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


def cosines_of(gramians: Tensor) -> Tensor:
    """(..., K, K) from Gramians (..., K, K); NaN for a task without a gradient."""
    norm = gramians.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()  # (..., K)
    found = gramians / (norm[..., :, None] * norm[..., None, :]).clamp(min=TINY)
    there = norm > 0
    return found.masked_fill(~(there[..., :, None] & there[..., None, :]), torch.nan)


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]
