"""One night of one recipe: the list of its stages, in order. Start reading here.

    context = Context("motet-root", load("assistant"))
    result = run(context)                       # result.model, result.promoted, result.report

Each stage is declared in pipelines/stages/, beside the function that it calls. `flows.nightly` runs the same list
with every stage as a Prefect task.

A night's identity is the hash of its recipe, its data and the versions of its stages. It names the training run, so
that a night that was killed is resumed, and a night that has finished is found and not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipelines.core import cluster
from pipelines.recipe import Recipe
from pipelines.stages.context import Context
from pipelines.stages.data import DATA, INGEST
from pipelines.stages.evaluate import EVALUATE, INTERPRET, check_judges
from pipelines.stages.gate import GATE
from pipelines.stages.outcome import RunResult, location, nights_dataset
from pipelines.stages.report import REPORT
from pipelines.stages.train import CLAIM, REGISTER, TRAIN, training_name
from pipelines.storage.store import Manifest, fingerprint
from pipelines.utterances.splits import require_rows

VERSION = 1  # of what follows the training: scores and decision

STAGES = (
    INGEST,  # each corpus -> its utterance table
    CLAIM,  # reserves the model's name in the registry
    *DATA,  # features, and where the recipe needs them alignment, prosody and waveforms
    TRAIN,  # Ray Train -> the weights of the best epoch
    REGISTER,  # the packaged model -> a version in the registry
    EVALUATE,  # held-out scores of the candidate and of the champion
    GATE,  # promotes the candidate, or does not
    INTERPRET,  # what the tasks share; no promotion waits for it
    REPORT,  # the page, and the record that makes the night finished
)


def run(context: Context, again: bool = False) -> RunResult:
    """Runs the stages. If a finished night had the same identity, returns its result and trains nothing.

    again: train even though nothing is new.
    """
    recipe, store = context.recipe, context.store
    utterances = context.execute(INGEST)
    context.identity = identity(recipe, utterances)
    record = None if again else store.find(nights_dataset(recipe.name), context.identity)
    if record is not None:
        return nothing_new(context, record)
    check_judges(context)
    require_rows(recipe, utterances, "test")
    context.name = training_name(store, f"{recipe.name}-{context.identity}", again)
    context.execute(CLAIM)
    with cluster.local_ray():
        derive(context)
        with context.tracked(context.name, tags={"motet.night": context.identity}):
            for stage in STAGES[STAGES.index(TRAIN) :]:
                context.execute(stage)
    result: RunResult = context.values[REPORT.name]
    return result


def derive(context: Context) -> None:
    """Runs the data stages that the recipe needs, after `INGEST`."""
    for stage in DATA:
        if stage.needed(context.recipe):
            context.execute(stage)


@contextmanager
def prepared(context: Context, split: str | None) -> Iterator[Context]:
    """The context with its data, for a search or a study, in a Ray session that lasts as long as the block.

    split: the one that models are compared on, which must have rows.
    """
    utterances = context.execute(INGEST)
    if split:
        require_rows(context.recipe, utterances, split)
    with cluster.local_ray():
        derive(context)
        yield context


def identity(recipe: Recipe, utterances: Sequence[Manifest]) -> str:
    """Identity of a night: equal for two nights if the second would train the same model."""
    versions = {stage.name: stage.version for stage in STAGES if stage.version and stage.needed(recipe)}
    data = sorted((manifest.dataset, manifest.address) for manifest in utterances)
    return fingerprint(recipe.address(), data, {**versions, "night": VERSION})


def nothing_new(context: Context, record: Manifest) -> RunResult:
    """The result of a finished night, with the current location of its report."""
    outcome = {**record.meta["outcome"], "state": "nothing new", "night": record.version, "seconds": 0.0}
    return RunResult(**{**outcome, "report": location(context.store, record.files[0])})
