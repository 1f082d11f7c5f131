"""How a bench says what it found: the target beside what was measured, and exit code 1 when one is missed."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """`measured` is to be at least `at_least`, or at most `at_most`."""

    name: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def met(self) -> bool:
        return (self.at_least is None or self.measured >= self.at_least) and (
            self.at_most is None or self.measured <= self.at_most
        )

    def __str__(self) -> str:
        limit = f">= {self.at_least:,g}" if self.at_least is not None else f"<= {self.at_most:,g}"
        word = "met" if self.met else "MISSED"
        return f"{self.name}: target {limit} {self.unit}, measured {self.measured:,.4g} {self.unit} - {word}"


def conclude(*targets: Target) -> None:
    """Prints the targets and ends the process."""
    for target in targets:
        print(target)
    sys.exit(0 if all(target.met for target in targets) else 1)
