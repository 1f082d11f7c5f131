"""Loader throughput beside ray.data.iter_batches: the same local parts of 8-second utterances, in one run.

    python tests/bench/loader_bench.py [--rounds 5] [--utterances 3000]

One process each. Both give padded batches of the same size; the loader also encodes and pads transcripts and draws
its batches at random over all parts, Ray Data reads in order. The 1st epoch includes mapping the parts and encoding
the transcripts, once per process. Rounds alternate, medians count. The features are random numbers: nothing here
looks at them.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from targets import Target, conclude  # noqa: E402

from mtl.inputs.codec import Codec  # noqa: E402
from pipelines import recipe  # noqa: E402
from pipelines.core import cluster  # noqa: E402
from pipelines.data import features  # noqa: E402
from pipelines.data.batch_plan import padding_of  # noqa: E402
from pipelines.data.dataset import Dataset, open_dataset  # noqa: E402
from pipelines.data.loader import Loader  # noqa: E402
from pipelines.storage.store import Store, fingerprint  # noqa: E402
from pipelines.utterances.schema import utterance_schema  # noqa: E402

SPEC = recipe.Features()
CONFIG = recipe.Loader(batch_seconds=64.0)
SECONDS = 8.0  # mean length of an utterance
UTTERANCES_A_SECOND, TIMES_RAY_DATA = 5000, 10
BATCH = 8  # of Ray Data: 64 s of audio, as the loader's


def write_parts(store: Store, count: int) -> Dataset:
    """Utterances of 6 to 10 s in parts as features.py writes them."""
    generator = np.random.default_rng(0)
    frames = generator.integers(600, 1001, count)
    digests = [f"{number:032x}" for number in range(count)]
    noise = generator.normal(-8, 3, (1000, SPEC.bins)).astype(np.float16)
    per_part = int(features.PART_SECONDS / SECONDS)
    dataset, index = features.LOGMEL.dataset(SPEC, "bench"), []
    for first in range(0, count, per_part):
        chosen = range(first, min(first + per_part, count))
        part = [features.Piece(digests[n], "", 0.0, SECONDS) for n in chosen]
        lengths = [int(frames[n]) for n in chosen]
        table = features._part_table(part, [noise[:length] for length in lengths], features.LOGMEL)
        key = f"{dataset}/{fingerprint(digests[first])}.parquet"
        store.write_table(key, table, **features.PARQUET)
        index.append(features._index_rows([piece.digest for piece in part], lengths, key))
    store.write_table(f"{dataset}/index.parquet", pa.concat_tables(index))
    rows = [
        {
            "id": f"bench/{number}",
            "corpus": "bench",
            "split": "train",
            "audio": "bench",
            "duration": SECONDS,
            "digest": digest,
            "text": " ".join(generator.choice(["turn", "on", "the", "kitchen", "lights", "please"], 20)),
            "intent": f"intent{number % 20}",
        }
        for number, digest in enumerate(digests)
    ]
    store.write_table("utterances/bench/rows.parquet", pa.Table.from_pylist(rows, schema=utterance_schema()))
    parts = tuple(entry.key for entry in store.list(f"{dataset}/") if "index" not in entry.key)
    meta = {"spec": asdict(SPEC)}
    made = store.commit(dataset, "bench", (f"{dataset}/index.parquet", *parts), meta=meta)
    return open_dataset(store, [store.commit("utterances/bench", "b", ("utterances/bench/rows.parquet",))], [made])


def epoch_of(loader: Loader) -> float:
    """Utterances a second."""
    count, began = 0, time.perf_counter()
    for step in loader:
        count += sum(len(batch) for micro_batch in step for batch in micro_batch)
    return count / (time.perf_counter() - began)


def ray_data(paths: list[str]) -> float:
    """Utterances a second through iter_batches, in its fastest format, into padded tensors."""
    import ray

    count, began = 0, time.perf_counter()
    dataset = ray.data.read_parquet(paths).select_columns(["logmel"])
    for batch in dataset.iter_batches(batch_size=BATCH, batch_format="pyarrow", prefetch_batches=2):
        arrays = [
            np.frombuffer(value.as_buffer(), dtype="<f2").reshape(-1, SPEC.bins)
            for value in batch.column("logmel").combine_chunks()
        ]
        padded = np.zeros((len(arrays), max(map(len, arrays)), SPEC.bins), dtype=np.float16)
        for row, array in zip(padded, arrays, strict=True):
            row[: len(array)] = array
        count += len(torch.from_numpy(padded))
    return count / (time.perf_counter() - began)


def quiet_ray() -> None:
    cluster.connect(cpus=1)
    import ray

    logging.disable(logging.WARNING)
    context: Any = ray.data.DataContext.get_current()
    context.enable_progress_bars = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--utterances", type=int, default=3000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    with tempfile.TemporaryDirectory(prefix="motet-bench-") as scratch:
        os.environ["MOTET_CACHE"] = f"{scratch}/cache"
        dataset = write_parts(Store(f"{scratch}/store"), options.utterances)
        paths = [str(dataset.store.fetch(key)) for key in dataset.parts]
        codec = Codec.build(dataset.rows.select(["text", "intent"]).to_pylist(), ("transcript", "intent"))
        loader = Loader(dataset, codec, CONFIG, hop_ms=SPEC.hop_ms)
        first = epoch_of(loader)
        quiet_ray()
        ray_data(paths)  # its own warming up: workers and imports
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(epoch_of(loader))
            theirs.append(ray_data(paths))
        frames = dataset.rows["frames"].to_numpy()
        padding = padding_of(frames, [planned.rows for planned in loader.groups[0].batches(0)])
        print(f"{options.utterances} utterances of 6 to 10 s in {len(paths)} parts")
        print(f"utterances/s, median of {options.rounds} rounds")
        print(f"  loader            {statistics.median(ours):10,.0f}   ({min(ours):,.0f} - {max(ours):,.0f})")
        print(f"  loader, 1st epoch {first:10,.0f}")
        print(f"  ray.data          {statistics.median(theirs):10,.0f}   ({min(theirs):,.0f} - {max(theirs):,.0f})")
        times = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        conclude(
            Target("loader", statistics.median(ours), at_least=UTTERANCES_A_SECOND, unit="utterances/s"),
            Target("loader / ray.data.iter_batches", times, at_least=TIMES_RAY_DATA, unit="x"),
            Target("padding", 100 * padding, at_most=5, unit="%"),
        )


if __name__ == "__main__":
    main()
