"""The commands that need no Prefect: `flows.py` adds those that do (nightly, search, study …) to this `app`.

Results go to standard output, a table for people or `--json` for scripts; what a command is doing goes to standard
error. Exit codes: 0 done, 1 failed or refused, 2 a wrong call (a recipe with a mistake in it is one).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from mtl.hotwords import WEIGHT
from pipelines import environment
from pipelines.desk.listings import short_time
from pipelines.night import Outcome
from pipelines.progress import display

COLUMNS = ("metric", "value, %", "low", "high", "champion", "limit", "rows", "verdict")
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


def metrics_of(outcome: Outcome) -> list[dict[str, Any]]:
    """The table of a night, in the order in which it reads; a record in the store keeps no order."""
    return [{column: row.get(column) for column in COLUMNS} for row in outcome.table]


def who() -> str:
    """Whose decision it was, for the ledger."""
    import getpass

    try:
        return os.environ.get("MOTET_USER") or getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@app.command()
def ingest(
    kind: Annotated[str, typer.Argument(metavar="CORPUS", help="Its kind, such as librispeech, manifest or espeak.")],
    source: Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="Folder, archive, URL or s3://.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name in tables and metrics; the kind if left out.")
    ] = None,
    root: RootOption = environment.ROOT,
    checksum: Annotated[str | None, typer.Option("--checksum", help="sha256 of an archive or download.")] = None,
    language: Annotated[str | None, typer.Option("--language", help="BCP 47 tag for rows without one.")] = None,
    split_by: Annotated[str, typer.Option("--split-by", help="release, speaker or sentence.")] = "release",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="quality.* or options.* of the corpus.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Reads one corpus into the utterance table; what cannot be used goes to quarantine, with its reason.

    Example: `motet ingest manifest calls.jsonl --name calls --split-by speaker`
    """
    from pipelines.desk.adhoc import ingest_one

    environment.prepare(root)
    config = {"name": name or kind, "kind": kind, "source": source, "checksum": checksum}
    config |= {"language": language, "split_by": split_by}
    with display(quiet=as_json):
        manifest = ingest_one(root, config, settings or [])
    rows = [{"reason": reason, "rows": count} for reason, count in manifest.meta["reasons"].items()]
    emit(
        {"dataset": manifest.dataset, "version": manifest.version, "address": manifest.address, **manifest.meta},
        as_json,
        table_of("quarantine", rows, right=("rows",)) if rows else f"{manifest.dataset} version {manifest.version}",
    )


@app.command()
def predict(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE.wav …]", help="WAV, FLAC, OGG, MP3, AIFF.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A sentence instead of a recording.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="URI", help="models:/NAME@champion, NAME, folder.")
    ] = None,
    hot_word: HotWordOption = None,
    hot_words: HotWordsOption = None,
    hot_weight: HotWeightOption = WEIGHT,
    personal: Annotated[
        str | None, typer.Option("--personal", metavar="SPEAKER", help="Hear it as this user's adapter does.")
    ] = None,
    n_best: Annotated[
        int, typer.Option("--n-best", min=1, max=100, help="Transcripts of a recording, with confidences.")
    ] = 1,
    domain: DomainOption = None,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="TURN", help="What was said before, oldest first; once for each turn."),
    ] = None,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """What a model hears or reads: transcript, intent, slots, domain, speaker, language … with confidences.

    Example: `motet predict kitchen.wav --hot-word "anna karenina"` or `motet predict --text "play some jazz" --json`
    or `motet predict --context "wake me at seven" --context "for which day" --text "tomorrow"`
    """
    from pipelines.desk.adhoc import answer, answer_table, hot_phrases

    if not files and not text:
        raise typer.BadParameter('give a recording or --text "…"')
    environment.prepare(root)
    phrases = hot_phrases(hot_word or [], hot_words)
    turns, heard = context or [], list(files or [])
    answers = answer(root, model, heard, list(text or []), phrases, hot_weight, n_best, personal, turns, domain)
    emit(answers, as_json, answer_table(answers))


