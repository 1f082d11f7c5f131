"""What personalising is worth on real speakers that the base never heard: word errors before and after, with intervals.

    motet nightly an4.yaml --root ROOT                # any recipe with a task 'transcript' that splits AN4 by speaker
    python tests/bench/personalise_study.py ROOT an4 --out study.jsonl

Each speaker of the valid and test rows with more than HEARD utterances gives HEARD of them (by the hash of their ids)
to what `motet personalise` calls; the others are recognised by the base and by the adapter, with the shipped search
and by the best path. "cross" are the figures of the HEARD utterances themselves, each by an adapter that did not hear
it: what the gate goes by. The relative cut in word errors is bootstrapped over speakers, and over utterances within
each. A line of `--out` is a speaker; one that is there is not done again. Minutes a speaker: no part of `make bench`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtl.inference.adaptation import PersonalPredictor
from mtl.inference.enrolment import Fitting, Utterance
from mtl.inference.predictor import Predictor
from mtl.metrics.recognition import word_errors
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.personalisation import enrolment, personalise
from pipelines.registry.registry import Registry, Version
from pipelines.stages.context import manifests
from pipelines.storage.store import Manifest, fingerprint

HEARD = 10
RESAMPLES = 10_000


def speakers(dataset: Dataset, splits: list[str]) -> dict[str, list[int]]:
    """Positions of each speaker's transcribed utterances, in the order of their ids' hashes."""
    found: dict[str, list[int]] = {}
    for position, row in enumerate(dataset.rows.to_pylist()):
        if row["split"] in splits and row["audio"] is not None and row["text"] and row["speaker"]:
            found.setdefault(row["speaker"], []).append(position)
    ids = dataset.rows["id"].to_pylist()
    return {name: sorted(rows, key=lambda n: fingerprint(ids[n])) for name, rows in sorted(found.items())}


def enrolled(
    dataset: Dataset, rows: list[int], predictor: Predictor, speaker: str, manifest: Manifest
) -> enrolment.Enrolled:
    chosen = dataset.select(rows)
    content = chosen.rows.to_pylist()
    arrays = [np.asarray(array, dtype=np.float32) for array in chosen.features(range(len(rows)))]
    given = [Utterance(x, predictor.codec.encode(row)) for x, row in zip(arrays, content, strict=True)]
    return enrolment.Enrolled(speaker, manifest, chosen, content, given)


def errors(given: enrolment.Enrolled, predictor: Predictor) -> list[int]:
    return counted(given, personalise.predict_rows(predictor, given.utterances))


def counted(given: enrolment.Enrolled, predictions: list[Any]) -> list[int]:
    return [word_errors(row["text"], got.text) for row, got in zip(given.rows, predictions, strict=True)]


def one_speaker(
    registry: Registry,
    base: Version,
    predictor: Predictor,
    mean: torch.Tensor | None,
    heard: enrolment.Enrolled,
    rest: enrolment.Enrolled,
    fitting: Fitting,
) -> dict[str, Any]:
    """Errors per utterance before and after, on what the adapter heard (cross-fitted) and on what it did not."""
    began = time.process_time()
    voice = torch.ones(1)
    if mean is not None:
        voice = enrolment.mean_voice(predictor, [utterance.features for utterance in heard.utterances])
    about = personalise.about_of(base, registry.folder(base.uri), heard)
    made = personalise.fitted(predictor, about, voice, torch.zeros(1) if mean is None else mean, heard, (), fitting)
    cross = personalise.held_back_predictions(predictor, made, heard)
    before = personalise.predict_rows(predictor, heard.utterances)
    decision = personalise.compare(cross, before, heard, predictor)
    seconds = time.process_time() - began
    mine, greedy = PersonalPredictor(predictor, made.personal), predictor.with_options(greedy=True)
    hot, words = made.personal.about.hot_words, errors(rest, mine)
    made.personal.about = replace(made.personal.about, hot_words=())
    wordless = errors(rest, PersonalPredictor(predictor, made.personal)) if hot else words
    theirs = errors(rest, predictor)
    return {
        "speaker": heard.speaker,
        "held_back_loss": made.held_back_loss(),
        "promoted": decision.promote,
        "reason": decision.reason,
        "hot_words": hot,
        "bytes": len(made.personal.to_bytes()),
        "cpu_seconds": round(seconds, 1),
        "words": {"rest": lengths(rest), "cross": lengths(heard)},
        "base": {
            "beam": theirs,
            "beam, no hot words": theirs,
            "greedy": errors(rest, greedy),
            "cross": counted(heard, before),
        },
        "mine": {
            "beam": words,
            "beam, no hot words": wordless,
            "greedy": errors(rest, mine.with_options(greedy=True)),
            "cross": counted(heard, cross),
        },
    }


def lengths(given: enrolment.Enrolled) -> list[int]:
    return [len(row["text"].split()) for row in given.rows]


def cut(rows: list[dict[str, Any]], kind: str, gated: bool = False) -> dict[str, float]:
    """Word error rates and the relative cut, percent, with a 95 % interval (speakers, then utterances, resampled).

    kind: "all" is "beam" and "cross" together: every utterance, none heard by the adapter that recognises it.
    gated: a speaker whose adapter was refused keeps the base.
    """
    kinds, per = ["beam", "cross"] if kind == "all" else [kind], []
    for row in rows:
        before = [count for one in kinds for count in row["base"][one]]
        after = [count for one in kinds for count in row["mine"][one]] if row["promoted"] or not gated else before
        words = [count for one in kinds for count in row["words"]["cross" if one == "cross" else "rest"]]
        per.append(np.array([before, after, words], dtype=np.float64).T)  # (utterances, 3)
    rng = np.random.default_rng(0)
    drawn = np.zeros((RESAMPLES, 3))
    for number in range(RESAMPLES):
        for speaker in rng.integers(len(per), size=len(per)):
            drawn[number] += per[speaker][rng.integers(len(per[speaker]), size=len(per[speaker]))].sum(axis=0)
    before, after, words = np.sum([part.sum(axis=0) for part in per], axis=0)
    cuts = 100 * (1 - drawn[:, 1] / np.maximum(drawn[:, 0], 1))
    low, high = np.quantile(cuts, [0.025, 0.975])
    return {
        "before": 100 * before / words,
        "after": 100 * after / words,
        "cut": 100 * (1 - after / before),
        "low": float(low),
        "high": float(high),
        "words": words,
    }


def show(rows: list[dict[str, Any]]) -> None:
    seconds, size = np.median([row["cpu_seconds"] for row in rows]), max(row["bytes"] for row in rows)
    promoted = sum(row["promoted"] for row in rows)
    print(f"{len(rows)} speakers, {promoted} promoted, median {seconds:.0f} s CPU, {size:,} bytes")
    for kind in ("beam", "beam, no hot words", "greedy", "cross", "all"):
        for gated in (False, True):
            found = cut(rows, kind, gated)
            rates = f"WER {found['before']:6.2f} -> {found['after']:6.2f} %"
            cuts = f"cut {found['cut']:+6.1f} % ({found['low']:+.1f} to {found['high']:+.1f})"
            print(f"{kind + (', gated' if gated else ''):28} {rates}   {cuts}, {found['words']:.0f} words")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("model", help="a registered model, e.g. an4 or models:/an4/1")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", default="valid,test")
    parser.add_argument("--heard", type=int, default=HEARD)
    parser.add_argument("--set", action="append", default=[], help="of the fitting, e.g. learning_rate=1e-3")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = {key: json.loads(value) for key, _, value in (item.partition("=") for item in given.set)}
    fitting = Fitting(**settings)
    registry = Registry(given.root)
    base, predictor = enrolment.base_of(registry, given.model)
    refs = list(base.datasets.items())
    tables = manifests(registry.store, [ref for ref in refs if ref[0].startswith("utterances/")])
    features = manifests(registry.store, [ref for ref in refs if ref[0].startswith("features/")])
    dataset = open_dataset(registry.store, tables, features)
    mean = enrolment.training_mean(registry, base, predictor)
    done = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    for name, rows in speakers(dataset, given.splits.split(",")).items():
        if len(rows) <= given.heard or name in {row["speaker"] for row in done}:
            continue
        heard = enrolled(dataset, rows[: given.heard], predictor, name, tables[0])
        rest = enrolled(dataset, rows[given.heard :], predictor, name, tables[0])
        done.append(one_speaker(registry, base, predictor, mean, heard, rest, fitting))
        with given.out.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(f"{name}: {done[-1]['reason']}", flush=True)
    show(done)


if __name__ == "__main__":
    main()
