"""The check of `make lint` for code that depends on a task's name: what it finds, and that there is none."""

from __future__ import annotations

import pytest

from tests.lint.task_names import main, violations


def test_no_code_outside_mtl_tasks_depends_on_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "source",
    [
        'name == "intent"',
        'if "slots" in tasks: ...',
        'name not in ("mel", "waveform")',
        'raw["transcript"][0]',
        'labels.get("speaker", ())',
        'model.task("mel")',
        'task_spec("slots").needs',
        '{"emotion", "speaker"} & set(tasks)',
        'match name:\n    case "phones":\n        ...',
    ],
)
def test_it_finds(source: str) -> None:
    assert len(list(violations(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        'row["speaker"]',
        'dataset.rows["speaker"]',
        'rows[position].get("emotion")',
        'target_row["emotion"]',
        'spec.answer == "translation"',
        'by: Literal["corpus", "domain"]',
        'name == "wer"',
        'f(task="intent")',
    ],
)
def test_it_lets_pass(source: str) -> None:
    assert list(violations(source)) == []
