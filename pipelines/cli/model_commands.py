"""Commands that read corpora and ask models: ingest, predict, evaluate, personalise, domains."""

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
    table_of,
)
from pipelines.core import environment
from pipelines.core.progress import display
from pipelines.recipe.training import JUDGED
from pipelines.storage.lock import writing


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
    from pipelines.adhoc.prediction import ingest_one
    from pipelines.utterances.splits import described

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
    if not as_json:
        print(f"{manifest.meta['rows']:,} rows: {described(manifest.meta['splits'])}")


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
    from pipelines.adhoc.prediction import answer, answer_table, hot_phrases

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
    steps: Annotated[int | None, typer.Option("--steps", min=0, help="Training steps; 0: statistics alone.")] = None,
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
    from pipelines.adhoc.prediction import hot_phrases
    from pipelines.personalisation.personalise import outcome_lines
    from pipelines.personalisation.personalise import personalise as make

    environment.prepare(root)
    with writing(root, f"enrolment in {model}"), display(quiet=as_json):
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
    split: Annotated[
        str | None,
        typer.Option("--split", help="train, valid, test or all. Left out: test, or all of a corpus without splits."),
    ] = None,
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
    listener: Annotated[
        list[str] | None,
        typer.Option(
            "--listener", metavar="TASK=NAME", help="Who hears a model that speaks; as in its recipe, if left out."
        ),
    ] = None,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Any registered model on any corpus: WER, CER, intent accuracy, slot F1 … with 95 % bootstrap intervals.

    With hot words the error rate of their words (biased_wer) and of all others, and each figure without them. A model
    that speaks says the corpus again: distances to the recordings, and what other models hear in it.

    Example: `motet evaluate assistant librispeech /data/LibriSpeech --split test --json`
    """
    from pipelines.adhoc.evaluation import evaluate_on
    from pipelines.adhoc.prediction import hot_phrases
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
    with writing(root, f"evaluation of {model}"), display(quiet=as_json):
        result = evaluate_on(root, model, config, split, settings or [], expected, greedy, domain, named(listener))
    title = f"{result['model']} on {result['corpus']} ({result['split']}), {result['summary']}"
    emit(result, as_json, table_of(title, result["table"], NUMBERS))
    if result["speech"] and not as_json:
        lines = result["speech"]["lines"]
        emit(None, False, table_of("what it says, beside the recordings", lines, tuple(lines[0])[1:] if lines else ()))


def named(listeners: list[str] | None) -> dict[str, str] | None:
    """TASK=NAME of each; None where nothing was given."""
    if listeners is None:
        return None
    pairs = [text.partition("=") for text in listeners]
    if wrong := [
        text for text, (task, _, name) in zip(listeners, pairs, strict=True) if task not in JUDGED or not name
    ]:
        raise typer.BadParameter(
            f"--listener {wrong[0]}: expected {', '.join(JUDGED)} = the name of a registered model"
        )
    return {task: name for task, _, name in pairs}


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
    from pipelines.adhoc.prediction import channel_rows, channels
    from pipelines.recipe import load

    loaded = load(recipe, settings or [])
    environment.prepare(root)
    with writing(root, f"channels of {loaded.name}"), display(quiet=as_json):
        pairs = channels(root, loaded)
    shown = [{**pair.to_json(), "warning": pair.warning} for pair in pairs]
    table = table_of("share of recordings whose domain is told right, chance 50 %", channel_rows(pairs), NUMBERS)
    emit(shown, as_json, table if pairs else f"the recordings of {loaded.name!r} have one {loaded.domains.by} alone")
    if not as_json:
        print("".join(f"\nwarning: {pair.warning}" for pair in pairs if pair.warning))
