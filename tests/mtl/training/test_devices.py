"""Training, resuming, validation and prediction where the model lies on another device than the CPU.

The device is that of shadow.py, whose numbers are the CPU's: each run has to give what the same run on the CPU gives.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtl.analysis.inspection import diagnostics
from mtl.answers import Prediction
from mtl.audio.features import bin_centres, hop_length, log_mel, window_length
from mtl.balancing import Balancer
from mtl.config.balancing import METHODS
from mtl.config.features import FeatureSpec
from mtl.config.sharing import MODES
from mtl.config.training import FitConfig
from mtl.decoding.ngram import NGram
from mtl.inference.adaptation import About, Personal, PersonalPredictor
from mtl.inference.enrolment import Fitting, Utterance
from mtl.inference.enrolment import fit as fit_adapter
from mtl.inference.predictor import Predictor
from mtl.inference.speech_synthesis import synthesize
from mtl.inference.vocoding import VocoderWrapper
from mtl.inputs.batch import Batch, collate
from mtl.inputs.codec import Codec
from mtl.inputs.tts import SpeechCode
from mtl.models.joint import SpeechModel, build_model
from mtl.training import checkpoint
from mtl.training.fit import fit
from pipelines import recipe as recipes
from pipelines.recipe import Recipe
from pipelines.training import worker
from pipelines.training.prepare import fit_config, model_config
from tests.support import shadow, tiny, tiny_voice

# Every recipe's tasks and settings, at a size that a test can train.
SMALL = {
    "features": {"bins": tiny.BINS, "low_hz": 100.0},
    "model": {"width": 16, "heads": 2, "kernel": 3, "expansion": 2, "subsampling": 2},
    "vocoder": {"width": 16, "blocks": 1, "expansion": 2, "segment": 16, "channels": 2},
    "translation": {"units": "characters", "blocks": 1, "heads": 2, "expansion": 2, "longest": 8, "beam": 2},
    "trainer": {"precision": "fp32", "epochs": 1, "ema": 0.9},
}
# What no shipped recipe sets, and a user may.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    (
        "assistant-real",
        {
            "model": {"crf": True, "lstm": 1, "rare_words": 0.25},
            "understanding": {"recognised": 1.0, "error_limit": 0.99, "read": True},
            "domains": {"conditioning": True, "adapters": True, "rank": 2, "bottleneck": 4},
        },
    ),
    ("expressive", {"synthesis": {"adversarial": 0.5, "consistency": 0.5}}),
]
LABELS = {"dialogue_act": "inform", "system_action": "execute", "language": "en", "translation": "Spiel Jazz!"}
CLOCKED = ("seconds", "utterances_per_second")  # metrics that differ from run to run
CASES = [*((name, {}) for name in recipes.shipped()), *VARIANTS]


@pytest.fixture(autouse=True)
def _corpora(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTET_DATA", "corpora")  # named in recipes of real corpora, of which nothing is read here


def small(name: str, changes: dict[str, Any]) -> Recipe:
    content = recipes.load(name).model_dump(mode="json")
    content["model"]["blocks"] = min(content["model"]["blocks"], 1)
    for section, values in [*SMALL.items(), *changes.items()]:
        content[section].update(values)
    return recipes.parse(content)


def heard_rows() -> list[dict[str, Any]]:
    """Recordings labelled for every task, each task somewhere not."""
    rows = []
    for number, (spoken, heard) in enumerate(zip(tiny_voice.rows(), tiny.HEARD, strict=True)):
        labels = {**LABELS, "context": ["which song"]} if number % 2 else {}
        durations = [6 * frames for frames in spoken["durations"]]  # long enough for the transcript
        places = {"durations": durations, "audio": heard["id"], "corpus": ("home", "car")[number % 2]}
        rows.append({**spoken, **heard, **labels, **places})
    return rows


def read_rows() -> list[dict[str, Any]]:
    return [{**row, **LABELS, "context": ["which song"], "audio": None} for row in tiny.READ]


def sound(row: dict[str, Any], spec: FeatureSpec) -> np.ndarray:
    """(N,) float32: noise of as many frames as the row's phones last."""
    count = window_length(spec) + hop_length(spec) * (sum(row["durations"]) - 1)
    return np.random.default_rng(sum(map(ord, row["id"]))).normal(0, 0.1, count).astype(np.float32)


