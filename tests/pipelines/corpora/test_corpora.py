"""Readers of corpora: what they say of real releases, and of rows that are wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpora import CORPORA
from pipelines.recipe import CORPUS_KINDS, Corpus
from pipelines.sources.open import open_source
from pipelines.utterances.schema import REASONS
from pipelines.utterances.utterance import CorpusError, Reject, Utterance, not_utf8, text_lines


def read(kind: str, path: Path | str, **settings: Any) -> tuple[list[Utterance], list[Reject]]:
    corpus = Corpus(name="c", kind=kind, source=str(path), **settings)
    items = list(CORPORA[kind].read(open_source(str(path)), corpus))
    rejects = [item for item in items if isinstance(item, Reject)]
    assert {reject.reason for reject in rejects} <= set(REASONS)
    return [item for item in items if isinstance(item, Utterance)], rejects


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_every_kind_of_the_recipe_has_a_reader() -> None:
    assert set(CORPORA) == set(CORPUS_KINDS)


def test_librispeech_as_released(data: Path) -> None:
    rows, rejects = read("librispeech", data / "LibriSpeech")
    assert (len(rows), rejects) == (563, [])
    assert {row.split for row in rows} == {"test"}
    assert len({row.speaker for row in rows}) == 7
    row = next(row for row in rows if row.id == "61-70968-0002")
    assert (row.text, row.speaker, row.row) == ("A GOLDEN FORTUNE AND A HAPPY LIFE", "61", 3)
    assert row.recording is not None
    assert row.recording.uri == str(data / "LibriSpeech/test-clean/61/70968/61-70968-0002.flac")
    assert row.file == str(data / "LibriSpeech/test-clean/61/70968/61-70968.trans.txt")
    same, _ = read("librispeech", data / "LibriSpeech/test-clean", options={"subsets": ["test-clean"]})
    assert [row.id for row in same] == [row.id for row in rows]


COVOST = "path\tsentence\ttranslation\tclient_id\n"


def covost(folder: Path) -> Path:
    """A release in miniature: three tables of one pair, clips as they come and one that was converted."""
    train = (
        COVOST + 'common_voice_en_1.mp3\t"Stop, he said.\t"Halt", sagte er.\tann\n'
        "common_voice_en_2.mp3\tOne\\\ttwo\tEins zwei\t\n"
        "common_voice_en_9.mp3\tGone\tWeg\tann\n"
        "common_voice_en_3.mp3\tToo few cells\n"
    )
    dev = COVOST + "common_voice_en_3.mp3\tUntranslated\t\tbob\n"
    test = COVOST + "common_voice_en_4.mp3\tLast\tZuletzt\tcem\n"
    tables = {"train": train, "dev": dev, "test": test}
    return write(
        folder,
        {f"covost_v2.en_de.{split}.tsv": content for split, content in tables.items()}
        | {f"clips/common_voice_en_{number}.mp3": b"x" for number in (1, 2, 3)}
        | {"clips/common_voice_en_4.wav": b"x", "validated.tsv": "client_id\tpath\n"},
    )


def test_covost_as_released(tmp_path: Path) -> None:
    rows, rejects = read("covost", covost(tmp_path))
    found = {row.id.removeprefix("common_voice_en_"): row for row in rows}
    assert {name: row.split for name, row in found.items()} == {"1": "train", "2": "train", "3": "valid", "4": "test"}
    first = found["1"]
    assert (first.text, first.labels.get("translation")) == (
        '"Stop, he said.',
        '"Halt", sagte er.',
    )  # quotes are letters there
    assert (first.speaker, first.language, first.row) == ("ann", "en", 2)
    assert first.recording is not None
    assert first.recording.uri == str(tmp_path / "clips/common_voice_en_1.mp3")
    assert (found["2"].text, found["2"].speaker) == ("One\ttwo", None)
    assert found["3"].labels["translation"] is None
    assert found["4"].recording is not None
    assert found["4"].recording.uri == str(tmp_path / "clips/common_voice_en_4.wav")
    assert [(reject.reason, reject.row, Path(reject.file).name) for reject in rejects] == [
        ("missing_file", 4, "covost_v2.en_de.train.tsv"),
        ("bad_row", 5, "covost_v2.en_de.train.tsv"),
    ]


def test_covost_sources_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no covost_v2.<from>_<to>.<split>.tsv in it; .*get_covost_splits"):
        read("covost", write(tmp_path / "empty", {"clips/a.mp3": b"x"}))
    two = write(covost(tmp_path / "two"), {"covost_v2.en_zh-CN.train.tsv": COVOST})
    with pytest.raises(CorpusError, match=r"tables of en_de, en_zh-CN; set options.pair"):
        read("covost", two)
    with pytest.raises(CorpusError, match=r"'en_fr'; there are tables of en_de, en_zh-CN"):
        read("covost", two, options={"pair": "en_fr"})
    assert len(read("covost", two, options={"pair": "en_de"})[0]) == 4
    with pytest.raises(CorpusError, match="no column sentence, client_id; it has path, translation, split"):
        read("covost", write(tmp_path / "raw", {"covost_v2.en_de.train.tsv": "path\ttranslation\tsplit\n"}))


def test_librispeech_rows_that_are_wrong(tmp_path: Path) -> None:
    chapter = "train-clean-5/7/8"
    text = b"7-8-0000 HELLO\n\n7-8-0001 ABSENT\n7-8-0002 \xff\n7-8-0003\n7-8-0000 AGAIN\n"
    audio = {f"{chapter}/7-8-000{n}.flac": b"x" for n in (0, 2, 3, 9)}
    write(
        tmp_path, {f"{chapter}/7-8.trans.txt": text, "train-clean-5/7/9/7-9-0000.flac": b"x", "cover.wav": b"", **audio}
    )
    rows, rejects = read("librispeech", tmp_path)
    assert [(row.id, row.text, row.split) for row in rows] == [
        ("7-8-0000", "HELLO", "train"),
        ("7-8-0003", "", "train"),
        ("7-8-0000", "AGAIN", "train"),
    ]
    found = [(reject.reason, reject.row, Path(reject.file).name) for reject in rejects]
    assert found == [
        ("missing_file", 3, "7-8.trans.txt"),
        ("bad_row", 4, "7-8.trans.txt"),
        ("missing_transcript", None, "7-8-0002.flac"),
        ("missing_transcript", None, "7-8-0009.flac"),
        ("missing_transcript", None, "7-9-0000.flac"),
    ]


def test_librispeech_that_is_not_there_or_not_chosen(tmp_path: Path) -> None:
    write(tmp_path, {"dev-clean/1/2/1-2.trans.txt": "1-2-0000 A\n", "dev-clean/1/2/1-2-0000.flac": "x"})
    with pytest.raises(CorpusError, match="no subset test-clean; there are dev-clean"):
        read("librispeech", tmp_path, options={"subsets": ["test-clean"]})
    with pytest.raises(CorpusError, match="did you mean 'subsets'"):
        read("librispeech", tmp_path, options={"subset": ["dev-clean"]})
    with pytest.raises(CorpusError, match="expected LibriSpeech's layout"):
        read("librispeech", write(tmp_path / "empty", {"README": ""}))
    rows, _ = read("librispeech", tmp_path)
    assert rows[0].split == "valid"


def test_atis_as_released(data: Path) -> None:
    rows, rejects = read("atis", data / "atis")
    assert rejects == []
    assert Counter(row.split for row in rows) == {"train": 4478, "valid": 500}
    intents = Counter(row.labels.get("intent") for row in rows)
    assert intents["atis_flight"] == 3666
    assert intents["atis_flight#atis_airfare"] == 21
    assert len({tag for row in rows if row.split == "train" for tag in row.slots or ()}) == 120
    assert {(row.recording, row.labels.get("domain"), row.speaker) for row in rows} == {(None, None, None)}
    assert all(len(row.tokens or ()) == len(row.slots or ()) for row in rows)


def test_atis_takes_its_splits_from_the_recipe(tmp_path: Path) -> None:
    for folder in ("train", "valid", "old"):
        write(tmp_path / folder, {"seq.in": "a\n", "seq.out": "O\n", "label": "x\n"})
    rows, _ = read("atis", tmp_path, options={"folders": {"train": "train", "valid": "test"}})
    assert [(row.id, row.split) for row in rows] == [("train-00001", "train"), ("valid-00001", "test")]
    with pytest.raises(CorpusError, match=r"options\.folders is \{'train': 'tests'\}; expected .* train, valid, test"):
        read("atis", tmp_path, options={"folders": {"train": "tests"}})


def test_atis_whose_files_differ_in_length_trusts_no_row(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "train/seq.in": "a b\nc d\n",
            "train/seq.out": "O O\nO O\n",
            "train/label": "x\n",
            "test/seq.in": "e\r\nf\xff\r\n".encode("latin-1"),
            "test/seq.out": "O\r\nO\r\n",
            "test/label": "y\r\ny\r\n",
            "dev/seq.in": "g\n",
        },
    )
    rows, rejects = read("atis", tmp_path)
    assert [(row.id, row.text, row.labels.get("intent"), row.split, row.row) for row in rows] == [
        ("test-00001", "e", "y", "test", 1)
    ]
    found = sorted((reject.reason, reject.row) for reject in rejects if reject.reason != "missing_file")
    assert found == [("bad_row", 2), ("length_mismatch", 1), ("length_mismatch", 2)]
    assert [reject.file for reject in rejects if reject.reason == "missing_file"] == [str(tmp_path / "dev/seq.out")]


def test_an4_manifest_as_released(data: Path) -> None:
    rows, rejects = read("manifest", data / "an4" / "train.jsonl")
    assert (len(rows), rejects) == (948, [])
    assert len({row.speaker for row in rows}) == 74
    assert len({row.id for row in rows}) == 948
    assert (rows[1].id, rows[1].text, rows[1].split) == ("audio/an253-fash-b", "go", None)
    assert rows[1].recording is not None
    assert rows[1].recording.duration == 0.7
    from_folder, _ = read("manifest", data / "an4")
    assert from_folder == rows


FULL = {
    "id": "1",
    "audio_filepath": "a.wav",
    "offset": 1.5,
    "duration": 2,
    "transcript": "To Boston",
    "tokens": ["To", "Boston"],
    "slots": "O B-city",
    "intent": "go",
    "domain": "travel",
    "speaker_id": 7,
    "emotion": "joy",
    "lang": "en-US",
    "split": "dev",
    "other": {"ignored": True},
}


def _check_full(row: Utterance, audio: Path) -> None:
    assert row.recording is not None
    assert (row.recording.uri, row.recording.start, row.recording.duration) == (str(audio), 1.5, 2.0)
    assert (row.id, row.split, row.text, row.tokens, row.slots) == (
        "1",
        "valid",
        "To Boston",
        ["To", "Boston"],
        ["O", "B-city"],
    )
    assert (
        row.labels.get("intent"),
        row.labels.get("domain"),
        row.speaker,
        row.labels.get("emotion"),
        row.language,
    ) == ("go", "travel", "7", "joy", "en-US")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_a_manifest_says_the_same_in_every_format(suffix: str, tmp_path: Path) -> None:
    write(tmp_path, {"a.wav": b"x"})
    path = tmp_path / f"m.{suffix}"
    flat = FULL | {"tokens": "To Boston", "other": "x"}
    if suffix == "jsonl":
        path.write_text(jsonl(FULL))
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([FULL]), path)
    else:
        comma = "," if suffix == "csv" else "\t"
        path.write_text("\ufeff" + comma.join(flat) + "\n" + comma.join(map(str, flat.values())) + "\n")
    rows, rejects = read("manifest", path)
    assert rejects == []
    _check_full(rows[0], tmp_path / "a.wav")
    assert rows[0].row == (2 if suffix in ("csv", "tsv") else 1)


BAD_ROWS: list[tuple[Any, str, str]] = [
    ("{not json", "bad_row", "not JSON"),
    ("[1, 2]", "bad_row", "expected an object"),
    (b'{"text": "\xff"}', "bad_row", "not UTF-8"),
    ({"intent": "x"}, "bad_row", "neither audio nor text"),
    ({"text": "a", "split": "holdout"}, "bad_row", "split is 'holdout'"),
    ({"text": {"a": 1}}, "bad_row", "text is dict"),
    ({"text": "a", "intent": True}, "bad_row", "intent is bool"),
    ({"text": "a", "slots": [1]}, "bad_row", "slots is [1]"),
    ({"text": "a", "audio": 3}, "bad_row", "audio is int"),
    ({"text": "a", "audio": "http://host/a.wav"}, "bad_row", "download it first"),
    ({"text": "a", "audio": "a.wav", "offset": -1}, "bad_row", "start is -1"),
    ({"text": "a", "audio": "a.wav", "duration": 0}, "bad_row", "duration is 0"),
    ({"text": "a", "audio": "a.wav", "duration": "long"}, "bad_row", "expected seconds"),
    ({"text": "a", "audio": "absent.wav"}, "missing_file", "absent.wav"),
    ({"text": "a", "audio": "."}, "missing_file", "no recording"),
    ({"text": "a", "audio": "a\0.wav"}, "bad_row", "no file name"),
    ({"text": "", "audio": "a.wav"}, "missing_transcript", "text is ''"),
    ({"text": None, "audio": "a.wav", "speaker": "ann"}, "missing_transcript", "text is None"),
    ({"audio": "a.wav", "speaker": "ann"}, "missing_transcript", "text is None"),
]


@pytest.mark.parametrize(("row", "reason", "detail"), BAD_ROWS)
def test_a_bad_row_is_told_and_the_others_are_read(row: Any, reason: str, detail: str, tmp_path: Path) -> None:
    line = row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
    good = jsonl({"text": "hello"}).encode()
    write(tmp_path, {"m.jsonl": good + line + b"\n\n" + good, "a.wav": b"x"})
    rows, rejects = read("manifest", tmp_path / "m.jsonl")
    assert [(row.text, row.row) for row in rows] == [("hello", 1), ("hello", 4)]
    assert [(reject.reason, reject.row, reject.file) for reject in rejects] == [(reason, 2, str(tmp_path / "m.jsonl"))]
    assert detail in rejects[0].detail


def test_csv_lines_of_the_wrong_width_are_told(tmp_path: Path) -> None:
    write(tmp_path, {"m.csv": 'text,intent\nhello,greet\na,b,c\n"quoted, comma",x\n"two\nlines",y\n'})
    rows, rejects = read("manifest", tmp_path)
    assert [(row.text, row.labels.get("intent")) for row in rows] == [
        ("hello", "greet"),
        ("quoted, comma", "x"),
        ("two\nlines", "y"),
    ]
    assert [(reject.reason, reject.row) for reject in rejects] == [("bad_row", 3)]


def test_a_file_that_is_no_parquet_is_told(tmp_path: Path) -> None:
    rows, rejects = read("manifest", write(tmp_path, {"m.parquet": b"PAR1 nonsense"}))
    assert (rows, [(reject.reason, reject.row) for reject in rejects]) == ([], [("bad_row", None)])


def test_a_corpus_without_transcripts_trains_the_other_tasks(tmp_path: Path) -> None:
    write(tmp_path, {"m.jsonl": jsonl({"audio": "a.wav", "emotion": "joy"}), "a.wav": b"x"})
    rows, rejects = read("manifest", tmp_path)
    assert ([(row.text, row.labels.get("emotion")) for row in rows], rejects) == ([(None, "joy")], [])
    write(
        tmp_path, {"m.jsonl": jsonl({"audio": "a.wav", "text": "hi"}, {"audio": "a.wav", "text": "", "emotion": "joy"})}
    )
    rows, rejects = read("manifest", tmp_path, options={"transcripts": "optional"})
    assert ([row.text for row in rows], rejects) == (["hi", None], [])


def test_ids_that_nobody_gave_are_made_of_the_recording_and_differ(tmp_path: Path) -> None:
    rows = [
        {"audio": "d/a.wav"},
        {"audio": "d/a.wav", "offset": 2.5, "duration": 1},
        {"audio": "d/a.wav"},
        {"text": "x"},
    ]
    write(tmp_path, {"m.jsonl": jsonl(*({"text": "t"} | row for row in rows)), "d/a.wav": b"x"})
    assert [row.id for row in read("manifest", tmp_path)[0]] == ["d/a", "d/a-2.500", "d/a#3", "m-4"]


def _hugging_face(path: Path, rows: list[dict[str, Any]], group: int = 2) -> None:
    """As `datasets` writes it: a struct of bytes and path, and class numbers with their names in the metadata."""
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("audio", audio), ("text", pa.string()), ("intent", pa.int64())])
    features = {"intent": {"names": ["off", "on"], "_type": "ClassLabel"}, "audio": {"_type": "Audio"}}
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)


def test_hugging_face_parquet_gives_bytes_and_class_names(tmp_path: Path) -> None:
    audio = [{"bytes": bytes([number]) * 4, "path": f"r{number}.wav"} for number in range(5)]
    _hugging_face(tmp_path / "train-0.parquet", [{"audio": cell, "text": "x", "intent": 1} for cell in audio])
    _hugging_face(tmp_path / "test-0.parquet", [{"audio": {"bytes": b"z", "path": None}, "text": "y", "intent": -1}])
    options = {"manifest": {"train": "train-*.parquet", "test": ["test-*.parquet"]}}
    rows, rejects = read("manifest", tmp_path, options=options)
    assert rejects == []
    assert [(row.id, row.split, row.labels.get("intent")) for row in rows] == [
        *((f"r{number}", "train", "on") for number in range(5)),
        ("test-0-1", "test", None),
    ]
    loads = [row.recording.load() for row in reversed(rows) if row.recording and row.recording.load]
    assert loads == [b"z", *(cell["bytes"] for cell in reversed(audio))]
    assert len({row.recording.stamp for row in rows if row.recording}) == 6


def test_hugging_face_parquet_without_bytes_means_the_paths(tmp_path: Path) -> None:
    write(tmp_path, {"r.wav": b"x"})
    _hugging_face(tmp_path / "m.parquet", [{"audio": {"bytes": None, "path": "r.wav"}, "text": "x", "intent": 0}])
    (row,), rejects = read("manifest", tmp_path)
    assert rejects == []
    assert row.recording is not None
    assert (row.recording.uri, row.labels.get("intent")) == (str(tmp_path / "r.wav"), "off")


def test_manifest_options_are_checked(tmp_path: Path) -> None:
    write(tmp_path, {"m.jsonl": jsonl({"said": "hello"}), "sub/deeper.jsonl": jsonl({"text": "unseen"})})
    rows, _ = read("manifest", tmp_path, options={"columns": {"text": "said"}})
    assert [row.text for row in rows] == ["hello"]
    for options, message in (
        ({"columns": {"txt": "said"}}, "no such column"),
        ({"manifest": "*.csv"}, "no file matches"),
        ({"manifest": {"holdout": "m.jsonl"}}, "no split"),
        ({"manifests": "m.jsonl"}, "did you mean 'manifest'"),
    ):
        with pytest.raises(CorpusError, match=message):
            read("manifest", tmp_path, options=options)
    with pytest.raises(CorpusError, match="holds no manifest"):
        read("manifest", write(tmp_path / "empty", {"x.wav": ""}))


def test_a_manifest_from_an_archive_reads_nothing_of_this_machine(tmp_path: Path) -> None:
    import tarfile

    write(tmp_path, {"secret.wav": b"x", "m.jsonl": ""})
    names = [str(tmp_path / "secret.wav"), "../../secret.wav", "s3://other/secret.wav"]
    (tmp_path / "m.jsonl").write_text(jsonl(*({"audio": name, "text": "x"} for name in names)))
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        tar.add(tmp_path / "m.jsonl", "m.jsonl")
    rows, rejects = read("manifest", tmp_path / "c.tar")
    assert rows == []
    assert [reject.reason for reject in rejects] == ["bad_row"] * 3
    assert all("leads out" in reject.detail for reject in rejects)


def test_the_fingerprint_of_a_manifest_follows_its_recordings_wherever_they_lie(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"m/m.jsonl": jsonl({"audio": "../elsewhere/a.wav", "text": "x"}), "elsewhere/a.wav": b"x", "m/other": b""},
    )
    corpus = Corpus(name="c", kind="manifest", source=str(tmp_path / "m"))

    def now() -> str:
        return CORPORA["manifest"].fingerprint(open_source(str(tmp_path / "m")), corpus)

    before = now()
    write(tmp_path, {"m/other": b"changed"})
    assert now() == before
    write(tmp_path, {"elsewhere/a.wav": b"changed"})
    changed = now()
    (tmp_path / "elsewhere/a.wav").unlink()
    assert len({before, changed, now()}) == 3


def test_lines_end_where_the_file_says_only() -> None:
    assert text_lines("\ufeffa\u2028b\r\nc\n\nd".encode()) == ["a\u2028b", "c", "", "d"]
    assert [not_utf8(line) for line in text_lines(b"ok\n\xff")] == [False, True]
