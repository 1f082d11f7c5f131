"""What recognised words in training and a curriculum are worth, on the embedded corpus (synthetic speech).

    python tests/bench/understanding.py --root understanding-root --seeds 3       # one thread; about 25 runs of minutes
    python tests/bench/understanding.py --root understanding-root --only true,heard

One process and one run after the other; each leaves its figures in ROOT/results, so a killed call goes on. Not part of
`make bench`: it trains. Scored on valid: the recogniser's best path; the same with `decoding.reread`; and as a model is
shipped, which searches with the word trigram and rereads.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtl.inference.predictor import Predictor
from mtl.training.fit import fit
from pipelines.data import features
from pipelines.data.dataset import open_dataset
from pipelines.data.ingest import ingest
from pipelines.evaluation import evaluate
from pipelines.recipe import Recipe, parse
from pipelines.storage.store import Store
from pipelines.training.prepare import Job, beam_config, fit_config, labelled, language_model, prepare

COMMANDS = {
    "utterances": 1200,
    "valid_utterances": 300,
    "test_utterances": 1,
    "text_only_sentences": 500,
    "speakers": 80,
    "valid_speakers": 12,
}
EPOCHS = 10
EAR = {"name": "ear", "tasks": ["transcript"], "epochs": 4}
HEADS = {"name": "heads", "tasks": ["intent", "slots"], "epochs": 1, "train": "heads"}
HEARD = {"understanding": {"recognised": 0.5}}
READ = {"understanding": {"recognised": 0.5, "read": True}}
VARIANTS: dict[str, dict[str, Any]] = {
    "true": {},  # words of the true transcript alone
    "heard": HEARD,
    "read true": {"understanding": {"read": True}},
    "heard and read": READ,
    "all heard and read": {"understanding": {"recognised": 1.0, "read": True}},
    "ear first": {"trainer": {"curriculum": [EAR]}},
    "ear first + restart": {"trainer": {"curriculum": [EAR], "restart": True}},
    "ear + heads first": {"trainer": {"curriculum": [EAR, HEADS]}},
    "ear first + heard and read": {**READ, "trainer": {"curriculum": [EAR]}},
}
SHOWN = (
    ("best path", "transcript/wer"),
    ("best path", "intent/accuracy"),
    ("reread", "intent/accuracy"),
    ("best path", "slots/f1"),
    ("shipped", "transcript/wer"),
    ("shipped", "intent/accuracy"),
    ("shipped", "slots/f1"),
)


def recipe_of(variant: dict[str, Any], seed: int, commands: dict[str, int], epochs: int) -> Recipe:
    trainer = {"epochs": epochs, "learning_rate": 4e-3, **variant.get("trainer", {})}
    return parse(
        {
            "name": "understanding",
            "seed": seed,
            "corpora": [{"name": "commands", "kind": "espeak", "options": commands}],
            "loader": {"batch_seconds": 20, "batch_tokens": 60, "speed": [0.9, 1.1]},
            "model": {"width": 96, "blocks": 2, "dropout": 0.0},
            "tasks": {"transcript": {}, "intent": {"weight": 0.3}, "slots": {"weight": 0.5}},
            **variant,
            "trainer": trainer,
        }
    )


def run(recipe: Recipe, store: Store) -> dict[str, Any]:
    """One training, from the data to the scores of its last epoch."""
    utterances = [ingest(corpus, recipe.quality, store) for corpus in recipe.corpora]
    found = features.extract(utterances, recipe.features, store, parallel="local")
    dataset = open_dataset(store, utterances, found)
    codec, _, _ = prepare(recipe, labelled(dataset, recipe))
    model, loader, _ = Job(recipe, utterances, found, store, codec.to_json(), threads=1).open()
    began = time.process_time()
    fit(model, loader, replace(fit_config(recipe), checkpoint_seconds=math.inf, device="cpu"))
    seconds = time.process_time() - began
    spec, valid = recipe.features, dataset.split("valid")
    language = language_model(recipe, dataset, codec)
    ears = {
        "best path": Predictor(model, spec),
        "reread": Predictor(model, spec, reread=True),
        "shipped": Predictor(model, spec, language, beam_config(recipe), reread=True),
    }
    scores = {name: evaluate.evaluate(ear, valid, recipe.loader).metrics for name, ear in ears.items()}
    return {"seconds": seconds, "scores": scores}


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Means over seeds, the range behind them, CPU seconds."""
    heads = [f"{metric}, {ear}" for ear, metric in SHOWN]
    lines = [f"| trained on, seeds | {' | '.join(heads)} | CPU s |", "|---" * (len(SHOWN) + 2) + "|"]
    for name, runs in results.items():
        columns = [[one["scores"][ear][metric] for one in runs] for ear, metric in SHOWN]
        cells = [f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})" for values in columns]
        seconds = np.mean([one["seconds"] for one in runs])
        lines.append(f"| {name}, {len(runs)} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="understanding-root")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(VARIANTS), help="variants, comma separated")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--utterances", type=int, default=COMMANDS["utterances"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [name for name in VARIANTS if name in arguments.only.split(",")]
    folder = Path(arguments.root) / "results" / f"{arguments.utterances}-{arguments.epochs}"
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(arguments.seeds):
        for name in chosen:
            path = folder / f"{'-'.join(name.split())}-{seed}.json"
            if not path.exists():
                commands = {**COMMANDS, "utterances": arguments.utterances}
                recipe = recipe_of(VARIANTS[name], seed, commands, arguments.epochs)
                path.write_text(json.dumps(run(recipe, Store(arguments.root))))
            results.setdefault(name, []).append(json.loads(path.read_text()))
            print(table(results), flush=True)


if __name__ == "__main__":
    main()
