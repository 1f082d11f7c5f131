"""Options of a study for the command line; a separate module, so that the command line starts quickly."""

from typing import Literal

SEEDS = 3
KINDS = ("single", "joint", "pairs", "leave-one-out")  # of cells
SPARSE = ("intent", "slots")  # tasks whose labels are reduced by default, where a recipe has them
Split = Literal["valid", "test"]
