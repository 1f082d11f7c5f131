"""What a person asks for in between nights: read one corpus, ask a model about a recording.

answers = answer("motet-root", None, [Path("kitchen.wav")], ["play some jazz"])
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mtl.answers import Label, Prediction
from mtl.decoding.hot_words import WEIGHT
from mtl.groups import groups
from mtl.spec import tasks
from pipelines.core import progress
from pipelines.recipe import Recipe, RecipeError, parse
from pipelines.recipe.variables import escape, hide_secrets

if TYPE_CHECKING:
    from rich.table import Table

    from pipelines.evaluation.channel import Pair
    from pipelines.registry.registry import Registry
    from pipelines.storage.store import Manifest

CONFIDENT = 0.5  # answers below it are dimmed in the table


class ContextError(ValueError):
    """Turns of a dialogue given to a model that reads none."""


def ingest_one(root: str, corpus: Mapping[str, Any], settings: Sequence[str]) -> Manifest:
    """One corpus into its utterance table. corpus: a recipe's entry; settings: 'options.hours=1' and the like.

    Raises:
        RecipeError: the corpus or a setting is not valid. IngestError: too much of it is in quarantine.
    """
    from pipelines.data.ingest import ingest
    from pipelines.nightly import describe_corpus, step
    from pipelines.storage.lock import writing
    from pipelines.storage.store import Store

    recipe = as_recipe(corpus, settings)
    store = Store(root)
    name = recipe.corpora[0].name
    before = store.latest(f"utterances/{name}")
    with (
        writing(root, f"ingest of {name}"),
        step("ingest") as current,
        progress.current().bar(f"ingest {name}", "utt") as report,
    ):
        manifest = ingest(recipe.corpora[0], recipe.quality, store, progress=report)
        current.done(describe_corpus(manifest, before), None)
    return manifest


def as_recipe(corpus: Mapping[str, Any], settings: Sequence[str]) -> Recipe:
    """A recipe of one corpus, so that a corpus given by hand is checked like any other."""
    content: dict[str, Any] = {"quality": {}, "options": {}}
    for setting in settings:
        key, equals, value = setting.partition("=")
        section, _, field = key.partition(".")
        if not equals or not field or section not in content:
            raise RecipeError(f"--set {setting!r}: expected options.KEY=VALUE or quality.KEY=VALUE")
        content[section][field] = yaml.safe_load(value)
    given = {key: value for key, value in corpus.items() if value is not None}
    if "source" in given:  # the shell has expanded what it was to expand
        given["source"] = hide_secrets(escape(given["source"]), given["name"])
    return parse(
        {
            "name": "adhoc",
            "corpora": [{**given, "options": content["options"]}],
            "quality": content["quality"],
            "tasks": {"transcript": {}},
        },
        where="the command line",
    )


def channels(root: str, recipe: Recipe) -> list[Pair]:
    """The probe of a recipe's domains, on all of its recordings."""
    from pipelines.data.features import extract
    from pipelines.data.ingest import ingest
    from pipelines.nightly import step
    from pipelines.promotion import probed
    from pipelines.storage.store import Store

    store = Store(root)
    tables = []
    for corpus in recipe.corpora:
        with progress.current().bar(f"ingest {corpus.name}", "utt") as report:
            tables.append(ingest(corpus, recipe.quality, store, progress=report))
    with step("features") as current, progress.current().bar("features", "rec") as report:
        features = extract(tables, recipe.features, store, progress=report)
        current.done(f"{sum(manifest.meta['rows'] for manifest in features):,} recordings", None)
    return probed(store, recipe, tables, features)


