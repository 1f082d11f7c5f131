"""Progress of a command: one line per completed stage, and progress bars with rate and ETA.

    with display(quiet=False) as screen:
        with screen.bar("ingest commands", unit="utt") as progress:      # progress(done, total, label)
            manifest = ingest(corpus, quality, store, progress=progress)
        screen.line("ingest", "12,000 utterances, none new", seconds=4.2)

All output goes to standard error; standard output is for results. Bars are drawn on a terminal
only. A command has one display, which concurrent stages share (`current`).
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from pipelines.core.environment import LOGGER

logger = logging.getLogger(LOGGER)
Report = Callable[[int, int, str], None]  # done, total, label


class RateColumn(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed >= 10 else f"{speed:.1f} {task.fields['unit']}/s")


class Screen:
    """Lines and bars on one console."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._lock = threading.Lock()
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            RateColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[label]}"),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )

    def line(self, stage: str, text: str, seconds: float | None = None) -> None:
        """`ingest     12,000 utterances, none new   4.2 s`"""
        logger.info("%s: %s%s", stage, text, "" if seconds is None else f" ({seconds:.1f} s)")
        if not self.quiet:
            time = "" if seconds is None else f"  [dim]{seconds:.1f} s[/]"
            self.console.print(f"[bold]{stage:<10}[/] {escape(text)}{time}")

    @contextmanager
    def bar(self, title: str, unit: str = "it") -> Iterator[Report]:
        """A bar for the duration of the block, visible from the first report on. Its total may grow."""
        with self._lock:
            bar = self._bars.add_task(title, total=None, visible=False, unit=unit, label="")

        def report(done: int, total: int, label: str = "") -> None:
            self._bars.update(bar, completed=done, total=max(total, 1), label=escape(label[-48:]), visible=True)

        try:
            yield report
        finally:
            with self._lock:
                self._bars.remove_task(bar)

    def __enter__(self) -> Screen:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()


_screen: Screen | None = None


@contextmanager
def display(quiet: bool = False) -> Iterator[Screen]:
    """The display of a command, as returned by `current()`. Nested displays are the outer one."""
    global _screen
    if _screen is not None:
        yield _screen
        return
    try:
        with Screen(quiet) as _screen:
            yield _screen
    finally:
        _screen = None
        sys.stderr.flush()


def current() -> Screen:
    """The command's display; outside of one, a display that only prints lines."""
    return _screen or Screen()
