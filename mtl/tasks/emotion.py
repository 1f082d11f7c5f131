"""Emotion or speaking style of a recording, one label an utterance."""

from __future__ import annotations

from mtl.spec import AUDIO, Column, TaskSpec, register

SPEC = register(
    TaskSpec(
        "emotion",
        label="emotion",
        groups=(AUDIO,),
        answer="label",
        head="mtl.heads.classification:Classification",
        columns=(Column("emotion", hashed_if_null=True),),
        spectral=True,
        balanced=True,
    )
)
