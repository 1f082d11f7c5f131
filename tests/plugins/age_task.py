"""A numeric task of a plug-in, all of it: how old the speaker of a recording is."""

from mtl.spec import AUDIO, Column, TaskSpec, register

register(
    TaskSpec(
        "age",
        label="age",
        groups=(AUDIO,),
        answer="number",
        head="mtl.heads.regression:Regression",
        columns=(Column("age", kind="number", aliases=("years",)),),
        unit="years",
        tolerance=2.0,
        spectral=True,
    )
)
