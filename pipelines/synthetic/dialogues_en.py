"""Simulated English dialogues with a smart speaker, labelled with dialogue acts and system actions.

    for turn in draw(Random("seed")): turn.context, turn.text, turn.act, turn.action

The user requests a light, music, a timer, an alarm or a meeting, gives some slots, is asked for the others, confirms,
corrects, asks to repeat, cancels or says thanks. The system follows a fixed policy (`_State.next`). Its action is a
function of the whole dialogue, but not of the last turn: "yes" confirms whatever was asked, and "seven o'clock" leads
to a question or to a confirmation, depending on whether the day is known. The sentences are in dialogues_en.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from pipelines.synthetic.commands import ENGLISH, read_texts
from pipelines.synthetic.grammar import Grammar, Intent, Sentence, pick, weighted

MAX_TURNS = 10  # of the user
GOALS: Mapping[str, tuple[str, ...]] = {  # required slots, in the order in which the system asks for them
    "light": ("room",),
    "music": ("room", "genre"),
    "timer": ("duration",),
    "alarm": ("time", "date"),
    "meeting": ("date", "time"),
}
CONFIRMED = ("alarm", "meeting")  # goals that the system confirms before it executes or cancels them

_TEXTS = read_texts("dialogues_en")
GRAMMAR = Grammar(ENGLISH.rules, {name: Intent("dialogue", tuple(forms)) for name, forms in _TEXTS["forms"].items()})
QUESTIONS, RESPONSES = _TEXTS["questions"], _TEXTS["responses"]


@dataclass(frozen=True)
class Turn:
    """One turn of the user.

    context: the turns before it, of both sides, oldest first. kind: the turn's name in `forms` and its slots.
    """

    context: tuple[str, ...]
    text: str
    question: bool
    act: str
    action: str
    kind: str


@dataclass
class _State:
    """The system's state. pending: the action that waits for an answer, and its text."""

    goal: str
    slots: dict[str, str] = field(default_factory=dict)
    pending: tuple[str, str] = ("", "")

    def next(self, turn: str) -> str:
        """The system's action after a turn of the user, whose slots are already in `slots`."""
        act = turn.split("_")[0]
        if act in ("repeat", "thank"):
            return {"repeat": "repeat", "thank": "welcome"}[act]
        if act == "cancel":
            return "confirm_stop" if self.goal in CONFIRMED else "stop"
        if self.pending[0] == "confirm_stop":
            return "stop" if act == "affirm" else "repeat"
        if act == "deny":
            return "ask_change"
        missing = next((slot for slot in GOALS[self.goal] if slot not in self.slots), None)
        if missing:
            return f"ask_{missing}"
        return "confirm" if self.goal in CONFIRMED and act != "affirm" else "execute"


def draw(rng: Random) -> list[Turn]:
    """The user's turns of one dialogue."""
    state = _State(pick(rng, list(GOALS)))
    context: list[str] = []
    turns: list[Turn] = []
    name = f"request_{state.goal}"
    interrupted = ("", "")  # the pending action when the user cancelled; restored if the user denies that
    while name and len(turns) < MAX_TURNS:
        sentence = GRAMMAR.sentence(GRAMMAR.derive(rng, name))
        values = dict(_slot_values(sentence))
        state.slots.update(values)
        action = state.next(name)
        act = {"again": "request"}.get(name.split("_")[0], name.split("_")[0])
        turns.append(Turn(tuple(context), sentence.text, sentence.question, act, action, " ".join((name, *values))))
        if action == "repeat" and state.pending[0] == "confirm_stop" and act == "deny":
            state.pending = interrupted
        if action == "confirm_stop":
            interrupted = state.pending
        if action != "repeat":
            state.pending = action, _system_text(rng, action, state)
        context += [sentence.text, state.pending[1]]
        name = _next_turn(rng, state, action)
    return turns


def _slot_values(sentence: Sentence) -> Iterator[tuple[str, str]]:
    names = {tag[2:] for tag in sentence.slots if tag != "O"}
    for name in sorted(names):
        words = [word for word, tag in zip(sentence.tokens, sentence.slots, strict=True) if tag[2:] == name]
        yield name, " ".join(words)


def _system_text(rng: Random, action: str, state: _State) -> str:
    if action == "confirm":
        return f"{state.goal} {state.slots['date']} at {state.slots['time']} is that right"
    return pick(rng, RESPONSES[action] if action in RESPONSES else QUESTIONS[action.removeprefix("ask_")])


def _next_turn(rng: Random, state: _State, action: str) -> str:
    """The user's next turn, by its name in `forms`; "" ends the dialogue."""
    pending = state.pending[0]
    if action in ("stop", "welcome"):
        return ""
    if pending == "execute":
        last = GOALS[state.goal][-1]
        return weighted(rng, ("thank", f"again_{last}", ""), (2, 2, 1))
    known = [f"correct_{slot}" for slot in GOALS[state.goal] if slot in state.slots]
    if pending == "confirm_stop":
        return weighted(rng, ("affirm", "deny"), (1, 1))
    if pending == "confirm":
        return weighted(rng, ("affirm", "deny", pick(rng, known), "repeat", "cancel"), (5, 2, 2, 1, 1))
    if pending == "ask_change":
        slot = pick(rng, GOALS[state.goal])
        return weighted(rng, (f"inform_{slot}", f"correct_{slot}", "cancel"), (4, 2, 1))
    asked = pending.removeprefix("ask_")
    missing = set(GOALS[state.goal]) - set(state.slots)
    both = "inform_both" if {asked, *missing} == {"time", "date"} else f"inform_{asked}"
    other = pick(rng, known) if known else f"inform_{asked}"
    return weighted(rng, (f"inform_{asked}", both, other, "repeat", "cancel"), (6, 2, 1, 1, 1))
