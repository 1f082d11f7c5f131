"""Reads recipes from YAML with overrides; errors name the key and the nearest valid one."""

from __future__ import annotations

import contextlib
import difflib
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

from mtl.spec import tasks
from pipelines.core.redaction import redact
from pipelines.recipe.base import RecipeError, SectionOf, expected
from pipelines.recipe.recipe import Recipe
from pipelines.recipe.variables import hide_secrets, undefined
from pipelines.storage.roots import sha256

RENAMED = {"listening": "judges"}  # sections under the names of earlier versions
SHIPPED = Path(__file__).parents[1] / "recipes"


def shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load(name_or_path: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """A shipped recipe by name, or a YAML file; `overrides` are `a.b=value` with the value in YAML.

    Lists take an index or, for corpora, a name: `corpora.commands.options.hours=2`.

    Raises:
        RecipeError: no such recipe, not YAML, or a key or value that does not fit.
    """
    path = _find(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(redact(f"{path} is not YAML: {error}")) from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds {type(content).__name__}, expected a mapping with name, corpora, tasks …")
    content = _renamed(content)
    for override in overrides:
        _override(content, override)
    _check_sources(content, path)
    _find_arpa(content, path)
    return parse(content, where=str(path))


def parse(content: dict[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from a plain mapping. Raises RecipeError with one line per fault."""
    try:
        return Recipe.model_validate(_renamed(content))
    except ValidationError as error:
        lines = [_explain(fault) for fault in error.errors()]
        raise RecipeError(
            f"{where} is not a valid recipe:\n" + "\n".join(f"  {redact(line)}" for line in lines)
        ) from None


def _renamed(content: dict[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(key, key): value for key, value in content.items()}


def _check_sources(content: dict[str, Any], path: Path) -> None:
    """Checks the variables of sources, which stay unexpanded; moves literal passwords into the environment."""
    for corpus in content.get("corpora") or ():
        if not isinstance(corpus, dict) or not isinstance(corpus.get("source"), str):
            continue
        name, source = corpus.get("name"), corpus["source"]
        if missing := undefined(source):
            raise RecipeError(
                f"{path}: the source of corpus {name!r} is {redact(source)!r}, but that variable is not set; "
                f"export {', '.join(missing)}, or pass --set corpora.{name}.source=FOLDER"
            )
        corpus["source"] = hide_secrets(source, str(name))


def _find_arpa(content: dict[str, Any], path: Path) -> None:
    """Fills in the checksum of `decoding.arpa`, since another language model is another recipe."""
    decoding = content.get("decoding")
    if not isinstance(decoding, dict) or not isinstance(decoding.get("arpa"), str):
        return
    arpa = Path(os.path.expanduser(os.path.expandvars(decoding["arpa"]))).resolve()
    if not arpa.is_file():
        raise RecipeError(f"{path}: decoding.arpa names {arpa}, which is no file; expected ARPA text, gzipped or not")
    # Absolute unless it has variables, since a deployment runs in another folder.
    decoding["arpa"] = decoding["arpa"] if "$" in decoding["arpa"] else str(arpa)
    decoding.setdefault("arpa_checksum", sha256(arpa))


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise RecipeError(f"no recipe file {path}")
    path = SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(name_or_path, shipped(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(
            f"no recipe named {name_or_path!r}{hint} Shipped: {', '.join(shipped())}; or give a .yaml file."
        )
    return path


def _override(content: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {redact(override)!r}: expected key=value, for example trainer.epochs=3")
    first, *others = path.strip().split(".")
    keys = [RENAMED.get(first, first), *others]
    node: Any = content
    for depth, key in enumerate(keys[:-1]):
        node = _step_into(node, key, ".".join(keys[: depth + 1]))
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"--set {redact(override)!r}: {redact(value)!r} is not a YAML value") from None
    if isinstance(parsed, str):
        # YAML 1.1 reads 1e-3 as a string, but a number is meant.
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    if isinstance(node, list):
        node[_position(node, keys[-1], path)] = parsed
    else:
        node[keys[-1]] = parsed


def _step_into(node: Any, key: str, where: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, key, where)]
    child = node.setdefault(key, {})
    if child is None:
        child = node[key] = {}
    if not isinstance(child, dict | list):
        raise RecipeError(f"--set {where}: holds {child!r}, which has no keys below it")
    return child


def _position(items: list[Any], key: str, where: str) -> int:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise RecipeError(
        f"--set {where}: no item {key!r}; expected one of {[n for n in names if n]} or 0..{len(items) - 1}"
    )


def _explain(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "recipe"
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *parents, key = fault["loc"]
        valid = _keys_at(parents)
        near = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
        return f"{where}: unknown key; {hint}"
    if fault["type"] in ("literal_error", "predicate_failed"):  # the only predicate of mtl.config is a task's name
        known = fault.get("ctx", {}).get("expected") or expected(spec.name for spec in tasks())
        near = difflib.get_close_matches(str(fault["input"]), _words(known), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{where}: {fault['input']!r}, expected {known}{hint}"
    value = fault["input"] if isinstance(fault["input"], str | int | float | bool) else type(fault["input"]).__name__
    return f"{where}: {fault['msg']} (given {value!r})"


def _words(expected: str) -> list[str]:
    return [word.strip("' ,") for word in expected.replace(" or ", ", ").split(",")]


def _keys_at(path: list[Any]) -> list[str]:
    """Field names of the section that a path of keys leads to."""
    section: Any = Recipe
    for part in path:
        if part in _keys(section):  # else the number of a corpus or stage, or the name of a task
            section = _inner(get_type_hints(section, include_extras=True)[part])
    return _keys(section)


def _keys(section: Any) -> list[str]:
    return list(section.model_fields) if issubclass(section, BaseModel) else [one.name for one in fields(section)]


def _inner(annotation: Any) -> Any:
    """The section within `Annotated[…]`, `tuple[Section, ...]` or `dict[str, Section]`."""
    for one in getattr(annotation, "__metadata__", ()):
        if isinstance(one, SectionOf):
            return one.choices.section()
    inner = [one for one in get_args(annotation) if one is not Ellipsis]
    return _inner(inner[-1] if get_origin(annotation) is dict else inner[0]) if inner else annotation
