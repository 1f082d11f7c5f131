"""Speaking rate of a recording, in phones per second."""

from __future__ import annotations

from mtl.spec import AUDIO, DURATIONS, TaskSpec, register

SPEC = register(
    TaskSpec(
        "tempo",
        label=DURATIONS,
        groups=(AUDIO,),
        answer="number",
        head="mtl.heads.regression:Tempo",
        scorer="mtl.metrics.numbers:TempoScorer",
        unit="phones/s",
    )
)
