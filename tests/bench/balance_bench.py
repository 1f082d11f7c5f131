"""What balancing gradients costs: a whole training step of `mtl.fit`, with each method beside the plain weighted sum.

    python tests/bench/balance_bench.py [--rounds 7] [--methods pcgrad …] [--precision auto]

Five tasks on one audio batch of the `assistant` recipe, the model as it ships, on one core of the CPU. Times are the
process's own (CPU time), rounds alternate and the median of their ratios counts: other work on the machine is noise to
both. The target is PCGrad's, with the recipe's own precision (auto: bf16 where the device multiplies it in hardware).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from fit_bench import Fixed, batches, model_of
from targets import Target, conclude

from mtl.config.balancing import METHODS
from mtl.config.training import FitConfig
from mtl.models.joint import SpeechModel
from mtl.training.fit import MicroBatch, fit
from pipelines.training.prepare import fit_config

TASKS = ("transcript", "intent", "slots", "domain", "speaker")
COST_AT_MOST = 2.5  # times a plain summed step
STEPS = 4


def seconds(model: SpeechModel, steps: list[list[MicroBatch]], config: FitConfig) -> float:
    began = time.process_time()
    fit(model, Fixed(steps), config)
    return (time.process_time() - began) / len(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["famo", "pcgrad", "upgrad"])
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = list(dict.fromkeys(("static", "pcgrad", *options.methods)))
    with tempfile.TemporaryDirectory(prefix="motet-bench-") as scratch:
        loaded, codec, steps = batches(Path(scratch))
    heard = [batch for step in steps for group in step for batch in group if batch.group == "audio"]
    batch = max(heard, key=len)
    base = replace(fit_config(loaded), epochs=1, device="cpu", precision=options.precision)
    model = model_of(loaded, codec, tasks=TASKS)
    shared = sum(parameter.numel() for parameter in model.shared_parameters())
    print(f"{len(batch)} utterances, {len(TASKS)} tasks, {shared:,} shared parameters, precision {options.precision}")
    found: dict[str, list[float]] = {method: [] for method in methods}
    for number in range(options.rounds + 1):  # the first warms everything up, and is not counted
        for method in methods if number % 2 else methods[::-1]:
            model = model_of(loaded, codec, tasks=TASKS)
            taken = seconds(model, [[(batch,)]] * STEPS, replace(base, balancing=METHODS.select(method)))
            if number:
                found[method].append(taken)
    ratios = {
        method: statistics.median(taken / plain for taken, plain in zip(times, found["static"], strict=True))
        for method, times in found.items()
    }
    for method, times in found.items():
        print(f"  {method:15} {1e3 * statistics.median(times):8.1f} ms a step   {ratios[method]:.2f}x")
    conclude(Target("PCGrad, times a plain step", ratios["pcgrad"], at_most=COST_AT_MOST, unit="x"))


if __name__ == "__main__":
    main()
