"""Translation as a task: its loss by hand, missing labels, learning by heart, a package that says the same."""

import json
import math
import os
import socket
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mtl.config.decoding import DecoderConfig
from mtl.config.features import FeatureSpec
from mtl.config.model import ModelConfig
from mtl.config.sharing import MODES
from mtl.config.training import FitConfig
from mtl.heads.translation import smoothed_cross_entropy, with_end
from mtl.inference.adaptation import About, Personal, PersonalPredictor
from mtl.inference.predictor import Predictor
from mtl.inputs.batch import IGNORE, collate
from mtl.inputs.codec import Codec
from mtl.metrics.scoring import score_rows, summarise
from mtl.models.joint import build_model
from mtl.text.units import Characters
from mtl.training import checkpoint
from mtl.training.fit import fit
from tests.support import tiny

SPEC = FeatureSpec(bins=tiny.BINS, low_hz=100.0)
TASKS = ("transcript", "intent", "translation")
GERMAN = {
    "a1": "Spiel Jazz!", "a2": "Halt!", "a3": "Spiel Softrock!", "a5": "Stell den Wecker!",
    "t1": "Spiel jetzt Rock!", "t2": "Halt jetzt!", "t3": "Stell den Wecker!", "t5": "Weck mich!",
}  # fmt: skip
FIT = FitConfig(epochs=2, learning_rate=1e-2, device="cpu", seed=7)
SETTINGS = {"tasks": TASKS, "decoder": DecoderConfig(blocks=1, heads=2, expansion=2, longest=24)}


def rows():
    return [{**row, "translation": GERMAN.get(row["id"])} for row in tiny.rows()]


def codec(kind="characters", pieces=40):
    return Codec.build(rows(), TASKS, target_kind=kind, target_pieces=pieces)


def model(**settings):
    torch.manual_seed(0)
    return build_model(tiny.config(**{**SETTINGS, **settings}), codec())


def joined(codec):
    """All rows as one batch of sound and one of text."""
    found = rows()
    heard, read = ([row for row in found if (row["audio"] is None) == text] for text in (False, True))
    sounds = [tiny.features(row) for row in heard]
    return collate([codec.encode(row) for row in heard], sounds), collate([codec.encode(row) for row in read])


def test_smoothed_loss_by_hand():
    """V = 4, e = 0.1, p = (.7, .1, .1, .1), target 0: -(.925 ln .7 + .075 ln .1) = 0.502618."""
    logits = torch.tensor([[[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4]]]).log()
    labels = torch.tensor([[0, 2, IGNORE]])
    by_hand = -(0.925 * math.log(0.7) + 0.075 * math.log(0.1))
    assert by_hand == pytest.approx(0.502618, abs=1e-6)
    found = smoothed_cross_entropy(logits, labels, 0.1)
    assert float(found) == pytest.approx(by_hand + math.log(4), abs=1e-5)
    assert float(smoothed_cross_entropy(logits, labels, 0.0)) == pytest.approx(-math.log(0.7) + math.log(4), abs=1e-5)


def test_labels_end_each_row():
    found = with_end(torch.tensor([[3, 4, 5], [6, 0, 0], [0, 0, 0]]), torch.tensor([3, 1, 0]))
    assert found.tolist() == [[3, 4, 5, 0], [6, 0, IGNORE, IGNORE], [0, IGNORE, IGNORE, IGNORE]]


def test_counts_are_units_and_ends_of_what_is_translated():
    made = model()
    heard, read = joined(made.codec)
    assert int(made.losses(heard)["translation"][1]) == sum(len(GERMAN[i]) + 1 for i in ("a1", "a2", "a3", "a5"))
    assert int(made.losses(read)["translation"][1]) == sum(len(GERMAN[i]) + 1 for i in ("t1", "t2", "t3", "t5"))
    for batch in (heard, read):
        assert int(made.counts(batch)["translation"]) == int(made.losses(batch)["translation"][1])
    silent = collate([made.codec.encode(row) for row in tiny.READ])
    assert int(made.counts(silent)["translation"]) == 0
    assert "translation" not in made.losses(silent)


