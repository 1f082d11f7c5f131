"""A grammar of labelled sentences: text, tokens, BIO slots, intent and domain, drawn from one set of rules.

    sentence = Grammar(rules, intents).draw(random.Random("seed"))
    sentence.text, sentence.slots       # 'play some jazz please', ('O', 'O', 'B-genre', 'O')

A rule is one line of words with five marks:

    (a|b c)      one alternative, with probability proportional to the square root of the number of words in it
    [a|b]        the same, or nothing with probability 0.5
    <rule>       another rule, inserted
    {slot}       another rule, its words tagged B-slot, I-slot …
    {slot:rule}  the same for a rule whose name differs from the slot's

A form that ends in "?" sets `Sentence.question`, for the synthesiser's intonation; `text` has no punctuation.
A number before a bracket, "2(a|b)", is for grammars that translate another one: see bilingual_grammar.py.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any, Literal, TypeVar

_TOKEN = re.compile(r"\d*[(\[]|[)\]|?]|<[a-z_]+>|\{[a-z_]+(?::[a-z_]+)?\}|[^\W\d_]+(?:'[^\W\d_]+)*")
Item = TypeVar("Item")


class GrammarError(ValueError):
    """A rule that cannot be parsed; the message names the rule and the error."""


@dataclass(frozen=True)
class Sentence:
    """One labelled sentence; `slots` are BIO tags, one for each of `tokens`."""

    text: str
    tokens: tuple[str, ...]
    slots: tuple[str, ...]
    intent: str
    domain: str
    question: bool = False


@dataclass(frozen=True)
class Intent:
    """weight: how often the intent is drawn, relative to the others."""

    domain: str
    forms: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Node:
    """Part of a parsed rule. An optional choice has two children: an empty sequence, and the content of the bracket.

    link: the number before the bracket.
    """

    kind: Literal["word", "rule", "sequence", "choice"]
    name: str = ""
    slot: str | None = None
    children: tuple[Node, ...] = ()
    optional: bool = False
    link: int = 0


@dataclass(frozen=True)
class Derivation:
    """An expanded node. children: of a sequence all, of a choice number `chosen`, of a rule its line."""

    node: Node
    children: tuple[Derivation, ...] = ()
    chosen: int = 0


@dataclass(frozen=True)
class Draw:
    """A drawn sentence: its intent, the number of the form, and the derivation of the form."""

    intent: str
    form: int
    derivation: Derivation


@dataclass(frozen=True)
class Grammar:
    """rules: name -> line. intents: by name. Raises GrammarError on first use if one is invalid."""

    rules: Mapping[str, str]
    intents: Mapping[str, Intent]

    @cached_property
    def _rules(self) -> dict[str, Node]:
        parsed = {name: _parse(line, f"rule {name!r}") for name, line in self.rules.items()}
        for name, node in parsed.items():
            self._check(node, f"rule {name!r}", frozenset({name}), parsed)
        return parsed

    @cached_property
    def _forms(self) -> dict[str, tuple[tuple[Node, bool], ...]]:
        forms = {}
        for name, intent in self.intents.items():
            where = f"intent {name!r}"
            forms[name] = tuple((_parse(form.rstrip("? "), where), form.endswith("?")) for form in intent.forms)
            for node, _ in forms[name]:
                self._check(node, where, frozenset(), self._rules)
        return forms

    def _check(self, node: Node, where: str, inside: frozenset[str], parsed: Mapping[str, Node]) -> None:
        """Checks that all referenced rules exist and that none is recursive."""
        if node.kind == "rule":
            if node.name not in parsed:
                near = difflib.get_close_matches(node.name, parsed, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise GrammarError(f"{where} names the rule {node.name!r}, which does not exist{hint}")
            if node.name in inside:
                raise GrammarError(f"{where} leads back into itself through {node.name!r}; a sentence would never end")
            self._check(parsed[node.name], where, inside | {node.name}, parsed)
        for child in node.children:
            self._check(child, where, inside, parsed)

    def _words(self, node: Node) -> set[str]:
        """All words that the node can derive."""
        if node.kind == "word":
            return {node.name}
        children = (self._rules[node.name],) if node.kind == "rule" else node.children
        return set().union(*map(self._words, children))

    @cached_property
    def _shares(self) -> dict[Node, tuple[float, ...]]:
        """Weight of each child of a choice: the square root of the number of words in it."""
        shares: dict[Node, tuple[float, ...]] = {}

        def visit(node: Node) -> None:
            if node.kind == "choice" and node not in shares:
                weights = tuple(max(1, len(self._words(child))) ** 0.5 for child in node.children)
                shares[node] = (1.0, 1.0) if node.optional else weights
            for child in node.children:
                visit(child)

        for node in (*self._rules.values(), *(form for forms in self._forms.values() for form, _ in forms)):
            visit(node)
        return shares

    def draw(self, rng: Random) -> Sentence:
        """One sentence: an intent by weight, one of its forms, then every choice at random."""
        return self.sentence(self.derive(rng))

    def derive(self, rng: Random, intent: str | None = None) -> Draw:
        """A draw of the given intent, or of an intent chosen by weight."""
        name = intent or weighted(rng, list(self.intents), [each.weight for each in self.intents.values()])
        form, (node, _) = pick(rng, list(enumerate(self._forms[name])))
        return Draw(name, form, self._derive(node, rng))

    def sentence(self, draw: Draw) -> Sentence:
        tagged = _tagged_words(draw.derivation)
        tokens, slots = tuple(word for word, _ in tagged), tuple(tag for _, tag in tagged)
        _, question = self._forms[draw.intent][draw.form]
        return Sentence(" ".join(tokens), tokens, slots, draw.intent, self.intents[draw.intent].domain, question)

    def _derive(self, node: Node, rng: Random) -> Derivation:
        if node.kind == "choice":
            chosen = weighted(rng, range(len(node.children)), self._shares[node])
            return Derivation(node, (self._derive(node.children[chosen], rng),), chosen)
        children = (self._rules[node.name],) if node.kind == "rule" else node.children
        return Derivation(node, tuple(self._derive(child, rng) for child in children))

    def form(self, intent: str, number: int) -> Node:
        return self._forms[intent][number][0]

    def rule(self, name: str) -> Node:
        return self._rules[name]

    def fingerprint(self) -> str:
        """Hash of all rules and intents."""
        content: Any = [dict(self.rules), {name: [i.domain, i.forms, i.weight] for name, i in self.intents.items()}]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _tagged_words(derivation: Derivation) -> list[tuple[str, str]]:
    """Words and their BIO tags."""
    node = derivation.node
    if node.kind == "word":
        return [(node.name, "O")]
    tagged = [pair for child in derivation.children for pair in _tagged_words(child)]
    if node.slot is None:
        return tagged
    return [(word, f"{'I' if position else 'B'}-{node.slot}") for position, (word, _) in enumerate(tagged)]


def pick(rng: Random, items: Sequence[Item]) -> Item:
    """One item, uniformly. Only `Random.random` is stable over versions of Python."""
    return items[int(rng.random() * len(items))]


def weighted(rng: Random, items: Sequence[Item], weights: Sequence[float]) -> Item:
    """One item, with probability proportional to its weight."""
    remaining = rng.random() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        remaining -= weight
        if remaining < 0:
            return item
    return items[-1]


def _parse(line: str, where: str) -> Node:
    if unknown := _TOKEN.sub("", line).split():
        raise GrammarError(f"{where}: cannot read {unknown[0]!r} in {line!r}; digits and punctuation are spelled out")
    tokens = _TOKEN.findall(line)
    node, end = _alternatives(tokens, 0, where)
    if end != len(tokens):
        raise GrammarError(f"{where}: {tokens[end]!r} without its opening bracket in {line!r}")
    return node


def _alternatives(tokens: Sequence[str], at: int, where: str) -> tuple[Node, int]:
    """Sequences separated by "|", up to a closing bracket or the end."""
    choices: list[Node] = []
    while True:
        sequence, at = _sequence(tokens, at, where)
        choices.append(sequence)
        if at == len(tokens) or tokens[at] != "|":
            break
        at += 1
    return (choices[0] if len(choices) == 1 else Node("choice", children=tuple(choices))), at


def _sequence(tokens: Sequence[str], at: int, where: str) -> tuple[Node, int]:
    items: list[Node] = []
    while at < len(tokens) and tokens[at] not in ("|", ")", "]"):
        token = tokens[at]
        if token[-1] in "([":
            content, at = _alternatives(tokens, at + 1, where)
            closing = ")" if token[-1] == "(" else "]"
            if at == len(tokens) or tokens[at] != closing:
                raise GrammarError(f"{where}: {token!r} without its {closing!r}")
            if token[-1] == "[":
                content = Node("choice", children=(Node("sequence"), content), optional=True)
            items.append(replace(content, link=int(token[:-1])) if token[:-1] else content)
        elif token[0] == "<":
            items.append(Node("rule", token[1:-1]))
        elif token[0] == "{":
            slot, _, rule = token[1:-1].partition(":")
            items.append(Node("rule", rule or slot, slot=slot))
        elif token == "?":
            raise GrammarError(f"{where}: '?' is for the end of an intent's form")
        else:
            items.append(Node("word", token))
        at += 1
    return Node("sequence", children=tuple(items)), at
