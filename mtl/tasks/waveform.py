"""Waveform of a log-mel spectrogram: a trained vocoder."""

from __future__ import annotations

from mtl.spec import SOUND, WAVE_PART, TaskSpec, register

SPEC = register(
    TaskSpec(
        "waveform",
        label=WAVE_PART,
        groups=(SOUND,),
        answer="sound",
        head="mtl.heads.waveform:Waveform",
        conveys=("emotion", "speaker"),
        scorer="mtl.metrics.synthesis:WaveformScorer",
    )
)
