"""Commands about models, nights, datasets, recipes, this machine and local servers."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
import yaml

from pipelines.admin.doctor import FAIL, examine
from pipelines.admin.listings import (
    fsck_lines,
    leaderboard_rows,
    night_rows,
    registry_problems,
    short_time,
    version_rows,
)
from pipelines.admin.stack import serve
from pipelines.cli.console import (
    NUMBERS,
    JsonOption,
    NameArgument,
    ReasonOption,
    RecipeArgument,
    RootOption,
    SetOption,
    app,
    emit,
    recipe_app,
    table_of,
    who,
)
from pipelines.core import environment
from pipelines.core.progress import display
from pipelines.recipe import SHIPPED, Recipe, load, shipped
from pipelines.registry.ledger import ACTION_WORDS
from pipelines.registry.registry import Registry
from pipelines.storage.lock import one_at_a_time
from pipelines.storage.store import Store


@app.command()
def leaderboard(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Name; all of them if left out.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Sort by it, e.g. transcript/wer.")] = None,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Lists registered versions with their test scores, best first.

    Example: `motet leaderboard assistant --metric transcript/wer`
    """
    environment.prepare(root)
    rows = leaderboard_rows(root, model, metric)
    shown = [{**{key: row[key] for key in ("model", "version", "alias", "created")}, **row["metrics"]} for row in rows]
    columns = list(dict.fromkeys(key for row in shown for key in row))
    table = [{column: row.get(column) for column in columns} for row in shown]
    listing = table_of("", table, right=columns[4:]) if table else "no model yet; `motet nightly` makes one"
    problems = [] if as_json else registry_problems(root, model)
    emit(rows, as_json, listing, *(f"\nwarning: {problem}" for problem in problems))


