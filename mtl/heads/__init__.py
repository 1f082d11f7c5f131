"""The heads of a model: one for each task, of the kind that the task's spec names."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from torch import nn

from mtl.heads.base import Head, States, Words
from mtl.spec import TaskSpec, task

if TYPE_CHECKING:
    from mtl.config.model import ModelConfig
    from mtl.inputs.codec import Codec

__all__ = ["Head", "States", "Words", "build_heads", "head_class"]


def head_class(spec: TaskSpec) -> type[Head]:
    """The class that "<module>:<class>" in `spec.head` names, or `spec.head` itself where it is a class."""
    if not isinstance(spec.head, str):
        return spec.head
    module, _, name = spec.head.partition(":")
    kind: type[Head] = getattr(importlib.import_module(module), name)
    return kind


def build_heads(config: ModelConfig, codec: Codec) -> nn.ModuleDict:
    """The heads of a model, in the order of its tasks.

    Raises:
        KeyError: a task that is not registered. ValueError: a task without labels in the training rows.
    """
    specs = [task(name) for name in config.tasks]
    return nn.ModuleDict({spec.name: head_class(spec).build(spec, config, codec) for spec in specs})
