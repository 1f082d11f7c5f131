"""What all commands share: the `app` that they join, their options, and how results are printed.

Results go to standard output, a table for people or `--json` for scripts; what a command is doing goes to standard
error. Exit codes: 0 done, 1 failed or refused, 2 a wrong call (a recipe with a mistake in it is one).
"""

from __future__ import annotations

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

NUMBERS = (
    "value",
    "single",
    "gain, %",
    "low",
    "high",
    "channel, %",
    "channel low",
    "channel high",
    "words, %",
    "words low",
    "words high",
    "recordings",
    "speakers",
    "without",
    "rows",
    "champion",
    "floor",
    "limit",
    "version",
    "number",
    "trial",
    "objective",
    "MB",
    "files",
)

PIPE_WIDTH = 220
ORDER = (
    "nightly", "search", "study", "deploy", "ingest", "evaluate", "predict", "personalise", "say", "leaderboard",
    "promote", "rollback",
)  # fmt: skip


class InOrder(TyperGroup):
    """Lists what a person starts with first."""

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
    help="Trains one speech model for several tasks at once, every night, and promotes it when it is shown better.",
)
recipe_app = typer.Typer(no_args_is_help=True, help="Recipes: what ships, what a recipe says, what it may say.")
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
    list[str] | None, typer.Option("--hot-word", metavar="PHRASE", help="To be expected in recordings; repeatable.")
]
HotWordsOption = Annotated[
    Path | None,
    typer.Option("--hot-words", metavar="FILE", exists=True, dir_okay=False, help="Such phrases, one a line."),
]
HotWeightOption = Annotated[
    float, typer.Option("--hot-weight", min=0, help="What a character of a hot word is worth, in natural logarithms.")
]
DomainOption = Annotated[
    str | None,
    typer.Option("--domain", metavar="NAME", help="Where the recordings come from, for a model that is told of it."),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Kept in the ledger.")]


def emit(result: Any, as_json: bool, table: Table | str) -> None:
    """Prints the one or the other to standard output."""
    if as_json:
        print(json.dumps(result, indent=1, ensure_ascii=False, default=str))
    elif isinstance(table, str):
        print(table)
    else:
        # A pipe has no width of its own, and one guessed at 80 columns would break numbers apart.
        Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, soft_wrap=False).print(table)


def table_of(title: str, rows: Sequence[Mapping[str, Any]], right: Sequence[str] = ()) -> Table:
    """A plain table; `right` names the columns of numbers."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    columns = list(rows[0]) if rows else []
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in columns))
    return table


def who() -> str:
    """Whose decision it was, for the ledger."""
    import getpass

    try:
        return os.environ.get("MOTET_USER") or getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def run() -> None:
    """Runs the command line; what a person can mend is told in a line, anything else keeps its traceback.

    Libraries quote the URLs that they were given in their errors: nothing is printed with a secret in it.
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
    """What a person is told of an error in a line; None for one that nobody foresaw, whose traceback is shown."""
    library = type(error).__module__.split(".")[0]
    if library in ("pipelines", "mtl"):  # Motet's own errors say what was wrong, where, and what to do
        return str(error)
    if library == "mlflow":
        reason = " ".join(str(error).split())[:500]
        return f"MLflow refused, or does not answer: {reason}. Check MLFLOW_TRACKING_URI, or see `motet doctor`"
    return None
