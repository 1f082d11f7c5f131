"""Scores against jiwer and seqeval, and by hand."""

from collections import Counter

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from seqeval.metrics import f1_score

from mtl.answers import Label, Prediction, Tags, Transcription
from mtl.metrics.recognition import biased_errors
from mtl.metrics.scoring import METRICS, score_rows, summarise
from mtl.metrics.speakers import identify_speakers
from mtl.text.words import bio_values

words = st.lists(st.sampled_from(["a", "b", "c", "dd"]), min_size=1, max_size=6)
tags = st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"])


def heard(text, **labels):
    answers = {} if text is None else {"transcript": Transcription(text)}
    if (found_tags := labels.pop("tags", None)) is not None:
        answers["slots"] = Tags(tuple(labels.pop("slots", ())), found_tags)
    return Prediction(answers | {task: Label(value, 1.0) for task, value in labels.items()})


def speaking(voice):
    return Prediction({"speaker": Label("x", 1.0, voice)})


@given(st.lists(st.tuples(words, words), min_size=1, max_size=8))
def test_word_error_rate_is_jiwer_s(pairs):
    references, hypotheses = [" ".join(a) for a, _ in pairs], [" ".join(b) for _, b in pairs]
    rows = [{"audio": "x", "text": text} for text in references]
    found = summarise(score_rows(rows, [heard(text) for text in hypotheses]))
    assert found["transcript/wer"] == pytest.approx(100 * jiwer.wer(references, hypotheses))
    assert found["transcript/cer"] == pytest.approx(100 * jiwer.cer(references, hypotheses))


@given(st.lists(st.lists(st.tuples(tags, tags), min_size=1, max_size=7), min_size=1, max_size=6))
def test_text_slot_f1_is_conlleval_s(sentences):
    rows = [{"audio": None, "tokens": list("abcdefg")[: len(s)], "slots": [a for a, _ in s]} for s in sentences]
    predictions = [heard(None, tags=tuple(b for _, b in s)) for s in sentences]
    scores = score_rows(rows, predictions)
    expected = f1_score([row["slots"] for row in rows], [list(p.tags) for p in predictions], zero_division=0)
    value = METRICS["slots/text_f1"].value(scores["slots/text_f1"].counts.sum(axis=0))
    assert float(np.nan_to_num(value)) == pytest.approx(100 * expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(words, st.one_of(words, st.just([]))), min_size=1, max_size=8))
def test_translation_scores_are_sacrebleu_s(pairs):
    """Of whole corpora, from counts per row; short sentences, answers without a match and empty ones among them."""
    references, hypotheses = [" ".join(a) for a, _ in pairs], [" ".join(b) for _, b in pairs]
    rows = [{"audio": "x", "translation": text} for text in references]
    found = summarise(score_rows(rows, [heard(None, translation=text) for text in hypotheses]))
    assert found["translation/bleu"] == pytest.approx(BLEU().corpus_score(hypotheses, [references]).score)
    assert found["translation/chrf"] == pytest.approx(CHRF().corpus_score(hypotheses, [references]).score)


def test_bleu_and_chrf_by_hand():
    row = {"audio": None, "translation": "a b c d e f"}
    found = summarise(score_rows([row], [heard(None, translation="a b c e d f")]))
    # Matched: 6 of 6 words, "a b", "b c" of 5, "a b c" of 4 and none of 3, which exp smoothing counts as a half.
    assert found["translation/text_bleu"] == pytest.approx(100 * (1 * 2 / 5 * 1 / 4 * 0.5 / 3) ** 0.25)
    short = summarise(score_rows([row], [heard(None, translation="a b c d")]))
    assert short["translation/text_bleu"] == pytest.approx(100 * np.exp(1 - 6 / 4))  # all right, two words short
    row = {"audio": "x", "translation": "abc"}
    found = summarise(score_rows([row], [heard(None, translation="abd")]))
    mean = (2 / 3 + 1 / 2 + 0 / 1) / 3  # of one, two and three letters; longer n-grams there are none
    assert found["translation/chrf"] == pytest.approx(100 * mean)
    assert METRICS["translation/bleu"].better == METRICS["translation/chrf"].better == "higher"
    assert np.isnan(METRICS["translation/bleu"].value(np.zeros(10)))
    assert np.isnan(METRICS["translation/chrf"].value(np.zeros(18)))


def test_case_counts_in_a_translation():
    row = {"audio": "x", "translation": "Spiel den Jazz lauter bitte"}
    wrong = summarise(score_rows([row], [heard(None, translation="spiel den Jazz lauter bitte")]))
    assert wrong["translation/bleu"] < 100


