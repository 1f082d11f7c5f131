"""Options of a study that the command line checks; a module of its own so that the command line starts quickly."""

from typing import Literal

SEEDS = 3
KINDS = ("single", "joint", "pairs", "leave-one-out")  # of cells
SPARSE = ("intent", "slots")  # tasks whose labels are reduced by default, where a recipe has them
Split = Literal["valid", "test"]
