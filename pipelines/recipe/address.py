"""Settings of a recipe that enter its address.

    stated(recipe.features)        # {"sample_rate": 16000, ...}: hashed into the name of the features' dataset

Version 0.1 hashed its settings with their defaults. Those settings still enter, whatever their value; each later one
enters only if it differs from its default. So a new setting with a default changes no address, and no user has to
extract or train anything again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python


class Operational:
    """Marks a setting that does not change any result: `Annotated[int, Operational]`."""


# Settings of version 0.1, by section, which enter an address even at their default. Add none.
FIRST_VERSION: dict[str, frozenset[str]] = {
    section: frozenset(names.split())
    for section, names in {
        "Recipe": "name seed corpora quality features text loader model sharing tasks balancing understanding decoding "
        "trainer",
        "Corpus": "name kind source checksum split_by fractions language options",
        "Fractions": "train valid test",
        "Quality": "min_seconds max_seconds max_quarantined",
        "FeatureSpec": "sample_rate bins window_ms hop_ms low_hz high_hz",
        "Text": "units pieces",
        "Loader": "batch_seconds batch_tokens temperature speed time_masks time_mask_fraction freq_masks "
        "freq_mask_bins",
        "Model": "width blocks heads kernel expansion hidden subsampling dropout word_dropout",
        "Sharing": "mode strength distance experts shared_experts expert_blocks bottleneck graph",
        "Task": "weight corpora labels",
        "Balancing": "method temperature smoothing radius fairness asymmetry rate",
        "Understanding": "recognised error_limit read",
        "Domains": "by conditioning adapters bottleneck rank dropout",
        "Decoding": "beam order weight bonus unknown spelling arpa_checksum reread",
        "Translation": "units pieces blocks heads expansion dropout smoothing beam length_penalty longest",
        "Synthesis": "adversarial consistency",
        "Vocoder": "width blocks expansion segment adversarial channels",
        "Trainer": "epochs curriculum restart learning_rate warmup weight_decay clip_norm precision micro_batches ema",
        "Stage": "name tasks epochs train",
    }.items()
}


def stated(section: Any) -> dict[str, Any]:
    """The settings of a section and its subsections that enter an address, as JSON values."""
    first = FIRST_VERSION.get(type(section).__name__, frozenset())
    return {
        name: _json(value)
        for name, value, default, operational in _settings(section)
        if not operational and (name in first or value != default)
    }


def _settings(section: Any) -> Iterator[tuple[str, Any, Any, bool]]:
    """Name, value, default and whether it is operational, of every setting of a section."""
    if isinstance(section, BaseModel):
        for name, info in type(section).model_fields.items():
            default = info.get_default(call_default_factory=True)
            yield name, getattr(section, name), default, Operational in info.metadata
    else:
        for one in fields(section):
            default = one.default if one.default_factory is MISSING else one.default_factory()
            yield one.name, getattr(section, one.name), default, bool(one.metadata.get("operational"))


def _json(value: Any) -> Any:
    if isinstance(value, BaseModel) or is_dataclass(value):
        return stated(value)
    if isinstance(value, dict):
        return {str(name): _json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return to_jsonable_python(value)
