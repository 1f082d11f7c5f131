"""Commands that run a Prefect flow; all others are in pipelines.cli.

    motet nightly assistant            ingest, features, training, evaluation, gate, promotion, report
    motet search assistant             hyperparameter search with Ray Tune, Pareto front over tasks
    motet study assistant              each task alone, all together, in pairs, each left out
    motet study assistant --labels 0.01,0.1,1     joint and single-task models on shares of the labels
    motet study assistant --sharing all --balancing all     sharing modes and balancing methods
    motet study mine.yaml --folds speakers        cross-validation over speakers
    motet promote assistant 4          the gate for one version, or a person's decision
    motet deploy                       serves the deployments of infra/prefect.yaml

Each calls the function of the same name in motet.runs, which imports Prefect after the recipe is validated, so that
`--help`, mistakes in a recipe and all other commands are fast.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from motet import corpus_commands, runs  # noqa: F401  (its commands join the app)
from mtl.config.balancing import METHODS
from mtl.config.sharing import MODES
from pipelines.admin.scheduler import MissingServer
from pipelines.cli import admin_commands, model_commands, speech_commands  # noqa: F401  (their commands join the app)
from pipelines.cli.console import (
    JsonOption,
    NameArgument,
    ReasonOption,
    RecipeArgument,
    RootOption,
    SetOption,
    app,
    emit,
)
from pipelines.core import environment
from pipelines.study.options import KINDS, SEEDS, Split

DEPLOYMENTS = Path(__file__).parents[1] / "infra" / "prefect.yaml"

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
    """Runs ingest, features, training, evaluation, gate, promotion and report. If nothing is new, trains nothing.

    Example: `motet nightly assistant --set trainer.epochs=10 --workers 2`
    """
    result = runs.nightly(
        recipe, *settings or [], root=root, workers=workers, again=again, wait=wait, quiet=as_json, verbose=verbose
    )
    emit(result.to_json(), as_json, *result.parts())


@app.command("search")
def search_command(
    recipe: RecipeArgument,
    root: RootOption = environment.ROOT,
    settings: SetOption = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Instead of search.trials.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the interrupted search.")] = False,
    train_winner: Annotated[bool, typer.Option("--train-winner", help="Then run a night of the picked trial.")] = False,
    pick: Annotated[
        str, typer.Option("--pick", metavar="TRIAL", help="A trial's name; best: by the objective; knee: of the front.")
    ] = "best",
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE.yaml", help="Write the recipe with the picked trial.")
    ] = None,
    wait: WaitOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Searches task weights, sharing mode and its strength, and learning rate; shows the Pareto front over tasks.

    After a search has ended, `--resume` shows it again, for instance to pick another trial.

    Example: `motet search assistant --trials 8`, after an interruption the same with `--resume`, and then
    `motet search assistant --resume --pick knee --write knee.yaml`
    """
    result = runs.search(
        recipe, *settings or [], root=root, trials=trials, resume=resume, train_winner=train_winner, pick=pick,
        wait=wait, quiet=as_json, verbose=verbose,
    )  # fmt: skip
    emit(result.to_json(), as_json, *result.parts())
    chosen = result.settings(pick)
    if write:
        from pipelines.search.trial import with_overrides

        write.write_text(with_overrides(runs.recipe(recipe, *settings or []), chosen).to_yaml(), encoding="utf-8")
    if not as_json:
        print(f"\n{pick}: motet nightly {recipe} " + " ".join(f"--set {setting}" for setting in chosen))
        if write:
            print(f"written to {write}")


