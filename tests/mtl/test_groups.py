"""Input groups: the registry, and a group of pictures that is added at run time."""

from __future__ import annotations

import base64
import importlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

from mtl import groups, spec
from mtl.audio.features import FeatureSpec
from mtl.groups import GroupSpec, group_of
from mtl.inference.predictor import Predictor
from mtl.inputs.batch import collate
from mtl.inputs.codec import Codec
from mtl.models.joint import SpeechModel, build_model
from pipelines.data.ingest import ingest, quarantine, utterances
from pipelines.packaging.package import signature
from pipelines.packaging.packaged_model import SpeechService
from pipelines.recipe import Corpus, Quality
from pipelines.storage.store import Store
from tests.conftest import ROOT
from tests.support import tiny


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


ROWS = [{"id": f"p{n}", "digit": str(n % 2), "picture": base64.b64encode(png(n)).decode()} for n in range(4)]
SPOKEN = [{**row, "digit": str(number % 2), "audio": "x"} for number, row in enumerate(tiny.HEARD)]
TASKS = ("transcript", "intent", "digit_picture", "spoken_digit")


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "plugins"))
    for name in ("pictures", "picture_group"):
        sys.modules.pop(name, None)
    importlib.import_module("pictures")
    yield
    groups.unregister_group("picture")
    for name in ("digit_picture", "spoken_digit"):
        spec.unregister(name)


@pytest.fixture
def model(pictures: None) -> SpeechModel:
    torch.manual_seed(0)
    return build_model(tiny.config(tasks=TASKS), Codec.build([*tiny.rows(), *ROWS, *SPOKEN], TASKS)).eval()


def test_specs_need_neither_torch_nor_numpy() -> None:
    code = "import sys, mtl.groups; mtl.groups.groups(); print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_row_belongs_to_the_first_group_whose_column_has_a_value(pictures: None) -> None:
    assert group_of({"audio": "a.wav", "text": "hi", "picture": "x"}) == "audio"
    assert group_of({"audio": None, "text": "hi", "picture": "x"}) == "picture"
    assert group_of({"audio": None, "text": "hi"}) == "text"
    assert [one.name for one in groups.groups()] == ["audio", "text", "phones", "sound", "picture"]


def test_names_must_differ(pictures: None) -> None:
    known = groups.group("picture")
    assert groups.register_group(known) == known
    with pytest.raises(ValueError, match="two input groups are named 'picture'"):
        groups.register_group(GroupSpec("picture", "x:Y"))
    with pytest.raises(KeyError, match="no input group is named 'smell'; there are audio, text"):
        groups.group("smell")


def test_tasks_train_on_the_rows_that_they_read(model: SpeechModel) -> None:
    batch = collate([model.codec.encode(row) for row in ROWS])
    assert batch.group == "picture"
    assert batch.inputs["picture"].lengths.tolist() == [16] * 4
    assert {name: int(count) for name, count in model.counts(batch).items()} == {"digit_picture": 4}
    loss, count = model.losses(batch)["digit_picture"]
    loss.backward()
    assert int(count) == 4
    trained = {name.partition(".")[0] for name, one in model.named_parameters() if one.grad is not None}
    assert trained == {"picture", "trunk", "tasks"}
    heard = collate([model.codec.encode(row) for row in SPOKEN], [tiny.features(row) for row in SPOKEN])
    assert set(model.losses(heard)) == {"transcript", "intent", "spoken_digit"}


def test_a_batch_holds_one_group(model: SpeechModel) -> None:
    mixed = [model.codec.encode(ROWS[0]), model.codec.encode({"text": "stop"})]
    with pytest.raises(ValueError, match="examples of several input groups; all of 'picture'"):
        collate(mixed)


def test_only_a_model_that_reads_the_group_has_its_front_end(model: SpeechModel) -> None:
    assert {"audio", "text", "picture"} <= set(dict(model.named_children()))
    assert list(model.front_parts()) == ["audio", "text", "picture"]
    assert "picture" not in dict(build_model(tiny.config(), tiny.codec()).named_children())


def test_a_packaged_model_answers_pictures_beside_other_inputs(model: SpeechModel, tmp_path: Path) -> None:
    predictor = Predictor(model, FeatureSpec(bins=tiny.BINS))
    predictor.save(tmp_path / "saved")
    service = SpeechService()
    service.predictor = Predictor.load(tmp_path / "saved", "cpu")
    wave = io.BytesIO()
    soundfile.write(wave, np.random.default_rng(0).normal(0, 0.1, 8000), 16000, format="WAV")
    sound = base64.b64encode(wave.getvalue()).decode()
    cells = {
        "picture": [ROWS[0]["picture"], None, None, f"data:image/png;base64,{ROWS[1]['picture']}"],
        "audio": [None, sound, None, None],
        "text": [None, None, "stop", None],
    }
    table = service.predict(None, pd.DataFrame(cells))  # type: ignore[arg-type]
    assert [value is None for value in table["digit_picture"]] == [False, True, True, False]
    assert [value is None for value in table["spoken_digit"]] == [True, False, True, True]
    expected = predictor.predict([{"picture": ROWS[0]["picture"]}])[0].to_json()["digit_picture"]
    assert table["digit_picture"][0] == expected["value"]
    assert signature(TASKS).inputs.input_names() == ["audio", "text", "picture"]
    with pytest.raises(ValueError, match="both 'audio' and 'picture'"):
        service.predict(None, pd.DataFrame({"audio": [sound], "picture": [ROWS[0]["picture"]]}))  # type: ignore[arg-type]


def test_a_manifest_names_files_of_the_group(pictures: None, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(png(1))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    lines = [f'{{"image": "{name}.png", "digit": 1, "split": "train"}}' for name in ("good", "bad", "absent")]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    corpus = Corpus(name="c", kind="manifest", source=str(tmp_path / "m.jsonl"))
    store = Store(str(tmp_path / "root"))
    first = ingest(corpus, Quality(max_quarantined=0.9), store)
    (row,) = utterances(store, first).to_pylist()
    assert base64.b64decode(row["picture"]) == png(1)
    assert (row["audio"], row["text"], row["digit"]) == (None, None, "1")
    assert quarantine(store, first)["reason"].to_pylist() == ["undecodable", "missing_file"]
    (tmp_path / "good.png").write_bytes(png(2))
    assert ingest(corpus, Quality(max_quarantined=0.9), store).address != first.address
