"""Ingest: converts a corpus into an utterance table, and a quarantine table of rejected rows.

    manifest = ingest(corpus, quality, Store("motet-root"))
    utterances(store, manifest).num_rows, manifest.meta["reasons"]

Datasets in the store, for a corpus NAME:
    utterances/NAME   the two tables, addressed by their content, so that new time stamps make no new version
    recordings/NAME   facts about each recording, addressed by the source's listing: ingest opens no file of an
                      unchanged source, and only the changed files of a changed one
    quarantine/NAME   the quarantine of an ingest that failed because of its size
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from mtl.groups import input_columns
from mtl.spec import label_columns
from mtl.text.normalization import normalise
from pipelines.core.progress import Report
from pipelines.core.redaction import redact
from pipelines.corpora import CORPORA
from pipelines.data import recordings
from pipelines.data.phones import check_phonemiser, phonemiser_version, phones_of
from pipelines.data.recordings import FACTS, Facts, Key
from pipelines.recipe import Corpus, Quality
from pipelines.recipe.address import stated
from pipelines.sources.open import open_source
from pipelines.sources.source import Source
from pipelines.storage.store import Checksum, Manifest, Store, audio_copies, fingerprint, first_table, usable_table
from pipelines.utterances.labels import LabelError, clean, clean_label, rejected
from pipelines.utterances.schema import QUARANTINE, SPLITS, conform, hashed_values, utterance_schema
from pipelines.utterances.splits import assign_split, overrides
from pipelines.utterances.utterance import Reject, Utterance, not_utf8

VERSION = 1  # raise when the same source gives other rows
# Rows of the same recording must agree in these columns, and in label columns that are `compared`, unless null.
_COMPARED = ("split", "text", "slots", "speaker", "language")


class IngestError(RuntimeError):
    """A corpus without a valid row, or with more rows in quarantine than the recipe allows."""


@dataclass(frozen=True)
class _Draft:
    """A row of the utterance table, and the utterance that it was made from."""

    row: dict[str, Any]
    origin: Utterance


def ingest(corpus: Corpus, quality: Quality, store: Store, progress: Report | None = None) -> Manifest:
    """Creates a version of `utterances/<corpus>`, or returns the newest one if the source has not changed.

    Raises:
        IngestError: no valid row, or more than `quality.max_quarantined` in quarantine, which is
            then committed as `quarantine/<corpus>`.
        SourceError, CorpusError, SplitError: the source or the options do not match the recipe.
    """
    overrides(corpus)  # checks the options before anything is read
    check_phonemiser(corpus)
    reader = CORPORA[corpus.kind]
    source = _source(corpus)
    listing = fingerprint(VERSION, _settings(corpus), stated(quality), reader.fingerprint(source, corpus))
    last = store.latest(f"recordings/{corpus.name}")
    unchanged = _unchanged(store, corpus, last, listing)
    if unchanged is not None:
        return unchanged
    utterances, rejects = _read(corpus, source)
    recorded = [utterance.recording for utterance in utterances if utterance.recording is not None]
    facts = recordings.inspect(recorded, quality, store, _known_facts(store, last, quality), progress)
    drafts, invalid = _drafts(corpus, utterances, facts)
    drafts, conflicting = _without_conflicts(drafts)
    rejects += invalid + conflicting
    recordings.clear_restored_copies(store)
    facts_file = _written(store, f"recordings/{corpus.name}/{listing}.parquet", recordings.to_table(facts))
    rows, quarantined = _tables(corpus, drafts, rejects)
    meta = _meta(corpus, rows, quarantined, len({fact.name for fact in facts}))
    total = rows.num_rows + quarantined.num_rows
    if rows.num_rows == 0 or quarantined.num_rows / total > quality.max_quarantined:
        _commit_failure(store, corpus, quarantined, meta)
        _commit_facts(store, corpus, listing, facts_file, quality, None)
        raise IngestError(_quarantine_summary(corpus, rows, quarantined, quality))
    manifest = _commit(store, corpus, rows, quarantined, meta, listing)
    _commit_facts(store, corpus, listing, facts_file, quality, manifest.address)
    return manifest


def has_own_splits(corpus: Corpus) -> bool:
    """Whether the corpus or its options give the split of some row; otherwise all rows are split by a hash.

    Reads labels up to the first row with a split.
    """
    if overrides(corpus):
        return True
    rows = CORPORA[corpus.kind].read(_source(corpus), corpus)
    return any(isinstance(row, Utterance) and row.split is not None for row in rows)


def utterances(store: Store, manifest: Manifest) -> pa.Table:
    return conform(first_table(store, manifest))


def quarantine(store: Store, manifest: Manifest) -> pa.Table:
    return store.read_table(manifest.files[-1], manifest=manifest)


def _source(corpus: Corpus) -> Source | None:
    location = corpus.location()
    return open_source(location, corpus.checksum, corpus.source) if location else None


def _settings(corpus: Corpus) -> dict[str, Any]:
    """The recipe's settings of the corpus, for its address."""
    phonemiser = {} if corpus.phonemes is None else {"phonemiser": phonemiser_version(corpus.phonemes)}
    return {**stated(corpus), "source": corpus.location(), **phonemiser}


