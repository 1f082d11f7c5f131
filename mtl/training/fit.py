"""The training loop: alone, under torchrun, or inside Ray Train; CPU/gloo or GPU/nccl; fp32 or bf16.

    final = fit(model, loader, config, validate=..., report=..., resume=None)

One optimiser step takes `micro_batches` micro-batches, distributed over ranks and accumulation, so the result does not
depend on the number of ranks; see mtl.training.backward for the gradients. The random state is set from (seed, step,
micro-batch): a run that is resumed in mid-epoch, or on another number of ranks, draws the same dropout masks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mtl.balancing import Balancer
from mtl.config.training import FitConfig, Stage
from mtl.models.joint import SpeechModel
from mtl.training import parallel
from mtl.training.backward import Backward, MicroBatch, Step, cosines_of
from mtl.training.curriculum import Curriculum

AMX_WIDTH = 256  # width of a model from which bf16 is faster on a CPU with AMX
BETAS = (0.9, 0.98)  # of Adam, as for Transformers since Vaswani et al. 2017
Report = Callable[[dict[str, float], dict[str, Any] | None], None]
Validate = Callable[[SpeechModel], dict[str, float]]


class StepLoader(Protocol):
    """Loader that `fit` reads; see pipelines.data.loader.Loader."""

    def steps(self, epoch: int) -> int: ...
    def __iter__(self) -> Iterator[list[MicroBatch]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class NonFiniteLoss(ArithmeticError):
    """A loss or a gradient is NaN or infinite; the weights are those before that step."""

    def __init__(self, task: str, step: int, ids: Sequence[str]) -> None:
        self.task, self.step, self.ids = task, step, tuple(ids)
        shown = ", ".join(self.ids[:8]) + (f" and {len(self.ids) - 8} more" if len(self.ids) > 8 else "")
        super().__init__(
            f"task {task!r} gave a loss or gradient that is not finite at step {step}, on the batch of {shown}. "
            "Lower trainer.learning_rate or trainer.clip_norm, or check those recordings."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return NonFiniteLoss, (self.task, self.step, self.ids)  # pickled by its arguments, not by its message


def fit(
    model: SpeechModel,
    loader: StepLoader,
    config: FitConfig,
    report: Report = lambda metrics, state: None,
    validate: Validate | None = None,
    resume: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Trains `model` to its final (averaged) weights and returns the metrics of the last epoch.

    report: called as report(metrics, state) on every rank after each epoch, and with empty metrics for checkpoints in
    between; state is None except on rank 0. validate: called on rank 0.

    Raises:
        NonFiniteLoss: on every rank, before the weights change.
    """
    run = _Run(model, loader, config)
    if resume is not None:
        run.load_state_dict(resume)
    else:
        parallel.broadcast(run.model)
    metrics: dict[str, float] = {}
    while run.epoch < config.epochs:
        run.train_epoch(report)
        metrics = run.epoch_metrics(validate)
        report(metrics, run.state_dict() if parallel.rank() == 0 else None)
    run.use_average()
    return metrics


