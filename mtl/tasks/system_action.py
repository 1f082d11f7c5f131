"""What the system should do after a turn of a dialogue."""

from __future__ import annotations

from mtl.spec import AUDIO, TEXT, Column, TaskSpec, register

SPEC = register(
    TaskSpec(
        "system_action",
        label="system_action",
        groups=(AUDIO, TEXT),
        answer="label",
        head="mtl.heads.dialogue:DialogueTask",
        # "yes" means something else after each question: two rows of one recording may differ.
        columns=(Column("system_action", compared=False),),
        context=True,
    )
)
