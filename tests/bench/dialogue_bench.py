"""What context is worth: the system's next action, learned from written dialogues with the turns before and without.

    python tests/bench/dialogue_bench.py [--dialogues 500] [--steps 300] [--seeds 2]

Prints, for dialogues of the embedded corpus that training never saw: accuracy with context, the same model asked
without it, a model trained without it, and the best that any model without context could do: the most frequent action
of each kind of turn. One thread.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from random import Random
from typing import Any

import torch

from mtl.config.model import ModelConfig
from mtl.inputs.batch import collate
from mtl.inputs.codec import CONTEXT_WORDS, Codec
from mtl.models.joint import SpeechModel, build_model
from pipelines.synthetic.dialogues_en import Turn, draw

BATCH = 32
Row = dict[str, Any]


def rows_of(name: str, dialogues: int) -> list[tuple[Turn, Row]]:
    turns = [turn for number in range(dialogues) for turn in draw(Random(f"bench/{name}/{number}"))]
    found = []
    for turn in turns:
        labels = {"dialogue_act": turn.act, "system_action": turn.action}
        found.append((turn, {"text": turn.text, "context": list(turn.context), **labels}))
    return found


def train(rows: list[Row], context: int, steps: int, seed: int) -> SpeechModel:
    tasks = ("dialogue_act", "system_action")
    codec = Codec.build(rows, tasks, context=context)
    torch.manual_seed(seed)
    model = build_model(ModelConfig(tasks=tasks, bins=8, width=48, blocks=1, heads=4, kernel=5, dropout=0.1), codec)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    rng = Random(seed)
    for _ in range(steps):
        batch = collate([codec.encode(rows[int(rng.random() * len(rows))]) for _ in range(BATCH)])
        optimiser.zero_grad()
        torch.stack([total / count for total, count in model.losses(batch).values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    return model.eval()


def accuracy(model: SpeechModel, rows: list[Row], task: str) -> float:
    right = 0
    for start in range(0, len(rows), 200):
        part = rows[start : start + 200]
        found = model.predict(collate([model.codec.encode(row) for row in part]))[task]
        names = model.codec.labels[task]
        right += sum(names[label] == row[task] for (label, _), row in zip(found, part, strict=True))
    return 100 * right / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=500)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    learned = rows_of("train", given.dialogues)
    seen = {(turn.context, turn.text) for turn, _ in learned}
    asked = [
        pair
        for pair in rows_of("test", 200)
        if len(pair[0].context) == 0 or (pair[0].context, pair[0].text) not in seen
    ]
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for turn, _ in asked:
        kinds[turn.kind][turn.action] += 1
    rows = [row for _, row in asked]
    blind = 100 * sum(actions.most_common(1)[0][1] for actions in kinds.values()) / len(rows)
    print(f"{len(learned):,} turns to learn from, {len(rows):,} asked; no model without context passes {blind:.1f} %")
    for seed in range(given.seeds):
        for context in (CONTEXT_WORDS, 0):
            model = train([row for _, row in learned], context, given.steps, seed)
            told = {task: accuracy(model, rows, task) for task in ("system_action", "dialogue_act")}
            line = f"seed {seed}, {context:2d} words of context: " + ", ".join(
                f"{k} {v:.1f} %" for k, v in told.items()
            )
            if context:
                bare = [{**row, "context": []} for row in rows]
                line += f"; asked without: system_action {accuracy(model, bare, 'system_action'):.1f} %"
            print(line, flush=True)


if __name__ == "__main__":
    main()