def test_slots_from_audio_are_pairs_of_slot_and_value():
    row = {"audio": "x", "text": "play soft rock at nine", "slots": ["O", "B-genre", "I-genre", "O", "B-time"]}
    row |= {"intent": "play"}
    # One value misheard: one of two right, two predicted, two actual.
    prediction = heard(
        "play soft frock at nine", intent="play", tags=("O",), slots=(("genre", "soft frock"), ("time", "nine"))
    )
    scores = score_rows([row], [prediction])
    assert scores["slots/f1"].counts.tolist() == [[1, 2, 2]]
    assert summarise(scores)["slots/f1"] == pytest.approx(50.0)
    assert summarise(scores)["slots/frame_accuracy"] == 0
    assert summarise(scores)["intent/accuracy"] == 100


def test_slots_of_a_text_are_scored_as_spans_and_as_pairs():
    row = {"audio": None, "text": "from one to one now", "slots": ["O", "B-from", "O", "B-to", "O"]}
    prediction = heard(
        None, tags=("B-from", "O", "O", "B-to", "B-x"), slots=(("from", "from"), ("to", "one"), ("x", "now"))
    )
    scores = score_rows([row], [prediction])
    assert scores["slots/text_f1"].counts.tolist() == [[1, 3, 2]]
    assert scores["slots/text_value_f1"].counts.tolist() == [[1, 3, 2]]
    # The right value in the wrong place is a pair that is right, and a span that is not.
    row = {"audio": None, "text": "one or one", "slots": ["B-n", "O", "O"]}
    scores = score_rows([row], [heard(None, tags=("O", "O", "B-n"), slots=(("n", "one"),))])
    assert scores["slots/text_f1"].counts.tolist() == [[0, 1, 1]]
    assert scores["slots/text_value_f1"].counts.tolist() == [[1, 1, 1]]


def test_stray_inside_begins_a_slot():
    found = bio_values(["a", "b", "c", "d", "e"], ["I-x", "I-x", "I-y", "O", "B-y"])
    assert found == [("x", "a b"), ("y", "c"), ("y", "e")]


def test_a_label_never_seen_is_an_error_and_a_missing_one_is_absent():
    rows = [{"audio": "x", "intent": "new"}, {"audio": "x", "intent": None}, {"audio": None, "intent": "old"}]
    scores = score_rows(rows, [heard("", intent="old")] * 3)
    assert scores["intent/accuracy"].rows.tolist() == [0]
    assert scores["intent/accuracy"].counts.tolist() == [[0, 1]]
    assert scores["intent/text_accuracy"].counts.tolist() == [[1, 1]]
    assert "transcript/wer" not in scores  # no row has a transcript


def test_speakers_are_enrolled_then_identified():
    voices = {"x": np.array([1.0, 0.0]), "y": np.array([0.0, 1.0])}
    rows = [{"id": f"{s}{i}", "corpus": "c", "speaker": s} for s in "xy" for i in range(5)]
    predictions = [speaking(voices[row["speaker"]] + 0.1) for row in rows]
    predictions[4] = speaking(voices["y"])  # x4 sounds like y
    found = dict(identify_speakers(rows, predictions))
    assert found == {3: (1.0, 1.0), 4: (0.0, 1.0), 8: (1.0, 1.0), 9: (1.0, 1.0)}
    assert Counter(rows[i]["speaker"] for i in found) == {"x": 2, "y": 2}


def test_one_speaker_cannot_be_told_apart():
    rows = [{"id": str(i), "corpus": "c", "speaker": "x"} for i in range(5)]
    assert identify_speakers(rows, [speaking(np.ones(2))] * 5) == []


def test_errors_of_hot_words_and_of_the_others_by_hand():
    reference, hot = "call anna stone and ben now", ["anna stone", "ben"]
    assert biased_errors(reference, reference, hot) == ((0, 3), (0, 3))
    assert biased_errors(reference, "call anna phone and ben now", hot) == ((1, 3), (0, 3))  # stone
    assert biased_errors(reference, "call anna stone and now", hot) == ((1, 3), (0, 3))  # ben
    assert biased_errors(reference, "fall anna stone and ben ben now", hot) == ((1, 3), (1, 3))  # fall; a second ben
    assert biased_errors(reference, "call stone anna stone and ben now", hot) == ((0, 3), (1, 3))  # stone by itself
    rows = [{"audio": "x", "text": reference}, {"audio": "y", "text": "stop"}]
    found = summarise(score_rows(rows, [heard("call anna phone and ben now"), heard("stop it")], hot))
    assert found["transcript/biased_wer"] == pytest.approx(100 / 3)
    assert found["transcript/unbiased_wer"] == pytest.approx(100 / 4)
    assert "transcript/biased_wer" not in summarise(score_rows(rows, [heard("call"), heard("stop")]))
