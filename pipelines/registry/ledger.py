"""The ledger: the history of champions with reasons, an append-only list of lines per model name.

    ledger = Ledger(store, "assistant")
    ledger.append("promote", version=4, expects=3, reason="significantly better: …", by="nightly")
    ledger.state().champion

A line is a numbered manifest, created only if its number is free, so concurrent writers lose no line. Each line names
the champion that it expects; read in order, a line that expects another than the current one has no effect
("overtaken"). So of two promotions against the same champion only one takes effect, without a lock, in a folder and on
S3. MLflow's aliases have no history; they are set from the ledger.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, get_args

from pipelines.storage.store import Manifest, Store, fingerprint

Action = Literal["promote", "keep", "rollback", "lost", "adopt"]
ALL = 0  # version of a "lost" line: the registered model with all its versions
# As printed.
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

    Attributes:
        action: promote: `version` becomes champion. keep: candidate `version` is not promoted. rollback: `version`, the
            previous champion, is champion again. lost: `version`, a current or former champion, was deleted from
            MLflow (ALL: the whole registered model). adopt: this root takes over the registered model, whose champion
            is `version` (0: none).
        expects: the champion that the decision was made against.
        rows: identity of the test rows.
        effective: False if another line came first.
        address: unique identity of the line.
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
    """The lines, and the champions in order without those rolled back or deleted; the last one is champion."""

    lines: tuple[Line, ...]
    champions: tuple[int, ...]

    @property
    def champion(self) -> int | None:
        return self.champions[-1] if self.champions else None

    @property
    def previous(self) -> int | None:
        """The champion after a rollback."""
        return self.champions[-2] if len(self.champions) > 1 else None

    @property
    def number(self) -> int:
        return self.lines[-1].number if self.lines else 0

    @property
    def current(self) -> tuple[Line, ...]:
        """Lines about the versions in MLflow: those since the registered model was deleted or adopted."""
        starts = [n + 1 for n, line in enumerate(self.lines) if line.effective and _starts_anew(line)]
        return self.lines[starts[-1] :] if starts else self.lines

    @property
    def deletion(self) -> Line | None:
        """The line that records the deletion of the champion, until a decision makes another version champion.

        The first of several, since candidates are compared with that champion.
        """
        deletion = None
        for line in self.lines:
            if line.effective and line.action == "lost" and line.version in (line.expects, ALL):
                deletion = deletion or (line if line.expects is not None else None)
            elif line.effective and line.action not in ("keep", "lost"):
                deletion = None
        return deletion

    def before(self, line: Line | None) -> State:
        """The state before a line; this state for None."""
        return self if line is None else fold(earlier for earlier in self.lines if earlier.number < line.number)

    def challenges(self, rows: str | None, besides: int | None = None) -> int:
        """Number of candidates except `besides` that were rejected against this champion on these test rows.

        A candidate that is judged twice on the same rows counts once.
        """
        rejected = [line for line in self.current if line.action == "keep" and line.expects == self.champion]
        return len({line.version for line in rejected if line.rows == rows} - {besides})


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
        """Writes a line; `effective` of the returned line is False if it was overtaken."""
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
        # Equal decisions are different lines, so the address must be unique.
        manifest = self.store.commit(self.dataset, fingerprint(meta, uuid.uuid4().hex), meta=meta)
        return next(line for line in self.state().lines if line.number == manifest.version)

    def state(self) -> State:
        return fold(_line(manifest) for manifest in self.store.versions(self.dataset))


def fold(lines: Iterable[Line]) -> State:
    """Applies lines in order and marks those that take effect."""
    applied: list[Line] = []
    champions: list[int] = []
    for line in lines:
        effective = line.action == "keep" or _applies(line, champions)
        if effective:
            champions = _after(line, champions)
        applied.append(replace(line, effective=effective))
    return State(tuple(applied), tuple(champions))


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
        remaining = [] if line.version == ALL else [version for version in champions if version != line.version]
        return [version for n, version in enumerate(remaining) if n == 0 or version != remaining[n - 1]]
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
