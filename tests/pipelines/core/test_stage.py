"""A stage reads the results of earlier stages, prints one line, and is run again after a transient error."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.core.stage import Stage, timed


def context(**values: Any) -> Any:
    return SimpleNamespace(values=values)


def double(context: Any, factor: int = 2) -> tuple[str, int]:
    return f"times {factor}", factor * context.values["count"]


DOUBLE = Stage("double", double, inputs=("count",), label="doubling")


def test_the_result_has_the_label_the_text_and_the_value(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "motet"):
        result = DOUBLE.run(context(count=4), 3)
    assert result.summary() == ("doubling", "times 3", result.seconds)
    assert result.value == 12
    assert caplog.messages == [f"doubling: times 3 ({result.seconds:.1f} s)"]


def test_a_missing_input_is_named() -> None:
    with pytest.raises(LookupError, match="stage double reads the result of count, which has not run"):
        DOUBLE.run(context(other=1))


def test_a_unit_gives_the_function_a_progress_bar() -> None:
    def counting(context: Any, part: str, report: Any) -> tuple[str, str]:
        report(1, 2, part)
        return part, part

    stage = Stage("count", counting, unit="it", parts=lambda recipe: ["a", "b"])
    assert [stage.run(context(), part).value for part in stage.parts(None)] == ["a", "b"]


def test_a_block_without_a_text_or_with_an_error_prints_no_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "motet"):
        with timed("quiet"):
            pass
        with pytest.raises(ZeroDivisionError), timed("failed") as line:
            line.text = f"{1 / 0}"
    assert caplog.messages == []
