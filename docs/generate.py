"""Writes the pages of docs/reference from the code. `make docs` calls it; the pages are not committed.

    python docs/generate.py build/reference

recipe.md comes from the JSON schema of recipes, cli.md from the command line, tasks.md from the registered tasks and
metrics, python.md from the names that `import motet` exports.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

Schema = Mapping[str, Any]
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def write(folder: Path) -> None:
    """Writes every page whose text has changed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in {"recipe": recipe, "cli": command_line, "tasks": tasks, "python": python}.items():
        path, text = folder / f"{name}.md", page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def recipe() -> str:
    """Every section of a recipe, then the options of the demo corpus."""
    from pipelines.corpora.espeak import Options
    from pipelines.recipe import Recipe

    lines = [
        "# Recipe reference",
        "",
        "Every key of a recipe, generated from the schema that recipes are validated with "
        "(`motet recipe schema` prints it). [Recipes](../recipes.md) explains how to write one.",
    ]
    for heading, schema in (
        ("Top level", Recipe.model_json_schema()),
        ("`corpora[].options` of kind `espeak`", Options.model_json_schema()),
    ):
        for path, section in sections(schema, schema.get("$defs", {})):
            lines += [
                "",
                f"## `{path}`" if path else f"## {heading}",
                "",
                *section_lines(path, section, schema.get("$defs", {})),
            ]
    return "\n".join(lines) + "\n"


