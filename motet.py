"""The command line. Here are the commands that run a flow; those that need no Prefect are in pipelines/desk.

    motet nightly assistant            ingest -> features -> train -> register -> evaluate -> gate ->
                                       interpret -> report
    motet search assistant             Ray Tune over task weights, sharing mode and learning rate; a front over tasks
    motet study assistant              every task alone, all together, in pairs, each left out: which help which
    motet study assistant --labels 0.01,0.1,1     how few labels will do, for all tasks together and for each alone
    motet study assistant --sharing all --balancing all     which mode, which method
    motet study mine.yaml --folds speakers        each speaker held out once
    motet promote assistant 4          the gate for one version, or a person's word
    motet deploy                       serves the deployments of infra/prefect.yaml to a Prefect server

`flows`, which brings Prefect, is imported by the commands that run one, once their recipe has been read: a mistake in
it is told, and every other command starts, without Prefect and torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.admin.scheduler import MissingServer
from pipelines.cli import admin_commands, model_commands, speech_commands  # noqa: F401  (their commands join the app)
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
    run,
    table_of,
    who,
)
from pipelines.core import environment
from pipelines.core.progress import display
from pipelines.recipe import BALANCING, SHARING_MODES, load
from pipelines.recipe.variables import hide_in_overrides
from pipelines.search.front_table import front_lines, front_rows, picked, trial_row
from pipelines.stages.context import with_workers
from pipelines.stages.outcome import RunResult, headline, metrics_of, next_steps, state_of
from pipelines.study.table import KINDS, SEEDS, Split, fold_rows, gain_rows, group_lines, label_rows, variant_rows

DEPLOYMENTS = Path(__file__).parent / "infra" / "prefect.yaml"

WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Instead of the recipe's trainer.workers.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait for another night on this root instead of failing.")]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Show the logs of Prefect and Ray.")]


@app.command("nightly")
def nightly_command(
    recipe: RecipeArgument,
    root: RootOption = environment.ROOT,
    settings: SetOption = None,
    workers: WorkersOption = None,
    again: Annotated[bool, typer.Option("--again", help="Train even though nothing is new.")] = False,
    wait: WaitOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """The whole DAG: ingest, features, training, evaluation, gate, promotion, report. Nothing new: trains nothing.

    Example: `motet nightly assistant --set trainer.epochs=10 --workers 2`
    """
    overrides = hide_in_overrides(settings or [])
    load(recipe, with_workers(overrides, workers))  # a mistake is told before anything starts
    import flows

    environment.make_home(root)
    with display(quiet=as_json):
        result = flows.nightly(recipe, root=root, overrides=overrides, workers=workers, again=again, wait=wait)
    outcome = RunResult(**result)
    emit(result, as_json, table_of(headline(outcome), metrics_of(outcome), NUMBERS))
    if not as_json:
        print(next_steps(outcome, root))


@app.command("search")
def search_command(
    recipe: RecipeArgument,
    root: RootOption = environment.ROOT,
    settings: SetOption = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Instead of search.trials.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search that was interrupted.")] = False,
    train_winner: Annotated[bool, typer.Option("--train-winner", help="Then a night of the picked point.")] = False,
    pick: Annotated[
        str, typer.Option("--pick", metavar="TRIAL", help="A trial's name; best: by the objective; knee: of the front.")
    ] = "best",
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE.yaml", help="The recipe with the picked point put in.")
    ] = None,
    wait: WaitOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ray Tune over task weights, sharing mode and its strength, learning rate; ends with the front over the tasks.

    A search that has ended is shown again by `--resume`, for instance to pick another of its trials.

    Example: `motet search assistant --trials 8`, after an interruption the same with `--resume`, and then
    `motet search assistant --resume --pick knee --write knee.yaml`
    """
    overrides = hide_in_overrides(settings or [])
    load(recipe, overrides)
    import flows

    environment.make_home(root)
    with display(quiet=as_json):
        found = flows.search(recipe, root, overrides, trials, resume, train_winner, wait, pick)
    rows = [trial_row(row) for row in found["leaderboard"]]
    emit(found, as_json, table_of(f"trials, the best first ({found['objective']['label']})", rows, NUMBERS))
    if not as_json:
        print_front(found)
    chosen = picked(found, pick)["overrides"]
    if write:
        from pipelines.search.trial import with_overrides

        write.write_text(with_overrides(load(recipe, overrides), chosen).to_yaml(), encoding="utf-8")
    if not as_json:
        print(f"\n{pick}: motet nightly {recipe} " + " ".join(f"--set {setting}" for setting in chosen))
        if write:
            print(f"written to {write}")


