"""Extract-and-store throughput beside lhotse's: the same FLAC files, one process, one thread, in one run.

    python tests/bench/features_bench.py [--rounds 5] [--files 200]

Each side decodes, makes log-mel with the same settings and writes it where it can be read back: Motet as Parquet
parts with index and manifest (synced to disk), lhotse with its default storage (lilcom) and with plain numpy files;
the target is held against both. Rounds alternate, and medians count, so that a noisy machine is noisy to all.
Without real recordings (MOTET_DATA) the files are noise with pauses, and the figures say so.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
import torch
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from targets import Target, conclude  # noqa: E402

from pipelines import recipe  # noqa: E402
from pipelines.data.features import extract  # noqa: E402
from pipelines.sources.audio import decode  # noqa: E402
from pipelines.storage.store import Manifest, Store  # noqa: E402
from pipelines.utterances.schema import utterance_schema  # noqa: E402

SPEC = recipe.Features()
TIMES_LHOTSE = 1.5


def flac_files(scratch: Path, count: int) -> tuple[list[Path], str]:
    data = Path(os.environ.get("MOTET_DATA") or ROOT.parent / "shared" / "data")
    found = sorted((data / "LibriSpeech").rglob("*.flac"))[:count]
    if found:
        return found, "LibriSpeech"
    files = []
    for number in range(count):
        generator = np.random.default_rng(number)
        loudness = np.repeat(generator.choice([0.001, 0.05, 0.2], 60), 1600)
        path = scratch / f"{number:04d}.flac"
        soundfile.write(path, (loudness * generator.normal(size=len(loudness))).clip(-1, 1), SPEC.sample_rate)
        files.append(path)
    return files, "synthetic noise (set MOTET_DATA for speech)"


def utterance_table(files: list[Path], store: Store) -> Manifest:
    rows = [
        {
            "id": f"bench/{number}",
            "corpus": "bench",
            "split": "train",
            "audio": str(path),
            "start": 0.0,
            "duration": soundfile.info(path).duration,
            "digest": hashlib.sha256(str(path).encode()).hexdigest()[:32],
        }
        for number, path in enumerate(files)
    ]
    store.write_table("utterances/bench/rows.parquet", pa.Table.from_pylist(rows, schema=utterance_schema()))
    return store.commit("utterances/bench", "bench", ("utterances/bench/rows.parquet",))


def motet(files: list[Path], folder: Path) -> float:
    store = Store(folder)
    manifest = utterance_table(files, store)
    began = time.perf_counter()
    extract([manifest], SPEC, store, "local")
    return time.perf_counter() - began


def lhotse(storage: str) -> Callable[[list[Path], Path], float]:
    from lhotse import CutSet, Fbank, FbankConfig, MonoCut, Recording
    from lhotse.features.io import get_writer

    # lhotse calls the settings so; snip_edges stays off, which it needs for its own bookkeeping.
    config = FbankConfig(num_filters=SPEC.bins, low_freq=SPEC.low_hz, high_freq=SPEC.high_hz, dither=0.0)

    def run(files: list[Path], folder: Path) -> float:
        recordings = [Recording.from_file(path) for path in files]
        cuts = CutSet.from_cuts(
            MonoCut(id=r.id, start=0, duration=r.duration, channel=0, recording=r) for r in recordings
        )
        extractor = Fbank(config)
        began = time.perf_counter()
        cuts.compute_and_store_features(
            extractor, str(folder / "features"), num_jobs=1, storage_type=get_writer(storage), progress_bar=False
        ).to_file(folder / "cuts.jsonl.gz")
        return time.perf_counter() - began

    return run


def decode_alone(files: list[Path], folder: Path) -> float:
    began = time.perf_counter()
    for path in files:
        decode(path, SPEC.sample_rate)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=200)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    threadpool_limits(1)
    sides: dict[str, Callable[[list[Path], Path], float]] = {
        "motet": motet,
        "lhotse lilcom": lhotse("lilcom_chunky"),
        "lhotse numpy files": lhotse("numpy_files"),
        "decoding alone": decode_alone,
    }
    with tempfile.TemporaryDirectory(prefix="motet-bench-") as scratch:
        files, what = flac_files(Path(scratch), options.files)
        seconds = sum(soundfile.info(path).duration for path in files)
        print(
            f"{len(files)} files, {seconds / 3600:.2f} h of {what}; times real time, median of {options.rounds} rounds"
        )
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(options.rounds + 1):  # the first warms everything up, and is not counted
            for name, side in sides.items():
                folder = Path(tempfile.mkdtemp(dir=scratch))
                rate = seconds / side(files, folder)
                if number:
                    rates[name].append(rate)
        medians = {name: statistics.median(found) for name, found in rates.items()}
        for name, found in rates.items():
            print(f"  {name:20} {medians[name]:8,.0f}   ({min(found):,.0f} - {max(found):,.0f})")
        best = max(("lhotse lilcom", "lhotse numpy files"), key=lambda name: medians[name])
        times = statistics.median(ours / theirs for ours, theirs in zip(rates["motet"], rates[best], strict=True))
        default = statistics.median(a / b for a, b in zip(rates["motet"], rates["lhotse lilcom"], strict=True))
        conclude(
            Target("features / lhotse with its default storage", default, at_least=TIMES_LHOTSE, unit="x"),
            Target(f"features / {best}", times, at_least=TIMES_LHOTSE, unit="x"),
        )


if __name__ == "__main__":
    main()
