"""Input groups: what a task reads of an utterance. Imports neither torch nor numpy.

    group("audio").items                # "recordings"
    group_of(row)                       # the group that a row of the utterance table belongs to
    register_group(GroupSpec("image", "images:ImageGroup", Column("image", kind="file"), length=states_of))

A row belongs to the first group whose column has a value, else to "text". A group with `beside` has no rows of its own:
its inputs accompany those of another group, like the phones of a recording. A plug-in (mtl.spec) adds a group with
`register_group`; mtl/inputs/group.py describes the class that computes the states of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mtl import spec
from mtl.spec import AUDIO, PHONES, SOUND, TEXT, Column


@dataclass(frozen=True)
class GroupSpec:
    """Description of an input group.

    name: as in `TaskSpec.groups`, in `Batch.inputs` and in the served signature.
    implementation: subclass of mtl.inputs.group.InputGroup, or "<module>:<class>", which is imported when it is needed.
    column: the column that the group adds to the utterance table, of kind "file"; None for groups that ship.
    length: cost of a row in a batch, in states; rows are batched up to `loader.batch_tokens` of them.
    beside: the group whose rows this one accompanies; None for a group with rows of its own.
    trunk: whether the states go through the trunk.
    always: whether every model has the front-end. Others have it if one of their tasks reads the group.
    has_domain: whether the domain of a recording (mtl.models.domains) conditions the states.
    items: plural noun for rows of the group in reports.
    check: raises ValueError for the content of a file that cannot be read; called when a corpus is ingested.
    example: base64 of a file, as the example of a packaged model whose tasks read no text.
    suffixes: endings of the files that `motet predict` reads as inputs of the group.
    """

    name: str
    implementation: str | Any
    column: Column | None = None
    length: Callable[[Mapping[str, Any]], int] = lambda row: 1
    beside: str | None = None
    trunk: bool = True
    always: bool = False
    has_domain: bool = False
    items: str = "rows"
    check: Callable[[bytes], Any] = bytes
    example: str = ""
    suffixes: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Column of the utterance table that has a value in the rows of the group."""
        return self.column.name if self.column else self.name


_REGISTRY: dict[str, GroupSpec] = {
    one.name: one
    for one in (
        GroupSpec(AUDIO, "mtl.inputs.audio:AudioGroup", always=True, has_domain=True, items="recordings"),
        GroupSpec(TEXT, "mtl.inputs.text:TextGroup", always=True, items="sentences"),
        GroupSpec(PHONES, "mtl.inputs.phones:PhoneGroup", beside=AUDIO),
        GroupSpec(SOUND, "mtl.inputs.sound:SoundGroup", beside=AUDIO, trunk=False),
    )
}


def register_group(new: GroupSpec) -> GroupSpec:
    """Adds a group to the registry and returns it.

    Raises:
        ValueError: another group has the name.
    """
    if _REGISTRY.get(new.name, new) != new:
        raise ValueError(f"two input groups are named {new.name!r}; names must differ")
    _REGISTRY[new.name] = new
    return new


def unregister_group(name: str) -> None:
    """Removes a group that was added at run time."""
    _REGISTRY.pop(name, None)


def groups() -> tuple[GroupSpec, ...]:
    """All known groups, in the order in which they were registered."""
    spec.tasks()  # imports the plug-ins
    return tuple(_REGISTRY.values())


def group(name: str) -> GroupSpec:
    """Raises KeyError with the known names."""
    known = {one.name: one for one in groups()}
    if name not in known:
        raise KeyError(f"no input group is named {name!r}; there are {', '.join(known)}")
    return known[name]


def row_groups() -> list[GroupSpec]:
    """Groups with rows of their own, in the order in which `group_of` checks their columns, text last."""
    own = [one for one in groups() if one.beside is None]
    return sorted(own, key=lambda one: one.name == TEXT)


def group_of(row: Mapping[str, Any]) -> str:
    """Name of the group that a row of the utterance table belongs to."""
    return next((one.name for one in row_groups()[:-1] if row.get(one.source) is not None), TEXT)


def groups_read_by(tasks: Iterable[str]) -> list[GroupSpec]:
    """The groups that some of the named tasks read."""
    read = {name for one in tasks for name in spec.task(one).groups}
    return [one for one in groups() if one.name in read]


def input_columns() -> tuple[Column, ...]:
    """Columns of the utterance table that groups add."""
    return tuple(one.column for one in groups() if one.column)