def codec_of(recipe: Recipe) -> Codec:
    by = recipe.domains.by if recipe.domains.on else None
    tasks = tuple(recipe.tasks)
    codec = Codec.build([*heard_rows(), *read_rows()], tasks, target_kind="characters", domain_by=by)
    if not recipe.phrased:
        return codec
    spec = recipe.features
    sounds = [log_mel(sound(row, spec), spec) for row in heard_rows()]
    return replace(codec, speech=SpeechCode.build(heard_rows(), sounds, "characters", bin_centres(spec)))


def heard_batch(recipe: Recipe, codec: Codec, rows: list[dict[str, Any]]) -> Batch:
    spec = recipe.features
    sounds = [sound(row, spec) for row in rows]
    mels = [log_mel(wave, spec) for wave in sounds]
    waves = [np.rint(wave * 32768).astype(np.int16) for wave in sounds]
    pitch = [np.full(len(mel), 120, np.float16) for mel in mels]
    given = (waves, pitch) if "waveform" in recipe.tasks else ()
    return collate([codec.encode(row) for row in rows], mels, *given)


def batches_of(recipe: Recipe, codec: Codec) -> list[tuple[Batch, ...]]:
    """Two micro-batches of three recordings and three sentences."""
    heard, read = heard_rows(), read_rows()
    return [
        (heard_batch(recipe, codec, heard[part]), collate([codec.encode(row) for row in read[part]]))
        for part in (slice(0, 3), slice(3, 6))
    ]


class Crash(Exception):
    """A run that ends behind its first checkpoint."""


def trained(
    config: FitConfig, models: list[SpeechModel], batches: list[tuple[Batch, ...]], folder: Path
) -> tuple[dict[str, float], list[Prediction]]:
    """An epoch of two steps and its validation; the second step is the second model's, resumed from a checkpoint."""
    predictions: list[Prediction] = []

    def validate(model: SpeechModel) -> dict[str, float]:
        for heard, read in batches:
            predictions.extend(Predictor(model, FeatureSpec(bins=tiny.BINS)).predict_batch(heard))
            predictions.extend(Predictor(model, FeatureSpec(bins=tiny.BINS)).predict_batch(read, [["a"]] * 3))
        return {}

    def crash(metrics: dict[str, float], state: dict[str, Any] | None) -> None:
        assert state is not None
        checkpoint.save(folder, state)
        raise Crash

    with pytest.raises(Crash):
        fit(models[0], tiny.TinyLoader(batches, 1), replace(config, checkpoint_seconds=0.0), report=crash)
    metrics = fit(models[1], tiny.TinyLoader(batches, 1), config, validate=validate, resume=checkpoint.load(folder))
    return {name: value for name, value in metrics.items() if name not in CLOCKED}, predictions


def answers(predictions: list[Prediction]) -> list[Any]:
    """What is the same on two devices but for roundings."""
    return [(one.text, [*one.labels], one.tags is None, one.phones is None, [*one.numbers]) for one in predictions]


def both(
    config: FitConfig, make: Callable[[], SpeechModel], batches: list[tuple[Batch, ...]], folder: Path
) -> SpeechModel:
    """Trains on the CPU and on the shadow device, compares, and gives back the shadow's model."""
    torch.manual_seed(0)
    models = [make(), make()]
    copies = copy.deepcopy(models)
    expected, expected_answers = trained(replace(config, device="cpu"), models, batches, folder / "cpu")
    with shadow.device():
        metrics, found = trained(replace(config, device="meta"), copies, batches, folder / "shadow")
    assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
    assert answers(found) == answers(expected_answers)
    return copies[1]


