"""A task of a plug-in, all of it: which accent a recording is spoken in."""

from mtl.spec import AUDIO, Column, TaskSpec, register

register(
    TaskSpec(
        "accent",
        label="accent",
        groups=(AUDIO,),
        answer="label",
        head="mtl.heads.classification:Classification",
        columns=(Column("accent", aliases=("dialect",)),),
        spectral=True,
        balanced=True,
    )
)
