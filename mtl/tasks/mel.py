"""Log-mel frames of a sentence, from its phones and how each is said."""

from __future__ import annotations

from mtl.spec import DURATIONS, PHONES, TaskSpec, register

SPEC = register(
    TaskSpec(
        "mel",
        label=DURATIONS,
        groups=(PHONES,),
        answer="speech",
        head="mtl.heads.mel:Mel",
        makes_frames=True,
        conveys=("emotion", "speaker"),
        scorer="mtl.metrics.synthesis:MelScorer",
    )
)
