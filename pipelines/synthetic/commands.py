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


def _english() -> Grammar:
    content = read_texts("commands_en")
    intents = {
        name: Intent(intent["domain"], tuple(intent["forms"]), float(intent.get("weight", 1)))
        for name, intent in content["intents"].items()
    }
    return Grammar(content["rules"], intents)


def _german(english: Grammar) -> Parallel:
    """German intents have the domains and weights of the English ones."""
    content = read_texts("commands_de")
    intents = {
        name: Intent(intent.domain, tuple(content["intents"][name]), intent.weight)
        for name, intent in english.intents.items()
    }
    return Parallel(english, Grammar(content["rules"], intents), content["translates"])


ENGLISH = _english()
ENGLISH_TO_GERMAN = _german(ENGLISH)
GERMAN = ENGLISH_TO_GERMAN.target
