"""Readers of LJSpeech, EmoDB and IEMOCAP: on what is there of the releases, and on made-up ones laid out so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.corpora.emodb import SENTENCES
from pipelines.data.ingest import ingest, utterances
from pipelines.recipe import Corpus, Quality
from pipelines.storage.store import Store
from pipelines.utterances.utterance import CorpusError
from tests.pipelines.corpora.test_more_corpora import read, tone, write

# --- IEMOCAP: made up after the release's layout; the corpus itself may not be passed on ---

EVALUATION = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[1.0000 - 2.5000]\tSes0{s}F_impro01_F000\texc\t[3.0000, 2.5000, 2.0000]
C-E2:\tNeutral;\t()
C-F1:\tNeutral; Anger;\t(free comment)
A-E3:\tval 3; act 2; dom  2;\t()

[3.0000 - 4.5000]\tSes0{s}F_impro01_M000\tang\t[2.0000, 3.5000, 2.0000]
C-E2:\tAnger;\t()

[5.0000 - 6.0000]\tSes0{s}F_impro01_F001\txxx\t[2.5000, 2.5000, 2.5000]
C-E2:\tOther;\t(caf\xe9)
"""
SAID = (
    "Ses0{s}F_impro01_F000 [001.0000-002.5000]: It's a caf\xe9, isn't it?\r\n"
    "Ses0{s}F_impro01_MXX0 [002.6000-002.9000]: Uh-huh.\r\n"
    "F:[LAUGHTER]\r\n"
    "M: words that were not cut out\r\n"
    "Ses0{s}F_impro01_M000 [003.0000-004.5000]: [LAUGHTER] No.\r\n"
    "Ses0{s}F_impro01_F001 [005.0000-006.0000]: [BREATHING]\r\n"
)


def session(number: int) -> dict[str, str | bytes]:
    top, dialog = f"Session{number}", f"Ses0{number}F_impro01"
    files: dict[str, str | bytes] = {
        f"{top}/dialog/EmoEvaluation/{dialog}.txt": EVALUATION.replace("{s}", str(number)).encode("latin-1"),
        f"{top}/dialog/EmoEvaluation/Categorical/{dialog}_e1_cat.txt": f"{dialog}_F000 :Neutral state; ()\n",
        f"{top}/dialog/EmoEvaluation/._{dialog}.txt": b"\x00\x05\x16\x07Mac OS X",
        f"{top}/dialog/transcriptions/{dialog}.txt": SAID.replace("{s}", str(number)).encode("latin-1"),
        f"{top}/dialog/wav/{dialog}.wav": tone("WAV", 16000),
    }
    for turn in ("F000", "M000", "F001"):
        hertz = 200 + 50 * number + 10 * len(files)
        files[f"{top}/sentences/wav/{dialog}/{dialog}_{turn}.wav"] = tone("WAV", 16000, hertz=hertz)
    return files


@pytest.fixture
def iemocap(tmp_path: Path) -> Path:
    folder = tmp_path / "IEMOCAP_full_release"
    return write(folder, {name: content for number in range(1, 6) for name, content in session(number).items()})


def test_iemocap_gives_words_speakers_and_the_agreed_emotion(iemocap: Path) -> None:
    rows, rejects = read("iemocap", iemocap)
    assert not rejects
    assert len(rows) == 15
    first, second, third = (row for row in rows if row.id.startswith("Ses02"))
    # In the order of the lines, whatever was skipped between them.
    assert (first.id, first.text, first.labels.get("emotion")) == (
        "Ses02F_impro01_F000",
        "It's a café, isn't it?",
        "excited",
    )
    assert (first.speaker, first.language) == ("Ses02F", "en")
    assert (second.speaker, second.text, second.labels.get("emotion")) == ("Ses02M", "No.", "angry")
    assert (third.text, third.labels.get("emotion")) == (None, None)  # breathing alone, and no majority


def test_iemocap_splits_by_session(iemocap: Path) -> None:
    rows, _ = read("iemocap", iemocap)
    found = {row.id[:5]: row.split for row in rows}
    assert found == {"Ses01": "train", "Ses02": "train", "Ses03": "train", "Ses04": "valid", "Ses05": "test"}
    rows, _ = read("iemocap", iemocap, sessions={1: "test"})
    assert {row.id[:5] for row in rows if row.split == "test"} == {"Ses01"}
    assert {row.split for row in rows} == {"train", "test"}


