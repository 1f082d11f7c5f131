"""What the speaker wants, one label an utterance."""

from __future__ import annotations

from mtl.spec import AUDIO, TEXT, Column, TaskSpec, register

SPEC = register(
    TaskSpec(
        "intent",
        label="intent",
        groups=(AUDIO, TEXT),
        answer="label",
        head="mtl.heads.classification:Classification",
        columns=(Column("intent", hashed_if_null=True),),
    )
)