def channel_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The probe as it is printed."""
    rows = []
    for pair in pairs:
        row: dict[str, Any] = {"domains": f"{pair.one} - {pair.other}"}
        for name, told in (("channel", pair.channel), ("words", pair.words)):
            found = (told.accuracy, told.low, told.high) if told else (None, None, None)
            for key, value in zip((f"{name}, %", f"{name} low", f"{name} high"), found, strict=True):
                row[key] = None if value is None else f"{100 * value:.1f}"
        row["recordings"] = pair.channel.rows if pair.channel else None
        row["speakers"] = pair.channel.speakers if pair.channel else "too few"
        rows.append(row)
    return rows


def hot_phrases(given: Sequence[str], file: Path | None) -> list[str]:
    """Phrases given one by one, and those of a UTF-8 file, one a line."""
    lines = file.read_text(encoding="utf-8").splitlines() if file else []
    return [*given, *(line.strip() for line in lines if line.strip())]


def model_uri(registry: Registry, given: str | None) -> str:
    """A model as people name it: nothing (the only one there is), NAME, NAME/3, NAME@challenger, a folder, a URI.

    Raises:
        RegistryError: no model, or several and none was named.
    """
    from pipelines.registry.registry import CHAMPION, RegistryError

    if given is None:
        # A dot stands in the names of users' adapters alone, which are no models by themselves.
        names = [name for name in registry.models() if "." not in name and registry.champion(name)]
        if len(names) != 1:
            there = f"there are {', '.join(names)}; name one" if names else "`motet nightly RECIPE` makes one"
            raise RegistryError(f"{len(names)} models have a champion in {registry.uri}: {there}")
        given = names[0]
    if given.startswith("models:/") or Path(given).is_dir():
        return given
    if "@" in given or "/" in given:
        return f"models:/{given}"
    return f"models:/{given}@{CHAMPION}"


def answer(
    root: str,
    model: str | None,
    files: Sequence[Path],
    texts: Sequence[str],
    hot_words: Sequence[str] = (),
    hot_weight: float = WEIGHT,
    n_best: int = 1,
    personal: str | None = None,
    context: Sequence[str] = (),
    domain: str | None = None,
) -> list[dict[str, Any]]:
    """What a model says of recordings and sentences: one plain mapping an input, `input` and `model` among its keys.

    personal: the user through whose adapter it listens. context: the turns of the dialogue before, oldest first.
    domain: that the recordings come from.

    Raises:
        ContextError: a context, and a model that reads none.
        RegistryError: no such model or adapter. PersonalError: the adapter was made for another version of the model.
        SoundError: a recording that cannot be read; it names the file.
        HotWordError: a hot word without a letter. PredictorError: a domain that the model does not know.
    """
    from pipelines.personalisation.adapters import load_personal
    from pipelines.registry.registry import Registry
    from pipelines.sources.audio import decode

    registry = Registry(root)
    uri = model_uri(registry, model)
    chosen = load_personal(registry, uri, personal) if personal else registry.load(uri)
    predictor = chosen.listening(hot_words, hot_weight, n_best, domain=domain)
    rate = predictor.features.sample_rate
    inputs: list[Any] = [_other_input(file) or decode(file, rate) for file in files]
    if context and not predictor.codec.context:
        raise ContextError(
            f"{uri} reads no context: it has none of {', '.join(spec.name for spec in tasks() if spec.context)}, "
            "or was trained with text.context=0"
        )
    predictions = predictor.predict([*inputs, *texts], [context] * (len(inputs) + len(texts)))
    names = [*map(str, files), *texts]
    return [
        {"input": name, "model": uri, **prediction.to_json()}
        for name, prediction in zip(names, predictions, strict=True)
    ]


def _other_input(file: Path) -> dict[str, str] | None:
    """A file of an input group other than audio, by its suffix."""
    known = (one for one in groups() if file.suffix.lower() in one.suffixes)
    return next(({one.source: base64.b64encode(file.read_bytes()).decode()} for one in known), None)


def answer_table(answers: Sequence[Mapping[str, Any]]) -> Table:
    """A block of lines for each input: task, answer, confidence."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for answered in answers:
        table.add_row("[bold]input[/]", answered["input"], "")
        for task, answer in Prediction.from_json(answered).answers.items():
            for heading, text, confidence in answer.lines(task):
                dim = "[dim]" if isinstance(answer, Label) and answer.confidence < CONFIDENT else ""
                table.add_row(heading, f"{dim}{text}", "" if confidence is None else f"{confidence:.2f}")
    return table
