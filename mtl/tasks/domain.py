"""The subject of a request, one label an utterance: music, weather, home, …."""

from __future__ import annotations

from mtl.spec import AUDIO, TEXT, Column, TaskSpec, register

SPEC = register(
    TaskSpec(
        "domain",
        label="domain",
        groups=(AUDIO, TEXT),
        answer="label",
        head="mtl.heads.classification:Classification",
        columns=(Column("domain", hashed_if_null=True),),
    )
)
