"""Result of a study, one type for all kinds of studies, and its page.

result = StudyResult.of(studies, kind="labels", heading=..., rows=rows, sections=[Section(...)], ...)
result.to_json()        # what is stored, logged to MLflow, and printed by `motet study --json`
html = render(result)   # a page without external resources
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from pipelines.report.builder import SYNTHETIC as SYNTHETIC_KIND
from pipelines.report.page import SYNTHETIC, environment
from pipelines.study.cells import Study

Rows = Sequence[Mapping[str, Any]]
Kind = Literal["study", "labels", "variants", "folds"]
GAIN = "gain, %"
SAME_BUDGET = (
    "All models took the same steps on the same batches; the last epoch of each is scored, with greedy decoding, and "
    "recognised words are read too if the recipe has decoding.reread."
)
ONE_IN_TWENTY = "One in twenty 95 % intervals excludes zero by chance; the best of many rows is partly luck."


@dataclass(frozen=True)
class Table:
    """A table of a page.

    rows: cells by column: text, a number, or a Change with `low`, `high` and `gain` or `value` (see comparison.py).
    text: number of leading columns that are text; the others are numbers.
    """

    rows: Rows
    title: str = ""
    text: int = 1
    caption: str = ""


@dataclass(frozen=True)
class Chart:
    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A section of a page, shown in this order: lines, charts, tables, caption."""

    title: str
    lines: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    caption: str = ""


@dataclass(frozen=True)
class StudyResult:
    """Result of a study.

    kind: also the name of its files. heading: of the page. summary: number of models, seeds, epochs and rows.
    recipe_yaml: of the first study. scored: number of rows. share: of the training rows. tasks: in the recipe's order.
    identities: of the studies that hold the cells. table_title, table: as printed. lines: printed below the table.
    notes: limits of the result. figures: what only this kind has, as plain data. sections: of the page.
    """

    kind: Kind
    heading: str
    summary: str
    recipe: str
    recipe_yaml: str
    split: str
    scored: int
    share: float
    seeds: list[int]
    epochs: int
    synthetic: bool
    tasks: list[str]
    identities: list[str]
    table_title: str
    table: list[dict[str, str]]
    lines: list[str]
    notes: list[str]
    figures: dict[str, Any]
    sections: list[Section]

    @classmethod
    def of(
        cls, studies: Sequence[Study], *, summary: str, rows: Rows, notes: Sequence[str], **content: Any
    ) -> StudyResult:
        """Fills in the fields that follow from the studies. rows: of the table to print; content: the other fields."""
        first = studies[0]
        recipe = first.recipe
        seeds = f"{len(first.seeds)} seed{'s' if len(first.seeds) > 1 else ''}"
        common = {
            "summary": f"{summary} · {seeds} · {recipe.trainer.epochs} epochs each",
            "recipe": recipe.name,
            "recipe_yaml": recipe.to_yaml(),
            "split": first.split,
            "scored": first.rows,
            "share": first.share,
            "seeds": list(first.seeds),
            "epochs": recipe.trainer.epochs,
            "synthetic": any(corpus.kind == SYNTHETIC_KIND for corpus in recipe.corpora),
            "tasks": list(first.tasks),
            "identities": [study.identity for study in studies],
            "lines": [],
            "notes": [*notes, *_notes(first)],
            "table": [printed(row) for row in rows],
        }
        return cls(**{**common, **content})

    def to_json(self) -> dict[str, Any]:
        """Plain data without the sections; the figures stand beside the other fields."""
        names = [field.name for field in fields(self) if field.name not in ("figures", "sections")]
        return {**{name: getattr(self, name) for name in names}, **self.figures}


def _notes(study: Study) -> list[str]:
    notes = []
    if study.share < 1:
        notes.append(f"Trained on {100 * study.share:g} % of the training rows.")
    if len(study.seeds) < 3:
        notes.append(f"{len(study.seeds)} seed(s): the intervals hardly include the variation between seeds.")
    return notes


def dependency_notes(study: Study, tasks: Sequence[str]) -> list[str]:
    """A note for each of these tasks whose single-task model trains other tasks as well."""
    return [
        f"{task} on audio needs {' and '.join(sorted(study.needs[task]))}, which aligns words with the audio: its "
        "single-task model trains that too."
        for task in tasks
        if study.needs[task]
    ]


def signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def unsigned(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def tone(cell: Any) -> str:
    """CSS class of a cell: better or worse where the interval of a gain excludes zero."""
    if not isinstance(cell, Mapping) or "gain" not in cell:
        return ""
    if (cell["low"] or 0) > 0:
        return "better"
    return "worse" if (cell["high"] or 0) < 0 else "soft"


def cell_text(cell: Any) -> tuple[str, str]:
    """Text of a cell of a table, and of its interval, if any."""
    if not isinstance(cell, Mapping):
        return str(cell), ""
    shown = signed if "gain" in cell else unsigned
    return shown(cell.get("gain", cell.get("value"))), f"{shown(cell['low'])} … {shown(cell['high'])}"


def printed(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of a table as printed: the column GAIN with its bounds in columns of their own, others without bounds."""
    texts: dict[str, str] = {}
    for column, cell in row.items():
        texts[column] = cell_text(cell)[0]
        if column == GAIN:
            texts |= {end: signed(cell[end]) if cell else "" for end in ("low", "high")}
    return texts


def render(result: StudyResult) -> str:
    """The page of a study."""
    template = environment().get_template("study.html.j2")
    return template.render(study=result, note=SYNTHETIC, tone=tone, cell_text=cell_text)