def test_sum_over_rows_is_the_sum_of_single_rows():
    """So neither another row's states nor its longer target reach a row's loss."""
    made = model().eval()
    whole, read = joined(made.codec)
    for batch, sounds in ((whole, True), (read, False)):
        total = made.losses(batch)["translation"][0]
        single = 0.0
        for row in rows():
            if (row["audio"] is not None) == sounds and row["translation"]:
                alone = collate([made.codec.encode(row)], [tiny.features(row)] if sounds else None)
                single += made.losses(alone)["translation"][0]
        torch.testing.assert_close(total, single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sharing", sorted(MODES))
def test_every_sharing_mode_trains_and_translates(sharing):
    made = model(sharing=sharing, blocks=2, graph=(("intent", "translation"),))
    config = made.config
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    for batch in joined(made.codec):
        with torch.autocast("cpu", torch.bfloat16):
            loss, count = made.losses(batch)["translation"]
        assert torch.isfinite(loss)
        (loss / count).backward()
    used = {name for name, p in made.task("translation").named_parameters() if p.grad is not None}
    assert used == {name for name, _ in made.task("translation").named_parameters()}
    shared = {id(p) for p in made.shared_parameters()}
    assert not shared & {id(p) for p in made.task("translation").parameters()}
    found = Predictor(made, SPEC).predict(["play jazz", np.zeros(8000, np.float32)])
    assert all(len(prediction.labels["translation"].value) <= 24 for prediction in found)


def test_eight_sentences_are_learned_by_heart():
    """Four from sound and four from text; of those without a translation nothing is asked."""
    torch.manual_seed(0)
    made = build_model(tiny.config(**SETTINGS, dropout=0.0, word_dropout=0.0, width=32), codec("sentencepiece"))
    batches = joined(made.codec)
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        losses = [made.losses(batch, ["translation"])["translation"] for batch in batches]
        (sum(loss for loss, _ in losses) / sum(count for _, count in losses)).backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimiser.step()
    predictor = Predictor(made, SPEC)
    heard = [row for row in rows() if row["audio"]]
    found = predictor.predict_batch(batches[0])
    found += predictor.predict_batch(batches[1], [row["text"].split() for row in rows() if not row["audio"]])
    scores = summarise(score_rows([*heard, *(row for row in rows() if not row["audio"])], found))
    assert scores["translation/bleu"] == pytest.approx(100)
    assert scores["translation/text_bleu"] == pytest.approx(100)
    assert scores["translation/chrf"] == pytest.approx(100)


@pytest.mark.parametrize("kind", ["characters", "sentencepiece"])
def test_a_package_translates_as_the_model_does(kind, tmp_path):
    torch.manual_seed(0)
    made = build_model(tiny.config(**SETTINGS), codec(kind))
    one = Predictor(made, SPEC, search=True)
    one.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "weights.safetensors"]
    other = Predictor.load(tmp_path, device="cpu")
    assert other.codec.to_json() == made.codec.to_json()
    sound = np.random.default_rng(1).normal(size=20000).astype(np.float32) * 0.1
    said = [p.to_json() for p in one.predict([sound, "set alarm"])]
    assert said == [p.to_json() for p in other.predict([sound, "set alarm"])]
    assert all(0 < answer["translation"]["confidence"] <= 1 for answer in said)
    assert not other.with_options(greedy=True).search


def test_units_come_from_translations_alone():
    made = codec()
    assert isinstance(made.targets, Characters)
    assert set(made.targets.symbols) == {letter for text in GERMAN.values() for letter in text} | {" "}
    assert made.targets.decode(made.encode(rows()[0]).targets["translation"]) == "Spiel Jazz!"
    assert len(made.encode(tiny.HEARD[0]).targets["translation"]) == 0
    pieces = codec("sentencepiece")
    assert pieces.targets.decode(pieces.encode(rows()[0]).targets["translation"]) == "Spiel Jazz!"
    assert Codec.build(rows(), ("transcript",)).targets is None
    with pytest.raises(ValueError, match="ask for more pieces"):
        codec("sentencepiece", 5)


