"""Phones at ingest: the corpus's own with their ends, or made of its texts; and what does not fit is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.corpora.test_more_corpora import tone, write

pytest.importorskip("espeakng_loader", reason="the extra motet[espeak] is not installed")

from mtl.tts.phonemes import Phonemiser, UnspeakableText
from pipelines.data.ingest import ingest, quarantine, utterances
from pipelines.recipe import Corpus, Quality
from pipelines.storage.store import Store
from pipelines.synthetic.voices import speakers
from pipelines.utterances.utterance import CorpusError

LENIENT = Quality(max_quarantined=0.9)


def manifest(folder: Path, rows: list[dict[str, Any]]) -> str:
    files: dict[str, str | bytes] = {f"{n}.wav": tone("WAV", hertz=300 + 30 * n) for n in range(len(rows))}
    lines = (json.dumps({"id": str(n), "audio": f"{n}.wav", "split": "train", **row}) for n, row in enumerate(rows))
    files["rows.jsonl"] = "\n".join(lines)
    return str(write(folder, files) / "rows.jsonl")


def test_texts_become_phones_with_their_punctuation_and_numbers(tmp_path: Path) -> None:
    rows = [{"text": "It's 5 o'clock, Dr. Lee."}, {"text": "Um 3 Uhr.", "language": "de"}]
    corpus = Corpus(name="c", kind="manifest", source=manifest(tmp_path / "c", rows), phonemes="gmw/en-us")
    store = Store(str(tmp_path / "root"))
    first, second = utterances(store, ingest(corpus, Quality(), store)).to_pylist()
    assert first["phones"] == Phonemiser("gmw/en-us")("It's five o'clock, doctor Lee.")
    assert first["phones"].count("_") == 3  # the comma is heard
    assert second["phones"] == Phonemiser("gmw/en-us")("um drei Uhr", "de")  # numbers in the row's own language
    assert first["phone_ends"] is None
    assert first["text"] == "it's 5 o'clock dr lee"  # as every other task reads it


def test_nothing_is_made_where_nobody_asks(tmp_path: Path) -> None:
    source = manifest(tmp_path / "c", [{"text": "hello there"}])
    store = Store(str(tmp_path / "root"))
    plain = ingest(Corpus(name="c", kind="manifest", source=source), Quality(), store)
    assert utterances(store, plain)["phones"].to_pylist() == [None]
    asked = ingest(Corpus(name="c", kind="manifest", source=source, phonemes="characters"), Quality(), store)
    assert utterances(store, asked)["phones"].to_pylist() == [["_", *"hello", " ", *"there", "_"]]
    assert asked.address != plain.address
    again = ingest(Corpus(name="c", kind="manifest", source=source), Quality(), store)
    assert again.address == plain.address


def test_a_corpus_brings_its_own_phones_and_ends(tmp_path: Path) -> None:
    given = {"text": "ah", "phones": ["_", "A", "_"], "phone_ends": [0.1, 0.4, 0.5]}
    rows = [given, {**given, "phones": "_ A _", "phone_ends": None}]
    corpus = Corpus(name="c", kind="manifest", source=manifest(tmp_path / "c", rows), phonemes="gmw/en-us")
    store = Store(str(tmp_path / "root"))
    first, second = utterances(store, ingest(corpus, Quality(), store)).to_pylist()
    assert (first["phones"], first["phone_ends"]) == (["_", "A", "_"], [0.1, 0.4, 0.5])
    assert (second["phones"], second["phone_ends"]) == (["_", "A", "_"], None)


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"phone_ends": [0.1, 0.5]}, "length_mismatch", "3 phones, 2 ends"),
        ({"phone_ends": [0.4, 0.1, 0.5]}, "length_mismatch", "do not increase"),
        ({"phone_ends": [0.1, 0.2, 0.4]}, "length_mismatch", "ends at 0.400 s of 0.500 s"),
        ({"phone_ends": ["a", "b", "c"]}, "bad_row", "expected a list of seconds"),
        ({"phones": ["_", "", "_"]}, "length_mismatch", "none of them empty"),
        ({"phones": None, "text": "..."}, "missing_transcript", "holds no word"),
        ({"phones": None, "text": "'"}, "unspeakable", "made no sound"),
    ],
)
def test_phones_that_do_not_fit_are_quarantined(tmp_path: Path, row: dict[str, Any], reason: str, detail: str) -> None:
    rows = [{"text": "ah", "phones": ["_", "A", "_"], **row}, {"text": "fine"}]
    corpus = Corpus(name="c", kind="manifest", source=manifest(tmp_path / "c", rows), phonemes="gmw/en-us")
    store = Store(str(tmp_path / "root"))
    made = ingest(corpus, LENIENT, store)
    (bad,) = quarantine(store, store.latest("quarantine/c") or made).to_pylist()
    assert (bad["id"], bad["reason"]) == ("0", reason)
    assert detail in bad["detail"]


def test_a_voice_that_does_not_exist_is_told_before_anything_is_read(tmp_path: Path) -> None:
    corpus = Corpus(name="c", kind="manifest", source="/nowhere/rows.jsonl", phonemes="gmw/en-mars")
    with pytest.raises(CorpusError, match=r"corpora.c.phonemes: eSpeak NG has no voice 'gmw/en-mars'"):
        ingest(corpus, Quality(), Store(str(tmp_path / "root")))


def test_characters_are_letters_and_pauses() -> None:
    said = Phonemiser("characters")
    assert said("  Hello,   it's me — “Bob”!") == ["_", *"hello", "_", *"it's", " ", *"me", "_", *"bob", "_"]
    assert said("a - b") == ["_", "a", "_", "b", "_"]
    for nothing in ("?!", "'", ""):
        with pytest.raises(UnspeakableText, match="holds nothing that could be said"):
            said(nothing)


def test_the_embedded_corpus_knows_its_phones_to_the_sample(tmp_path: Path) -> None:
    options = {"utterances": 6, "valid_utterances": 4, "test_utterances": 4, "text_only_sentences": 2, "speakers": 2,
               "accents": ["gmw/en-us"], "known_speakers": True}  # fmt: skip
    corpus = Corpus(name="c", kind="espeak", options=options, phonemes="gmw/en-us")
    store = Store(str(tmp_path / "root"))
    rows = utterances(store, ingest(corpus, Quality(), store)).to_pylist()
    spoken = [row for row in rows if row["audio"]]
    assert len(spoken) == 14
    for row in spoken:
        assert (row["phones"][0], row["phones"][-1]) == ("_", "_")
        assert len(row["phones"]) == len(row["phone_ends"])
        assert row["phone_ends"][-1] == pytest.approx(row["duration"], abs=2e-3)
    assert [row["phones"] for row in rows if not row["audio"]] == [None, None]
    known = {voice.name for voice in speakers("train", 2, 0, "en", ("gmw/en-us",))}
    assert {row["speaker"] for row in spoken} == known
    assert {row["speaker"] for row in spoken if row["split"] == "test"} <= known
    assert all(name.startswith("en-us") for name in known)
    texts = {split: {row["text"] for row in spoken if row["split"] == split} for split in ("train", "valid", "test")}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["valid"]


def test_an_accent_that_is_not_used_is_refused(tmp_path: Path) -> None:
    corpus = Corpus(name="c", kind="espeak", options={"accents": ["gmw/en-sco"]})
    with pytest.raises(CorpusError, match="no accent gmw/en-sco"):
        ingest(corpus, Quality(), Store(str(tmp_path / "root")))