def _unchanged(store: Store, corpus: Corpus, last: Manifest | None, listing: str) -> Manifest | None:
    """The newest version, if it was made from the same listing and its files are intact."""
    if last is None or last.meta["listing"] != listing or last.meta["utterances"] is None:
        return None
    newest = store.latest(f"utterances/{corpus.name}")
    # Another command may have committed a version in between, such as `motet forget`.
    if newest is None or newest.address != last.meta["utterances"] or store.faults(newest):
        return None
    damaged = recordings.damaged_audio(store)
    return None if damaged and damaged & audio_copies(store, newest.files[0], newest) else newest


def _read(corpus: Corpus, source: Source | None) -> tuple[list[Utterance], list[Reject]]:
    """Utterances with unique ids and valid UTF-8, and rejects."""
    utterances: dict[str, Utterance] = {}
    rejects: list[Reject] = []
    for item in CORPORA[corpus.kind].read(source, corpus):
        if isinstance(item, Reject):
            rejects.append(item)
        elif not_utf8(_strings(item)):
            rejects.append(rejected(item, "bad_row", "a name or label is not UTF-8"))
        elif item.id in utterances:
            first = utterances[item.id]
            detail = f"{item.id!r} is also {first.file} row {first.row}, which is kept"
            rejects.append(rejected(item, "duplicate_id", detail))
        else:
            utterances[item.id] = item
    return list(utterances.values()), rejects


def _strings(utterance: Utterance) -> str:
    """All strings that the tables would contain."""
    recording = utterance.recording
    single = [utterance.id, utterance.text, utterance.speaker, utterance.language]
    single += [value for value in utterance.labels.values() if isinstance(value, str)]
    names = [recording.uri, recording.name] if recording is not None else []
    lists = (utterance.tokens, utterance.slots, utterance.context, utterance.trials, utterance.phones)
    return " ".join(filter(None, [*single, *names, *(word for words in lists for word in words or ())]))


def _known_facts(store: Store, last: Manifest | None, quality: Quality) -> dict[Key, Facts]:
    """Facts of the last ingest, if it had the same limits and VERSION."""
    if last is None or last.meta["judged_by"] != _judged_by(quality):
        return {}
    return recordings.from_table(usable_table(store, last, FACTS))


def _judged_by(quality: Quality) -> str:
    return fingerprint(VERSION, quality.min_seconds, quality.max_seconds)


def _drafts(corpus: Corpus, utterances: list[Utterance], facts: list[Facts]) -> tuple[list[_Draft], list[Reject]]:
    """facts: of the utterances with a recording, in their order."""
    drafts: list[_Draft] = []
    rejects: list[Reject] = []
    remaining = iter(facts)
    for utterance in utterances:
        fact = next(remaining) if utterance.recording is not None else None
        if fact is not None and fact.reason is not None:
            row = f" (named in {utterance.file} row {utterance.row})" if utterance.row is not None else ""
            file = fact.name or utterance.file
            rejects.append(Reject(file, None, utterance.id, fact.reason, f"{fact.detail}{row}"))
            continue
        try:
            drafts.append(_Draft(_row(corpus, utterance, fact), utterance))
        except LabelError as error:
            rejects.append(rejected(utterance, error.reason, error.detail))
    return drafts, rejects


def _row(corpus: Corpus, utterance: Utterance, fact: Facts | None) -> dict[str, Any]:
    text, tokens, slots = clean(utterance)
    phones, ends = phones_of(utterance, corpus, fact.duration if fact else None)
    recording = {name: getattr(fact, name, None) for name in ("audio", "start", "duration", "sample_rate", "digest")}
    inputs = {column.name: utterance.inputs.get(column.name) for column in input_columns()}
    content = recording["digest"] or (fingerprint(inputs) if any(inputs.values()) else None)
    return {
        "id": f"{corpus.name}/{utterance.id}",
        "corpus": corpus.name,
        "split": assign_split(corpus, utterance.split, utterance.speaker, text, content),
        **recording,
        "text": text,
        "tokens": tokens,
        "slots": slots,
        "speaker": utterance.speaker,
        "language": utterance.language or corpus.language,
        "context": None if utterance.context is None else [normalise(turn) for turn in utterance.context],
        "trials": utterance.trials,
        "phones": phones,
        "phone_ends": ends,
        **{column.name: clean_label(column, utterance.labels.get(column.name)) for column in label_columns()},
        **inputs,
    }


def _without_conflicts(drafts: list[_Draft]) -> tuple[list[_Draft], list[Reject]]:
    """Rejects all rows of a recording whose rows contradict each other."""
    by_digest: dict[str, list[_Draft]] = {}
    for draft in drafts:
        if draft.row["digest"] is not None:
            by_digest.setdefault(draft.row["digest"], []).append(draft)
    shared = {digest: rows for digest, rows in by_digest.items() if len(rows) > 1}
    conflicts = {digest: conflict for digest, rows in shared.items() if (conflict := _conflict(rows))}
    rejects = [
        rejected(draft.origin, "conflicting_labels", conflicts[draft.row["digest"]])
        for draft in drafts
        if draft.row["digest"] in conflicts
    ]
    return [draft for draft in drafts if draft.row["digest"] not in conflicts], rejects


