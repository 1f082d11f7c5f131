"""The composition: who is trained by what, words in audio, packaging round trip."""

import json

import numpy as np
import pytest
import torch

from mtl.config.decoding import BeamConfig
from mtl.config.features import FeatureSpec
from mtl.config.model import ModelConfig
from mtl.config.sharing import MODES
from mtl.decoding.greedy import Path
from mtl.decoding.ngram import NGram
from mtl.heads.slots import Words, pool_words
from mtl.inference.predictor import Predictor
from mtl.inputs.batch import collate
from mtl.models.joint import build_model
from tests.support import tiny

SPEC = FeatureSpec(bins=tiny.BINS, low_hz=100.0)


@pytest.fixture
def predictor():
    torch.manual_seed(0)
    return Predictor(build_model(tiny.config(), tiny.codec()), SPEC)


def test_losses_sum_over_what_is_labelled(predictor):
    model = predictor.model
    heard, read = tiny.joined(model.codec)
    losses = {task: int(count) for task, (_, count) in model.losses(heard).items()}
    # Characters; labelled rows; words of the four rows with slots; and so on, counted in tiny.HEARD.
    assert losses == {"transcript": 9 + 4 + 14 + 8 + 9, "intent": 5, "slots": 2 + 1 + 3 + 2, "domain": 3, "speaker": 6}
    losses = {task: int(count) for task, (_, count) in model.losses(read).items()}
    assert losses == {"intent": 5, "slots": 3 + 2 + 2 + 1 + 3, "domain": 2}
    assert losses == {task: int(count) for task, count in model.counts(read).items() if count}


def test_a_row_too_short_for_its_transcript_is_left_out(predictor):
    model = predictor.model
    example = model.codec.encode(tiny.HEARD[2] | {"audio": "x"})
    batch = collate([example, example], [np.zeros((8, tiny.BINS), np.float32), np.zeros((60, tiny.BINS), np.float32)])
    losses = model.losses(batch)
    assert int(losses["transcript"][1]) == 14
    assert int(losses["slots"][1]) == 3
    assert torch.isfinite(losses["transcript"][0])


def test_sum_over_rows_is_the_sum_of_single_rows(predictor):
    model = predictor.model
    whole, _ = tiny.joined(model.codec)
    parts = [heard for heard, _ in tiny.batches(model.codec)]
    for task, (total, _) in model.losses(whole).items():
        single = sum(losses[task][0] for losses in map(model.losses, parts) if task in losses)
        torch.testing.assert_close(total, single, rtol=1e-4, atol=1e-4)


def test_word_states_are_means_over_their_frames():
    hidden = torch.arange(10.0).view(1, 5, 2)
    words = Words(torch.tensor([[0, 2, -1]]), torch.tensor([[2, 5, -1]]))
    assert pool_words(hidden, words).tolist() == [[[1.0, 2.0], [6.0, 7.0], [0.0, 0.0]]]


def test_predictions_do_not_depend_on_company(predictor):
    rng = np.random.default_rng(0)
    sounds = [rng.normal(size=n).astype(np.float32) * 0.1 for n in (16000, 5000, 30000)]
    together = predictor.predict([*sounds, "play jazz", "stop"])
    alone = [predictor.predict([item])[0] for item in (*sounds, "play jazz", "stop")]
    for one, other in zip(together, alone, strict=True):
        assert one.text == other.text
        assert one.tags == other.tags
        for task, label in one.labels.items():
            assert label.value == other.labels[task].value
            assert label.confidence == pytest.approx(other.labels[task].confidence, abs=1e-4)
    assert together[3].text is None
    assert len(together[3].tags) == 2
    assert "speaker" not in together[3].labels
    assert together[0].voice.shape == (16,)


