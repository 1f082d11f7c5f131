"""Two grammars that say the same: a sentence of one and its translation, labelled alike, from one draw.

    english, german = Parallel(commands_en.GRAMMAR, commands_de.GRAMMAR, commands_de.TRANSLATES).draw(rng)

A synchronous grammar (Aho and Ullman 1969) in plain writing: form k of an intent translates form k of the same
intent, and a line is read along the other grammar's line.

    (a|b)       takes the alternative that the first bracket of the other line took; the second bracket follows the
                second, and so on: as many alternatives, in the same order
    2(a|b)      follows the other line's second bracket, wherever this one stands; once a line has numbers, all of its
                brackets need them, and what no number names is left out. Inside an alternative a number that the
                other line has no bracket for there is looked for around it
    {slot:rule} follows the other line's mention of that rule, or of the one that it `translates`: so that German has
                a rule for each case of one English word
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
    """One line, or one alternative, of the other grammar: its brackets and rules in order, and what is around it."""

    choices: list[Derivation]
    rules: list[Derivation]
    around: _Scope | None = None
    used: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, derivation: Derivation, around: _Scope | None = None) -> _Scope:
        items = list(_items(derivation))
        choices = [item for item in items if item.node.kind == "choice"]
        return cls(choices, [item for item in items if item.node.kind == "rule"], around)

    def choice(self, node: Node) -> Derivation | None:
        if not node.link:
            self.used["("] += 1
        number = node.link or self.used["("]
        if number <= len(self.choices):
            return self.choices[number - 1]
        return self.around.choice(node) if node.link and self.around else None

    def rule(self, node: Node, name: str) -> Derivation | None:
        """The next mention of the rule `name`, the last one again when all have been had."""
        found = [item for item in self.rules if (item.node.name, item.node.slot) == (name, node.slot)]
        found = found or [item for item in self.rules if item.node.name == name and node.slot is None]
        if not found:
            return self.around.rule(node, name) if self.around else None
        place = min(self.used[node.name], len(found) - 1)
        self.used[node.name] += 1
        return found[place]


@dataclass(frozen=True)
class Parallel:
    """source: what is drawn from; target: what translates it. translates: rule of the target -> rule of the source,
    where their names differ."""

    source: Grammar
    target: Grammar
    translates: Mapping[str, str]

    def draw(self, rng: Random) -> tuple[Sentence, Sentence]:
        """A sentence of the source, the same as `source.draw`, and its translation.

        Raises GrammarError when the target does not follow the source; the message names the intent and the form.
        """
        drawn = self.source.derive(rng)
        return self.source.say(drawn), self.target.say(self._translate(drawn))

    def _translate(self, drawn: Draw) -> Draw:
        where = f"intent {drawn.intent!r}, form {drawn.form + 1}"
        if self._sizes[0] != self._sizes[1]:
            raise GrammarError(f"the two grammars differ in their intents or the number of forms: {self._odd()}")
        node = self.target.form(drawn.intent, drawn.form)
        return Draw(drawn.intent, drawn.form, self._follow(node, _Scope.of(drawn.derivation), where))

    @cached_property
    def _sizes(self) -> tuple[dict[str, int], dict[str, int]]:
        one, other = ({n: len(i.forms) for n, i in g.intents.items()} for g in (self.source, self.target))
        return one, other

    def _odd(self) -> str:
        one, other = self._sizes
        return ", ".join(sorted(name for name in {*one, *other} if one.get(name) != other.get(name)))

    def _follow(self, node: Node, scope: _Scope, where: str) -> Derivation:
        if node.kind == "word":
            return Derivation(node)
        if node.kind == "sequence":
            return Derivation(node, tuple(self._follow(child, scope, where) for child in node.children))
        if node.kind == "choice":
            led = scope.choice(node)
            if led is None or len(led.node.children) != len(node.children):
                there = "no bracket" if led is None else f"{len(led.node.children)} alternatives"
                raise GrammarError(f"{where}: {_shown(node)} follows {there} of the other grammar")
            inside = _Scope.of(led.children[0], scope)
            return Derivation(node, (self._follow(node.children[led.chosen], inside, where),), led.chosen)
        name = self.translates.get(node.name, node.name)
        led = scope.rule(node, name)
        if led is None:
            raise GrammarError(f"{where}: {_shown(node)} follows the rule {name!r}, which the other line does not name")
        line = self._follow(self.target.rule(node.name), _Scope.of(led.children[0]), f"{where}, rule {node.name!r}")
        return Derivation(node, (line,))


def _items(derivation: Derivation) -> Iterator[Derivation]:
    """Brackets and rules of one line, those inside of a bracket or a rule left out."""
    if derivation.node.kind == "sequence":
        for child in derivation.children:
            yield from _items(child)
    else:
        yield derivation


def _shown(node: Node) -> str:
    if node.kind == "rule":
        return f"{{{node.slot}:{node.name}}}" if node.slot else f"<{node.name}>"
    return f"bracket {node.link or ''}({'|' * (len(node.children) - 1)})"
