"""Finds code that depends on the name of a task: python -m tests.lint.task_names

Only mtl/tasks may do so. Everything else asks a task's spec (mtl/spec.py): its groups, its kind of answer, what it
needs. Reported are a comparison with a name (==, !=, in, match), a set operation with one, a subscript by a name, and a
look-up of one (get, pop, setdefault, task).

Allowed are names of *columns* of the utterance table and of stored files, which are words of their own (the column
`speaker` is there without a task `speaker`): a subscript of a variable called as in ROWS, or ending in "_row" or
"_rows"; and comparisons of a spec's kind of answer. Corpus readers (pipelines/corpora, pipelines/synthetic) write
these columns and are not checked.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from mtl.tasks import SHIPPED

ROOT = Path(__file__).parents[2]
CHECKED = ("mtl", "pipelines", "motet", "flows.py")
ALLOWED = ("mtl/tasks", "pipelines/corpora", "pipelines/synthetic")
ROWS = ("row", "rows", "reference", "content", "header", "params")  # of tables; keys of stored JSON; of requests
LOOK_UPS = ("get", "pop", "setdefault", "task", "task_spec")  # `model.task("mel")` too


def violations(source: str) -> Iterator[int]:
    """Lines that depend on a task's name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(left=left, comparators=others):
                if any(map(_names_task, (left, *others))) and not any(map(_is_kind, (left, *others))):
                    yield node.lineno
            case ast.BinOp(left=left, right=right):  # {"emotion"} & set(tasks)
                if any(isinstance(side, ast.Set) and _names_task(side) for side in (left, right)):
                    yield node.lineno
            case ast.MatchValue(value=value):
                if _names_task(value):
                    yield value.lineno
            case ast.Subscript(value=value, slice=index):
                if isinstance(index, ast.Constant) and _names_task(index) and not _is_row(value):
                    yield node.lineno
            case ast.Call(func=ast.Attribute(value=value, attr=name), args=[first, *_]):
                if name in LOOK_UPS and _names_task(first) and not _is_row(value):
                    yield node.lineno
            case ast.Call(func=ast.Name(id=name), args=[first, *_]):
                if name in LOOK_UPS and _names_task(first):
                    yield node.lineno


def _names_task(node: ast.expr) -> bool:
    """Whether it is a task's name, or a literal collection with one."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(map(_names_task, node.elts))
    return isinstance(node, ast.Constant) and node.value in SHIPPED


def _is_kind(node: ast.expr) -> bool:
    """Whether it is `spec.answer`: some kinds of answer are called as a task."""
    return isinstance(node, ast.Attribute) and node.attr == "answer"


def _is_row(node: ast.expr) -> bool:
    """Whether it is a variable or attribute of ROWS, or an item of one."""
    while isinstance(node, ast.Subscript):
        node = node.value
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.lstrip("_") in ROWS or name.endswith(("_row", "_rows"))


def main() -> int:
    files = [file for part in CHECKED for file in sorted((ROOT / part).rglob("*.py")) or [ROOT / part]]
    count = 0
    for file in files:
        path = file.relative_to(ROOT).as_posix()
        if not path.startswith(ALLOWED):
            source = file.read_text(encoding="utf-8")
            for line in violations(source):
                print(f"{path}:{line}: depends on a task's name: {source.splitlines()[line - 1].strip()}")
                count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