@app.command()
def personalise(
    model: NameArgument,
    manifest: Annotated[
        str, typer.Argument(metavar="SPEAKER_MANIFEST", help="JSONL, CSV or Parquet: 5 to 20 recordings of one user.")
    ],
    speaker: Annotated[
        str | None, typer.Option("--speaker", metavar="NAME", help="Who it is, where the manifest does not say.")
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option("--words", metavar="FILE", exists=True, dir_okay=False, help="Phrases the user says, one a line."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Most steps of a fit; fewer where the held-back loss says so.")
    ] = None,
    significant: Annotated[
        bool, typer.Option("--significant", help="Promote only a gain that is significant at 95 %.")
    ] = False,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """A small adapter of a model for one user's voice and words; exit code 1 when it does not beat the base.

    It is judged on the user's own utterances, each heard by an adapter that was not trained on it.

    Example: `motet personalise assistant ana.jsonl`, then `motet predict kitchen.wav --personal ana`
    """
    from pipelines.desk.adhoc import hot_phrases
    from pipelines.personal.personal import outcome_lines
    from pipelines.personal.personal import personalise as make

    environment.prepare(root)
    with display(quiet=as_json):
        outcome = make(root, model, manifest, speaker, hot_phrases([], words), steps, significant)
    emit(outcome.to_json(), as_json, outcome_lines(outcome))
    if not outcome.promoted:
        raise typer.Exit(1)


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME, models:/NAME/3, models:/NAME@alias or a folder.")
    ],
    kind: Annotated[str, typer.Argument(metavar="CORPUS", help="Its kind, such as librispeech, manifest or espeak.")],
    source: Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="Folder, archive, URL or s3://.")] = None,
    split: Annotated[str, typer.Option("--split", help="train, valid, test or all.")] = "test",
    name: Annotated[str | None, typer.Option("--name", help="The corpus's name, if it is not its kind.")] = None,
    split_by: Annotated[str, typer.Option("--split-by", help="release, speaker or sentence.")] = "release",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="quality.* or options.* of the corpus.")
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Best path: the recogniser alone, without a language model.")
    ] = False,
    hot_word: HotWordOption = None,
    hot_words: HotWordsOption = None,
    hot_weight: HotWeightOption = WEIGHT,
    distractors: Annotated[
        int, typer.Option("--distractors", min=0, help="For each row, so many hot words more that it does not hold.")
    ] = 0,
    domain: DomainOption = None,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Any registered model on any corpus: WER, CER, intent accuracy, slot F1 … with 95 % bootstrap intervals.

    With hot words the error rate of their words (biased_wer) and of all others, and each figure without them.

    Example: `motet evaluate assistant librispeech /data/LibriSpeech --split test --json`
    """
    from pipelines.desk.adhoc import evaluate_on, hot_phrases
    from pipelines.evaluation.evaluate import Expected

    phrases = tuple(hot_phrases(hot_word or [], hot_words))
    if greedy and phrases:
        raise typer.BadParameter("the best path knows no hot words; leave out --greedy or them")
    if distractors and not phrases:
        raise typer.BadParameter("--distractors go with hot words; give --hot-word or --hot-words")
    expected = Expected(phrases, hot_weight, distractors) if phrases else None
    environment.prepare(root)
    # A name of its own: another way of splitting must not become the newest version of what nights train on.
    config = {"name": name or f"evaluation-{kind}", "kind": kind, "source": source, "split_by": split_by}
    with display(quiet=as_json):
        result = evaluate_on(root, model, config, split, settings or [], expected, greedy, domain)
    emit(result, as_json, table_of(f"{result['model']} on {result['corpus']} ({split})", result["table"], NUMBERS))


NUMBERS = (
    "value, %",
    "single, %",
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
    "limit",
    "version",
    "number",
    "trial",
    "objective",
    "MB",
)


@app.command()
def domains(
    recipe: RecipeArgument,
    root: RootOption = environment.ROOT,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Can the recipe's domains be told apart by the microphone alone, or by the words alone? Trains nothing.

    Example: `motet domains assistant-real` or `motet domains mine.yaml --set domains.by=domain`
    """
    from pipelines.desk.adhoc import channel_rows, channels
    from pipelines.recipe import load

    loaded = load(recipe, settings or [])
    environment.prepare(root)
    with display(quiet=as_json):
        pairs = channels(root, loaded)
    shown = [{**pair.to_json(), "warning": pair.warning} for pair in pairs]
    table = table_of("share of recordings whose domain is told right, chance 50 %", channel_rows(pairs), NUMBERS)
    emit(shown, as_json, table if pairs else f"the recordings of {loaded.name!r} have one {loaded.domains.by} alone")
    if not as_json:
        print("".join(f"\nwarning: {pair.warning}" for pair in pairs if pair.warning))