def _conflict(drafts: list[_Draft]) -> str | None:
    """A description of the first column in which the rows of one recording differ."""
    for column in (*_COMPARED, *(label.name for label in label_columns() if label.compared)):
        values = {json.dumps(draft.row[column]) for draft in drafts if draft.row[column] is not None}
        if len(values) > 1:
            rows = ", ".join(f"{draft.origin.file} row {draft.origin.row}" for draft in drafts[:4])
            return f"the same audio has {column} {' and '.join(sorted(values))[:200]} ({rows})"
    return None


def _tables(corpus: Corpus, drafts: list[_Draft], rejects: list[Reject]) -> tuple[pa.Table, pa.Table]:
    rows = pa.Table.from_pylist([draft.row for draft in drafts], schema=utterance_schema())
    values = (asdict(reject) for reject in rejects)
    quarantined = [
        {"corpus": corpus.name, **{name: _printable(value) for name, value in row.items()}} for row in values
    ]
    return rows, pa.Table.from_pylist(quarantined, schema=QUARANTINE)


def _printable(value: Any) -> Any:
    """A value as valid UTF-8, which file names need not be, and without passwords of URLs."""
    return redact(value.encode("utf-8", "backslashreplace").decode()) if isinstance(value, str) else value


def _meta(corpus: Corpus, rows: pa.Table, quarantined: pa.Table, sources: int) -> dict[str, Any]:
    splits = Counter(rows["split"].to_pylist())
    speakers = set(rows["speaker"].to_pylist()) - {None}
    meta = {
        "rows": rows.num_rows,
        "hours": round(sum(filter(None, rows["duration"].to_pylist())) / 3600, 4),
        "splits": {split: splits.get(split, 0) for split in SPLITS},
        "speakers": len(speakers),
        "quarantined": quarantined.num_rows,
        "reasons": dict(sorted(Counter(quarantined["reason"].to_pylist()).items())),
        "sources": sources,
    }
    return meta | ({"license": corpus.options["license"]} if "license" in corpus.options else {})


def _quarantine_summary(corpus: Corpus, rows: pa.Table, quarantined: pa.Table, quality: Quality) -> str:
    """Counts by reason, each with an example."""
    total = rows.num_rows + quarantined.num_rows
    if not total:
        return f"{corpus.name}: {redact(str(corpus.source))} holds no utterance"
    share = quarantined.num_rows / total
    lines = [
        f"{corpus.name}: {quarantined.num_rows} of {total} utterances ({share:.1%}) are in quarantine, "
        f"quality.max_quarantined allows {quality.max_quarantined:.1%}. See the quarantine table:"
    ]
    examples = {reject["reason"]: reject for reject in reversed(quarantined.to_pylist())}  # the first of each reason
    for reason, count in Counter(quarantined["reason"].to_pylist()).most_common():
        reject = examples[reason]
        row = f" row {reject['row']}" if reject["row"] is not None else ""
        lines.append(f"  {count} {reason}, e.g. {reject['file']}{row}: {reject['detail']}")
    return "\n".join(lines)


def _written(store: Store, key: str, table: pa.Table) -> dict[str, Checksum]:
    return {key: store.write_table(key, table, compression="zstd")}


def _commit_facts(
    store: Store, corpus: Corpus, listing: str, file: dict[str, Checksum], quality: Quality, address: str | None
) -> None:
    """file: of the facts. address: of the utterance table, None if the ingest failed."""
    meta = {"listing": listing, "utterances": address, "judged_by": _judged_by(quality)}
    store.commit(f"recordings/{corpus.name}", fingerprint(listing, address), file, meta=meta, checksums=file)


def _commit(
    store: Store, corpus: Corpus, rows: pa.Table, quarantined: pa.Table, meta: dict[str, Any], listing: str
) -> Manifest:
    address = _content(rows, quarantined)
    files = _written(store, f"utterances/{corpus.name}/{address}.parquet", rows)
    files |= _written(store, f"quarantine/{corpus.name}/{address}.parquet", quarantined)
    return store.commit(f"utterances/{corpus.name}", address, files, {"source": listing}, meta, files)


def _commit_failure(store: Store, corpus: Corpus, quarantined: pa.Table, meta: dict[str, Any]) -> None:
    address = _content(quarantined)
    file = _written(store, f"quarantine/{corpus.name}/{address}.parquet", quarantined)
    store.commit(f"quarantine/{corpus.name}", address, file, meta=meta, checksums=file)


def _content(*tables: pa.Table) -> str:
    """Hash of the rows: the bytes of a Parquet file depend on the version of its writer."""
    digest = hashlib.sha256(str(VERSION).encode())
    for batch in (batch for table in tables for batch in table.to_batches(max_chunksize=10_000)):
        for row in batch.to_pylist():
            digest.update(json.dumps(hashed_values(row), sort_keys=True).encode())
    return digest.hexdigest()[:16]
