"""A recipe says what to train: corpora, features, tasks, sharing, balancing, budget, search space and gates.

    recipe = load("assistant", overrides=["trainer.epochs=3", "tasks.intent.weight=0.5"])

A recipe is a YAML file that pydantic validates, named by its path or, if shipped, by its name. `Recipe.address()` is
the hash under which its results are stored.
"""

from mtl.config.features import FeatureSpec as Features
from mtl.config.model import Model
from pipelines.recipe.base import CORPUS_KINDS, Section
from pipelines.recipe.data import Corpus, Fractions, Loader, Quality, Text
from pipelines.recipe.model import Task
from pipelines.recipe.reading import SHIPPED, RecipeError, load, parse, shipped
from pipelines.recipe.recipe import Recipe
from pipelines.recipe.training import Gates, Interpret, Judges, Trainer

__all__ = [
    "CORPUS_KINDS",
    "SHIPPED",
    "Corpus",
    "Features",
    "Fractions",
    "Gates",
    "Interpret",
    "Judges",
    "Loader",
    "Model",
    "Quality",
    "Recipe",
    "RecipeError",
    "Section",
    "Task",
    "Text",
    "Trainer",
    "load",
    "parse",
    "shipped",
]
