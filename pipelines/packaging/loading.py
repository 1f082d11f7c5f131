"""Loads Predictors from packages. Imports torch, so registry.py imports this file on first use."""

from __future__ import annotations

from pathlib import Path

from mtl.address import folder_address
from mtl.inference.adaptation import Personal, PersonalPredictor, check_base, read_header
from mtl.inference.predictor import Predictor


def load_model(folder: Path, device: str | None) -> Predictor:
    return Predictor.load(folder, device)


def load_adapted(adapter: Path, base: Path, device: str | None) -> Predictor:
    """The model in the folder `base` with a user's adapter. Raises PersonalError when it was made for another base."""
    personal = Personal.load(adapter)
    check_base(personal.about, folder_address(base))
    return PersonalPredictor(Predictor.load(base, device), personal)


def base_uri(adapter: Path) -> str:
    """The model and version that an adapter was made for."""
    about = read_header(adapter)["about"]
    return f"models:/{about['base']}/{about['version']}"
