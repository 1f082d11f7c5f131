"""Text to numbers and back."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl.heads.transcript import transcript_of
from mtl.inputs.batch import IGNORE, collate
from mtl.inputs.codec import UNKNOWN, Codec
from mtl.text.normalization import normalise
from mtl.text.units import Characters, SentencePieces, units_from_json

ROWS = [
    {"text": "play jazz", "slots": ["O", "B-genre"], "intent": "play"},
    {"text": "stop it now", "intent": "stop", "speaker": "x"},
]
CORPUS = ["play some soft jazz music", "turn the light on", "stop playing it now", "what is the time in rome"] * 5


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  Hello,  WORLD! ", "hello world"),
        ("It\u2019s O'Clock", "it's o'clock"),
        ("Caf\u00e9 \u2014 na\u00efve_x", "café naïve x"),
        ("e\u0301", "é"),
        ("42 km/h", "42 km h"),
    ],
)
def test_normalise(raw, expected):
    assert normalise(raw) == expected
    assert normalise(expected) == expected


@given(st.text())
def test_normalise_is_stable(text):
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize("build", [Characters.build, lambda texts: SentencePieces.build(texts, 40)])
def test_units_come_back(build):
    units = units_from_json(json.loads(json.dumps(build(CORPUS).to_json())))
    for text in CORPUS[:4]:
        encoded = units.encode(text)
        assert units.decode(encoded) == text
        assert "".join(units.pieces(encoded)).strip() == text
        assert 0 < min(encoded) <= max(encoded) < len(units)


def test_codec_comes_back_and_encodes_alike():
    codec = Codec.build(ROWS, ("transcript", "intent", "slots", "speaker"))
    again = Codec.from_json(json.loads(json.dumps(codec.to_json())))
    for row in ROWS:
        one, other = codec.encode(row), again.encode(row)
        assert one.targets.keys() == other.targets.keys()
        for name in ("words", "characters"):
            pair = (getattr(example.inputs["text"], name) for example in (one, other))
            np.testing.assert_array_equal(*pair)
        for name, target in one.targets.items():
            np.testing.assert_array_equal(target, other.targets[name])
    assert codec.labels["slots"][0] == "O"
    assert codec.labels["intent"] == ("play", "stop")


def test_what_training_never_saw_is_unknown_or_unlabelled():
    codec = Codec.build(ROWS, ("transcript", "intent", "slots", "speaker"))
    example = codec.encode({"text": "play zither", "slots": ["O", "B-tool"], "intent": "new"})
    assert example.inputs["text"].words.tolist()[1] == UNKNOWN
    assert example.targets["slots"].tolist() == [0, IGNORE]
    assert example.targets["intent"] == IGNORE
    assert codec.units.decode(example.targets["transcript"]) == "play zit"  # h, e and r were never heard


def test_masks_say_who_may_train():
    codec = Codec.build(ROWS, ("transcript", "intent", "slots", "speaker"))
    examples = [codec.encode(row) for row in (*ROWS, {})]
    heard = collate(examples, [np.zeros((n, 4), np.float16) for n in (3, 5, 2)])
    read = collate(examples)
    assert (transcript_of(heard, "transcript")[1] > 0).tolist() == [True, True, False]
    assert transcript_of(read, "transcript")[1].tolist() == [0] * 3
    assert heard.targets["slots"].labelled().tolist() == [True, False, False]
    assert heard.targets["intent"].labelled().tolist() == [True, True, False]
    assert heard.targets["speaker"].labelled().tolist() == [False, True, False]
    assert heard.features.shape == (3, 5, 4)
    assert heard.feature_lengths.tolist() == [3, 5, 2]
    assert (heard.group, read.group) == ("audio", "text")


def test_collate_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="no examples"):
        collate([])
    with pytest.raises(ValueError, match=r"1 examples and 2"):
        collate([Codec.build(ROWS, ()).encode({})], [np.zeros((1, 2))] * 2)
