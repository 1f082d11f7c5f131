"""Training state on disk: tensors as safetensors, the rest as JSON. Nothing is pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TENSORS, PLAIN = "state.safetensors", "state.json"


def save(folder: Path | str, state: dict[str, Any]) -> None:
    """Writes a nested dict or list of tensors and plain JSON values into a folder.

    Raises:
        TypeError: a value is neither, or a dict has a key that is not a string or an integer.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    plain = _split(state, "", tensors)
    save_file(tensors, folder / TENSORS)
    (folder / PLAIN).write_text(json.dumps(plain), encoding="utf-8")


def load(folder: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state that `save` wrote."""
    folder = Path(folder)
    tensors = load_file(folder / TENSORS, device=str(device))
    return _join(json.loads((folder / PLAIN).read_text(encoding="utf-8")), tensors)


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()  # clone: safetensors refuses shared storage
        return {"$tensor": path}
    if isinstance(value, dict):
        items = []
        for key, item in value.items():
            if not isinstance(key, str | int):
                raise TypeError(f"{path}: key {key!r} is {type(key).__name__}; a checkpoint takes strings and integers")
            items.append([key, _split(item, f"{path}/{key}", tensors)])
        return {"$dict": items}  # pairs, since JSON would turn integer keys into strings
    if isinstance(value, list | tuple):
        return [_split(item, f"{path}/{position}", tensors) for position, item in enumerate(value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{path} is {type(value).__name__}; a checkpoint takes tensors and JSON values")


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        return {key: _join(item, tensors) for key, item in value["$dict"]}
    return value
