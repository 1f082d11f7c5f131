"""Recognition: the words of a recording, as characters or pieces, by CTC."""

from __future__ import annotations

from mtl.spec import AUDIO, TaskSpec, register

SPEC = register(
    TaskSpec("transcript", label="text", groups=(AUDIO,), answer="text", head="mtl.heads.transcript:Transcript")
)
