"""What the sentences of a grammar can contain."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.synthetic.grammar import Grammar, Node


def words_of(grammar: Grammar) -> set[str]:
    return {node.name for node in _nodes(grammar) if node.kind == "word"}


def slots_of(grammar: Grammar) -> set[str]:
    return {node.slot for node in _nodes(grammar) if node.slot}


def domains_of(grammar: Grammar) -> set[str]:
    return {intent.domain for intent in grammar.intents.values()}


def _nodes(grammar: Grammar) -> Iterator[Node]:
    """The nodes that can occur in a derivation."""
    pending = [grammar.form(name, k) for name, intent in grammar.intents.items() for k in range(len(intent.forms))]
    while pending:
        yield (node := pending.pop())
        pending += [grammar.rule(node.name)] if node.kind == "rule" else node.children
