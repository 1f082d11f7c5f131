"""What `mtl.fit` costs beside a bare PyTorch loop: the same model, batches, loss, clipping, AdamW and schedule.

    python tests/bench/fit_bench.py [--rounds 7] [--threads 1]

The bare loop below is what one would write for this one model: no ranks, no accumulation, no resume, no check for
missing labels beyond the counts it divides by. Before anything is timed, both train the same few steps without
dropout and must end with the same weights. Rounds alternate, and the median of their ratios counts, so that a
noisy machine is noisy to both. Batches are made beforehand: this measures the loop, not the loader.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from targets import Target, conclude  # noqa: E402

from mtl.config.training import FitConfig  # noqa: E402
from mtl.inputs.codec import Codec  # noqa: E402
from mtl.models.joint import SpeechModel, build_model  # noqa: E402
from mtl.training.fit import MicroBatch, fit  # noqa: E402
from pipelines import recipe  # noqa: E402
from pipelines.data import features  # noqa: E402
from pipelines.data.dataset import open_dataset  # noqa: E402
from pipelines.data.ingest import ingest  # noqa: E402
from pipelines.data.loader import Loader  # noqa: E402
from pipelines.storage.store import Store  # noqa: E402
from pipelines.training.prepare import fit_config, model_config, prepare  # noqa: E402

LOSS_AT_MOST = 5.0  # percent of throughput
CORPUS = ["utterances=100", "valid_utterances=4", "test_utterances=4", "text_only_sentences=60", "speakers=8"]
OVERRIDES = [f"corpora.commands.options.{option}" for option in CORPUS]


class Fixed:
    """A loader of batches that lie in memory; `fit` asks for no more than this."""

    def __init__(self, steps: list[list[MicroBatch]]) -> None:
        self._steps = steps

    def steps(self, epoch: int) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        return iter(self._steps)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def bare_loop(model: SpeechModel, steps: list[list[MicroBatch]], config: FitConfig) -> None:
    """One epoch, as one would write it by hand."""
    model.train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    warmup = max(1, round(len(steps) * config.warmup))
    for step, micro_batches in enumerate(steps):
        rate = (
            (step + 1) / warmup
            if step < warmup
            else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, len(steps) - warmup)))
        )
        sums: dict[str, torch.Tensor] = {}
        counts: dict[str, torch.Tensor] = {}
        for batch in (batch for micro_batch in micro_batches for batch in micro_batch):
            for task, (loss, count) in model.losses(batch).items():
                sums[task] = sums[task] + loss if task in sums else loss
                counts[task] = counts[task] + count if task in counts else count
        total = sum(config.task_weights[task] * sums[task] / counts[task] for task in sums)
        assert isinstance(total, torch.Tensor)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm, error_if_nonfinite=True)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def our_fit(model: SpeechModel, steps: list[list[MicroBatch]], config: FitConfig) -> None:
    fit(model, Fixed(steps), config)


def batches(scratch: Path) -> tuple[recipe.Recipe, Codec, list[list[MicroBatch]]]:
    """An epoch of the `assistant` recipe on a small piece of its embedded corpus."""
    loaded = recipe.load("assistant", overrides=[*OVERRIDES, "trainer.ema=0", "loader.batch_seconds=30"])
    store = Store(scratch)
    utterances = [ingest(corpus, loaded.quality, store) for corpus in loaded.corpora]
    extracted = features.extract(utterances, loaded.features, store, parallel="local")
    dataset = open_dataset(store, utterances, extracted)
    codec, _, _ = prepare(loaded, dataset)
    loader = Loader(dataset.split("train"), codec, loaded.loader, loaded.features.hop_ms, seed=loaded.seed)
    return loaded, codec, list(loader)


def model_of(loaded: recipe.Recipe, codec: Codec, **changes: Any) -> SpeechModel:
    torch.manual_seed(0)
    return build_model(replace(model_config(loaded), **changes), codec)


def check_same_work(loaded: recipe.Recipe, codec: Codec, steps: list[list[MicroBatch]], config: FitConfig) -> None:
    """Raises AssertionError when the two loops do not end with the same weights."""
    ends = []
    for side in (bare_loop, our_fit):
        model = model_of(loaded, codec, dropout=0.0, word_dropout=0.0)
        side(model, steps, config)
        ends.append(model.state_dict())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="more than one measures the scheduler as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="motet-bench-") as scratch:
        loaded, codec, steps = batches(Path(scratch))
        config = replace(fit_config(loaded), epochs=1, device="cpu", precision="fp32")  # as the bare loop is
        utterances = sum(len(batch) for step in steps for micro_batch in step for batch in micro_batch)
        check_same_work(loaded, codec, steps[:3], config)
        print(f"{len(steps)} steps of {utterances} utterances, median of {options.rounds} rounds, utterances/s")
        sides = {"bare loop": bare_loop, "mtl.fit": our_fit}
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(options.rounds + 1):  # the first warms everything up, and is not counted
            order = list(sides.items()) if number % 2 else list(sides.items())[::-1]
            for name, side in order:
                model = model_of(loaded, codec)
                began = time.perf_counter()
                side(model, steps, config)
                if number:
                    rates[name].append(utterances / (time.perf_counter() - began))
    for name, found in rates.items():
        print(f"  {name:10} {statistics.median(found):8.1f}   ({min(found):.1f} - {max(found):.1f})")
    ratio = statistics.median(ours / bare for ours, bare in zip(rates["mtl.fit"], rates["bare loop"], strict=True))
    conclude(Target("fit, throughput lost to a bare loop", 100 * (1 - ratio), at_most=LOSS_AT_MOST, unit="%"))


if __name__ == "__main__":
    main()
