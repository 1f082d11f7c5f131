"""Declaration of a setting, and of alternatives that have settings of their own.

@dataclass(frozen=True)
class SoftSettings:
    strength: float = setting(1e-3, "Weight of the penalty.", ge=0)

MODES = Choices(__name__, "MODES", title="Sharing", key="mode", default="hard", description="Sharing mode.")
MODES.register("soft", "mtl.sharing.soft:SoftTrunk", SoftSettings)
sharing = MODES.select("soft", strength=0.1)
sharing.mode, sharing.settings          # "soft", SoftSettings(strength=0.1)
sharing.implementation                  # the class SoftTrunk
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

from annotated_types import Predicate

from mtl.spec import resolve, tasks

T = TypeVar("T")
REQUIRED: Any = MISSING  # default of a setting that has none


def is_task(name: str) -> bool:
    return any(spec.name == name for spec in tasks())


TaskName = Annotated[str, Predicate(is_task)]  # checked when a recipe is read, after plug-ins are imported


def setting(default: T, description: str, **bounds: Any) -> T:
    """Dataclass field with a description and bounds.

    bounds: arguments of pydantic's `Field` such as ge, gt, le, lt, min_length and pattern. `operational=True` marks a
        setting that does not affect the result and is not part of addresses.
    """
    return field(default=default, metadata={"description": description, **bounds})


def narrow(kind: type[T], settings: Any, **others: Any) -> T:
    """A dataclass of `kind` with those of its fields that `settings` has, and `others`."""
    shared = {one.name for one in fields(kind)} & {one.name for one in fields(settings)}  # type: ignore[arg-type]
    return kind(**{name: getattr(settings, name) for name in shared}, **others)


@dataclass(frozen=True)
class NoSettings:
    """Settings of an alternative that has none."""


@dataclass(frozen=True)
class Choice:
    """An alternative.

    implementation: a class or function, or its "<module>:<name>". settings: the dataclass of its settings.
    """

    name: str
    implementation: str | Any
    settings: type[Any]

    def load(self) -> Any:
        """The class (or function) itself; imports its module."""
        return resolve(self.implementation)


class Selection:
    """A chosen alternative with the settings of all of them; base of the dataclass that `Choices.section` builds.

    A recipe may set what only another alternative reads: a search or a study then selects that one.
    """

    choices: ClassVar[Choices]

    if TYPE_CHECKING:  # fields exist on the subclass only

        def __init__(self, **settings: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        for name in self.choices:
            self.settings_of(name)  # whose own checks run

    @property
    def chosen(self) -> str:
        """Name of the alternative."""
        return str(getattr(self, self.choices.key))

    @property
    def settings(self) -> Any:
        """Settings of the alternative, as its own dataclass."""
        return self.settings_of(self.chosen)

    @property
    def implementation(self) -> Any:
        """Class of the alternative; imports its module."""
        return self.choices[self.chosen].load()

    def default(self, name: str) -> Any:
        return next(one.default for one in fields(type(self)) if one.name == name)  # type: ignore[arg-type]

    def replace(self, **settings: Any) -> Selection:
        return type(self)(**{**vars(self), **settings})

    def settings_of(self, name: str) -> Any:
        kind = self.choices[name].settings
        return kind(**{setting.name: getattr(self, setting.name) for setting in fields(kind)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and self.choices is other.choices and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).items()))

    def __reduce__(self) -> tuple[Any, ...]:  # the class is built anew in another process
        return _restored, (self.choices, vars(self))


def _restored(choices: Choices, settings: dict[str, Any]) -> Selection:
    return choices.section()(**settings)


class Choices:
    """Registry of alternatives, by name, in the order in which they were registered.

    module, variable: where this object is assigned, so that pickle stores a reference. title: name of the section.
    key: the section's key that names the alternative.
    """

    def __init__(self, module: str, variable: str, *, title: str, key: str, default: str, description: str) -> None:
        self.__module__, self._variable = module, variable
        self.title, self.key, self.default, self.description = title, key, default, description
        self._choices: dict[str, Choice] = {}
        self._section: type[Selection] | None = None

    def register(self, name: str, implementation: str | Any, settings: type[Any] = NoSettings) -> None:
        """Adds an alternative. Raises ValueError if the name or a setting conflicts with another one."""
        if name in self._choices:
            raise ValueError(f"two alternatives of {self.title} are named {name!r}; names must differ")
        known = {one.name: one for choice in self._choices.values() for one in fields(choice.settings)}
        for one in fields(settings):
            if one.name in known and _bounds(one) != _bounds(known[one.name]):
                raise ValueError(f"{name!r}: another alternative of {self.title} declares {one.name!r} differently")
        self._choices[name], self._section = Choice(name, implementation, settings), None

    def unregister(self, name: str) -> None:
        """Removes an alternative that was added at run time."""
        self._choices.pop(name, None)
        self._section = None

    def __iter__(self) -> Iterator[str]:
        tasks()  # plug-ins register their alternatives
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __getitem__(self, name: str) -> Choice:
        tasks()
        return self._choices[name]

    def select(self, name: str | None = None, **settings: Any) -> Selection:
        """The selection of an alternative, the default one if left out; other settings keep their defaults."""
        return self.section()(**{self.key: name or self.default, **settings})

    def section(self) -> type[Selection]:
        """Flat dataclass of all registered alternatives: the key, then every setting once."""
        tasks()
        if self._section is None:
            names: Any = Literal[tuple(self)]
            columns = [(self.key, names, setting(self.default, self.description))]
            self._section = make_dataclass(
                self.title,
                [*columns, *self._settings()],
                bases=(Selection,),
                frozen=True,
                eq=False,
                namespace={"choices": self, "__doc__": self.description},
            )
        return self._section

    def _settings(self) -> list[tuple[str, Any, Any]]:
        """Name, type and field of every setting; the description begins with the alternatives that read it."""
        columns: dict[str, tuple[Any, Any, list[tuple[str, str]]]] = {}
        for choice in self._choices.values():
            types = get_type_hints(choice.settings, include_extras=True)
            for one in fields(choice.settings):
                _, _, described = columns.setdefault(one.name, (types[one.name], one, []))
                described.append((choice.name, one.metadata["description"]))
        return [
            (name, kind, field(default=one.default, metadata={**one.metadata, "description": _joined(described)}))
            for name, (kind, one, described) in columns.items()
        ]

    def __reduce__(self) -> str:
        return self._variable


def _bounds(one: Field[Any]) -> tuple[Any, ...]:
    return one.type, one.default, {key: value for key, value in one.metadata.items() if key != "description"}


def _joined(described: list[tuple[str, str]]) -> str:
    """ "mmoe, ple: Blocks of an expert." from the alternatives and the description of each."""
    names: dict[str, list[str]] = {}
    for name, description in described:
        names.setdefault(description, []).append(name)
    return " ".join(f"{', '.join(those)}: {description}" for description, those in names.items())
