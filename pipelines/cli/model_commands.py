"""Commands about models and recordings: predict, personalise, domains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mtl.decoding.hot_words import WEIGHT
from pipelines.cli.console import (
    NUMBERS,
    DomainOption,
    HotWeightOption,
    HotWordOption,
    HotWordsOption,
    JsonOption,
    NameArgument,
    RecipeArgument,
    RootOption,
    SetOption,
    app,
    emit,
    hot_phrases,
    table_of,
)
from pipelines.cli.results import answer_table
from pipelines.core import environment
from pipelines.core.progress import display
from pipelines.recipe import load
from pipelines.storage.lock import writing


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
        str | None, typer.Option("--personal", metavar="SPEAKER", help="Apply this user's adapter.")
    ] = None,
    n_best: Annotated[
        int, typer.Option("--n-best", min=1, max=100, help="Number of transcripts, with confidences.")
    ] = 1,
    domain: DomainOption = None,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="TURN", help="A turn of the dialogue before, oldest first; repeatable."),
    ] = None,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Predicts transcript, intent, slots, speaker, language … of recordings or sentences, with confidences.

    Example: `motet predict kitchen.wav --hot-word "anna karenina"` or `motet predict --text "play some jazz" --json`
    or `motet predict --context "wake me at seven" --context "for which day" --text "tomorrow"`
    """
    from pipelines.adhoc.prediction import answer

    if not files and not text:
        raise typer.BadParameter('give a recording or --text "…"')
    environment.prepare(root)
    phrases = hot_phrases(hot_word or [], hot_words)
    answers = answer(root, model, files or [], text or [], phrases, hot_weight, n_best, personal, context or [], domain)
    emit(answers, as_json, answer_table(answers))


@app.command()
def personalise(
    model: NameArgument,
    manifest: Annotated[
        str, typer.Argument(metavar="SPEAKER_MANIFEST", help="JSONL, CSV or Parquet: 5 to 20 recordings of one user.")
    ],
    speaker: Annotated[
        str | None, typer.Option("--speaker", metavar="NAME", help="Name of the user, if the manifest has none.")
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option(
            "--words", metavar="FILE", exists=True, dir_okay=False, help="Phrases that the user says, one per line."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=0, help="Training steps; 0: feature statistics only.")
    ] = None,
    significant: Annotated[
        bool, typer.Option("--significant", help="Promote only a gain that is significant at 95 %.")
    ] = False,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Trains a small adapter for one user's voice and words; exit code 1 when it does not beat the base model.

    It is evaluated by cross-validation on the user's own utterances.

    Example: `motet personalise assistant ana.jsonl`, then `motet predict kitchen.wav --personal ana`
    """
    from pipelines.personalisation import personalise as personalisation

    environment.prepare(root)
    with writing(root, f"enrolment in {model}"), display(quiet=as_json):
        outcome = personalisation.personalise(
            root, model, manifest, speaker, hot_phrases([], words), steps, significant
        )
    emit(outcome.to_json(), as_json, personalisation.outcome_lines(outcome))
    if not outcome.promoted:
        raise typer.Exit(1)


@app.command()
def domains(
    recipe: RecipeArgument,
    root: RootOption = environment.ROOT,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tests whether the recipe's domains can be told apart by the channel alone, or by the words alone.

    Example: `motet domains assistant-real` or `motet domains mine.yaml --set domains.by=domain`
    """
    from pipelines.adhoc.prediction import channel_rows, channels

    loaded = load(recipe, settings or [])
    environment.prepare(root)
    with writing(root, f"channels of {loaded.name}"), display(quiet=as_json):
        pairs = channels(root, loaded)
    shown = [{**pair.to_json(), "warning": pair.warning} for pair in pairs]
    table = table_of("accuracy of predicting the domain, chance 50 %", channel_rows(pairs), NUMBERS)
    warnings = [f"\nwarning: {pair.warning}" for pair in pairs if pair.warning]
    emit(
        shown, as_json, table if pairs else f"all recordings of {loaded.name!r} have one {loaded.domains.by}", *warnings
    )
