"""Slot filling: a BIO tag for each word, of a sentence or of what was recognised."""

from __future__ import annotations

from mtl.spec import AUDIO, TEXT, TaskSpec, register

SPEC = register(
    TaskSpec(
        "slots",
        label="slots",
        groups=(AUDIO, TEXT),
        answer="tags",
        head="mtl.heads.slots:Slots",
        needs=("transcript",),
        frame=("intent",),
    )
)
