"""Commands about corpora: ingest, evaluate."""

from __future__ import annotations

from typing import Annotated

import typer

from motet import runs
from mtl.decoding.hot_words import WEIGHT
from pipelines.cli.console import (
    DomainOption,
    HotWeightOption,
    HotWordOption,
    HotWordsOption,
    JsonOption,
    RootOption,
    app,
    emit,
    hot_phrases,
)
from pipelines.core import environment
from pipelines.recipe.training import JUDGED

KindArgument = Annotated[
    str, typer.Argument(metavar="CORPUS", help="Kind of corpus, such as librispeech, manifest or espeak.")
]
SourceArgument = Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="Folder, archive, URL or s3://.")]
SplitByOption = Annotated[str, typer.Option("--split-by", help="release, speaker or sentence.")]
CorpusSetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="quality.* or options.* of the corpus.")
]


@app.command("ingest")
def ingest_command(
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
    result = runs.ingest(
        kind, source, name=name, root=root, checksum=checksum, language=language, split_by=split_by,
        settings=settings or [], quiet=as_json,
    )  # fmt: skip
    emit(result.to_json(), as_json, *result.parts())


@app.command("evaluate")
def evaluate_command(
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
    try:
        result = runs.evaluate(
            model, kind, source, root=root, split=split, name=name, split_by=split_by, settings=settings or [],
            greedy=greedy, hot_words=hot_phrases(hot_word or [], hot_words), hot_weight=hot_weight,
            distractors=distractors, domain=domain, listeners=_judges(listener), quiet=as_json,
        )  # fmt: skip
    except runs.OptionError as error:
        raise typer.BadParameter(str(error)) from None
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