def test_a_codec_from_before_translation_is_read():
    content = Codec.build(rows(), ("transcript",)).to_json()
    content.pop("targets")
    assert Codec.from_json(content).targets is None


def micro_batches(codec):
    """Four micro-batches of three heard and three read rows; in one of them nothing heard is translated."""
    found = rows()
    order = (("a1", "a2", "a5", "t1", "t4", "t5"), ("a4", "a6", "a6", "t2", "t3", "t6"))
    made = []
    for names in order * 2:
        chosen = [next(row for row in found if row["id"] == name) for name in names]
        heard, read = chosen[:3], chosen[3:]
        sounds = [tiny.features(row) for row in heard]
        made.append(
            (collate([codec.encode(row) for row in heard], sounds), collate([codec.encode(row) for row in read]))
        )
    return made


def assert_same(one, other):
    for (name, a), (_, b) in zip(one.items(), other.items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_accumulation_is_one_large_batch():
    still = {"dropout": 0.0, "word_dropout": 0.0, "decoder": DecoderConfig(blocks=1, heads=2, dropout=0.0)}
    one, other = model(**still), model(**still)
    parts = micro_batches(one.codec)[:2]
    fit(one, tiny.TinyLoader(parts, 2), FIT)
    whole = tuple(
        collate(
            [one.codec.encode(row) for row in group],
            [tiny.features(row) for row in group] if group[0]["audio"] else None,
        )
        for group in ([row_of(id_) for batch in pair for id_ in batch.ids] for pair in zip(*parts, strict=True))
    )
    fit(other, tiny.TinyLoader([whole], 1), FIT)
    assert_same(one.state_dict(), other.state_dict())


def row_of(id_):
    return next(row for row in rows() if row["id"] == id_)


def test_resumed_is_uninterrupted(tmp_path):
    whole, states = model(), []
    config = replace(FIT, checkpoint_seconds=0.0)
    fit(whole, tiny.TinyLoader(micro_batches(whole.codec), 2), config, lambda _, state: states.append(deepcopy(state)))
    checkpoint.save(tmp_path, states[3])  # in mid-epoch: two steps and a report an epoch
    resumed = model()
    loader = tiny.TinyLoader(micro_batches(resumed.codec), 2)
    fit(resumed, loader, config, resume=checkpoint.load(tmp_path))
    for (name, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def _rank(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    made = model()
    metrics = fit(made, tiny.TinyLoader(micro_batches(made.codec), 2, rank, 2), FIT)
    checkpoint.save(f"{folder}/{rank}", {"model": dict(made.state_dict()), "metrics": metrics})
    dist.destroy_process_group()


def test_two_ranks_are_one(tmp_path):
    """Dropout on; one rank's recordings are never translated."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, (port, str(tmp_path)), nprocs=2)
    alone = model()
    metrics = fit(alone, tiny.TinyLoader(micro_batches(alone.codec), 2), FIT)
    ranks = [checkpoint.load(tmp_path / str(rank)) for rank in range(2)]
    assert_same(ranks[0]["model"], alone.state_dict())
    assert_same(ranks[1]["model"], alone.state_dict())
    assert ranks[1]["metrics"]["train/translation/loss"] == pytest.approx(metrics["train/translation/loss"], rel=1e-4)


def test_a_personal_model_searches_as_its_base_does():
    made = model(blocks=2)
    about = About(speaker="ana", base="tiny", version=1, digest="0123456789abcdef")
    voice, mean, usual = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]), torch.ones(2, tiny.BINS)
    personal = Personal.beside(made, about, voice, mean, usual, rank=2, bottleneck=3)
    shipped = PersonalPredictor(Predictor(made, SPEC, search=True), personal)
    assert shipped.search
    assert shipped.with_options(n_best=2).search
    assert not shipped.with_options(greedy=True).search
    assert not PersonalPredictor(Predictor(made, SPEC), personal).search
