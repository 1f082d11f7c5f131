"""Language that is spoken or written (BCP 47), one label an utterance."""

from __future__ import annotations

from mtl.spec import AUDIO, TEXT, TaskSpec, register

SPEC = register(
    TaskSpec(
        "language",
        label="language",
        groups=(AUDIO, TEXT),
        answer="label",
        head="mtl.heads.classification:Classification",
        balanced=True,
    ),
)
