"""Slot values exchanged: by hand, what stays as it is, and what a training loader makes of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mtl.inputs.batch import IGNORE, Example
from mtl.inputs.codec import Codec
from mtl.inputs.slot_substitution import SlotValues
from pipelines import recipe
from pipelines.data.dataset import open_dataset
from pipelines.data.features import extract
from pipelines.data.loader import Loader, evaluation_batches
from pipelines.storage.store import Store
from tests.support.small_corpus import commit

ROWS = [
    {"text": "fly to boston", "slots": ["O", "O", "B-toloc.city"], "intent": "flight"},
    {"text": "from new york to boston please", "intent": "flight",
     "slots": ["O", "B-fromloc.city", "I-fromloc.city", "O", "B-toloc.city", "O"]},
    {"text": "delta at noon", "slots": ["B-airline", "O", "B-time"], "intent": "airline"},
]  # fmt: skip


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.build(ROWS, ("intent", "slots"))


@pytest.fixture(scope="module")
def examples(codec: Codec) -> list[Example]:
    return [codec.encode(row) for row in ROWS]


def values_of(codec: Codec, examples: list[Example]) -> SlotValues:
    return SlotValues(examples, "slots", codec.labels["slots"])


def read(example: Example, codec: Codec) -> tuple[str, list[str]]:
    """Words and tags; the words must be spelled as their characters say."""
    numbers, characters = example.inputs["text"]
    words = [codec.words[number - 2] for number in numbers]
    np.testing.assert_array_equal(characters, codec.spell(words))
    return " ".join(words), [codec.labels["slots"][tag] for tag in example.targets["slots"]]


def test_a_slot_gets_any_value_of_its_kind_whatever_its_part(codec: Codec, examples: list[Example]) -> None:
    generator = np.random.default_rng(0)
    values = values_of(codec, examples)
    drawn = Counter(read(values.exchange(examples[1], 0.999, generator), codec)[0] for _ in range(400))
    # toloc.city knows one word only, so new york cannot go there: its tag I-toloc.city was never seen
    assert set(drawn) == {"from new york to boston please", "from boston to boston please"}
    # boston is there twice and new york once: drawn as root 2 to 1
    assert 0.5 < drawn["from boston to boston please"] / 400 < 0.67  # 0.586 is expected, its deviation is 0.025


def test_tags_follow_the_words(codec: Codec, examples: list[Example]) -> None:
    values, generator = values_of(codec, examples), np.random.default_rng(1)
    found = {tuple(read(values.exchange(examples[1], 0.999, generator), codec)[1]) for _ in range(100)}
    assert found == {
        ("O", "B-fromloc.city", "I-fromloc.city", "O", "B-toloc.city", "O"),
        ("O", "B-fromloc.city", "O", "B-toloc.city", "O"),
    }


def test_what_is_no_slot_or_has_no_other_value_stays(codec: Codec, examples: list[Example]) -> None:
    values, generator = values_of(codec, examples), np.random.default_rng(0)
    for example in examples:
        assert values.exchange(example, 0.0, generator) is example
    assert read(values.exchange(examples[2], 0.999, generator), codec) == read(examples[2], codec)
    changed = values.exchange(examples[1], 0.999, generator)
    assert (changed.id, changed.targets["intent"]) == (examples[1].id, examples[1].targets["intent"])


def test_an_unlabelled_or_translated_or_odd_sentence_is_left_alone(codec: Codec, examples: list[Example]) -> None:
    values, generator = values_of(codec, examples), np.random.default_rng(0)
    bare = codec.encode({"text": "to boston"})
    assert bare.targets["slots"].tolist() == [IGNORE, IGNORE]
    assert values.exchange(bare, 0.999, generator) is bare
    targets = {**examples[0].targets, "translation": np.asarray([1, 2])}
    translated = Example(**{**vars(examples[0]), "targets": targets})
    assert values.exchange(translated, 0.999, generator) is translated
    odd = codec.encode({"text": "york to paris", "slots": ["I-fromloc.city", "O", "B-nothing"]})
    assert odd.targets["slots"][2] == IGNORE
    assert values.exchange(odd, 0.999, generator) is odd


def test_the_loader_exchanges_in_training_alone_and_alike_on_every_rank(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cities = ["boston", "denver", "atlanta", "dallas", "oakland", "phoenix"]
    rows = [
        {"id": f"t/{n}", "corpus": "t", "split": "train", "text": f"fly to {city} now", "slots": [*"OO", "B-city", "O"]}
        for n, city in enumerate(cities * 4)
    ]
    utterances = [commit(store, "t", rows)]
    dataset = open_dataset(store, utterances, extract(utterances, recipe.Features(), store, "local"))
    codec = Codec.build(dataset.rows.to_pylist(), ("slots",))
    config = recipe.Loader(batch_tokens=16, substitute=0.5)

    def seen(**options: int) -> list[tuple[tuple[str, ...], list[list[int]]]]:
        loader = Loader(dataset, codec, config, hop_ms=10.0, micro_batches=2, **options)
        return [(batch.ids, batch.words.tolist()) for step in loader for (batch,) in step]

    whole = seen()
    parts = [seen(rank=rank, world_size=2) for rank in (0, 1)]
    assert [batch for pair in zip(*parts, strict=True) for batch in pair] == whole
    own = {row["id"]: codec.number(row["text"].split()).tolist() for row in rows}
    changed = [words != own[name] for ids, batch in whole for name, words in zip(ids, batch, strict=True)]
    assert 0.2 < np.mean(changed) < 0.65  # 0.5 x 5/6 is expected
    for _, batch in evaluation_batches(dataset, codec, config):
        assert batch.words.tolist() == [own[name] for name in batch.ids]
