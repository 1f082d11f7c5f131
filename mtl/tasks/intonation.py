"""Deviation of the pitch of a recording, in semitones."""

from __future__ import annotations

from mtl.spec import AUDIO, DURATIONS, TaskSpec, register

SPEC = register(
    TaskSpec(
        "intonation",
        label=DURATIONS,
        groups=(AUDIO,),
        answer="number",
        head="mtl.heads.regression:Intonation",
        scorer="mtl.metrics.numbers:IntonationScorer",
        unit="semitones",
    )
)
