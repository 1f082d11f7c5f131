"""Duration, pitch and energy of every phone, from the phones of a sentence."""

from __future__ import annotations

from mtl.spec import DURATIONS, PHONES, TaskSpec, register

SPEC = register(
    TaskSpec(
        "prosody",
        label=DURATIONS,
        groups=(PHONES,),
        answer="speech",
        head="mtl.heads.prosody:Prosody",
        scorer="mtl.metrics.synthesis:ProsodyScorer",
    )
)
