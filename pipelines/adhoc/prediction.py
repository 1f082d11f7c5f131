"""Commands on one corpus or one model: ingest, channel probe, prediction.

answers = answer("motet-root", None, [Path("kitchen.wav")], ["play some jazz"])
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mtl.decoding.hot_words import WEIGHT
from mtl.groups import groups
from mtl.spec import tasks
from pipelines.evaluation.channel import Pair
from pipelines.recipe import Recipe, RecipeError, parse
from pipelines.recipe.variables import escape, hide_secrets
from pipelines.registry.adapters import load_personal
from pipelines.registry.registry import CHAMPION, Registry, RegistryError
from pipelines.sources.audio import decode
from pipelines.stages.context import Context
from pipelines.stages.data import FEATURES, INGEST
from pipelines.stages.evaluate import channel_pairs
from pipelines.storage.lock import writing
from pipelines.storage.store import Manifest

if TYPE_CHECKING:
    from mtl.inference.predictor import Predictor


class ContextError(ValueError):
    """Previous turns of a dialogue were passed to a model that takes none."""


def ingest_one(root: str, corpus: Mapping[str, Any], settings: Sequence[str]) -> Manifest:
    """Writes one corpus into its utterance table.

    corpus: a recipe's entry; settings: 'options.hours=1' and the like.

    Raises:
        RecipeError: the corpus or a setting is not valid. IngestError: too much of it is in quarantine.
    """
    context = Context(root, as_recipe(corpus, settings))
    with writing(root, f"ingest of {context.recipe.corpora[0].name}"):
        context.execute(INGEST)
    return context.utterances[0]


def as_recipe(corpus: Mapping[str, Any], settings: Sequence[str]) -> Recipe:
    """A recipe of one corpus, so that a corpus from the command line is validated like any other."""
    content: dict[str, Any] = {"quality": {}, "options": {}}
    for setting in settings:
        key, equals, value = setting.partition("=")
        section, _, field = key.partition(".")
        if not equals or not field or section not in content:
            raise RecipeError(f"--set {setting!r}: expected options.KEY=VALUE or quality.KEY=VALUE")
        content[section][field] = yaml.safe_load(value)
    entry = {key: value for key, value in corpus.items() if value is not None}
    if "source" in entry:  # the shell has expanded its variables already
        entry["source"] = hide_secrets(escape(entry["source"]), entry["name"])
    return parse(
        {
            "name": "adhoc",
            "corpora": [{**entry, "options": content["options"]}],
            "quality": content["quality"],
            "tasks": {"transcript": {}},
        },
        where="the command line",
    )


def channels(root: str, recipe: Recipe) -> list[Pair]:
    """The channel probe of a recipe's domains, on all of its recordings."""
    context = Context(root, recipe)
    context.execute(INGEST)
    context.execute(FEATURES)
    return channel_pairs(context)


def channel_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The probe as it is printed."""
    rows = []
    for pair in pairs:
        row: dict[str, Any] = {"domains": f"{pair.one} - {pair.other}"}
        for name, result in (("channel", pair.channel), ("words", pair.words)):
            values = (result.accuracy, result.low, result.high) if result else (None, None, None)
            for key, value in zip((f"{name}, %", f"{name} low", f"{name} high"), values, strict=True):
                row[key] = None if value is None else f"{100 * value:.1f}"
        row["recordings"] = pair.channel.rows if pair.channel else None
        row["speakers"] = pair.channel.speakers if pair.channel else "too few"
        rows.append(row)
    return rows


def model_uri(registry: Registry, name: str | None) -> str:
    """URI of a model. name: NAME, NAME/3, NAME@challenger, a folder, a URI; None for the only registered model.

    Raises:
        RegistryError: no model, or several and none was named.
    """
    if name is None:
        # A name with a dot is that of a user's adapter, which is not a model by itself.
        names = [known for known in registry.models() if "." not in known and registry.champion(known)]
        if len(names) != 1:
            hint = f"there are {', '.join(names)}; name one" if names else "`motet nightly RECIPE` makes one"
            raise RegistryError(f"{len(names)} models have a champion in {registry.uri}: {hint}")
        name = names[0]
    if name.startswith("models:/") or Path(name).is_dir():
        return name
    if "@" in name or "/" in name:
        return f"models:/{name}"
    return f"models:/{name}@{CHAMPION}"


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
    """Predictions for recordings and sentences: one mapping per input, with the keys `input` and `model`.

    personal: the user whose adapter is applied. context: previous turns of the dialogue, oldest first. domain: of the
    recordings.

    Raises:
        ContextError: a context for a model that takes none.
        RegistryError: no such model or adapter. PersonalError: the adapter was made for another version of the model.
        SoundError: a recording that cannot be read; it names the file.
        HotWordError: a hot word without a letter. PredictorError: a domain that the model does not know.
    """
    registry = Registry(root)
    uri = model_uri(registry, model)
    loaded = load_personal(registry, uri, personal) if personal else registry.load(uri)
    predictor = loaded.with_options(hot_words, hot_weight, n_best, domain=domain)
    rate = predictor.features.sample_rate
    inputs: list[Any] = [_other_input(file) or decode(file, rate) for file in files]
    check_context(uri, predictor, context)
    predictions = predictor.predict([*inputs, *texts], [context] * (len(inputs) + len(texts)))
    names = [*map(str, files), *texts]
    return [
        {"input": name, "model": uri, **prediction.to_json()}
        for name, prediction in zip(names, predictions, strict=True)
    ]


def check_context(uri: str, predictor: Predictor, context: Sequence[str]) -> None:
    """Raises ContextError for a context, if the model reads none."""
    if context and not predictor.codec.context:
        readers = ", ".join(spec.name for spec in tasks() if spec.context)
        raise ContextError(f"{uri} reads no context: it has none of {readers}, or was trained with text.context=0")


def _other_input(file: Path) -> dict[str, str] | None:
    """A file of an input group other than audio, by its suffix."""
    known = (one for one in groups() if file.suffix.lower() in one.suffixes)
    return next(({one.source: base64.b64encode(file.read_bytes()).decode()} for one in known), None)