@app.command("study")
def study_command(
    recipe: RecipeArgument,
    root: RootOption = environment.ROOT,
    settings: SetOption = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Per cell; fewer than 3 give wide intervals.")] = SEEDS,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of trainer.epochs.")] = None,
    share: Annotated[
        float, typer.Option("--share", min=1e-6, max=1.0, help="Of the training rows, the same for every cell.")
    ] = 1.0,
    cells: Annotated[
        str, typer.Option("--cells", help="Some of single,joint,pairs,leave-one-out; single is always there.")
    ] = ",".join(KINDS),
    split: Annotated[Split, typer.Option("--split", help="Test rows are better kept for the gate.")] = "valid",
    labels: Annotated[
        str | None, typer.Option("--labels", help="Shares of the labels to compare instead, as 0.01,0.1,1.")
    ] = None,
    sparse: Annotated[
        str | None, typer.Option("--sparse", help="With --labels: tasks with fewer labels; intent,slots if left out.")
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
    """Compares each task alone, all together, in pairs, each left out; suggests groups of tasks.

    The same call resumes an interrupted study; a finished cell is not trained again.

    With --labels, it trains joint and single-task models on shares of the labels. With --sharing or --balancing, it
    trains the joint model in each mode, at the size of the recipe's, and with each method. With --folds, it
    cross-validates joint and single-task models over groups of speakers and pools the results.

    Example: `motet study assistant --seeds 3 --share 0.25` or `motet study assistant --labels 0.01,0.1,1`
    """
    overrides = [*(settings or []), *([f"trainer.epochs={epochs}"] if epochs else [])]
    try:
        result = runs.study(
            recipe, *overrides, root=root, seeds=seeds, cells=_names(cells), split=split, share=share,
            labels=_shares(labels), sparse=_names(sparse), sharing=_names(sharing, tuple(MODES)),
            balancing=_names(balancing, tuple(METHODS)), folds=_folds(folds), wait=wait, quiet=as_json, verbose=verbose,
        )  # fmt: skip
    except runs.OptionError as error:
        raise typer.BadParameter(str(error)) from None
    emit(result.to_json(), as_json, *result.parts())


def _names(text: str | None, known: Sequence[str] = ()) -> list[str]:
    return (
        list(known) if text == "all" and known else [name.strip() for name in (text or "").split(",") if name.strip()]
    )


def _folds(text: str | None) -> int | None:
    if text is not None and text != "speakers" and not (text.isdigit() and int(text) > 1):
        raise typer.BadParameter(f"--folds {text}: expected a number above 1, or: speakers")
    return None if text is None else 0 if text == "speakers" else int(text)


def _shares(text: str | None) -> list[float]:
    try:
        shares = sorted({float(share) for share in _names(text)})
    except ValueError:
        shares = []
    if text is not None and not shares:
        raise typer.BadParameter(f"--labels {text}: expected shares above 0, up to 1, as 0.01,0.1,1")
    return shares


@app.command("promote")
def promote_command(
    model: NameArgument,
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="The challenger if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote without the gate; give a --reason.")] = False,
    reason: ReasonOption = "by hand",
    root: RootOption = environment.ROOT,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compares a version with the current champion at the gate; exit code 1 when it is not promoted.

    Example: `motet promote assistant 4` or `motet promote assistant 4 --force --reason "WER is not what counts here"`
    """
    result = runs.promote(model, version, root=root, force=force, reason=reason, quiet=as_json, verbose=verbose)
    emit(result.to_json(), as_json, *result.parts())
    if not result.promoted:
        raise typer.Exit(1)


@app.command("deploy")
def deploy_command(
    file: Annotated[Path, typer.Option("--file", help="Deployments to serve.")] = DEPLOYMENTS,
    root: RootOption = environment.ROOT,
    verbose: VerboseOption = False,
) -> None:
    """Serves the deployments of infra/prefect.yaml, with the nightly schedule, until Ctrl-C. Needs a Prefect server.

    Example: `motet deploy --root s3://bucket/motet`, where PREFECT_API_URL names the server that `motet up` started
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise MissingServer("PREFECT_API_URL is not set: deployments need a server of their own: see `motet up`")
    import flows

    flows.serve_deployments(file, root)
