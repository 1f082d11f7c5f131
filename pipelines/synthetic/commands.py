"""Commands to a smart speaker in English and German, the sentences of the demo corpus.

    ENGLISH.draw(rng)                       # a labelled sentence
    ENGLISH_TO_GERMAN.draw(rng)             # the same sentence and its German translation

The rules are in commands_en.yaml and commands_de.yaml; grammar.py describes their notation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipelines.synthetic.bilingual_grammar import Parallel
from pipelines.synthetic.grammar import Grammar, Intent


def read_texts(name: str) -> dict[str, Any]:
    path = Path(__file__).with_name(f"{name}.yaml")
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def _intents(forms: dict[str, Any], intents: dict[str, dict[str, Any]]) -> dict[str, Intent]:
    return {n: Intent(one["domain"], tuple(forms[n]), float(one.get("weight", 1))) for n, one in intents.items()}


_EN, _DE = read_texts("commands_en"), read_texts("commands_de")
ENGLISH = Grammar(_EN["rules"], _intents({n: one["forms"] for n, one in _EN["intents"].items()}, _EN["intents"]))
# German intents have the domains and weights of the English ones.
GERMAN = Grammar(_DE["rules"], _intents(_DE["intents"], _EN["intents"]))
ENGLISH_TO_GERMAN = Parallel(ENGLISH, GERMAN, _DE["translates"])
