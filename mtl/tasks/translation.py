"""Translation of a recording or a sentence, by an attention decoder."""

from __future__ import annotations

from mtl.spec import AUDIO, TEXT, Column, TaskSpec, register

SPEC = register(
    TaskSpec(
        "translation",
        label="translation",
        groups=(AUDIO, TEXT),
        answer="translation",
        head="mtl.heads.translation:Translation",
        columns=(Column("translation", tidied=True),),
    )
)