def print_front(found: dict[str, Any]) -> None:
    """The front, what its figures mean, and where it is drawn."""
    rows = front_rows(found)
    if rows:
        print()
        emit(found, False, table_of("the front: beaten by no other trial on every task", rows, list(rows[0])[1:]))
    lines = [*front_lines(found), ("report", found["report"])]
    print("\n".join(["", *(f"{name:<12}{text}" for name, text in lines)]))


@app.command("study")
def study_command(
    recipe: RecipeArgument,
    root: RootOption = environment.ROOT,
    settings: SetOption = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Of each cell; fewer than 3 say little.")] = SEEDS,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of trainer.epochs.")] = None,
    share: Annotated[
        float, typer.Option("--share", min=1e-6, max=1.0, help="Of the training rows, the same for every cell.")
    ] = 1.0,
    cells: Annotated[
        str, typer.Option("--cells", help="Some of single,joint,pairs,leave-one-out; single is always there.")
    ] = ",".join(KINDS),
    split: Annotated[Split, typer.Option("--split", help="Test rows are better kept for the gate.")] = "valid",
    labels: Annotated[
        str | None, typer.Option("--labels", help="Shares of the labels, as 0.01,0.1,1: how few will do, instead.")
    ] = None,
    sparse: Annotated[
        str | None, typer.Option("--sparse", help="With --labels: whose labels; intent,slots if left out.")
    ] = None,
    sharing: Annotated[
        str | None, typer.Option("--sharing", help="Sharing modes to compare instead, as hard,mmoe, or all.")
    ] = None,
    balancing: Annotated[
        str | None, typer.Option("--balancing", help="Balancing methods to compare instead, as static,pcgrad, or all.")
    ] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", metavar="N", help="Groups of speakers held out in turn, or: speakers.")
    ] = None,
    wait: WaitOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Which tasks help which: each alone, all together, in pairs, each left out; ends with task groups.

    After an interruption the same call goes on; a finished cell is never trained again.

    With --labels it trains the joint model and the single-task ones on shares of the labels, and shows which of them
    does with fewer. With --sharing or --balancing it trains the joint model in each mode, as large as the recipe's
    own, and with each method. With --folds it trains the joint model and the single-task ones with every group of
    speakers held out once, and pools what they say of speakers that they did not hear.

    Example: `motet study assistant --seeds 3 --share 0.25` or `motet study assistant --labels 0.01,0.1,1`
    """
    kinds, few = _listed(cells), _listed(sparse)
    modes, methods = _known("--sharing", sharing, SHARING_MODES), _known("--balancing", balancing, BALANCING)
    if sum(map(bool, (labels, modes or methods, folds))) > 1:
        raise typer.BadParameter("--labels, --folds, and --sharing or --balancing are studies apart; ask for one")
    dealt = _folds(folds)
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise typer.BadParameter(f"--cells {', '.join(unknown)}: expected some of {', '.join(KINDS)}")
    shares = _shares(labels)
    if few and not shares:
        raise typer.BadParameter(f"--sparse {sparse}: says whose labels are few, and needs --labels, as 0.01,0.1,1")
    overrides = [*hide_in_overrides(settings or []), *([f"trainer.epochs={epochs}"] if epochs else [])]
    loaded = load(recipe, overrides)
    if unknown := sorted(set(few) - set(loaded.tasks)):
        raise typer.BadParameter(f"--sparse {', '.join(unknown)}: expected some of {', '.join(loaded.tasks)}")
    import flows

    environment.make_home(root)
    with display(quiet=as_json):
        found = flows.study(
            recipe, root, overrides, seeds, kinds, split, share, wait, shares, few, modes, methods, dealt
        )
    table = None
    if dealt is not None:
        title = f"{found['recordings']:,} recordings of {found['speakers']} speakers, each held out once"
        table = table_of(title, fold_rows(found), NUMBERS)
    elif modes or methods:
        title = f"joint models by sharing mode and balancing method, %, on {found['scored']:,} {split} rows"
        table = table_of(title, variant_rows(found), NUMBERS)
    elif shares:
        title = f"joint and single-task models by share of the labels, on {found['rows']:,} {split} rows"
        table = table_of(title, label_rows(found), NUMBERS)
    if table is not None:
        emit(found, as_json, table)
        if not as_json:
            print(f"\nreport      {found['report']}")
        return
    title = f"gain over single-task models, % of their own figure, on {found['rows']:,} {split} rows"
    emit(found, as_json, table_of(title, gain_rows(found), NUMBERS))
    if not as_json:
        print("\n".join(["", *found["advice"].values(), "", *group_lines(found), "", f"report      {found['report']}"]))


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _known(option: str, text: str | None, known: Sequence[str]) -> list[str]:
    found = list(known) if text == "all" else _listed(text)
    if unknown := sorted(set(found) - set(known)):
        raise typer.BadParameter(f"{option} {', '.join(unknown)}: expected all, or some of {', '.join(known)}")
    return found


def _folds(text: str | None) -> int | None:
    if text is not None and text != "speakers" and not (text.isdigit() and int(text) > 1):
        raise typer.BadParameter(f"--folds {text}: expected a number above 1, or: speakers")
    return None if text is None else 0 if text == "speakers" else int(text)


def _shares(text: str | None) -> list[float]:
    try:
        found = sorted({float(part) for part in _listed(text)})
    except ValueError:
        found = [0.0]
    if text is not None and not (found and all(0 < share <= 1 for share in found)):
        raise typer.BadParameter(f"--labels {text}: expected shares above 0, up to 1, as 0.01,0.1,1")
    return found


@app.command("promote")
def promote_command(
    model: NameArgument,
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="The challenger if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Your word instead of the gate's; needs --reason.")] = False,
    reason: ReasonOption = "by hand",
    root: RootOption = environment.ROOT,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Offers a version to the gate, against the champion of today; exit code 1 when it is not promoted.

    Example: `motet promote assistant 4` or `motet promote assistant 4 --force --reason "WER is not what counts here"`
    """
    import flows
    from pipelines.stages.gate import challenger

    environment.make_home(root)
    with display(quiet=as_json):
        number = version or challenger(root, model)
        result = flows.promote(model, number, root=root, force=force, reason=reason, by=who())
    emit(result, as_json, f"models:/{model}/{number}: {state_of(result['promoted'])} ({result['reason']})")
    if not result["promoted"]:
        raise typer.Exit(1)


@app.command("deploy")
def deploy_command(
    file: Annotated[Path, typer.Option("--file", help="Deployments to serve.")] = Path(__file__).parent
    / "infra"
    / "prefect.yaml",
    root: RootOption = environment.ROOT,
    verbose: VerboseOption = False,
) -> None:
    """Serves the deployments of infra/prefect.yaml, the nightly cron among them, until Ctrl-C. Needs a Prefect server.

    Example: `motet deploy --root s3://bucket/motet`, where PREFECT_API_URL names the server that `motet up` started
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise MissingServer("PREFECT_API_URL is not set: deployments need a server of their own: see `motet up`")
    import flows

    flows.serve_deployments(file, root)


def main() -> None:
    """The script `motet`."""
    run()


if __name__ == "__main__":
    main()
