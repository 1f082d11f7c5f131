"""Commands about corpora and models: ingest, predict, evaluate, personalise, domains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mtl.decoding.hot_words import WEIGHT
from pipelines.adhoc.prediction import answer, answer_table, channel_rows, channels, hot_phrases, ingest_one
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
from pipelines.cli.results import Evaluation, IngestResult
from pipelines.core import environment
from pipelines.core.progress import display
from pipelines.recipe import load
from pipelines.recipe.training import JUDGED
from pipelines.storage.lock import writing

KindArgument = Annotated[
    str, typer.Argument(metavar="CORPUS", help="Kind of corpus, such as librispeech, manifest or espeak.")
]
SourceArgument = Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="Folder, archive, URL or s3://.")]
SplitByOption = Annotated[str, typer.Option("--split-by", help="release, speaker or sentence.")]
CorpusSetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="quality.* or options.* of the corpus.")
]


@app.command()
def ingest(
    kind: KindArgument,
    source: SourceArgument = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name in tables and metrics; the kind if left out.")
    ] = None,
    root: RootOption = environment.ROOT,
    checksum: Annotated[str | None, typer.Option("--checksum", help="sha256 of an archive or download.")] = None,
    language: Annotated[str | None, typer.Option("--language", help="BCP 47 tag for rows without one.")] = None,
    split_by: SplitByOption = "release",
    settings: CorpusSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reads one corpus into the utterance table; unusable rows go to quarantine with a reason.

    Example: `motet ingest manifest calls.jsonl --name calls --split-by speaker`
    """
    environment.prepare(root)
    corpus = {"name": name or kind, "kind": kind, "source": source, "checksum": checksum}
    corpus |= {"language": language, "split_by": split_by}
    with display(quiet=as_json):
        result = IngestResult.of(ingest_one(root, corpus, settings or []))
    emit(result.to_json(), as_json, *result.parts())


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
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME, models:/NAME/3, models:/NAME@alias or a folder.")
    ],
    kind: KindArgument,
    source: SourceArgument = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="train, valid, test or all; test, or all of a corpus without splits, if left out."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The corpus's name, if it is not its kind.")] = None,
    split_by: SplitByOption = "release",
    settings: CorpusSetOption = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Best-path decoding, without a language model.")] = False,
    hot_word: HotWordOption = None,
    hot_words: HotWordsOption = None,
    hot_weight: HotWeightOption = WEIGHT,
    distractors: Annotated[
        int, typer.Option("--distractors", min=0, help="For each row, so many more hot words that do not occur in it.")
    ] = 0,
    domain: DomainOption = None,
    listener: Annotated[
        list[str] | None,
        typer.Option(
            "--listener", metavar="TASK=NAME", help="Judge model of synthesised speech; if left out, the recipe's."
        ),
    ] = None,
    root: RootOption = environment.ROOT,
    as_json: JsonOption = False,
) -> None:
    """Evaluates a model on a corpus: WER, CER, intent accuracy, slot F1 … with 95 % bootstrap intervals.

    With hot words, also the error rate of these words (biased_wer) and of all others, and each metric without hot
    words. A model that synthesises speaks the corpus: distances to the recordings, and scores of judge models.

    Example: `motet evaluate assistant librispeech /data/LibriSpeech --split test --json`
    """
    from pipelines.adhoc.evaluation import evaluate_on
    from pipelines.evaluation.evaluate import Expected

    phrases = tuple(hot_phrases(hot_word or [], hot_words))
    if greedy and phrases:
        raise typer.BadParameter("best-path decoding takes no hot words; leave out --greedy or the hot words")
    if distractors and not phrases:
        raise typer.BadParameter("--distractors go with hot words; give --hot-word or --hot-words")
    expected = Expected(phrases, hot_weight, distractors) if phrases else None
    environment.prepare(root)
    # A name of its own: another way of splitting must not become the newest version of what nights train on.
    corpus = {"name": name or f"evaluation-{kind}", "kind": kind, "source": source, "split_by": split_by}
    judges = _judges(listener)
    with writing(root, f"evaluation of {model}"), display(quiet=as_json):
        scores = evaluate_on(root, model, corpus, split, settings or [], expected, greedy, domain, judges)
    result = Evaluation(**scores)
    emit(result.to_json(), as_json, *result.parts())


def _judges(options: list[str] | None) -> dict[str, str] | None:
    """Task and model of each TASK=NAME; None where the option is missing."""
    if options is None:
        return None
    judges = {}
    for option in options:
        task, _, name = option.partition("=")
        if task not in JUDGED or not name:
            expected = f"{', '.join(JUDGED)} = the name of a registered model"
            raise typer.BadParameter(f"--listener {option}: expected {expected}")
        judges[task] = name
    return judges


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
