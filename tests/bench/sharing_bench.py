"""Every sharing mode as large as hard sharing: parameters, FLOPs, and what a training step takes.

    python tests/bench/sharing_bench.py [--rounds 5] [--threads 1] [--steps 4]

The `assistant` recipe's model and a small piece of its embedded corpus. `mtl.analysis.equal_size` fits each mode's
feed-forward width (and blocks) to hard sharing's parameters; FLOPs are those of front-end and trunk on one recording of
4 s for every task that hears audio. Modes alternate within a round, and the median over rounds of each one's time
over hard's counts, so that a noisy machine is noisy to all. Step times have no target: they are what a mode costs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from fit_bench import batches, our_fit  # noqa: E402
from targets import Target, conclude  # noqa: E402

from mtl.analysis.equal_size import REFERENCE, TOLERANCE, Row, equal_parameters  # noqa: E402
from mtl.config.training import FitConfig  # noqa: E402
from mtl.inputs.codec import Codec  # noqa: E402
from mtl.models.joint import build_model  # noqa: E402
from mtl.training.fit import MicroBatch  # noqa: E402
from pipelines.training.prepare import fit_config, model_config  # noqa: E402


def seconds(row: Row, codec: Codec, steps: list[list[MicroBatch]], config: FitConfig) -> float:
    """Of one training step."""
    torch.manual_seed(0)
    model = build_model(row.config, codec)
    began = time.perf_counter()
    our_fit(model, steps, config)
    return (time.perf_counter() - began) / len(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="more than one measures the scheduler as well")
    parser.add_argument("--steps", type=int, default=4, help="training steps a round, for each mode")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="motet-bench-") as scratch:
        loaded, codec, steps = batches(Path(scratch))
    steps = steps[: options.steps]
    rows = equal_parameters(model_config(loaded), codec)
    config = replace(fit_config(loaded), epochs=1, device="cpu")
    times: dict[str, list[float]] = {row.mode: [] for row in rows}
    for number in range(options.rounds + 1):  # the first warms everything up, and is not counted
        for row in rows if number % 2 else rows[::-1]:
            taken = seconds(row, codec, steps, config)
            if number:
                times[row.mode].append(taken)
    print(f"{len(rows[0].config.tasks)} tasks; medians of {options.rounds} rounds of {len(steps)} steps")
    print(
        f"{'mode':14}{'blocks':>7}{'hidden':>7}{'parameters':>12}{'ratio':>8}{'GFLOP':>8}{'ratio':>7}{'ms/step':>9}{'ratio':>7}"
    )
    for row in rows:
        hidden = row.config.hidden or row.config.width * row.config.expansion
        ratio = statistics.median(a / b for a, b in zip(times[row.mode], times[REFERENCE], strict=True))
        print(
            f"{row.mode:14}{row.config.blocks:7}{hidden:7}{row.parameters:12,}{row.ratio:8.4f}{row.flops / 1e9:8.3f}"
            f"{row.flops_ratio:7.2f}{1000 * statistics.median(times[row.mode]):9.0f}{ratio:7.2f}"
        )
    farthest = max(rows, key=lambda row: abs(row.ratio - 1))
    name = f"parameters, farthest from hard ({farthest.mode})"
    conclude(Target(name, 100 * abs(farthest.ratio - 1), at_most=100 * TOLERANCE, unit="%"))


if __name__ == "__main__":
    main()
