"""Who was champion when, and why: an append-only list of lines in the store, one list per model name.

    ledger = Ledger(store, "assistant")
    ledger.append("promote", version=4, expects=3, reason="significantly better: …", by="nightly")
    ledger.state().champion

A line is a numbered manifest, created on condition that nobody took its number: of two writers neither
loses its line. Which lines took effect follows from reading them in order: a line says which champion it
expects, and one that finds another is kept and counts for nothing ("overtaken"). So two promoters who judged against
the same champion cannot both win, without a lock, on a folder and on S3 alike. MLflow's aliases hold no history; they
are set from here.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, get_args

from pipelines.storage.store import Manifest, Store, fingerprint

Action = Literal["promote", "keep", "rollback", "lost", "adopt"]
ALL = 0  # as the version of a lost line: the registered model with all its versions
# To a person.
ACTION_WORDS: dict[Action, str] = {
    "promote": "promoted",
    "keep": "not promoted",
    "rollback": "rolled back",
    "lost": "lost",
    "adopt": "adopted",
}


class Decision(Protocol):
    """A gate's decision on a version, see evaluation/gates.py."""

    @property
    def promote(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Line:
    """One decision.

    promote: `version` becomes champion. keep: `version` was a candidate and was not promoted. rollback: `version`,
    the champion before, is champion again. lost: `version`, a champion of now or before, is not in MLflow any more
    (ALL: none is). adopt: this root took the registered model over, whose champion is `version` (0: none). expects:
    the champion it was decided against. rows: identity of the test rows. effective: False where another line came
    first. address: of the line itself, unique.
    """

    number: int
    time: str
    action: Action
    version: int
    expects: int | None
    reason: str
    by: str
    rows: str | None = None
    decision: Mapping[str, Any] | None = None
    effective: bool = True
    address: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class State:
    """What the lines amount to. reigns: champions in order without those rolled back or lost; the last one reigns."""

    lines: tuple[Line, ...]
    champions: tuple[int, ...]

    @property
    def champion(self) -> int | None:
        return self.champions[-1] if self.champions else None

    @property
    def previous(self) -> int | None:
        """Where a rollback leads."""
        return self.champions[-2] if len(self.champions) > 1 else None

    @property
    def number(self) -> int:
        return self.lines[-1].number if self.lines else 0

    @property
    def current(self) -> tuple[Line, ...]:
        """Lines about the versions that are in MLflow now: those since the registered model was lost or adopted."""
        starts = [n + 1 for n, line in enumerate(self.lines) if line.effective and _starts_anew(line)]
        return self.lines[starts[-1] :] if starts else self.lines

    @property
    def loss(self) -> Line | None:
        """The line by which a reigning champion was lost, until somebody is made champion by a decision.

        Of several the first: that champion is the one that candidates have had to beat.
        """
        loss = None
        for line in self.lines:
            if line.effective and line.action == "lost" and line.version in (line.expects, ALL):
                loss = loss or (line if line.expects is not None else None)
            elif line.effective and line.action not in ("keep", "lost"):
                loss = None
        return loss

    def before(self, line: Line | None) -> State:
        """As it was before a line; as it is for None."""
        return self if line is None else fold(earlier for earlier in self.lines if earlier.number < line.number)

    def challenges(self, rows: str | None, besides: int | None = None) -> int:
        """Candidates, `besides` one, that the champion has met on these test rows and that lost: `looks` in gates.

        A candidate that is judged twice on the same rows is still one.
        """
        beaten = [line for line in self.current if line.action == "keep" and line.expects == self.champion]
        return len({line.version for line in beaten if line.rows == rows} - {besides})


class Ledger:
    """The lines of one model name."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.dataset = f"ledger/{name}"

    def append(
        self,
        action: Action,
        version: int,
        expects: int | None,
        reason: str,
        by: str,
        rows: str | None = None,
        decision: Mapping[str, Any] | None = None,
    ) -> Line:
        """Writes a line; the returned one says by `effective` whether it was overtaken."""
        meta = {
            "action": action,
            "version": version,
            "expects": expects,
            "reason": reason,
            "by": by,
            "rows": rows,
            "decision": decision,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # No two lines are the same line, even with equal words: the address must be new each time.
        manifest = self.store.commit(self.dataset, fingerprint(meta, uuid.uuid4().hex), meta=meta)
        return next(line for line in self.state().lines if line.number == manifest.version)

    def state(self) -> State:
        return fold(_line(manifest) for manifest in self.store.versions(self.dataset))


def fold(lines: Iterable[Line]) -> State:
    """Reads lines in order and says which took effect."""
    read: list[Line] = []
    champions: list[int] = []
    for line in lines:
        effective = line.action == "keep" or _applies(line, champions)
        if effective:
            champions = _after(line, champions)
        read.append(replace(line, effective=effective))
    return State(tuple(read), tuple(champions))


def _applies(line: Line, champions: list[int]) -> bool:
    if line.expects != (champions[-1] if champions else None):
        return False
    if line.action == "rollback":
        return len(champions) > 1 and champions[-2] == line.version
    if line.action == "lost":
        return line.version == ALL or line.version in champions
    return line.action == "adopt" or line.version != line.expects


def _after(line: Line, champions: list[int]) -> list[int]:
    if line.action == "promote":
        return [*champions, line.version]
    if line.action == "rollback":
        return champions[:-1]
    if line.action == "lost":
        left = [] if line.version == ALL else [version for version in champions if version != line.version]
        return [version for n, version in enumerate(left) if n == 0 or version != left[n - 1]]
    if line.action == "adopt":
        return [line.version] if line.version else []
    return champions


def _starts_anew(line: Line) -> bool:
    return line.action == "adopt" or (line.action == "lost" and line.version == ALL)


def _line(manifest: Manifest) -> Line:
    meta = manifest.meta
    if meta.get("action") not in get_args(Action):
        raise ValueError(
            f"{manifest.dataset} line {manifest.version} has the action {meta.get('action')!r}, "
            f"expected one of {', '.join(get_args(Action))}; it was written by a newer version of Motet"
        )
    return Line(number=manifest.version, address=manifest.address, **meta)
