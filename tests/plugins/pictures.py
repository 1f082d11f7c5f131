"""Plug-in: pictures as an input group; one task classifies pictures, one classifies recordings by the same labels."""

import io

import picture_group

from mtl.groups import GroupSpec, register_group
from mtl.spec import AUDIO, Column, TaskSpec, register

CLASSIFICATION = "mtl.heads.classification:Classification"
DIGIT = Column("digit")


def check(content: bytes) -> None:
    picture_group.pixels(io.BytesIO(content))


register_group(
    GroupSpec(
        "picture",
        picture_group.PictureGroup,
        column=Column("picture", kind="file", aliases=("image",)),
        length=lambda row: picture_group.STATES,
        items="pictures",
        check=check,
        suffixes=(".png",),
    )
)
register(TaskSpec("digit_picture", "digit", ("picture",), "label", CLASSIFICATION, columns=(DIGIT,)))
register(TaskSpec("spoken_digit", "digit", (AUDIO,), "label", CLASSIFICATION, columns=(DIGIT,)))
