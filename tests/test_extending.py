"""The plug-ins that docs/extending.md shows: a corpus, a sharing mode, a balancing method, a stage.

The plug-ins with tasks and with an input group run through whole nights in tests/nights/.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl.balancing import Balancer
from mtl.config.balancing import METHODS
from mtl.config.sharing import MODES
from pipelines.data.ingest import ingest
from pipelines.recipe import Corpus, Quality, parse
from pipelines.sources.open import open_source
from pipelines.stages.context import Context
from pipelines.utterances.utterance import Reject, Utterance
from tests.mtl.sharing import test_sharing

PLUGINS = Path(__file__).parent / "plugins"


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(PLUGINS))
    yield
    for path in PLUGINS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_kaldi_corpus(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name, lines in {"wav.scp": "u1 a.wav\nu2 b.wav\n", "text": "u1 turn it off\n", "utt2spk": "u1 ann\n"}.items():
        (tmp_path / "train" / name).write_text(lines)
    (tmp_path / "a.wav").write_bytes(b"")
    reader = importlib.import_module("kaldi_corpus").READER
    corpus = Corpus(name="k", kind="manifest", source=str(tmp_path))
    first, second = reader.read(open_source(str(tmp_path)), corpus)
    assert isinstance(first, Utterance)
    assert (first.id, first.split, first.text, first.speaker) == ("u1", "train", "turn it off", "ann")
    assert isinstance(second, Reject)
    assert second.reason == "missing_file"


def test_affine_sharing() -> None:
    plugin = importlib.import_module("affine_sharing")
    try:
        recipe = parse(minimal(sharing={"mode": "affine", "initial_scale": 2.0}))
        assert recipe.sharing.initial_scale == 2.0
        trunk = plugin.AffineTrunk(("a", "b"), Identity, 4, 0.0, plugin.AffineSettings(2.0))
        x, lengths = torch.randn(2, 3, 4), torch.tensor([3, 2])
        states = trunk(x, lengths, ("b",))
        torch.testing.assert_close(states["b"], 2 * x)
        assert list(states) == ["b"]
        assert trunk.shared_parameters() == []  # the identity has none; scale and shift belong to their tasks
        test_sharing.test_contract("affine", {})
        test_sharing.test_padding_changes_nothing("affine")
    finally:
        MODES.unregister("affine")


class Identity(torch.nn.Module):
    def forward(self, x: Any, lengths: Any) -> Any:
        return x


def test_inverse_balancing() -> None:
    plugin = importlib.import_module("inverse_balancing")
    try:
        balancer = Balancer(("a", "b", "c"), {}, "inverse", plugin.InverseSettings(1.0))
        present = torch.tensor([True, True, False])
        weights = balancer.weights(present, torch.tensor([1.0, 4.0, 9.0]))
        torch.testing.assert_close(weights, torch.tensor([1.6, 0.4, 0.0]))
    finally:
        METHODS.unregister("inverse")


def test_hours_stage(tmp_path: Path) -> None:
    plugin = importlib.import_module("hours_stage")
    context = Context(str(tmp_path / "root"))
    (tmp_path / "rows.jsonl").write_text('{"text": "turn it off", "split": "train"}\n')
    corpus = Corpus(name="c", kind="manifest", source=str(tmp_path / "rows.jsonl"))
    context.values["ingest"] = [ingest(corpus, Quality(), context.store)]
    assert context.execute(plugin.HOURS) == {"train": 0.0}
    assert [(stage, text) for stage, text, _ in context.summaries] == [("hours", "train 0.00 h")]


def minimal(**sections: Any) -> dict[str, Any]:
    corpus = {"name": "c", "kind": "manifest", "source": "rows.jsonl"}
    return {"name": "r", "corpora": [corpus], "tasks": {"transcript": {}, "intent": {}}, **sections}