@app.command()
def rollback(
    model: NameArgument,
    reason: ReasonOption = "by hand",
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Makes the previous champion champion again.

    Example: `motet rollback assistant --reason "confuses alarms and calls"`
    """
    environment.prepare(root)
    line = Registry(root).rollback(model, reason, who())
    emit(line.to_json(), as_json, f"{model} version {line.version} is champion again")


@app.command()
def adopt(
    model: NameArgument,
    reason: ReasonOption = "by hand",
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Makes this root the owner of a registered model of another root, or of an older state of this one.

    @champion in MLflow stays as it is, and the ledger of this root continues from it. The other root can no longer
    change the model.

    Example: `motet adopt assistant --reason "restored from the backup of Monday"`
    """
    environment.prepare(root)
    line = Registry(root).adopt(model, reason, who())
    champion = f"version {line.version} is champion" if line.version else "it has no champion"
    emit(line.to_json(), as_json, f"{model} belongs to {root} now; {champion}")


@app.command()
def history(model: NameArgument, root: RootOption = environment.ROOT, as_json: JsonOption = False) -> None:
    """Shows the ledger: which version was champion when, and why.

    Example: `motet history assistant`
    """
    environment.prepare(root)
    lines = Registry(root).history(model)
    shown = [
        {
            "number": line.number,
            "time": short_time(line.time),
            "did": ACTION_WORDS[line.action] if line.effective else f"{ACTION_WORDS[line.action]} (overtaken)",
            "version": line.version or ("all" if line.action == "lost" else "none"),
            "by": line.by,
            "reason": line.reason,
        }
        for line in lines
    ]
    table = table_of("", shown, NUMBERS) if shown else f"{model} has no history in {root}"
    emit([line.to_json() for line in lines], as_json, table)


@app.command()
def runs(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Name; all of them if left out.")] = None,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Lists finished nights with decision, reason and report.

    Example: `motet runs assistant`
    """
    rows = night_rows(root, recipe)
    empty = f"no night has ended in {root}; see `motet nightly --help`"
    emit(rows, as_json, table_of("", rows, NUMBERS) if rows else empty)


@app.command()
def versions(
    dataset: Annotated[str | None, typer.Argument(metavar="[DATASET]", help="E.g. utterances/commands.")] = None,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Lists the datasets of the store, or the versions of one.

    Example: `motet versions utterances/commands`
    """
    rows = version_rows(root, dataset)
    emit(rows, as_json, table_of("", rows, NUMBERS) if rows else f"{root} holds no {dataset or 'dataset'}")


@app.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it, only list.")] = False,
    older_than: Annotated[float, typer.Option("--older-than", metavar="HOURS", help="Skip younger objects.")] = 24.0,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Lists or deletes objects that no version of any dataset refers to.

    Objects of an interrupted night are kept for a week, so that it can resume. Nothing is deleted while a night or
    another command writes to the root, or when anything in it cannot be read.

    Example: `motet gc` then `motet gc --delete`
    """
    from pipelines.storage.garbage import collect_garbage

    entries = collect_garbage(Store(root), not delete, older_than, lambda line: print(line, file=sys.stderr))
    rows = [{"key": entry.key, "MB": round(entry.size / 1e6, 2)} for entry in entries]
    verb = "deleted" if delete else "could be deleted (nothing was; add --delete)"
    total = f"{len(rows):,} objects, {sum(entry.size for entry in entries) / 1e6:,.1f} MB {verb}"
    emit({"deleted": delete, "objects": rows}, as_json, table_of(total, rows, NUMBERS) if rows else total)


@app.command()
def fsck(
    repair: Annotated[
        bool, typer.Option("--repair", help="Move away damaged files that the next run recreates; record checksums.")
    ] = False,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Verifies the checksum of every file of the store; exit code 1 when damage remains.

    Example: `motet fsck` then `motet fsck --repair`
    """
    from pipelines.storage import fsck as checksums

    store = Store(root)
    with display(quiet=as_json) as screen, screen.bar("fsck", "file") as report:
        checked = checksums.check(store, report)
    problems = checked.problems
    if repair and problems:
        with one_at_a_time(root, "fsck --repair"):
            problems = checksums.repair(store, problems)
    remaining = [problem for problem in problems if problem.state != "unknown" and not problem.repaired]
    result = {
        "files": checked.files,
        "bytes": checked.bytes,
        "problems": [problem.to_json() for problem in problems],
        "left": len(remaining),
    }
    title, rows = fsck_lines(checked, problems)
    emit(result, as_json, table_of(title, rows, NUMBERS) if rows else title)
    if remaining:
        raise typer.Exit(1)


@app.command()
def doctor(root: RootOption = environment.ROOT, as_json: JsonOption = False) -> None:
    """Checks this machine and advises; exit code 1 when something cannot work.

    Example: `motet doctor --json`
    """
    checks = examine(root)
    rows = [check.to_json() for check in checks]
    emit(rows, as_json, table_of("", rows))
    if any(check.state == FAIL for check in checks):
        raise typer.Exit(1)


@app.command()
def up(
    root: RootOption = environment.ROOT,
    prefect_port: Annotated[int | None, typer.Option(help="Instead of 4200 or the next free one.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="Instead of 5000 or the next free one.")] = None,
    ray_port: Annotated[int | None, typer.Option(help="Dashboard, instead of 8265 or the next free one.")] = None,
    cpus: Annotated[int | None, typer.Option(help="Cores for Ray; all if left out.")] = None,
) -> None:
    """Runs Prefect, MLflow and Ray with their pages, on loopback, until Ctrl-C.

    Example: `motet up`, then in another terminal the printed exports and `motet nightly assistant`
    """
    serve(root, prefect_port, mlflow_port, ray_port, cpus)


@recipe_app.command("list")
def recipe_list(as_json: JsonOption = False) -> None:
    """Lists the shipped recipes.

    Example: `motet recipe list`
    """
    # Parsed without validation, so that recipes whose sources name an unset variable are listed too.
    rows = [
        {"recipe": name, "summary": yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())["summary"]}
        for name in shipped()
    ]
    emit(rows, as_json, table_of("", rows))


@recipe_app.command("show")
def recipe_show(recipe: RecipeArgument, settings: SetOption = None, as_json: JsonOption = False) -> None:
    """Prints a recipe with every default filled in.

    Example: `motet recipe show assistant --set trainer.epochs=3`
    """
    loaded = load(recipe, settings or [])
    emit(loaded.model_dump(mode="json"), as_json, f"# address {loaded.address()}\n{loaded.to_yaml().rstrip()}")


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Prints the JSON schema of recipes, for an editor.

    Example: `motet recipe schema > recipe.schema.json`
    """
    print(json.dumps(Recipe.model_json_schema(), indent=1))
