"""Phones of a recording, by CTC: the content without the voice."""

from __future__ import annotations

from mtl.spec import AUDIO, DURATIONS, TaskSpec, register

SPEC = register(
    TaskSpec("phones", label=DURATIONS, groups=(AUDIO,), answer="phones", head="mtl.heads.phones:Phones"),
)
