"""What the user does with a turn of a dialogue."""

from __future__ import annotations

from mtl.spec import AUDIO, TEXT, Column, TaskSpec, register

SPEC = register(
    TaskSpec(
        "dialogue_act",
        label="dialogue_act",
        groups=(AUDIO, TEXT),
        answer="label",
        head="mtl.heads.dialogue:DialogueTask",
        # "yes" means something else after each question: two rows of one recording may differ.
        columns=(Column("dialogue_act", compared=False),),
        context=True,
    )
)