def test_packaged_model_says_the_same(predictor, tmp_path):
    predictor.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "weights.safetensors"]
    sound = np.random.default_rng(1).normal(size=20000).astype(np.float32) * 0.1
    one, other = (p.predict([sound, "set alarm"]) for p in (predictor, Predictor.load(tmp_path, device="cpu")))
    assert [p.to_json() for p in one] == [p.to_json() for p in other]


def test_words_carry_seconds(predictor):
    (prediction,) = predictor.predict([np.random.default_rng(2).normal(size=32000).astype(np.float32)])
    assert prediction.text == " ".join(word.text for word in prediction.words)
    for word in prediction.words:
        assert 0 <= word.start < word.end <= 2.1
        assert 0 < word.confidence <= 1


def test_rereading_multiplies_what_is_heard_with_what_is_read(predictor):
    model = predictor.model
    batch = collate([model.codec.encode({})] * 2, [tiny.features(tiny.HEARD[0]), tiny.features(tiny.HEARD[1])])
    units = np.array(model.codec.units.encode("play jazz"))
    spans = np.stack((np.arange(len(units)), np.arange(len(units)) + 1), axis=1)
    silent = Path(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0))
    heard = [Path(units, spans, np.ones(len(units))), silent]
    with torch.no_grad():
        sound = model.task("intent").logits(model.encode(batch, ["intent"])["intent"]).softmax(-1)
        text = collate([model.codec.encode({"tokens": ["play", "jazz"]})])
        read = model.task("intent").logits(model.encode(text, ["intent"])["intent"]).softmax(-1)
    both = sound[0] * read[0] / (sound[0] * read[0]).sum()
    found = model.predict(batch, lambda log_probs, lengths: heard, reread=True)["intent"]
    assert found[0][0] == both.argmax().item()
    assert found[0][1] == pytest.approx(both.max().item(), abs=1e-5)
    assert found[1][1] == pytest.approx(sound[1].max().item(), abs=1e-5)  # nothing was heard: nothing is read


@pytest.mark.parametrize("sharing", sorted(MODES))
def test_every_sharing_mode_makes_a_model(sharing):
    config = tiny.config(sharing=sharing, blocks=2, graph=(("intent", "speaker"),))
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    torch.manual_seed(0)
    model = build_model(config, tiny.codec())
    for batch in tiny.joined(model.codec):
        losses = model.losses(batch)
        assert set(losses) == {task for task, count in model.counts(batch).items() if count}
        total = sum(loss for loss, _ in losses.values())
        assert torch.isfinite(total)
        total.backward()
    predicted = model.eval().predict(collate([model.codec.encode({"tokens": ["stop"]})]))
    assert set(predicted) == {"intent", "slots", "domain"}


def test_a_config_from_before_a_setting_was_known_means_its_default():
    content = tiny.config().to_json()
    for setting in ("hidden", "experts", "shared_experts", "expert_blocks", "bottleneck", "graph"):
        content.pop(setting)
    assert ModelConfig.from_json(content) == tiny.config()


def test_greedy_is_the_recogniser_without_its_language_model():
    torch.manual_seed(1)
    model, spec = build_model(tiny.config(), tiny.codec()), FeatureSpec(bins=tiny.BINS)
    fluent = Predictor(model, spec, NGram.train(["soft jazz", "stop now"], 2), BeamConfig(width=8, weight=3.0))
    wave = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    (heard,), (alone,) = fluent.with_options(greedy=True).predict([wave]), Predictor(model, spec).predict([wave])
    assert heard.text == alone.text != fluent.predict([wave])[0].text
    with pytest.raises(ValueError, match="the best path knows neither hot words nor alternatives"):
        fluent.with_options(["jazz"], greedy=True)


def test_weights_of_another_shape_are_told(tmp_path):
    Predictor(build_model(tiny.config(), tiny.codec()), FeatureSpec(bins=tiny.BINS)).save(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    content["model"]["blocks"] = 2
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"weights of another shape .* Missing key.*motet promote --force"):
        Predictor.load(tmp_path)