@pytest.mark.parametrize(("name", "changes"), CASES, ids=[name + "-variant" * bool(changes) for name, changes in CASES])
def test_a_recipe_trains_resumes_and_predicts(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = small(name, changes)
    codec, config, spec = codec_of(recipe), model_config(recipe), recipe.features
    batches = batches_of(recipe, codec)
    settings = replace(fit_config(recipe), inspect_every=1)
    model = both(settings, lambda: build_model(config, codec), batches, tmp_path)
    with shadow.device():
        language = NGram.train(["play jazz", "stop now"], 2) if "transcript" in recipe.tasks else None
        predictor = Predictor(model, spec, language, reread=recipe.decoding.reread, search=True)
        predictor.predict([sound(row, spec) for row in heard_rows()] + ["play jazz"], [["which song"]] * 7)
        for heard, read in batches:
            predictor.predict_batch(heard)
            predictor.predict_batch(read, [["a"]] * 3)
        diagnostics(model, [batch for group in batches for batch in group])
        if codec.speech is not None and config.speaks:
            (uttered,) = synthesize(model, [codec.speech.number(["a", "b"])], [1], [1])
            VocoderWrapper(spec)(uttered.mel, uttered.hertz)
        if "waveform" in recipe.tasks:
            VocoderWrapper.of(predictor)(torch.zeros(20, spec.bins), torch.full((20,), 120.0))


@pytest.mark.parametrize(
    ("sharing", "method"),
    sorted({(mode, "static") for mode in MODES} | {("hard", method) for method in METHODS} | {("ple", "pcgrad")}),
)
def test_every_sharing_mode_and_balancing_method(sharing: str, method: str, tmp_path: Path) -> None:
    codec = tiny.codec()
    config = tiny.config(sharing=sharing, expert_blocks=1)
    settings = FitConfig(epochs=1, learning_rate=1e-2, balancing=METHODS.select(method))
    model = both(settings, lambda: build_model(config, codec), tiny.batches(codec)[:2], tmp_path)
    with shadow.device():
        diagnostics(model, tiny.joined(codec))


@pytest.mark.parametrize("method", ["static", "geometric_mean", "famo", "pcgrad"])  # each way of backward.py
def test_ranks_exchange_tensors_of_the_device_alone(method: str) -> None:
    """nccl takes no other; see mtl.training.parallel."""
    with shadow.device(ranks=2):
        model = build_model(tiny.config(), tiny.codec())
        loader = tiny.TinyLoader(tiny.batches(model.codec)[:2], 2, world=2)
        fit(model, loader, FitConfig(epochs=1, balancing=METHODS.select(method), device="meta", checkpoint_seconds=0.0))


def test_an_adapter_is_trained_and_used(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec, spec = tiny.codec(), FeatureSpec(bins=tiny.BINS)
    heard = [Utterance(tiny.features(row), codec.encode(row)) for row in tiny.HEARD[:5]]
    with shadow.device():
        model = build_model(tiny.config(), codec).to(shadow.DEVICE)
        about = About(base="assistant", version=1, digest="", speaker="ana")
        personal = Personal.beside(model, about, torch.ones(16), torch.zeros(16), torch.ones(2, tiny.BINS))
        fit_adapter(model, personal, heard, spec, Fitting(steps=2))
        predictor = PersonalPredictor(Predictor(model, spec), personal)
        predictor.predict_batch(collate([one.example for one in heard], [one.features for one in heard]))


# --- the reason why a module's tensor stays behind ---


def plain_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that lie in attributes of modules and are neither parameters nor buffers: `.to` does not move them."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from ((f"{path}.{name}", tensor) for tensor in _tensors_in(value))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _tensors_in({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})


def modules() -> Iterator[tuple[str, nn.Module]]:
    for method in METHODS:
        yield f"balancing {method}", Balancer(tiny.TASKS, {}, method)
    for mode in MODES:
        yield f"sharing {mode}", build_model(tiny.config(sharing=mode), tiny.codec())
    for name, changes in CASES:
        recipe = small(name, changes)
        yield f"recipe {name}", build_model(model_config(recipe), codec_of(recipe))


def test_all_tensors_of_a_module_move_with_it() -> None:
    behind = [
        (name, path)
        for name, module in modules()
        for path, tensor in plain_tensors(module.to("meta"))
        if tensor.device.type != "meta"
    ]
    assert behind == []


def test_a_worker_that_mixed_devices_is_not_started_again() -> None:
    def fit_with(action: Callable[[], Any]) -> None:
        with worker.final_errors():
            action()

    def mixed() -> Tensor:
        with shadow.device():
            return torch.ones(2).to("meta") + torch.ones(2)

    for action in (mixed, lambda: torch.ones(2) + torch.ones(2, device="meta")):  # CUDA's message, and torch's own
        with pytest.raises(worker.FatalError, match=r"(same|expected) device.*trainer.gpus=false"):
            fit_with(action)
    with pytest.raises(RuntimeError, match="reset by peer") as passing:
        fit_with(lambda: (_ for _ in ()).throw(RuntimeError("[gloo] connection reset by peer")))
    assert not isinstance(passing.value, worker.FatalError)


def test_the_shadow_refuses_what_cuda_refuses() -> None:
    cpu = torch.ones(2)
    with shadow.device():
        there = cpu.to("meta")
        assert (there * torch.tensor(2.0) + there[torch.tensor([0])]).tolist() == [3, 3]  # CUDA takes these
        for mixed in (lambda: there + cpu, lambda: torch.stack([there[0], cpu[0]]), lambda: cpu[there.long()]):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
