"""Results of commands and of `import motet`: dataclasses whose repr is the text that the command prints.

result = IngestResult.of(manifest)
emit(result.to_json(), as_json, *result.parts())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from mtl.answers import Label
from mtl.answers import Prediction as Answers
from pipelines.cli.console import NUMBERS, rendered, table_of
from pipelines.core import environment
from pipelines.search.front_table import front_lines, front_rows, picked, trial_row
from pipelines.stages import outcome
from pipelines.storage.store import Manifest
from pipelines.utterances.splits import described

Part = Table | str
CONFIDENT = 0.5  # answers below it are dimmed


class Result:
    """Base of all results: `parts` are printed one below the other."""

    def parts(self) -> list[Part]:
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """What the command prints with `--json`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return rendered(*self.parts())


@dataclass(frozen=True, repr=False)
class Prediction(Result):
    """The answers of a model to one input.

    Attributes:
        input: path or sentence; "samples" for an array.
        model: URI of the model.
        answers: by task, as `motet predict --json` prints them: `text` (the transcript), `words` with times in
            seconds and confidences, `slots`, and for each other task a mapping with `value` and `confidence`, or
            `value` and `unit`.
    """

    input: str
    model: str
    answers: Mapping[str, Any]

    @property
    def text(self) -> str | None:
        """The transcript; None for text input and for a model without speech recognition."""
        return self.answers.get("text")

    def __getitem__(self, name: str) -> Any:
        return self.answers[name]

    def to_json(self) -> dict[str, Any]:
        return {"input": self.input, "model": self.model, **self.answers}

    def parts(self) -> list[Part]:
        return [answer_table([self.to_json()])]


@dataclass(frozen=True, repr=False)
class IngestResult(Result):
    """A version of an utterance table.

    Attributes:
        dataset: name of the table in the store.
        version: number of this version of the table.
        address: hash of its content.
        meta: counts, among them `rows`, `splits` (rows by split), `hours`, and `reasons` (quarantined rows by reason).
    """

    dataset: str
    version: int
    address: str
    meta: Mapping[str, Any]

    @classmethod
    def of(cls, manifest: Manifest) -> IngestResult:
        return cls(manifest.dataset, manifest.version, manifest.address, manifest.meta)

    def to_json(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "version": self.version, "address": self.address, **self.meta}

    def parts(self) -> list[Part]:
        rows = [{"reason": reason, "rows": count} for reason, count in self.meta["reasons"].items()]
        quarantine = table_of("quarantine", rows, NUMBERS) if rows else f"{self.dataset} version {self.version}"
        return [quarantine, f"{self.meta['rows']:,} rows: {described(self.meta['splits'])}"]


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """Scores of a model on a split of a corpus.

    Attributes:
        model: URI of the model.
        corpus: corpus that it was evaluated on.
        split: split of the corpus.
        rows: how many rows were evaluated and left out.
        summary: the same as a sentence.
        metrics: by metric, such as "transcript/wer": `value`, its 95 % bootstrap interval `low` and `high`, in the
            metric's unit (mostly percent), and the number of `rows`.
        domains: the same for each domain apart.
        speech: comparison of synthesised speech with the recordings, for a model that synthesises.
        cost: parameters and speed.
        table: the lines that are printed.
    """

    model: str
    corpus: str
    split: str
    rows: Mapping[str, Any]
    summary: str
    metrics: Mapping[str, Mapping[str, Any]]
    domains: Mapping[str, Mapping[str, Any]]
    speech: Mapping[str, Any]
    cost: Mapping[str, Any]
    table: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def parts(self) -> list[Part]:
        parts: list[Part] = [
            table_of(f"{self.model} on {self.corpus} ({self.split}), {self.summary}", self.table, NUMBERS)
        ]
        if self.speech:
            lines = self.speech["lines"]
            title = "synthesised speech, compared with the recordings"
            parts.append(table_of(title, lines, tuple(lines[0])[1:] if lines else ()))
        return parts


@dataclass(frozen=True, repr=False)
class RunResult(Result, outcome.RunResult):
    """Outcome of a nightly run: `state` ("trained" or "nothing new"), `model`, `promoted`, `reason`, `metrics` …

    Attributes:
        root: root of the store, for the commands that the text suggests.
    """

    root: str = environment.ROOT

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "root"}

    def parts(self) -> list[Part]:
        table = table_of(outcome.headline(self), outcome.metrics_of(self), NUMBERS)
        return [table, outcome.next_steps(self, self.root)]


@dataclass(frozen=True, repr=False)
class Reported(Result):
    """A result with an HTML report.

    Attributes:
        content: everything, as the command prints it with `--json`.
    """

    content: Mapping[str, Any]

    @property
    def report(self) -> str:
        """Path or URI of the HTML report."""
        return self.content["report"]

    def to_json(self) -> dict[str, Any]:
        return dict(self.content)


class SearchResult(Reported):
    """A hyperparameter search. `content` is what `motet search --json` prints."""

    @property
    def leaderboard(self) -> list[dict[str, Any]]:
        """One row per trial, best first: trial, overrides, objective, metrics, epochs, seconds, state …"""
        return self.content["leaderboard"]

    @property
    def front(self) -> Mapping[str, Any]:
        """The Pareto front over tasks: names of its trials, knee, hypervolume."""
        return self.content["front"]

    def settings(self, trial: str = "best") -> list[str]:
        """Overrides of a trial: its name, "best" (by the objective) or "knee" (of the front).

        Raises:
            PickError: no such trial.
        """
        return list(picked(self.content, trial)["overrides"])

    def parts(self) -> list[Part]:
        rows = [trial_row(row) for row in self.leaderboard]
        parts: list[Part] = [table_of(f"trials, best first ({self.content['objective']['label']})", rows, NUMBERS)]
        if front := front_rows(self.content):
            title = "Pareto front: no other trial is better on every task"
            parts += ["", table_of(title, front, list(front[0])[1:])]
        lines = [*front_lines(self.content), ("report", self.report)]
        return [*parts, "\n".join(["", *(f"{name:<12}{text}" for name, text in lines)])]


class StudyResult(Reported):
    """A comparison of models that were trained with different tasks, labels, methods or speakers.

    `content` is what `motet study --json` prints.
    """

    def parts(self) -> list[Part]:
        table = table_of(self.content["table_title"], self.content["table"], NUMBERS)
        lines = [*self.content["lines"], ""] if self.content["lines"] else []
        return [table, "\n".join(["", *lines, f"report      {self.report}"])]


@dataclass(frozen=True, repr=False)
class Promotion(Result):
    """Decision about one version.

    Attributes:
        model: URI of the version.
        promoted: whether it is champion now.
        reason: why.
        champion: version number that it was compared with; None for a first model.
        decision: comparisons, metric by metric; None when a person decided.
    """

    model: str
    promoted: bool
    reason: str
    champion: int | None = None
    decision: Mapping[str, Any] | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "model"}

    def parts(self) -> list[Part]:
        return [f"{self.model}: {outcome.state_of(self.promoted)} ({self.reason})"]


def answer_table(answers: Sequence[Mapping[str, Any]]) -> Table:
    """A block of lines for each input: task, answer, confidence."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for answered in answers:
        table.add_row("[bold]input[/]", answered["input"], "")
        for task, answer in Answers.from_json(answered).answers.items():
            for heading, text, confidence in answer.lines(task):
                dim = "[dim]" if isinstance(answer, Label) and answer.confidence < CONFIDENT else ""
                table.add_row(heading, f"{dim}{text}", "" if confidence is None else f"{confidence:.2f}")
    return table
