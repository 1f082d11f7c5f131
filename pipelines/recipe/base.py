"""What every section of a recipe stands on, and the names that may be chosen from."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, WithJsonSchema
from pydantic_core import PydanticCustomError

from mtl.spec import tasks

CORPUS_KINDS = (
    *("espeak", "librispeech", "commonvoice", "voxceleb", "atis", "sgd", "covost", "ljspeech", "emodb", "iemocap"),
    "manifest",
)
SHARING_MODES = ("hard", "soft", "cross_stitch", "mmoe", "ple", "attention", "graph", "adapter")
BALANCING = (
    *("static", "random", "uncertainty", "imtl_l", "dwa", "geometric_mean", "stch", "famo"),  # of losses
    *("gradnorm", "mgda", "pcgrad", "gradvac", "cagrad", "imtl_g"),  # of gradients, and the next line
    *("nash_mtl", "aligned_mtl", "upgrad", "fairgrad"),
)


def _known_task(name: str) -> str:
    known = [spec.name for spec in tasks()]
    if name not in known:
        expected = ", ".join(repr(other) for other in known[:-1]) + f" or {known[-1]!r}"
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
    return name


# The name of a registered task. Looked up when a recipe is read, so that a task may be registered at run time.
TaskName = Annotated[
    str,
    AfterValidator(_known_task),
    WithJsonSchema({"type": "string", "enum": [spec.name for spec in tasks()]}),
]


class RecipeError(ValueError):
    """A recipe that cannot be read; the message says which key, what was expected and what is nearest."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