def final_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of a checkpoint that are validated and packaged: the average, if there is one."""
    return {**state["model"], **(state["average"] or {})}


def with_settings(state: dict[str, Any], config: FitConfig, tasks: Sequence[str]) -> dict[str, Any]:
    """State of a checkpoint with the learning rate and task weights of `config`; everything else is unchanged."""
    groups = [{**group, "peak": config.learning_rate} for group in state["optimiser"]["param_groups"]]
    static = torch.tensor([float(config.task_weights.get(task, 1.0)) for task in tasks])
    return {
        **state,
        "optimiser": {**state["optimiser"], "param_groups": groups},
        "balancer": {**state["balancer"], "static": static},
    }


class _Run:
    """State of a training, as a checkpoint holds it, and its steps."""

    def __init__(self, model: SpeechModel, loader: StepLoader, config: FitConfig) -> None:
        self.config, self.loader = config, loader
        self.device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        faster = config.precision == "auto" and bf16_pays(self.device, model.config.width)
        self.bf16 = config.precision == "bf16" or faster
        self.model = model.to(self.device)
        tasks, balancing = model.config.tasks, config.balancing
        self.balancer = Balancer(tasks, config.task_weights, balancing.method, balancing.settings).to(self.device)
        self.backward = Backward(model, self.balancer, config.seed, self.bf16, config.inspect_every)
        self.optimiser = torch.optim.AdamW(_parameter_groups(model, self.balancer, config), betas=BETAS, fused=True)
        steps = [loader.steps(epoch) for epoch in range(config.epochs)]
        self.curriculum = Curriculum(config.curriculum, tasks, config.epochs)
        self.spans = _spans(steps, self.curriculum if config.restart else None)
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()} if config.ema else None
        self.epoch = self.step = 0
        self.tally = _Tally(model, self.device)

    def train_epoch(self, report: Report) -> None:
        self.model.train()
        self._enter(self.curriculum.at(self.epoch))
        saved = time.monotonic()
        for micro_batches in self.loader:
            self.train_step([tuple(batch.to(self.device) for batch in group) for group in micro_batches])
            due = time.monotonic() - saved > self.config.checkpoint_seconds
            # Rank 0's clock decides for all ranks, because all of them take part in a report.
            if parallel.world_size() > 1:
                due = bool(parallel.all_sum(torch.tensor(float(due and parallel.rank() == 0), device=self.device)))
            if due:
                report({}, self.state_dict() if parallel.rank() == 0 else None)
                saved = time.monotonic()
        self.balancer.end_epoch()
        self.epoch += 1

    def _enter(self, stage: Stage) -> None:
        self.backward.active = frozenset(stage.tasks)
        for parameter in (*self.model.front_parameters(), *self.model.shared_parameters()):
            parameter.requires_grad_(stage.train == "all")

    def train_step(self, micro_batches: list[MicroBatch]) -> None:
        """One optimiser step on this rank's share of the step's micro-batches."""
        step = self.backward(micro_batches, self.step)
        penalty = self.model.penalty()
        if penalty.requires_grad:  # added once a step, after the sum over ranks
            penalty.backward()
        # Without a labelled row there is no gradient, and torch returns a zero on the CPU.
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm).to(self.device)
        self._check_finite(step.losses, norm, micro_batches)
        self.balancer.accumulate(step.losses, step.present)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * self.learning_rate_factor()
        own = [parameter.detach().clone() for parameter in self.balancer.parameters()]
        self.optimiser.step()
        self.balancer.hold(own, step.present)
        self.optimiser.zero_grad(set_to_none=True)
        self.balancer.observe(step.losses, step.present)
        if self.balancer.observes_change:
            after = self.backward.losses_again(micro_batches, self.step, step)
            self.balancer.observe_change(step.losses, after, step.present)
        self.step += 1
        self._average()
        self.tally.add(step, norm, micro_batches)

    def learning_rate_factor(self) -> float:
        first, total = next((first, total) for first, total in reversed(self.spans) if self.step >= first)
        return learning_rate_factor(self.step - first, total, self.config.warmup)

    def _check_finite(self, losses: Tensor, norm: Tensor, micro_batches: list[MicroBatch]) -> None:
        if torch.isfinite(torch.cat((losses, norm[None]))).all():
            return
        self.optimiser.zero_grad(set_to_none=True)
        tasks = self.model.config.tasks
        bad = [task for task, loss in zip(tasks, losses.tolist(), strict=True) if not math.isfinite(loss)]
        ids = [id_ for group in micro_batches for batch in group for id_ in batch.ids]
        raise NonFiniteLoss(" + ".join(bad) or "the sum of all tasks (its gradient)", self.step, ids)

    @torch.no_grad()
    def _average(self) -> None:
        if self.average is not None:
            # The usual ramp, so that the average does not include the random initial weights.
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
            for name, parameter in self.model.named_parameters():
                self.average[name].lerp_(parameter, 1 - decay)

    def use_average(self) -> dict[str, Tensor]:
        """Loads the averaged weights, if any, into the model; returns the trained ones."""
        if self.average is None:
            return {}
        trained = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.model.load_state_dict(self.average, strict=False)
        return trained

    def epoch_metrics(self, validate: Validate | None) -> dict[str, float]:
        metrics = self.tally.metrics(self.model.config.tasks)
        rate = self.optimiser.param_groups[0]["lr"]
        metrics |= {"epoch": float(self.epoch), "step": float(self.step), "learning_rate": rate}
        if len(self.curriculum.stages) > 1:
            metrics["stage"] = float(self.curriculum.number(self.epoch - 1))
        if validate is not None and parallel.rank() == 0:
            trained = self.use_average()
            self.model.eval()
            metrics.update(validate(self.model))
            self.model.load_state_dict(trained, strict=False)
        self.tally = _Tally(self.model, self.device)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            "average": self.average,
            "balancer": dict(self.balancer.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "loader": self.loader.state_dict(),
            "tally": self.tally.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.balancer.load_state_dict(state["balancer"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.loader.load_state_dict(state["loader"])
        self.tally.load_state_dict(state["tally"])
        self.epoch, self.step = state["epoch"], state["step"]
        if self.average is not None and state["average"] is not None:
            self.average = {name: tensor.to(self.device) for name, tensor in state["average"].items()}


class _Tally:
    """Sums over an epoch, on the device."""

    def __init__(self, model: SpeechModel, device: torch.device) -> None:
        tasks, parts = len(model.config.tasks), (*model.front_parts(), *model.shared_parts())
        self.parts = parts
        self.sums, self.counts, self.weights, self.present = torch.zeros(4, tasks, dtype=torch.float64, device=device)
        # By pair of tasks: sum of the cosines of their gradients, steps with a negative cosine, steps.
        self.cosines = torch.zeros(3, tasks, tasks, dtype=torch.float64, device=device)
        self.part_cosines = torch.zeros(3, len(parts), tasks, tasks, dtype=torch.float64, device=device)
        self.norm = torch.zeros((), device=device)
        self.steps = self.utterances = 0
        self.frames = torch.zeros(2, device=device, dtype=torch.float64)  # real, padded
        self.seconds = 0.0
        self._mark = time.monotonic()

    def add(self, step: Step, norm: Tensor, micro_batches: list[MicroBatch]) -> None:
        self.sums += step.sums
        self.counts += step.counts
        self.weights += step.weights
        self.present += step.present
        if step.gramians is not None and step.cosines is not None:
            self.cosines += _counted(step.cosines)
            self.part_cosines[:, len(self.parts) - len(step.gramians) :] += _counted(cosines_of(step.gramians))
        if step.front_gramians is not None:
            self.part_cosines[:, : len(step.front_gramians)] += _counted(cosines_of(step.front_gramians))
        self.norm += norm
        self.steps += 1
        for batch in (batch for group in micro_batches for batch in group):
            self.utterances += len(batch)
            if batch.features is not None and batch.feature_lengths is not None:
                self.frames[0] += batch.feature_lengths.sum()
                self.frames[1] += batch.features.shape[0] * batch.features.shape[1]
        now = time.monotonic()
        self.seconds, self._mark = self.seconds + now - self._mark, now

    def metrics(self, tasks: Sequence[str]) -> dict[str, float]:
        real, padded = self.frames.tolist()
        metrics = {
            "seconds": self.seconds,
            "utterances_per_second": self.utterances * parallel.world_size() / max(self.seconds, 1e-9),
            "gradient_norm": float(self.norm) / max(self.steps, 1),
        }
        if padded:
            metrics["padding"] = 100 * (1 - real / padded)
        for task, total, count in zip(tasks, self.sums.tolist(), self.counts.tolist(), strict=True):
            if count:
                metrics[f"train/{task}/loss"] = total / count
        for task, total, steps in zip(tasks, self.weights.tolist(), self.present.tolist(), strict=True):
            if steps:
                metrics[f"weight/{task}"] = total / steps
        metrics |= _agreement(self.cosines, tasks)
        for position, part in enumerate(self.parts):
            metrics |= _agreement(self.part_cosines[:, position], tasks, f"{part}/")
        return metrics

    def state_dict(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name not in ("parts", "_mark")}
        return {**state, "heard": state.pop("present")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            value = value.to(self.sums.device) if isinstance(value, Tensor) else value
            setattr(self, {"heard": "present"}.get(name, name), value)  # the name in stored checkpoints
        self._mark = time.monotonic()


def _counted(cosines: Tensor) -> Tensor:
    """(3, ..., K, K) from (..., K, K): the cosines, whether they are negative, and whether they are defined."""
    return torch.stack((cosines.nan_to_num(), (cosines < 0).to(cosines), (~cosines.isnan()).to(cosines)))


def _agreement(counted: Tensor, tasks: Sequence[str], part: str = "") -> dict[str, float]:
    """Mean cosine of each pair of tasks and share of steps in which it was negative, from sums (3, K, K)."""
    totals, conflicts, steps_of = counted.tolist()
    metrics = {}
    for (i, one), (j, other) in combinations(enumerate(tasks), 2):
        if together := steps_of[i][j]:
            metrics[f"cosine/{part}{one}:{other}"] = totals[i][j] / together
            metrics[f"conflict/{part}{one}:{other}"] = conflicts[i][j] / together
    return metrics


def bf16_pays(device: torch.device, width: int) -> bool:
    """Whether a model of that width trains faster in bf16 on the device.

    On a CPU with AMX only a wide one does, because a kernel is generated for every new shape of a batch: a step of
    width 128 takes 1.6 times as long as in fp32, one of width 384 three quarters of it.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.cpu._is_amx_tile_supported():
        return width >= AMX_WIDTH
    return torch.cpu._is_avx512_bf16_supported()


def learning_rate_factor(step: int, total: int, warmup: float) -> float:
    """Linear warm-up, then cosine decay to zero (Loshchilov and Hutter 2017)."""
    rising = max(1, round(total * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _spans(steps: Sequence[int], curriculum: Curriculum | None) -> list[tuple[int, int]]:
    """(first step, steps) of each schedule of the learning rate, from the steps of each epoch."""
    if curriculum is None:
        return [(0, sum(steps))]
    spans, epoch, first = [], 0, 0
    for stage in curriculum.stages:
        total = sum(steps[epoch : epoch + stage.epochs])
        spans.append((first, total))
        epoch, first = epoch + stage.epochs, first + total
    return spans


def _parameter_groups(model: nn.Module, balancer: Balancer, config: FitConfig) -> list[dict[str, Any]]:
    """Groups with weight decay (matrices) and without (norms, biases, the balancer's parameters)."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [(decayed, config.weight_decay), (free, 0.0)]
    if own := list(balancer.parameters()):
        groups.append((own, 0.0))
    rate = config.learning_rate
    return [{"params": params, "weight_decay": decay, "lr": rate, "peak": rate} for params, decay in groups]
