"""The README and the pages of docs/: length, links, and that commands and recipes in examples exist.

`make docs` checks links between pages, anchors and the list of pages; here are the checks that Sphinx does not make.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from docs.generate import app_of_commands
from mtl.spec import label_columns, resolve, tasks
from pipelines.corpora import CORPORA
from pipelines.corpora.manifest import ALIASES
from pipelines.nightly import STAGES
from pipelines.recipe import Recipe, shipped
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]+\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:^|[\s`(])(?:\.venv/bin/)?motet ((?:[a-z]+)(?:[^`#\n]*))", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLUGIN = re.compile(r"\b(affine|inverse)\b")  # a recipe that needs a plug-in of tests/plugins
COMMANDS: Any = typer.main.get_command(app_of_commands())
SCHEMA = Recipe.model_json_schema()
WRITTEN_BY_READERS = ("pipelines/corpora/kaldi.py", "tests/bench/LOG.md")  # or removed


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_linked() -> None:
    text = text_of(ROOT / "README.md")
    assert len(text.split()) <= 900
    assert len(LINK.findall(text)) >= 15
    assert len(IMAGE.findall(text)) >= 2


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in (*LINK.findall(text_of(page)), *IMAGE.findall(text_of(page))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_images_are_small() -> None:
    assert all(path.stat().st_size < 300_000 for path in (DOCS / "images").iterdir())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for line in COMMAND.findall(text_of(page)):
        check_command(line.strip(), COMMANDS)


def check_command(line: str, group: Any) -> None:
    """Checks the name of a command and the names of its options."""
    name, *arguments = shlex.split(line.rstrip(".,:;)"))
    command = group.commands.get(name)
    assert command is not None, f"motet {line}: no command {name}"
    if hasattr(command, "commands"):
        check_command(shlex.join(arguments), command)
        return
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for argument in arguments:
        option = argument.partition("=")[0]
        assert not option.startswith("-") or option in options or option == "-", f"motet {line}: no option {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_of_recipes_exist(page: Path) -> None:
    for language, block in FENCE.findall(text_of(page)):
        if language == "yaml" and (content := yaml.safe_load(block)) and not PLUGIN.search(block):
            for key in unknown_keys(content, SCHEMA, SCHEMA["$defs"]):
                pytest.fail(f"{page.name}: {key} is no key of a recipe")


def unknown_keys(value: Any, schema: Any, definitions: Any, path: str = "") -> Iterator[str]:
    options = [resolved(option, definitions) for option in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ()))]
    properties = {name: inner for option in options for name, inner in option.get("properties", {}).items()}
    extra = next((option["additionalProperties"] for option in options if option.get("additionalProperties")), None)
    items = next((option["items"] for option in options if "items" in option), {})
    if isinstance(value, list):
        for item in value:
            yield from unknown_keys(item, resolved(items, definitions), definitions, f"{path}[]")
    elif isinstance(value, dict) and (properties or isinstance(extra, dict)):
        for name, inner in value.items():
            if name in properties:
                yield from unknown_keys(inner, resolved(properties[name], definitions), definitions, f"{path}.{name}")
            elif isinstance(extra, dict):
                yield from unknown_keys(inner, resolved(extra, definitions), definitions, f"{path}.{name}")
            else:
                yield f"{path}.{name}".lstrip(".")


def choices(section: str, key: str) -> list[str]:
    """Values that a key of a section may have."""
    names: list[str] = resolved(SCHEMA["properties"][section], SCHEMA["$defs"])["properties"][key]["enum"]
    return names


def resolved(schema: Any, definitions: Any) -> Any:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("data", [*ALIASES, *(alias for names in ALIASES.values() for alias in names)]),
        ("data", [*CORPORA, *(column.name for column in label_columns())]),
        ("sharing", [*choices("sharing", "mode"), *choices("balancing", "method")]),
        ("tasks", [spec.name for spec in tasks()]),
        ("recipes", [*shipped(), *SCHEMA["properties"]]),
    ],
)
def test_pages_are_complete(page: str, names: list[str]) -> None:
    text = text_of(DOCS / f"{page}.md")
    missing = [name for name in names if f"`{name}`" not in text]
    assert not missing, f"docs/{page}.md does not name {', '.join(missing)}"


@pytest.mark.parametrize("package", ["mtl", "pipelines"])
def test_the_layout_names_every_folder(package: str) -> None:
    text = text_of(DOCS / "architecture.md")
    folders = [path.name for path in (ROOT / package).iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [folder for folder in folders if f"`{folder}/`" not in text] == []


def test_the_stages_of_a_night_are_described_in_order() -> None:
    rows = re.findall(r"^\| `\w+` \|.*", text_of(DOCS / "architecture.md"), re.MULTILINE)
    described = [[tuple(re.findall(r"`(\w+)`", cell)) for cell in row.split("|")[1:4]] for row in rows]
    assert described == [[(stage.name,), stage.inputs, stage.kinds] for stage in STAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_classes_exist(page: Path) -> None:
    text = text_of(page)
    for path in re.findall(r"`((?:mtl|pipelines|motet|tests|infra|docs)/[\w./]*)`", text):
        assert (ROOT / path).exists() or path in WRITTEN_BY_READERS, path
    for reference in re.findall(r"`(mtl\.[\w.]+:\w+)`", text):
        assert resolve(reference), reference
