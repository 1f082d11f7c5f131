"""The heads of a model, one for each task, of the class that the task's spec names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from torch import nn

from mtl.config.model import ModelConfig
from mtl.heads.base import Head, States, Words
from mtl.inputs.codec import Codec
from mtl.spec import TaskSpec, resolve, task

__all__ = ["Head", "States", "Words", "build_heads", "first_head", "head_class"]

H = TypeVar("H", bound=Head)


def head_class(spec: TaskSpec) -> type[Head]:
    """The class that `spec.head` refers to."""
    kind: type[Head] = resolve(spec.head)
    return kind


def first_head(heads: Iterable[nn.Module], kind: type[H]) -> H | None:
    """The first head of a class, for example Prosody; None if there is none."""
    return next((head for head in heads if isinstance(head, kind)), None)


def build_heads(config: ModelConfig, codec: Codec) -> nn.ModuleDict:
    """The heads of a model by task. Raises ValueError if a task has no labels in the training rows."""
    specs = [task(name) for name in config.tasks]
    return nn.ModuleDict({spec.name: head_class(spec).build(spec, config, codec) for spec in specs})
