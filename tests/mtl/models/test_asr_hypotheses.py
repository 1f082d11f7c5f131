"""Recognised words in training: their tags by hand, and the same step however its rows are dealt."""

import os
import socket
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mtl.config.training import Stage
from mtl.heads.slots import pool_words
from mtl.inputs.batch import IGNORE, collate
from mtl.inputs.codec import Codec
from mtl.models.asr_hypotheses import TrainingWords, aligned, choose, projected
from mtl.models.joint import build_model
from mtl.training import checkpoint
from tests.mtl.training.test_backward import assert_same, fresh, train
from tests.support import tiny, tiny_voice

EAR = {"recognised": 1.0, "error_limit": 50.0, "read": True}  # whatever the recogniser hears
STILL = {"dropout": 0.0, "word_dropout": 0.0}
STAGES = (Stage("ear", ("transcript",), 1), Stage("heads", ("intent", "slots"), 1, "heads"))


def tags(true, wanted, heard):
    return projected(true.split(), aligned(wanted.split(), heard.split())[0])


@pytest.mark.parametrize(
    ("true", "wanted", "heard", "expected"),
    [
        ("O B-g I-g", "play soft rock", "play soft rock", "O B-g I-g"),
        ("O B-g I-g", "play soft rock", "play sought rock", "O B-g I-g"),  # a substitution keeps the tag
        ("O B-g I-g", "play soft rock", "soft rock", "B-g I-g"),  # a deletion drops it
        ("O B-g I-g", "play soft rock", "play rock", "O B-g"),  # what is left of a slot begins it
        ("O B-g I-g", "play soft rock", "play soft the rock", "O B-g I-g I-g"),  # an insertion within goes on
        ("O B-g I-g", "play soft rock", "play a soft rock", "O O B-g I-g"),  # at a slot's border it is outside
        ("O B-g I-g", "play soft rock", "play soft rock a", "O B-g I-g O"),
        ("B-g B-g", "rock jazz", "rock or jazz", "B-g O B-g"),  # between two slots of one kind too
        ("B-g B-g", "rock jazz", "jazz", "B-g"),
        ("O B-g I-g I-g O", "play a b c now", "play b x c now", "O B-g I-g I-g O"),
        ("B-r I-r O", "living room on", "room on", "B-r O"),
    ],
)
def test_tags_follow_the_words_by_hand(true, wanted, heard, expected):
    assert tags(true, wanted, heard) == expected.split()


def test_a_word_without_a_label_has_none_when_it_is_recognised():
    pairs, errors = aligned(["play", "rock"], ["lay", "rock"])
    assert errors == 1
    assert projected([None, "B-g"], pairs) == [None, "B-g"]
    assert projected(["O", None], aligned(["play", "rock"], ["play", "the", "rock"])[0]) == ["O", "O", None]


def spans(text):
    return [(word, 3 * place, 3 * place + 2) for place, word in enumerate(text.split())]


def test_a_recording_keeps_its_true_words_beyond_the_limit():
    true = TrainingWords(spans("play soft rock now"), ["O", "B-g", "I-g", "O"], False)
    heard = spans("play soft frog")  # a substitution and a deletion: 2 errors of 4 words
    assert choose(true, heard, 0.5) == TrainingWords(heard, ["O", "B-g", "I-g"], True)
    assert choose(true, heard, 0.49) is true
    assert choose(true, [], 50.0) is true
    unlabelled = TrainingWords(spans("play rock"), None, False)
    assert choose(unlabelled, spans("play rocks"), 0.5) == TrainingWords(spans("play rocks"), None, True)
    partly = TrainingWords(spans("play rock"), [None, "B-g"], False)
    assert choose(partly, spans("play"), 0.5) is partly  # its one labelled word was not heard


def hears(model, texts, monkeypatch):
    """Makes the recogniser's best path these texts: a unit every other frame."""

    def log_probs(states):
        scores = torch.full((*states.hidden.shape[:2], len(model.codec.units)), -20.0)
        scores[..., 0] = -1.0
        for row, text in enumerate(texts):
            for place, unit in enumerate(model.codec.units.encode(text)):
                scores[row, 2 * place, unit] = 0.0
        return torch.log_softmax(scores, dim=-1)

    monkeypatch.setattr(model.task("transcript"), "log_probs", log_probs)


