"""Who speaks: an embedding of the voice, trained as a classification of the training speakers."""

from __future__ import annotations

from mtl.spec import AUDIO, TaskSpec, register

SPEC = register(
    TaskSpec(
        "speaker",
        label="speaker",
        groups=(AUDIO,),
        answer="label",
        head="mtl.heads.classification:Classification",
        spectral=True,
        open_set=True,
    ),
)