def test_emotions_are_merged_and_dropped_by_name(iemocap: Path) -> None:
    rows, _ = read("iemocap", iemocap, emotions={"excited": "happy", "angry": None})
    assert Counter(row.labels.get("emotion") for row in rows) == {"happy": 5, None: 10}
    assert len([row for row in rows if row.text]) == 10  # words and sound stay


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"emotions": {"exited": "happy"}}, "iemocap knows no exited; it has afraid, angry"),
        ({"emotions": ["happy"]}, "expected emotions and their new names"),
        ({"sessions": {6: "test"}}, "expected sessions 1 to 5"),
        ({"sessions": {5: "dev"}}, "expected sessions 1 to 5"),
        ({"session": {5: "test"}}, "did you mean 'sessions'"),
    ],
)
def test_wrong_options_are_told(iemocap: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read("iemocap", iemocap, **options)


def test_iemocap_quarantines_what_it_cannot_place(iemocap: Path) -> None:
    transcription = iemocap / "Session1/dialog/transcriptions/Ses01F_impro01.txt"
    transcription.write_bytes(transcription.read_bytes() + b"Ses01F_impro01_F002 [007.0-008.0]: Gone.\r\nscribble\r\n")
    evaluation = iemocap / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    evaluation.write_bytes(evaluation.read_bytes().replace(b"\tang\t", b"\tzzz\t"))
    (iemocap / "Session2/dialog/EmoEvaluation/Ses02F_impro01.txt").unlink()
    rows, rejects = read("iemocap", iemocap)
    assert [(reject.id, reject.row, reject.reason) for reject in rejects] == [
        ("Ses01F_impro01_M000", 5, "bad_row"),
        ("Ses01F_impro01_F002", 7, "missing_file"),
        (None, 8, "bad_row"),
        ("Ses02F_impro01", None, "missing_file"),
    ]
    assert "zzz" in rejects[0].detail
    assert [row.labels.get("emotion") for row in rows if row.id.startswith("Ses02")] == [None, None, None]


def test_iemocap_is_ingested(iemocap: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    corpus = Corpus(name="iemocap", kind="iemocap", source=str(iemocap))
    rows = utterances(store, ingest(corpus, Quality(), store)).to_pylist()
    assert len(rows) == 15
    assert Counter(row["split"] for row in rows) == {"train": 9, "valid": 3, "test": 3}
    assert {row["speaker"] for row in rows if row["split"] == "test"} == {"Ses05F", "Ses05M"}
    assert {row["text"] for row in rows} == {"it's a café isn't it", "no", None}


def test_no_layout_is_told(tmp_path: Path) -> None:
    write(tmp_path / "x", {"a/b.wav": tone("WAV")})
    with pytest.raises(CorpusError, match="expected IEMOCAP's layout"):
        read("iemocap", tmp_path / "x")
    with pytest.raises(CorpusError, match="expected EmoDB's layout"):
        read("emodb", tmp_path / "x")
    with pytest.raises(CorpusError, match="expected LJSpeech's layout"):
        read("ljspeech", tmp_path / "x")


# --- EmoDB ---


def test_emodb_reads_names(tmp_path: Path) -> None:
    names = ["03a01Fa", "08b10Lc", "16a07W", "16a99Wa", "03a01Qa", "notes"]
    folder = write(tmp_path / "emodb", {f"wav/{name}.wav": tone("WAV", 16000) for name in names})
    rows, rejects = read("emodb", folder)
    assert [(row.id, row.speaker, row.labels.get("emotion"), row.split) for row in rows] == [
        ("03a01Fa", "03", "happy", None),
        ("08b10Lc", "08", "bored", None),
        ("16a07W", "16", "angry", None),
    ]
    assert rows[0].text == "Der Lappen liegt auf dem Eisschrank."
    assert {row.language for row in rows} == {"de"}
    assert sorted((reject.id or "", reject.reason) for reject in rejects) == [
        ("03a01Qa", "bad_row"),
        ("16a99Wa", "bad_row"),
        ("notes", "bad_row"),
    ]


def test_emodb_as_it_lies_there(data: Path) -> None:
    rows, rejects = read("emodb", data / "emodb", emotions={"happy": "excited"})
    assert not rejects
    assert len(rows) == 339
    assert Counter(row.labels.get("emotion") for row in rows) == {"angry": 127, "neutral": 79, "excited": 71, "sad": 62}
    assert len({row.speaker for row in rows}) == 10
    assert {row.text for row in rows} == set(SENTENCES.values())


# --- LJSpeech ---


def test_ljspeech_reads_what_was_read(tmp_path: Path) -> None:
    metadata = (
        'LJ001-0001|In 1455, "he" said|In fourteen fifty-five, "he" said\nLJ001-0002|As is.|\n'
        "LJ001-0003|gone|gone\nbroken line\n"
    )
    files: dict[str, str | bytes] = {"metadata.csv": metadata}
    for number in (1, 2, 9):
        files[f"wavs/LJ001-000{number}.wav"] = tone("WAV", 22050)
    folder = write(tmp_path / "LJSpeech-1.1", files)
    rows, rejects = read("ljspeech", folder)
    assert [(row.id, row.text) for row in rows] == [
        ("LJ001-0001", 'In fourteen fifty-five, "he" said'),
        ("LJ001-0002", "As is."),
    ]
    assert {(row.speaker, row.language, row.split) for row in rows} == {("LJ", "en", None)}
    assert [(reject.id, reject.row, reject.reason) for reject in rejects] == [
        ("LJ001-0003", 3, "missing_file"),
        ("broken line", 4, "bad_row"),
        ("LJ001-0009", None, "missing_transcript"),
    ]
    rows, _ = read("ljspeech", folder, text="printed", speaker="linda")
    assert (rows[0].text, rows[0].speaker) == ('In 1455, "he" said', "linda")
    with pytest.raises(CorpusError, match="expected 'read' or 'printed'"):
        read("ljspeech", folder, text="normalised")


def test_ljspeech_as_it_lies_there(data: Path) -> None:
    rows, rejects = read("ljspeech", data / "LJSpeech-1.1")
    recordings = len(list((data / "LJSpeech-1.1" / "wavs").iterdir()))
    assert len(rows) >= 8
    assert len(rows) + len(rejects) == recordings == 32  # a piece of the release need not have every line
    assert rows[1].text == "in being comparatively modern."
