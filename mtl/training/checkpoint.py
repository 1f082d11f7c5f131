"""Training state on disk: tensors as safetensors, the rest as JSON. Nothing is pickled.

    save(folder, state, {"history.json": rows})    # state.safetensors, state.json, history.json, digests.json
    state = load(folder)                           # raises Damaged if a file is missing or has changed

`digests.json` is written last and holds the size and SHA-256 of every other file. Checkpoints without it are loaded
unchecked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

TENSORS, PLAIN, DIGESTS = "state.safetensors", "state.json", "digests.json"


class Damaged(RuntimeError):
    """A checkpoint that cannot be loaded; the message names the folder and the file."""


def save(folder: Path | str, state: dict[str, Any], beside: Mapping[str, Any] | None = None) -> None:
    """Writes nested dicts and lists of tensors and JSON values into a folder; beside: more JSON values by file name.

    Raises:
        TypeError: a value is neither, or a dict has a key that is not a string or an integer.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    plain = _split(state, "", tensors)
    save_file(tensors, folder / TENSORS)
    documents = {PLAIN: plain, **(beside or {})}
    for name, value in documents.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    digests = {name: _digest(folder / name) for name in (TENSORS, *documents)}
    (folder / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")


def load(folder: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The saved state. Raises Damaged if a file is missing, truncated or altered."""
    folder = Path(folder)
    _verify(folder)
    try:
        tensors = load_file(folder / TENSORS, device=str(device))
        state: dict[str, Any] = _join(read_json(folder, PLAIN), tensors)
    except FileNotFoundError as error:
        raise Damaged(f"checkpoint {folder} lacks {TENSORS}") from error
    except SafetensorError as error:
        raise Damaged(f"checkpoint {folder}: {TENSORS} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"checkpoint {folder}: {PLAIN} does not fit {TENSORS}: {error!r}") from error
    return state


def read_json(folder: Path | str, name: str) -> Any:
    """A JSON file of a checkpoint. Raises Damaged if it is missing or not JSON."""
    try:
        return json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Damaged(f"checkpoint {folder} lacks {name}") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise Damaged(f"checkpoint {folder}: {name} is not JSON: {error}") from error


def _verify(folder: Path) -> None:
    """Compares every file with the digests, if there are any."""
    if not (folder / DIGESTS).is_file():
        return
    digests = read_json(folder, DIGESTS)
    if not isinstance(digests, dict) or not all(isinstance(expected, dict) for expected in digests.values()):
        raise Damaged(f"checkpoint {folder}: {DIGESTS} holds no digests by file name")
    for name, expected in digests.items():
        if not (folder / name).is_file():
            raise Damaged(f"checkpoint {folder} lacks {name}")
        size = (folder / name).stat().st_size
        if size != expected.get("bytes"):
            raise Damaged(f"checkpoint {folder}: {name} has {size} bytes, expected {expected.get('bytes')}")
        if _digest(folder / name) != expected:
            raise Damaged(f"checkpoint {folder}: {name} was altered since it was saved: its SHA-256 differs")


def _digest(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


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
