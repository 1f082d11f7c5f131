"""A synchronous grammar (Aho and Ullman 1969): one draw gives a sentence and its translation with the same labels.

    english, german = Parallel(ENGLISH, GERMAN, {"adjective_n": "adjective"}).draw(rng)

Form k of a target intent translates form k of the same source intent. Each line of the target
follows the corresponding line of the source:

    (a|b)       takes the alternative that the source line's first bracket took; the second bracket follows the
                second, and so on. Both brackets have the same number of alternatives in the same order.
    2(a|b)      follows the source line's second bracket. If one bracket of a line has a number, all need one, and
                source brackets without a number are ignored. Inside an alternative, a number
                without a matching bracket in the source alternative refers to the enclosing line.
    {slot:rule} follows the source line's mention of that rule, or of the rule that it `translates`. German can so
                have one rule for each case of an English word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

from pipelines.synthetic.grammar import Derivation, Draw, Grammar, GrammarError, Node, Sentence


@dataclass
class _Scope:
    """A line or alternative of the source grammar: its brackets and rules, and the parent scope."""

    choices: list[Derivation]
    rules: list[Derivation]
    parent: _Scope | None = None
    used: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, derivation: Derivation, parent: _Scope | None = None) -> _Scope:
        items = list(_items(derivation))
        choices = [item for item in items if item.node.kind == "choice"]
        return cls(choices, [item for item in items if item.node.kind == "rule"], parent)

    def choice(self, node: Node) -> Derivation | None:
        if not node.link:
            self.used["("] += 1
        number = node.link or self.used["("]
        if number <= len(self.choices):
            return self.choices[number - 1]
        return self.parent.choice(node) if node.link and self.parent else None

    def rule(self, node: Node, name: str) -> Derivation | None:
        """The next mention of the rule `name`; the last one again after all have been used."""
        mentions = [item for item in self.rules if (item.node.name, item.node.slot) == (name, node.slot)]
        mentions = mentions or [item for item in self.rules if item.node.name == name and node.slot is None]
        if not mentions:
            return self.parent.rule(node, name) if self.parent else None
        index = min(self.used[node.name], len(mentions) - 1)
        self.used[node.name] += 1
        return mentions[index]


@dataclass(frozen=True)
class Parallel:
    """translates: target rule -> source rule, where their names differ."""

    source: Grammar
    target: Grammar
    translates: Mapping[str, str]

    def draw(self, rng: Random) -> tuple[Sentence, Sentence]:
        """A sentence of the source, equal to `source.draw(rng)`, and its translation.

        Raises GrammarError if the target does not match the source; the message names the intent and the form.
        """
        drawn = self.source.derive(rng)
        return self.source.sentence(drawn), self.target.sentence(self._translate(drawn))

    def _translate(self, drawn: Draw) -> Draw:
        if self._differing:
            raise GrammarError(
                f"the two grammars differ in their intents or the number of forms: {', '.join(self._differing)}"
            )
        where = f"intent {drawn.intent!r}, form {drawn.form + 1}"
        node = self.target.form(drawn.intent, drawn.form)
        return Draw(drawn.intent, drawn.form, self._follow(node, _Scope.of(drawn.derivation), where))

    @cached_property
    def _differing(self) -> list[str]:
        """Intents that only one grammar has, or that have different numbers of forms."""
        source, target = ({n: len(i.forms) for n, i in g.intents.items()} for g in (self.source, self.target))
        return sorted(name for name in {*source, *target} if source.get(name) != target.get(name))

    def _follow(self, node: Node, scope: _Scope, where: str) -> Derivation:
        if node.kind == "word":
            return Derivation(node)
        if node.kind == "sequence":
            return Derivation(node, tuple(self._follow(child, scope, where) for child in node.children))
        if node.kind == "choice":
            source = scope.choice(node)
            if source is None or len(source.node.children) != len(node.children):
                mismatch = "no bracket" if source is None else f"{len(source.node.children)} alternatives"
                raise GrammarError(f"{where}: {_shown(node)} follows {mismatch} of the other grammar")
            inner = _Scope.of(source.children[0], scope)
            return Derivation(node, (self._follow(node.children[source.chosen], inner, where),), source.chosen)
        name = self.translates.get(node.name, node.name)
        source = scope.rule(node, name)
        if source is None:
            raise GrammarError(f"{where}: {_shown(node)} follows the rule {name!r}, which the other line does not name")
        rule = self.target.rule(node.name)
        return Derivation(node, (self._follow(rule, _Scope.of(source.children[0]), f"{where}, rule {node.name!r}"),))


def _items(derivation: Derivation) -> Iterator[Derivation]:
    """Brackets and rules of one line, without those nested in a bracket or rule."""
    if derivation.node.kind == "sequence":
        for child in derivation.children:
            yield from _items(child)
    else:
        yield derivation


def _shown(node: Node) -> str:
    if node.kind == "rule":
        return f"{{{node.slot}:{node.name}}}" if node.slot else f"<{node.name}>"
    return f"bracket {node.link or ''}({'|' * (len(node.children) - 1)})"