def sections(schema: Schema, definitions: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """The object at `path`, then the objects that its properties hold."""
    yield path, schema
    for name, value in schema.get("properties", {}).items():
        for suffix, inner in objects(value, definitions):
            yield from sections(inner, definitions, f"{path}.{name}{suffix}".lstrip("."))


def objects(schema: Schema, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """Objects with properties of their own that a value may be, with what a key adds to the path: "[]", ".<name>"."""
    schema = resolved(schema, definitions)
    if "properties" in schema:
        yield "", schema
    for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from objects(option, definitions)
    for keyword, suffix in (("items", "[]"), ("additionalProperties", ".<name>")):
        if isinstance(inner := schema.get(keyword), Mapping):
            yield from ((suffix + rest, section) for rest, section in objects(inner, definitions))


def resolved(schema: Schema, definitions: Schema) -> Schema:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


def section_lines(path: str, schema: Schema, definitions: Schema) -> list[str]:
    """The description of a section, and a table of its keys. Keys that hold sections link to them."""
    rows = []
    for name, value in schema.get("properties", {}).items():
        text = kind(value, definitions)
        for suffix, _ in objects(value, definitions):
            anchor = re.sub(r"[^\w-]", "", f"{path}.{name}{suffix}".lower())
            text = text.replace("section", f"[section](#{anchor})", 1)
        rows.append((f"`{name}`", text, default(name, value, schema, definitions), value.get("description", "")))
    description = inspect.cleandoc(schema.get("description", ""))
    return [*([description, ""] if description else []), *table(("key", "type", "default", "meaning"), rows)]


def kind(schema: Schema, definitions: Schema) -> str:
    """The type of a value with its bounds, in words."""
    schema = resolved(schema, definitions)
    if "properties" in schema:
        return "section"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(kind(option, definitions) for option in options))
    name = schema.get("type", "any value")
    if name == "array":
        pair = schema.get("prefixItems", ())
        kinds = dict.fromkeys(kind(item, definitions) for item in pair or [schema.get("items", {})])
        name = f"list of {f'{len(pair)} × ' if pair else ''}{', '.join(kinds)}"
    elif name == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        name = f"mapping to {kind(schema['additionalProperties'], definitions)}"
    bounds = [f"{sign} {schema[bound]:g}" for bound, sign in BOUNDS.items() if bound in schema]
    bounds += [f"matches `{schema['pattern']}`"] if "pattern" in schema else []
    bounds += ["not empty"] if schema.get("minItems", schema.get("minProperties")) == 1 else []
    return ", ".join([name, *bounds])


def default(name: str, schema: Schema, owner: Schema, definitions: Schema) -> str:
    if name in owner.get("required", ()):
        return "required"
    if "default" not in schema or any(True for _ in objects(schema, definitions)):
        return ""
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`"


def command_line() -> str:
    """Every command with its arguments and options."""
    import typer

    lines = [
        "# Command-line reference",
        "",
        "Generated from `motet --help`. Results go to standard output (`--json` for scripts), progress to standard "
        "error. Exit code 0: done; 1: failed, or refused by a gate; 2: wrong usage, an invalid recipe included.",
    ]
    group: Any = typer.main.get_command(app_of_commands())
    for name, command in commands(group, "motet"):
        lines += ["", f"## {name}", "", *command_lines(name, command)]
    return "\n".join(lines) + "\n"


def app_of_commands() -> Any:
    """The typer app with all commands."""
    from motet.commands import app

    return app


def commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    import click

    context = click.Context(group, info_name=prefix)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command.hidden:
            continue
        if hasattr(command, "list_commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def command_lines(name: str, command: Any) -> list[str]:
    import click

    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)]).replace("{", "").replace("}", "")
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if "--help" not in parameter.opts and record:
            rows.append((f"`{record[0].strip()}`", record[1].replace("[", "\\[")))
    return [inspect.cleandoc(command.help or ""), "", "```text", usage, "```", "", *table(("option", "meaning"), rows)]


def tasks() -> str:
    """Tasks, the columns of their labels, and metrics."""
    from mtl import spec
    from mtl.metrics.scoring import METRICS

    rows = [
        (
            f"`{task.name}`",
            ", ".join(f"`{column.name}`" for column in task.columns) or f"(`{task.label}`)",
            ", ".join(task.groups),
            task.answer,
            ", ".join(f"`{name}`" for name in METRICS if name.startswith(f"{task.name}/")),
        )
        for task in spec.tasks()
    ]
    labels = [
        (f"`{column.name}`", column.kind, ", ".join(f"`{alias}`" for alias in column.aliases))
        for column in spec.label_columns()
    ]
    metrics = [
        (f"`{metric.name}`", metric.unit, metric.better, f"{metric.tolerance:g}", metric.floor.answer)
        for metric in METRICS.values()
    ]
    return "\n".join(
        [
            "# Task and metric reference",
            "",
            "Generated from the registered tasks. [Tasks](../tasks.md) explains them.",
            "",
            "## Tasks",
            "",
            "A label column in parentheses is not read from a manifest by this task: it is a column of every utterance "
            "(`text`, `tokens`, `speaker` …) or derived from the recording.",
            "",
            *table(("task", "label column", "inputs", "answer", "metrics"), rows),
            "",
            "## Label columns",
            "",
            "Columns that tasks add to the utterance table. A manifest may use the aliases.",
            "",
            *table(("column", "type", "aliases in a manifest"), labels),
            "",
            "## Metrics",
            "",
            "The tolerance is in the metric's unit (points, for percentages) and applies where `gates.tolerance` names "
            "none. The floor is what a model without knowledge reaches on the same rows.",
            "",
            *table(("metric", "unit", "better", "tolerance", "floor"), metrics),
            "",
        ]
    )


def python() -> str:
    """What `import motet` exports, by autodoc."""
    import motet

    lines = ["# Python reference", "", "Generated from the docstrings. [Python API](../python-api.md) explains it.", ""]
    for name in motet.__all__:
        item = getattr(motet, name)
        directive = "autoclass" if inspect.isclass(item) else "autofunction"
        options = [":members:"] if inspect.isclass(item) else []
        lines += [f"## {name}", "", "```{eval-rst}", f".. {directive}:: motet.{name}"]
        lines += [*(f"   {option}" for option in options), "```", ""]
    return "\n".join(lines)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cell(text) for text in row) for row in rows]
    return [f"| {line} |" for line in lines]


def cell(text: str) -> str:
    """A text for a cell of a table: `|`, and outside of code `<`, are escaped."""
    text = " ".join(text.split()).replace("\\|", "|").replace("|", "\\|")
    return re.sub("(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
