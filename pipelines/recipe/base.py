"""Types of the sections of a recipe: names from a registry, and sections whose keys a registry defines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mtl.config.balancing import METHODS
from mtl.config.setting import Choices, Selection
from mtl.config.sharing import MODES
from mtl.spec import tasks

CORPUS_KINDS = (
    *("espeak", "librispeech", "commonvoice", "voxceleb", "atis", "sgd", "covost", "ljspeech", "emodb", "iemocap"),
    "manifest",
)


class RecipeError(ValueError):
    """An invalid recipe; the message names the key, what was expected, and the nearest valid key."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def expected(names: Iterable[str]) -> str:
    """ "'a', 'b' or 'c'": the names as pydantic lists those of a Literal."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last


class NameOf:
    """Annotation of a string that must be a registered name when the recipe is read."""

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self.names = names

    def _check(self, name: str) -> str:
        if name not in (known := list(self.names())):
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected(known)})
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.names())}


class SectionOf:
    """Annotation of a section whose keys are the settings of all registered choices."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices

    def _read(self, content: Any) -> Selection:
        if isinstance(content, Selection):
            return content
        selection: Selection = self._adapter().validate_python(content)
        return selection

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(asdict)
        return core_schema.no_info_plain_validator_function(self._read, serialization=written)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return self._adapter().json_schema()

    def _adapter(self) -> TypeAdapter[Any]:
        section: Any = self.choices.section()
        return _adapter(section)


@lru_cache
def _adapter(section: type[Any]) -> TypeAdapter[Any]:
    section.__pydantic_config__ = Section.model_config
    return TypeAdapter(section)


TaskName = Annotated[str, NameOf(lambda: [spec.name for spec in tasks()])]
ModeName = Annotated[str, NameOf(lambda: MODES)]
Sharing = Annotated[Selection, SectionOf(MODES)]
Balancing = Annotated[Selection, SectionOf(METHODS)]
