"""The stages that make a model: reserve its name, train it, and register the packaged weights."""

from __future__ import annotations

from mtl.metrics.scoring import in_unit
from pipelines.core.progress import Report
from pipelines.core.stage import Stage
from pipelines.stages.context import Context
from pipelines.storage import lock
from pipelines.storage.store import Store
from pipelines.training import train as training
from pipelines.training.results import TrainResult, finished

RECIPE_TAG = "motet.recipe_key"  # of a registered version: key of the recipe that it was trained with


def training_name(store: Store, name: str, again: bool) -> str:
    """Name of the training run; a resumed night continues it. again: the first name without a finished run."""
    attempt = 1
    while again and finished(store, f"{name}-{attempt}") is not None:
        attempt += 1
    return f"{name}-{attempt}"


def training_result(store: Store, name: str) -> TrainResult:
    """Raises LookupError when the training run has no result."""
    result = finished(store, name)
    if result is None:
        raise LookupError(f"training {name} has no result in {store.root}; was it deleted meanwhile?")
    return result


def _claim(context: Context) -> tuple[str, None]:
    """Reserves the model's name before anything is trained, and sets its aliases from the ledger.

    Raises:
        RegistryError: the name belongs to another root.
    """
    return "; ".join(context.registry.claim(context.recipe.name)), None


def _train(context: Context, report: Report) -> tuple[str, str]:
    """Trains the joint model. Value: the run's name, under which the store holds its result."""
    recipe = context.recipe
    data = (context.utterances, context.features)
    result = training.train(recipe, *data, context.store, context.name, tracking=context.run, progress=report)
    metric = recipe.gates.primary
    value = result.metrics.get(f"valid/{metric}")
    score = "" if value is None else f", valid {metric} {in_unit(metric, value)}"
    return f"{len(result.history)} epochs{score}", result.name


def _register(context: Context) -> tuple[str, int]:
    """Packages the trained weights as the next version in the registry. Value: its number."""
    store, recipe = context.store, context.recipe
    result = training_result(store, context.values["train"])
    weights = store.find(f"models/{recipe.name}", result.model_key.rpartition("/")[2])
    folder = store.fetch_folder(result.files, weights)
    lock.check(store.root)
    tags = {"motet.night": context.name, RECIPE_TAG: context.recipe_key}
    version = context.registry.register(recipe.name, folder, context.run, context.data, tags)
    return f"{version.uri}, {version.parameters:,} parameters, @challenger", version.version


CLAIM = Stage("claim", _claim, label="registry", kinds=("ledger",))
TRAIN = Stage(
    "train",
    _train,
    inputs=("ingest", "features"),
    kinds=("models",),
    version=training.VERSION,
    unit="epoch",
    retries=0,  # Ray Train restarts workers from their checkpoint
)
REGISTER = Stage("register", _register, inputs=("train",))
