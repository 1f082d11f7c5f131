"""Readers of Common Voice, VoxCeleb and SGD, on made-up releases laid out as the published ones are."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipelines.corpora import CORPORA
from pipelines.data.ingest import ingest, utterances
from pipelines.recipe import Corpus, Quality
from pipelines.sources.open import open_source
from pipelines.storage.store import Store
from pipelines.utterances.utterance import CorpusError, Reject, Utterance


def read(kind: str, path: Path, **options: Any) -> tuple[list[Utterance], list[Reject]]:
    corpus = Corpus(name="c", kind=kind, source=str(path), options=options)
    items = list(CORPORA[kind].read(open_source(str(path)), corpus))
    return (
        [item for item in items if isinstance(item, Utterance)],
        [item for item in items if isinstance(item, Reject)],
    )


def tone(kind: str, rate: int = 32000, seconds: float = 0.5, hertz: float = 440) -> bytes:
    file = io.BytesIO()
    wave = 0.2 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)
    soundfile.write(file, wave, rate, format=kind)
    return file.getvalue()


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


# --- Common Voice ---

# The header of Corpus 17.0 and later.
HEADER = (
    "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tvariant"
    "\tlocale\tsegment"
)


def line(speaker: str, clip: str, sentence: str, locale: str) -> str:
    return f"{speaker}\t{clip}\tabc\t{sentence}\t\t2\t0\ttwenties\tmale_masculine\t\t\t{locale}\t"


@pytest.fixture
def common_voice(tmp_path: Path) -> Path:
    files: dict[str, str | bytes] = {}
    for locale, sentences in {
        "en": ['"Quoted", she said', "It's raining.", "Hello there"],
        "de": ["Grüße aus Köln!", "Ja", "Nein"],
    }.items():
        rows = {
            split: line(f"spk-{locale}-{split}", f"common_voice_{locale}_{n}.mp3", sentence, locale)
            for n, (split, sentence) in enumerate(zip(("train", "dev", "test"), sentences, strict=True))
        }
        for split, row in rows.items():
            files[f"{locale}/{split}.tsv"] = f"{HEADER}\n{row}\n"
        extra = line(f"spk-{locale}-more", f"common_voice_{locale}_9.mp3", "more", locale)
        files[f"{locale}/validated.tsv"] = "\n".join((HEADER, *rows.values(), extra)) + "\n"
        files[f"{locale}/reported.tsv"] = "sentence_id\tsentence\tlocale\treason\n"
        for n in (0, 1, 2, 9):
            files[f"{locale}/clips/common_voice_{locale}_{n}.mp3"] = tone(
                "MP3", hertz=300 + 20 * n + 200 * (locale == "de")
            )
    return write(tmp_path / "cv-corpus-21.0-2025-03-14", files)


def test_common_voice_says_language_speaker_and_split(common_voice: Path) -> None:
    rows, rejects = read("commonvoice", common_voice)
    assert rejects == []
    assert {(row.id, row.split, row.language, row.speaker) for row in rows} == {
        (f"{locale}/common_voice_{locale}_{n}", split, locale, f"spk-{locale}-{name}")
        for locale in ("en", "de")
        for n, (name, split) in enumerate((("train", "train"), ("dev", "valid"), ("test", "test")))
    }
    assert next(row.text for row in rows if row.id == "en/common_voice_en_0") == '"Quoted", she said'
    german, _ = read("commonvoice", common_voice, languages=["de"])
    assert {row.language for row in german} == {"de"}
    alone, _ = read("commonvoice", common_voice / "de")
    assert sorted(row.id for row in alone) == sorted(row.id for row in german)
    validated, _ = read("commonvoice", common_voice, lists="validated")
    assert len(validated) == 8
    assert {row.split for row in validated} == {None}


def test_common_voice_clips_are_decoded(common_voice: Path, store: Store) -> None:
    corpus = Corpus(name="cv", kind="commonvoice", source=str(common_voice))
    rows = utterances(store, ingest(corpus, Quality(), store)).to_pylist()
    assert len(rows) == 6
    assert {row["sample_rate"] for row in rows} == {32000}
    assert all(row["duration"] == pytest.approx(0.5, abs=0.1) for row in rows)
    assert {row["text"] for row in rows if row["language"] == "de"} == {"grüße aus köln", "ja", "nein"}


def test_common_voice_rows_that_are_wrong(common_voice: Path) -> None:
    path = common_voice / "en/train.tsv"
    path.write_bytes(path.read_bytes() + b"too\tfew\n" + line("s", "gone.mp3", "x", "en").encode() + b"\n\xff\tx\n")
    write(common_voice, {"de/dev.tsv": "path\tsentence\nx\ty\n"})
    rows, rejects = read("commonvoice", common_voice)
    assert len(rows) == 5
    assert [(reject.reason, reject.row) for reject in rejects] == [
        ("bad_row", 1), ("bad_row", 3), ("missing_file", 4), ("bad_row", 5)
    ]  # fmt: skip
    assert "client_id" in rejects[0].detail
    with pytest.raises(CorpusError, match="holds no fr; there are de, en"):
        read("commonvoice", common_voice, languages=["fr"])
    with pytest.raises(CorpusError, match="expected 'splits' or 'validated'"):
        read("commonvoice", common_voice, lists="other")
    with pytest.raises(CorpusError, match="expected Common Voice's layout"):
        read("commonvoice", write(common_voice / "empty", {"a.txt": "x"}))


# --- VoxCeleb ---

TRIALS = (
    "1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav\n"
    "0 id10270/x6uYqmx31kE/00001.wav id10300/ize_eiCFEg0/00003.wav\n"
    "1 id10300/ize_eiCFEg0/00003.wav id10300/other/00001.wav\n"
)


@pytest.fixture
def voxceleb(tmp_path: Path) -> Path:
    names = (
        *("id10270/x6uYqmx31kE/00001", "id10270/8jEAjG6SegY/00008", "id10300/ize_eiCFEg0/00003"),
        *(f"id1{n:04d}/video{n}/00001" for n in range(40)),
    )
    files: dict[str, str | bytes] = {
        f"wav/{name}.wav": tone("WAV", 16000, 0.3, 200 + n) for n, name in enumerate(names)
    }
    return write(tmp_path, {**files, "veri_test2.txt": TRIALS})


def test_voxceleb_tests_the_speakers_of_its_trials(voxceleb: Path) -> None:
    rows, rejects = read("voxceleb", voxceleb)
    by_id = {row.id: row for row in rows}
    assert len(rows) == 43
    assert by_id["id10270/x6uYqmx31kE/00001"].trials == [
        "1 id10270/8jEAjG6SegY/00008", "0 id10300/ize_eiCFEg0/00003"
    ]  # fmt: skip
    assert {row.speaker for row in rows if row.split == "test"} == {"id10270", "id10300"}
    assert {row.split for row in rows if row.speaker == "id10000"} <= {"train", "valid"}
    assert sum(row.split == "valid" for row in rows) in range(1, 8)
    assert [(reject.reason, reject.row) for reject in rejects] == [("missing_file", 3)]
    assert {row.text for row in rows} == {None}


def test_voxceleb_without_a_list_is_split_by_hash(voxceleb: Path) -> None:
    (voxceleb / "veri_test2.txt").unlink()
    rows, _ = read("voxceleb", voxceleb)
    assert {row.split for row in rows} == {None}
    with pytest.raises(CorpusError, match=r"holds no file 'mine\.txt'"):
        read("voxceleb", voxceleb, trials="mine.txt")
    write(voxceleb, {"lists/mine.txt": "2 a b\n\n" + TRIALS.splitlines()[0]})
    rows, rejects = read("voxceleb", voxceleb, trials="mine.txt")
    assert [(reject.reason, reject.row) for reject in rejects] == [("bad_row", 1)]
    assert {row.speaker for row in rows if row.split == "test"} == {"id10270"}
    with pytest.raises(CorpusError, match="convert it to"):
        read("voxceleb", write(voxceleb / "aac", {"id1/v/1.m4a": b"x"}))


def test_voxceleb_trials_reach_the_table(voxceleb: Path, store: Store) -> None:
    from mtl.answers import Label, Prediction
    from mtl.metrics.verification import verification_counts

    corpus = Corpus(name="vox", kind="voxceleb", source=str(voxceleb))
    table = utterances(store, ingest(corpus, Quality(max_quarantined=0.1), store))
    rows = [row for row in table.to_pylist() if row["split"] == "test"]
    voices = {"id10270": [1.0, 0.0], "id10300": [0.0, 1.0]}
    said = [Prediction({"speaker": Label("x", 1.0, np.array(voices[row["speaker"]]))}) for row in rows]
    assert sum(counts.sum() for counts in verification_counts(rows, said).values()) == 2


# --- SGD ---


def turn(speaker: str, text: str, *acts: str, service: str = "Restaurants_1", intent: str | None = None) -> dict:
    actions = [{"act": act, "slot": "", "values": [], "canonical_values": []} for act in acts]
    frame: dict[str, Any] = {"service": service, "slots": [], "actions": actions}
    if speaker == "USER":
        frame["state"] = {"active_intent": intent or "NONE", "requested_slots": [], "slot_values": {}}
    return {"speaker": speaker, "utterance": text, "frames": [frame]}


DIALOGUE = {
    "dialogue_id": "1_00000",
    "services": ["Restaurants_1"],
    "turns": [
        turn("USER", "I am feeling hungry", "INFORM_INTENT", intent="FindRestaurants"),
        turn("SYSTEM", "Which city?", "REQUEST"),
        turn("USER", "San Jose, and cheap.", "INFORM", "INFORM", "AFFIRM", intent="FindRestaurants"),
        turn("SYSTEM", "Sure, try Sino", "OFFER", "INFORM_COUNT"),
        turn("USER", "Thanks, bye", "THANK_YOU", "GOODBYE"),
    ],
}


def sgd(folder: Path, *dialogues: Any) -> Path:
    schema = {"train/schema.json": "[]", "dev/dialogues_001.json": "[]"}
    return write(folder, {"train/dialogues_001.json": json.dumps(list(dialogues)), **schema})


def test_sgd_gives_acts_of_the_turn_and_of_the_answer(tmp_path: Path) -> None:
    rows, rejects = read("sgd", sgd(tmp_path, DIALOGUE))
    assert rejects == []
    assert [
        (
            row.id,
            row.split,
            row.labels.get("dialogue_act"),
            row.labels.get("system_action"),
            row.labels.get("intent"),
            row.labels.get("domain"),
        )
        for row in rows
    ] == [
        ("train/1_00000/00", "train", "INFORM_INTENT", "REQUEST", "FindRestaurants", "restaurants"),
        ("train/1_00000/02", "train", "AFFIRM+INFORM", "INFORM_COUNT+OFFER", "FindRestaurants", "restaurants"),
        ("train/1_00000/04", "train", "GOODBYE+THANK_YOU", None, None, "restaurants"),
    ]
    assert rows[0].context == []
    assert rows[1].context == ["I am feeling hungry", "Which city?"]
    one_split, _ = read("sgd", tmp_path / "train")
    assert {row.split for row in one_split} == {"train"}


def test_sgd_in_the_table_and_dialogues_that_are_wrong(tmp_path: Path, store: Store) -> None:
    broken = {"dialogue_id": "1_00001", "services": ["Hotels_4"], "turns": [{"speaker": "USER"}]}
    rows, rejects = read("sgd", sgd(tmp_path, DIALOGUE, broken, "no dialogue"))
    assert (len(rows), [(reject.reason, reject.row, reject.id) for reject in rejects]) == (
        3, [("bad_row", 2, "1_00001"), ("bad_row", 3, None)]
    )  # fmt: skip
    assert "dialogue 2 lacks" in rejects[0].detail
    rows, rejects = read("sgd", tmp_path, services=["Hotels_4"])
    assert (rows, len(rejects)) == ([], 2)
    corpus = Corpus(name="sgd", kind="sgd", source=str(tmp_path), options={"services": ["Restaurants_1"]})
    table = utterances(store, ingest(corpus, Quality(max_quarantined=0.5), store)).to_pylist()
    assert table[1]["context"] == ["i am feeling hungry", "which city"]
    assert table[1]["text"] == "san jose and cheap"
    with pytest.raises(CorpusError, match="expected the layout of SGD"):
        read("sgd", write(tmp_path / "else", {"a.json": "[]"}))