@app.command()
def leaderboard(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Name; all of them if left out.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Sort by it, e.g. transcript/wer.")] = None,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Registered versions with their test figures, the best first.

    Example: `motet leaderboard assistant --metric transcript/wer`
    """
    from pipelines.desk.listings import leaderboard_rows

    environment.prepare(root)
    rows = leaderboard_rows(root, model, metric)
    shown = [{**{key: row[key] for key in ("model", "version", "alias", "created")}, **row["metrics"]} for row in rows]
    columns = list(dict.fromkeys(key for row in shown for key in row))
    table = [{column: row.get(column) for column in columns} for row in shown]
    emit(rows, as_json, table_of("", table, right=columns[4:]) if table else "no model yet; `motet nightly` makes one")


@app.command()
def rollback(
    model: NameArgument,
    reason: ReasonOption = "by hand",
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Makes the champion before this one champion again.

    Example: `motet rollback assistant --reason "hears alarms as calls"`
    """
    from pipelines.registry.registry import Registry

    environment.prepare(root)
    line = Registry(root).rollback(model, reason, who())
    emit(line.to_json(), as_json, f"{model} version {line.version} is champion again")


@app.command()
def history(model: NameArgument, root: RootOption = environment.ROOT, as_json: JsonOption = False) -> None:
    """The ledger: who was champion when, and why.

    Example: `motet history assistant`
    """
    from pipelines.registry.registry import Registry

    environment.prepare(root)
    lines = Registry(root).history(model)
    shown = [
        {
            "number": line.number,
            "time": short_time(line.time),
            "did": line.action if line.effective else f"{line.action} (overtaken)",
            "version": line.version,
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
    """The nights that have ended: verdict, primary figure, report.

    Example: `motet runs assistant`
    """
    from pipelines.desk.listings import night_rows

    rows = night_rows(root, recipe)
    emit(
        rows,
        as_json,
        table_of("", rows, NUMBERS) if rows else f"no night has ended in {root}; see `motet nightly --help`",
    )


@app.command()
def versions(
    dataset: Annotated[str | None, typer.Argument(metavar="[DATASET]", help="E.g. utterances/commands.")] = None,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Datasets of the store, or the versions of one.

    Example: `motet versions utterances/commands`
    """
    from pipelines.desk.listings import version_rows

    rows = version_rows(root, dataset)
    emit(rows, as_json, table_of("", rows, NUMBERS) if rows else f"{root} holds no {dataset or 'dataset'}")


@app.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it, only say what would be.")] = False,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="HOURS", help="Leave younger ones alone.")
    ] = 24.0,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """What no version of any dataset reaches: shows it, or deletes it.

    Example: `motet gc` then `motet gc --delete`
    """
    from pipelines.store import Store, collect_garbage

    entries = collect_garbage(Store(root), dry_run=not delete, older_than_hours=older_than)
    rows = [{"key": entry.key, "MB": round(entry.size / 1e6, 2)} for entry in entries]
    verb = "deleted" if delete else "could be deleted (nothing was; take --delete)"
    total = f"{len(rows):,} objects, {sum(entry.size for entry in entries) / 1e6:,.1f} MB {verb}"
    emit({"deleted": delete, "objects": rows}, as_json, table_of(total, rows, NUMBERS) if rows else total)


@app.command()
def doctor(root: RootOption = environment.ROOT, as_json: JsonOption = False) -> None:
    """What is wrong with this machine, and what to do about it; exit code 1 when something cannot work.

    Example: `motet doctor --json`
    """
    from pipelines.desk.doctor import FAIL, examine

    checks = examine(root)
    emit([check.to_json() for check in checks], as_json, table_of("", [check.to_json() for check in checks]))
    if any(check.state == FAIL for check in checks):
        raise typer.Exit(1)


@app.command()
def up(
    root: RootOption = environment.ROOT,
    prefect_port: Annotated[int | None, typer.Option(help="Instead of 4200 or the next free one.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="Instead of 5000 or the next free one.")] = None,
    ray_port: Annotated[
        int | None, typer.Option(help="Of the dashboard, instead of 8265 or the next free one.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(help="Cores that Ray may use; all if left out.")] = None,
) -> None:
    """Prefect, MLflow and Ray with their pages, on loopback, until Ctrl-C.

    Example: `motet up`, then in another terminal the printed exports and `motet nightly assistant`
    """
    from pipelines.desk.stack import serve

    serve(root, prefect_port, mlflow_port, ray_port, cpus)


@app.command()
def say(
    text: Annotated[str, typer.Argument(metavar="TEXT")],
    out: Annotated[Path, typer.Argument(metavar="OUT.wav")],
    voice: Annotated[str | None, typer.Option("--voice", help="eSpeak NG variant, e.g. f3 or m4.")] = None,
) -> None:
    """Speaks a sentence with eSpeak NG: a recording to try a model on.

    Example: `motet say "turn on the light in the kitchen" light.wav`
    """
    from pipelines.desk.adhoc import speak

    seconds = speak(text, out, voice)
    print(f"{out}: {seconds:.1f} s of synthetic speech")


@recipe_app.command("list")
def recipe_list(as_json: JsonOption = False) -> None:
    """Recipes that ship.

    Example: `motet recipe list`
    """
    import yaml

    from pipelines.recipe import SHIPPED, shipped

    # Read as it lies there: a recipe whose sources name an unset variable is listed too.
    rows = [
        {"recipe": name, "summary": yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())["summary"]}
        for name in shipped()
    ]
    emit(rows, as_json, table_of("", rows))


@recipe_app.command("show")
def recipe_show(recipe: RecipeArgument, settings: SetOption = None, as_json: JsonOption = False) -> None:
    """A recipe with every default filled in.

    Example: `motet recipe show assistant --set trainer.epochs=3`
    """
    from pipelines.recipe import load

    loaded = load(recipe, settings or [])
    emit(loaded.model_dump(mode="json"), as_json, f"# address {loaded.address()}\n{loaded.to_yaml().rstrip()}")


@recipe_app.command("schema")
def recipe_schema() -> None:
    """The JSON schema of recipes, for an editor.

    Example: `motet recipe schema > recipe.schema.json`
    """
    from pipelines.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=1))


def run() -> None:
    """Runs the command line; what a person can mend is told in a line, anything else keeps its traceback."""
    from pipelines.recipe import RecipeError

    try:
        app(prog_name="motet")
    except RecipeError as error:
        print(f"motet: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        # Motet's own errors say what was wrong, where, and what to do.
        if type(error).__module__.split(".")[0] not in ("pipelines", "mtl"):
            raise
        print(f"motet: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("motet: interrupted", file=sys.stderr)
        sys.exit(130)
