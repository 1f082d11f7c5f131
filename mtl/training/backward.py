"""Gradients of one training step, exact for every balancing method under data parallelism and accumulation.

    step = Backward(model, balancer, seed, bf16)(micro_batches, step)      # sets .grad, summed over ranks

The loss L_k of a task is its sum over the whole step divided by the step's number of labelled items.

Scalarizers: the gradient is sum_k w_k grad L_k with w_k = dS/dL_k, which is known in advance if S is linear. Otherwise
the losses are computed first: in the same forward pass if this rank has one micro-batch, else in an additional pass
without graphs (same dropout masks, about 1.3 times the cost).

Weightings of gradients: each micro-batch runs forward once and backward once per task, down to the trunk's input. The
gradients of the trunk's parameters form a (tasks x parameters) matrix, which is summed over ranks before its Gramian is
computed. One more backward pass takes the weighted sum through the front-ends, which are not part of the Gramian.
(MGDA-UB of Sener and Koltun 2018 leaves out the trunk too.) Parameters of a single task get its plain gradient,
lambda_k grad L_k.

Gramians are computed for each part of the trunk; their cosines show where tasks conflict. Every `inspect_every` steps
those of the front-ends are computed too. A scalarizer needs an additional pass for this, which costs about three times
as much as the step and does not change the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mtl.balancing import Balancer
from mtl.inputs.batch import Batch
from mtl.models.joint import SpeechModel
from mtl.training import parallel

MicroBatch = tuple[Batch, ...]  # one batch per input group
Labelled = list[list[list[str]]]  # the tasks labelled in each batch of each micro-batch of this rank
Losses = list[tuple[int, Tensor]]  # position of a task, summed loss
TINY = 1e-30


@dataclass(frozen=True)
class Step:
    """sums, counts, weights (K,), over all ranks; labelled, of this rank.

    gramians (P, K, K): of the tasks' gradients in each part of the trunk; front_gramians (F, K, K): in the front-ends.
    None in a step that does not compute them.
    """

    sums: Tensor
    counts: Tensor
    weights: Tensor
    labelled: Labelled
    gramians: Tensor | None = None
    front_gramians: Tensor | None = None

    @property
    def present(self) -> Tensor:
        """(K,) bool: tasks with a label in this step, on any rank."""
        return self.counts > 0

    @property
    def losses(self) -> Tensor:
        """(K,) mean losses, zero for absent tasks."""
        return per_item(self.sums, self.counts)

    @property
    def cosines(self) -> Tensor | None:
        """(K, K) over all shared parameters of the trunk, NaN for pairs without two gradients."""
        return None if self.gramians is None else cosines_of(self.gramians.sum(dim=0))


class Backward:
    def __init__(
        self, model: SpeechModel, balancer: Balancer, seed: int, bf16: bool = False, inspect_every: int = 0
    ) -> None:
        """inspect_every: steps between two measurements of the tasks' gradients; 0: never."""
        self.model, self.balancer, self.seed, self.bf16 = model, balancer, seed, bf16
        self.inspect_every = inspect_every
        self.tasks = list(model.config.tasks)
        self.active = frozenset(self.tasks)  # set by the curriculum; other tasks count as not labelled

    def __call__(self, micro_batches: list[MicroBatch], step: int) -> Step:
        labelled, counts = self._count(micro_batches)
        # If only heads are trained, there is nothing to balance.
        if self.balancer.needs == "gramian" and any(map(_trained, self.model.shared_parts().values())):
            return self._balance_gradients(micro_batches, labelled, counts, step)
        gramians = self._inspect(micro_batches, labelled, counts, step) if self._inspects(step) else (None, None)
        result = self._weigh_losses(micro_batches, labelled, counts, step)
        return replace(result, gramians=gramians[0], front_gramians=gramians[1])

    def _inspects(self, step: int) -> bool:
        """Whether an inspection is due and any shared parameter is trained."""
        parts = (*self.model.front_parts().values(), *self.model.shared_parts().values())
        return self.inspect_every > 0 and step % self.inspect_every == 0 and any(map(_trained, parts))

    def _inspect(
        self, micro_batches: list[MicroBatch], labelled: Labelled, counts: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Gramians of the step's unweighted gradients, in the trunk and in the front-ends; leaves .grad unchanged."""
        gradients = _TaskGradients(self.model, counts > 0, shared_only=True)
        for position, group in enumerate(micro_batches):
            with self.model.entries() as entries:
                losses = self._forward(group, labelled[position], step, position)
            gradients.add(losses, per_item(self.balancer.static, counts), entries)
        return gradients.gramians(), gradients.front_gramians()

    @torch.no_grad()
    def losses_again(self, micro_batches: list[MicroBatch], step: int, first: Step) -> Tensor:
        """Losses (K,) of the batch of step `first` with the current parameters and the same dropout masks."""
        sums = torch.zeros_like(first.counts)
        for position, group in enumerate(micro_batches):
            _add(sums, self._forward(group, first.labelled[position], step, position))
        return per_item(parallel.all_sum(sums), first.counts)

    def _count(self, micro_batches: list[MicroBatch]) -> tuple[Labelled, Tensor]:
        """The labelled tasks of each batch, and the number of labelled items over all ranks, (K,)."""
        zero = torch.zeros((), device=self.balancer.static.device)
        rows = []
        for batch in (batch for group in micro_batches for batch in group):
            items = self.model.counts(batch)
            active = self.active.intersection(items)
            rows.append(torch.stack([items[task].to(zero) if task in active else zero for task in self.tasks]))
        counts = torch.stack(rows) if rows else zero.new_zeros(0, len(self.tasks))
        names = iter([[task for task, c in zip(self.tasks, row, strict=True) if c > 0] for row in counts.tolist()])
        return [[next(names) for _ in group] for group in micro_batches], parallel.all_sum(counts.sum(dim=0))

    def _forward(self, group: MicroBatch, labelled: list[list[str]], step: int, position: int) -> Losses:
        """Losses of each batch and task of one micro-batch; position: among those of this rank."""
        index = position * parallel.world_size() + parallel.rank()  # as the loader assigns micro-batches to ranks
        torch.manual_seed(self._seed(step, index))
        losses = []
        # One context for all of the micro-batch's groups: autocast then casts each weight once.
        with torch.autocast(self.balancer.static.device.type, torch.bfloat16, enabled=self.bf16):
            for batch, names in zip(group, labelled, strict=True):
                for task, (loss, _) in self.model.losses(batch, names).items():
                    losses.append((self.tasks.index(task), loss))
        return losses

    def _weigh_losses(self, micro_batches: list[MicroBatch], labelled: Labelled, counts: Tensor, step: int) -> Step:
        sums = torch.zeros_like(counts)
        losses: Losses | None = None
        losses_first = self.balancer.needs == "losses"
        if losses_first:
            with torch.set_grad_enabled(len(micro_batches) == 1):
                for position, group in enumerate(micro_batches):
                    losses = self._forward(group, labelled[position], step, position)
                    _add(sums, losses)
            parallel.all_sum(sums)
        if self.balancer.needs == "gramian":  # no shared parameter is trained
            weights = self.balancer.static * (counts > 0)
        else:
            weights = self.balancer.weights(counts > 0, per_item(sums, counts), seed=self._seed(step))
        scale = per_item(weights, counts)  # (K,): dS/dL_k over the global count
        for position, group in enumerate(micro_batches):
            if losses is None or len(micro_batches) > 1:
                losses = self._forward(group, labelled[position], step, position)
                if not losses_first:
                    _add(sums, losses)
            if losses:
                torch.stack([scale[task] * loss for task, loss in losses]).sum().backward()
        if not losses_first:
            parallel.all_sum(sums)
        parallel.sum_gradients(self.model.parameters())
        return Step(sums, counts, weights, labelled)

    def _balance_gradients(
        self, micro_batches: list[MicroBatch], labelled: Labelled, counts: Tensor, step: int
    ) -> Step:
        present = counts > 0
        sums = torch.zeros_like(counts)
        scale = per_item(self.balancer.static, counts)
        gradients = _TaskGradients(self.model, present)
        for position, group in enumerate(micro_batches):
            with self.model.entries() as entries:
                losses = self._forward(group, labelled[position], step, position)
            _add(sums, losses)
            gradients.add(losses, scale, entries)
        parallel.all_sum(sums)
        gramians = gradients.gramians()
        front = gradients.front_gramians() if self._inspects(step) else None
        weights = self.balancer.weights(present, per_item(sums, counts), gramians.sum(dim=0), self._seed(step))
        gradients.combine(weights / self.balancer.static.clamp(min=TINY))  # the matrix is scaled by lambda_k already
        parallel.sum_gradients([*gradients.front, *gradients.own])
        return Step(sums, counts, weights, labelled, gramians, front)

    def _seed(self, *position: int) -> int:
        """Random seed of a step, or of a micro-batch of a step."""
        return hash((self.seed, *position)) & 0x7FFFFFFF


class _TaskGradients:
    """Gradients of the present tasks' losses by the shared parameters: a matrix with a row per task.

    The graphs of the front-ends are kept until `combine`, with the gradients of the trunk's inputs by task.
    """

    def __init__(self, model: SpeechModel, present: Tensor, shared_only: bool = False) -> None:
        """present (K,) bool; shared_only: without the gradients of the tasks' own parameters."""
        self.tasks, self.present = len(present), present.nonzero()[:, 0].tolist()
        # Parameters of one part are adjacent in the matrix.
        self.parts = [_trained(part) for part in model.shared_parts().values()]
        self.front_parts = [_trained(part) for part in model.front_parts().values()]
        self.shared = [p for part in self.parts for p in part]
        self.front = [p for part in self.front_parts for p in part]
        shared = {id(p) for p in (*self.shared, *self.front)}
        self.own = [] if shared_only else [p for p in _trained(model.parameters()) if id(p) not in shared]
        sizes = [p.numel() for p in self.shared]
        self.matrix = torch.zeros(len(self.present), sum(sizes), device=present.device)  # (M, S)
        self.used = torch.zeros(len(sizes), device=present.device)
        self._pieces = {task: row.split(sizes) for task, row in zip(self.present, self.matrix, strict=True)}
        self._entered: list[tuple[Tensor, int, Tensor]] = []  # input of the trunk, task, gradient of that input

    def add(self, losses: Losses, scale: Tensor, entries: list[Tensor]) -> None:
        """Runs backward once per task through the graph of one micro-batch, down to the trunk's inputs."""
        entries = [entry for entry in entries if entry.requires_grad]
        parameters = [*self.shared, *self.own, *entries]
        used = [False] * len(self.shared)
        last = losses[-1][0] if losses else None
        for task, total in _by_task(losses, scale, last):
            gradients = torch.autograd.grad(total, parameters, retain_graph=task != last, allow_unused=True)
            _accumulate(self._pieces[task], gradients[: len(self.shared)])
            used = [before or gradient is not None for before, gradient in zip(used, gradients, strict=False)]
            for parameter, gradient in zip(self.own, gradients[len(self.shared) :], strict=False):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            for entry, gradient in zip(entries, gradients[len(self.shared) + len(self.own) :], strict=True):
                if gradient is not None:
                    self._entered.append((entry, task, gradient))
        self.used += torch.tensor(used, device=self.used.device)

    def gramians(self) -> Tensor:
        """(P, K, K) of the trunk's parts, zero for absent tasks; sums the matrix over ranks."""
        return self._gramians(parallel.all_sum(self.matrix), self.parts)

    def front_gramians(self) -> Tensor:
        """(F, K, K) of the front-ends, from each task's gradients of the trunk's inputs."""
        sizes = [p.numel() for p in self.front]
        matrix = self.matrix.new_zeros(len(self.present), sum(sizes))
        for task, row in zip(self.present, matrix, strict=True):
            entered = [(entry, gradient) for entry, other, gradient in self._entered if other == task]
            if entered and self.front:
                entries, gradients = zip(*entered, strict=True)
                gradients = torch.autograd.grad(entries, self.front, gradients, retain_graph=True, allow_unused=True)
                _accumulate(row.split(sizes), gradients)
        return self._gramians(parallel.all_sum(matrix), self.front_parts)

    def _gramians(self, matrix: Tensor, parts: list[list[nn.Parameter]]) -> Tensor:
        gramians = matrix.new_zeros(len(parts), self.tasks, self.tasks)
        index = torch.tensor(self.present, device=matrix.device, dtype=torch.long)
        sizes = [sum(p.numel() for p in part) for part in parts]
        for gramian, part in zip(gramians, matrix.split(sizes, dim=1), strict=True):
            gramian[index[:, None], index] = part @ part.T
        return parallel.from_first(gramians)

    def combine(self, weights: Tensor) -> None:
        """Sets .grad of the shared parameters that some rank used to the weighted sum of the rows, and runs it backward
        through the front-ends; weights (K,)."""
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


def _add(sums: Tensor, losses: Losses) -> None:
    for task, loss in losses:
        sums[task] += loss.detach()


def _accumulate(pieces: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for piece, gradient in zip(pieces, gradients, strict=True):
        if gradient is not None:
            piece.view_as(gradient).add_(gradient)


def _by_task(losses: Losses, scale: Tensor, last: int | None) -> Iterator[tuple[int, Tensor]]:
    """Each task once with its scaled loss over the micro-batch's groups; `last` comes last."""
    for task in sorted({task for task, _ in losses}, key=lambda task: (task == last, task)):
        yield task, torch.stack([scale[task] * loss for other, loss in losses if other == task]).sum()


def per_item(total: Tensor, counts: Tensor) -> Tensor:
    """total (K,) divided by the counts (K,) of labelled items; unchanged where the count is zero."""
    return total / counts.clamp(min=1)


def cosines_of(gramians: Tensor) -> Tensor:
    """(..., K, K) from Gramians (..., K, K); NaN for a task without a gradient."""
    norm = gramians.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()  # (..., K)
    cosines = gramians / (norm[..., :, None] * norm[..., None, :]).clamp(min=TINY)
    defined = norm > 0
    return cosines.masked_fill(~(defined[..., :, None] & defined[..., None, :]), torch.nan)


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]
