"""What of a recipe enters an address, so that a new setting moves none.

    stated(recipe.features)        # {"sample_rate": 16000, ...}: hashed into the name of the features' dataset

Version 0.1 hashed its settings with their defaults. Those settings still enter, whatever their value; each later one
enters only where it differs from its default. So whoever adds a setting with a default adds one line to its section,
and no user extracts or trains anything again.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Operational:
    """Marks a setting that says how a recipe runs and not what comes out: `Annotated[int, Operational]`."""


# Settings of version 0.1 that enter an address at their default as well, by section. Nothing is ever added here.
FIRST_VERSION: dict[str, frozenset[str]] = {
    section: frozenset(names.split())
    for section, names in {
        "Recipe": "name seed corpora quality features text loader model sharing tasks balancing understanding decoding "
        "trainer",
        "Corpus": "name kind source checksum split_by fractions language options",
        "Fractions": "train valid test",
        "Quality": "min_seconds max_seconds max_quarantined",
        "Features": "sample_rate bins window_ms hop_ms low_hz high_hz",
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


def stated(section: BaseModel) -> dict[str, Any]:
    """The settings of a section that enter an address, as JSON values; sections within it alike."""
    kind = type(section)
    first = FIRST_VERSION.get(kind.__name__, frozenset())
    written = section.model_dump(mode="json")
    content = {}
    for name, field in kind.model_fields.items():
        value = getattr(section, name)
        if Operational in field.metadata:
            continue
        if name in first or value != field.get_default(call_default_factory=True):
            content[name] = _within(value, written[name])
    return content


def _within(value: Any, written: Any) -> Any:
    """`written`, the JSON of a value, with each section in it as `stated` has it."""
    if isinstance(value, BaseModel):
        return stated(value)
    if isinstance(value, dict) and any(isinstance(one, BaseModel) for one in value.values()):
        return {str(name): _within(one, written[name]) for name, one in value.items()}
    if isinstance(value, tuple) and any(isinstance(one, BaseModel) for one in value):
        return [_within(one, other) for one, other in zip(value, written, strict=True)]
    return written
