"""What every section of a recipe stands on, and the names that may be chosen from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

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
# As mtl.text has them, whose torch a command line can do without.
DIALOGUE = ("dialogue_act", "system_action")
SYNTHESIS = ("prosody", "mel")
PHRASED = (*SYNTHESIS, "phones", "tempo", "intonation")
SOUNDING = ("waveform",)
TASK_KINDS = (
    *("transcript", "intent", "slots", "domain", "speaker", "emotion", "language", "translation"),
    *DIALOGUE,
    *PHRASED,
    *SOUNDING,
)


class RecipeError(ValueError):
    """A recipe that cannot be read; the message says which key, what was expected and what is nearest."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