def test_slots_are_learned_on_what_was_heard_and_counted_by_what_was_said(monkeypatch):
    model = fresh(recognised=1.0, error_limit=1.0, **STILL)
    example = tiny.HEARD[2]  # play soft rock: O B-genre I-genre
    batch = collate([model.codec.encode(example)], [tiny.features(example)])
    hears(model, ["play so ft rock"], monkeypatch)  # an insertion and a substitution
    found, count = model.losses(batch, ["transcript", "slots"])["slots"]
    assert count == 3  # of the true words, as `counts` says beforehand
    assert model.counts(batch)["slots"] == 3

    states = model.encode(batch, ["slots"])["slots"]
    (heard,) = model.training_words(model.encode(batch, ["transcript"])["transcript"], batch)
    assert [word for word, _, _ in heard.spans] == ["play", "so", "ft", "rock"]
    # One of "so", "ft" stands for "soft", the other was inserted before it: outside of the slot.
    assert heard.tags == ["O", "O", "B-genre", "I-genre"]
    assert heard.spans[0][1:] == (0, 7)  # four letters, two frames apart
    words = model._tagged([heard], batch, "slots")
    pooled = pool_words(states.hidden, words)
    torch.testing.assert_close(pooled[0, 0], states.hidden[0, 0:7].mean(dim=0))
    logits = model.task("slots").logits(replace(states, words=words))
    names = model.codec.labels["slots"]
    by_hand = -sum(
        torch.log_softmax(logits[0, place], dim=-1)[names.index(tag)] for place, tag in enumerate(heard.tags)
    )
    torch.testing.assert_close(found, by_hand)


def test_a_poor_recogniser_changes_nothing():
    """Of a fresh one every row is beyond the limit: the losses are those of the true words."""
    batch = tiny.joined(tiny.codec())[0]
    model, other = fresh(**STILL), fresh(recognised=1.0, error_limit=0.1, **STILL)
    one, two = model.losses(batch), other.losses(batch)
    assert {task: float(loss) for task, (loss, _) in one.items()} == {
        task: float(loss) for task, (loss, _) in two.items()
    }


def test_a_recording_that_is_read_counts_twice_for_what_words_can_tell():
    codec = tiny.codec()
    heard, said = tiny.joined(codec)
    model, reader = fresh(**STILL), fresh(read=True, **STILL)
    plain, twice = model.counts(heard), reader.counts(heard)
    # Four of five intents have a transcript, and all three domains; a6 is not transcribed.
    assert (int(plain["intent"]), int(twice["intent"])) == (5, 9)
    assert (int(plain["domain"]), int(twice["domain"])) == (3, 6)
    assert (int(plain["slots"]), int(twice["slots"])) == (8, 16)
    assert int(twice["speaker"]) == int(plain["speaker"]) == 6
    assert int(twice["transcript"]) == int(plain["transcript"])
    assert reader.counts(said) == model.counts(said)

    # What is added is the loss of the same words as a text batch, which is how `read` sees them before it hears.
    rows = [{**row, "intent": row.get("intent")} for row in tiny.HEARD if row.get("text")]
    text = collate([codec.encode(row) for row in rows])
    sound, both, words = model.losses(heard), reader.losses(heard), model.losses(text)
    for task in ("intent", "domain", "slots"):
        torch.testing.assert_close(both[task][0], sound[task][0] + words[task][0])
        assert both[task][1] == twice[task]
    torch.testing.assert_close(both["speaker"][0], sound["speaker"][0])


