"""The Typer app, the options that commands share, and how results and errors are printed.

Results go to standard output, as tables or with `--json`; progress goes to standard error. Exit codes: 0 success,
1 failure or refusal, 2 a wrong call, which includes a recipe that is not valid.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from pipelines.core.redaction import redact

# Columns that are aligned to the right.
NUMBERS = (
    "value", "single", "gain, %", "low", "high", "channel, %", "channel low", "channel high", "words, %", "words low",
    "words high", "recordings", "speakers", "without", "rows", "champion", "floor", "limit", "version", "number",
    "trial", "objective", "MB", "files",
)  # fmt: skip
PIPE_WIDTH = 220  # columns of a table that is not printed to a terminal
ORDER = (
    "nightly", "search", "study", "deploy", "ingest", "evaluate", "predict", "personalise", "say", "leaderboard",
    "promote", "rollback",
)  # fmt: skip


class InOrder(TyperGroup):
    """Lists the commands of ORDER first."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), names.index(name)))


app = typer.Typer(
    name="motet",
    cls=InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Trains one multi-task speech model every night, and promotes it when it is significantly better.",
)
recipe_app = typer.Typer(no_args_is_help=True, help="Recipes: list, show, JSON schema.")
app.add_typer(recipe_app, name="recipe")

RootOption = Annotated[
    str,
    typer.Option("--root", metavar="URI", envvar="MOTET_ROOT", help="Folder or s3:// prefix that holds everything."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key, e.g. trainer.epochs=3.")
]
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name or a YAML file.")]
NameArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Name in the registry: the recipe's name.")]
HotWordOption = Annotated[
    list[str] | None, typer.Option("--hot-word", metavar="PHRASE", help="A phrase to expect in recordings; repeatable.")
]
HotWordsOption = Annotated[
    Path | None,
    typer.Option("--hot-words", metavar="FILE", exists=True, dir_okay=False, help="Phrases to expect, one per line."),
]
HotWeightOption = Annotated[
    float, typer.Option("--hot-weight", min=0, help="Weight of a hot word per character, in nats.")
]
DomainOption = Annotated[
    str | None,
    typer.Option("--domain", metavar="NAME", help="Domain of the recordings, for a model that takes one."),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Recorded in the ledger.")]


def emit(result: Any, as_json: bool, *parts: Table | str) -> None:
    """Prints the result as JSON, or the parts one below the other, to standard output."""
    if as_json:
        print(json.dumps(result, indent=1, ensure_ascii=False, default=str))
        return
    for part in parts:
        if isinstance(part, str):
            print(part)
        else:
            Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(part)


def rendered(*parts: Table | str) -> str:
    """The parts as plain text, for a repr."""
    text = io.StringIO()
    console = Console(file=text, width=PIPE_WIDTH, color_system=None, force_jupyter=False)
    for part in parts:
        if isinstance(part, str):
            text.write(f"{part}\n")
        else:
            console.print(part)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def table_of(title: str, rows: Sequence[Mapping[str, Any]], right: Sequence[str] = ()) -> Table:
    """A plain table; `right` names the columns that are aligned to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    columns = list(rows[0]) if rows else []
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in columns))
    return table


def hot_phrases(phrases: Sequence[str], file: Path | None) -> list[str]:
    """The phrases, and those of a UTF-8 file, one per line."""
    lines = file.read_text(encoding="utf-8").splitlines() if file else []
    return [*phrases, *(line.strip() for line in lines if line.strip())]


def who() -> str:
    """Name of the user for the ledger: MOTET_USER or the login name."""
    import getpass

    try:
        return os.environ.get("MOTET_USER") or getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def run() -> None:
    """Runs the command line. Prints expected errors in one line and others with their traceback.

    Libraries quote URLs in their errors, so secrets are removed from all of them.
    """
    from pipelines.recipe import RecipeError

    try:
        app(prog_name="motet")
    except RecipeError as error:
        print(f"motet: {redact(str(error))}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        message = explained(error)
        if message is not None:
            print(f"motet: {redact(message)}", file=sys.stderr)
        else:
            print(redact("".join(traceback.format_exception(error))), file=sys.stderr, end="")
        sys.exit(1)
    except KeyboardInterrupt:
        print("motet: interrupted", file=sys.stderr)
        sys.exit(130)


def explained(error: Exception) -> str | None:
    """Message of an expected error; None for an unexpected one, whose traceback is shown."""
    library = type(error).__module__.split(".")[0]
    if library in ("motet", "pipelines", "mtl"):
        return str(error)
    if library == "mlflow":
        reason = " ".join(str(error).split())[:500]
        return f"MLflow refused, or does not answer: {reason}. Check MLFLOW_TRACKING_URI, or see `motet doctor`"
    return None