def test_only_tasks_of_words_count_twice():
    """Phones and waveforms accompany the recordings, not their transcripts."""
    tasks = ("transcript", "intent", "prosody", "mel", "waveform")
    rows = [{**row, "text": "play", "intent": "play"} for row in tiny_voice.rows()]
    codec = replace(Codec.build(rows, tasks), speech=tiny_voice.code())
    features = [tiny_voice.mel(row) for row in rows]
    waves, hertz = [np.ones(40, np.int16)] * len(rows), [np.ones(len(one), np.float32) for one in features]
    batch = collate([codec.encode(row) for row in rows], features, waves, hertz)
    plain, twice = (build_model(tiny.config(tasks=tasks, read=read), codec).counts(batch) for read in (False, True))
    assert int(twice["intent"]) == 2 * int(plain["intent"]) == 2 * len(rows)
    assert {name: int(twice[name]) for name in tasks[2:]} == {name: int(plain[name]) for name in tasks[2:]}
    assert int(plain["prosody"]) == sum(len(row["phones"]) for row in rows)


def test_what_is_read_is_what_was_heard(monkeypatch):
    model = fresh(recognised=1.0, read=True, **STILL)
    codec, example = model.codec, tiny.HEARD[2]
    batch = collate([codec.encode(example)], [tiny.features(example)])
    hears(model, ["play rock"], monkeypatch)
    text = collate([codec.encode({"text": "play rock", "slots": ["O", "B-genre"], "intent": "play"})])
    both = model.losses(batch, ["transcript", "intent", "slots"])
    model.config = replace(model.config, read=False)
    sound = model.losses(batch, ["transcript", "intent", "slots"])
    words = model.losses(text, ["intent", "slots"])
    for task in ("intent", "slots"):
        torch.testing.assert_close(both[task][0], sound[task][0] + words[task][0])
    assert both["slots"][1] == 6


def test_rows_that_cannot_be_placed_are_neither_tagged_nor_read():
    model = fresh(**EAR, **STILL)
    example = tiny.HEARD[2]
    batch = collate([model.codec.encode(example)], [tiny.features(example)[:12]])  # 6 frames for 14 letters
    assert model.counts(batch)["slots"] == 0
    assert model.counts(batch)["intent"] == 1
    assert set(model.losses(batch)) == {"intent", "speaker"}
    assert (
        model._tagged([TrainingWords(spans("play rock"), ["O", "B-genre"], True)], batch, "slots").tags == IGNORE
    ).all()


@pytest.mark.parametrize("method", ["static", "pcgrad"])
def test_accumulation_is_one_large_batch_on_recognised_words(method):
    cut, _, _ = train(method, per_step=6, model=fresh(**EAR, **STILL))
    model = fresh(**EAR, **STILL)
    whole, _, _ = train(method, [tiny.joined(model.codec)], per_step=1, model=model)
    assert_same(cut, whole)
    plain, _, _ = train(method, per_step=6, model=fresh(**STILL))
    assert any((plain[name] - cut[name]).abs().max() > 1e-2 for name in cut)


def everything(method, **arguments):
    model = fresh(**{**EAR, "recognised": 0.5})
    changes = {"epochs": 4, "curriculum": STAGES, "checkpoint_seconds": 0.0}
    return train(method, changes=changes, model=model, **arguments)


uninterrupted = cache(everything)
METHODS = ("static", "pcgrad")


def _rank(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for method in METHODS:
        checkpoint.save(f"{folder}/{method}/{rank}", {"model": everything(method, rank=rank, world=2)[0]})
    dist.destroy_process_group()


def test_two_ranks_are_one_with_stages_and_recognised_words(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, (port, str(tmp_path)), nprocs=2)
    for method in METHODS:
        ranks = [checkpoint.load(tmp_path / method / str(rank))["model"] for rank in range(2)]
        assert_same(ranks[0], ranks[1], exact=True)
        assert_same(ranks[0], uninterrupted(method)[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epoch", [0, 1, 2])  # a stage each
def test_resumed_in_mid_stage_is_uninterrupted(tmp_path, method, epoch):
    weights, metrics, reports = uninterrupted(method)
    in_mid_epoch = reports[3 * epoch]  # an epoch reports two steps, and its end
    assert in_mid_epoch[0] == {}
    checkpoint.save(tmp_path, in_mid_epoch[1])
    resumed, again, _ = everything(method, resume=checkpoint.load(tmp_path))
    assert_same(weights, resumed, exact=True)
    for name in metrics:
        if name.startswith(("weight/", "cosine/", "conflict/", "train/")):
            assert again[name] == metrics[name], name
