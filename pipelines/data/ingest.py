"""Ingest: a corpus becomes an utterance table, and a quarantine table of what was turned away.

    manifest = ingest(corpus, quality, Store("motet-root"))
    utterances(store, manifest).num_rows, manifest.meta["reasons"]

Datasets in the store, for a corpus NAME:
    utterances/NAME   the two tables, addressed by their content: a source that was only touched makes no new version
    recordings/NAME   what is known of each recording, addressed by the source's listing: an unchanged source is
                      recognised without opening a file, a changed one opens only what changed
    quarantine/NAME   the quarantine of an ingest that failed for having too much of it
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mtl.groups import input_columns
from mtl.spec import label_columns
from mtl.text.normalization import normalise
from pipelines.core.redaction import redact
from pipelines.corpora import CORPORA
from pipelines.data.phones import check_phonemiser, phonemiser_version, said
from pipelines.data.recordings import (
    FACTS,
    Facts,
    Key,
    clear_copied_again,
    damaged_audio,
    from_table,
    inspect,
    to_table,
)
from pipelines.recipe import Corpus, Quality
from pipelines.recipe.address import stated as stated_settings
from pipelines.sources.source import Source, open_source
from pipelines.storage.store import STORED, Checksum, Manifest, Store, fingerprint, first_table, usable_table
from pipelines.utterances.labels import LabelError, clean, clean_label, rejected
from pipelines.utterances.schema import QUARANTINE, SPLITS, conform, stated, utterance_schema
from pipelines.utterances.splits import overrides, settle
from pipelines.utterances.utterance import Reject, Utterance, not_utf8

if TYPE_CHECKING:
    from pipelines.core.progress import Report

VERSION = 1  # raise when the same source would give other rows
# Two rows of one recording must agree in these, and in the labels that their column compares. A label that only one
# of them has is no contradiction.
_COMPARED = ("split", "text", "slots", "speaker", "language")


class IngestError(RuntimeError):
    """A corpus with nothing usable in it, or with more in quarantine than the recipe allows."""


@dataclass(frozen=True)
class _Draft:
    """A row of the utterance table together with where it came from."""

    row: dict[str, Any]
    origin: Utterance


def ingest(corpus: Corpus, quality: Quality, store: Store, progress: Report | None = None) -> Manifest:
    """The newest version of `utterances/<corpus>`; an unchanged source gives the one that is there.

    Raises:
        IngestError: nothing usable, or more than `quality.max_quarantined` of it in quarantine. The quarantine is
            committed under `quarantine/<corpus>` first, so that it can be read.
        SourceError, CorpusError, SplitError: the source or the options are not what the recipe says.
    """
    overrides(corpus)  # a mistyped split, or voice, is told before anything is read
    check_phonemiser(corpus)
    reader = CORPORA[corpus.kind]
    location = corpus.location()
    source = open_source(location, corpus.checksum, corpus.source) if location else None
    listing = fingerprint(VERSION, _stated(corpus), stated_settings(quality), reader.fingerprint(source, corpus))
    last = store.latest(f"recordings/{corpus.name}")
    unchanged = _already_done(store, corpus, last, listing)
    if unchanged is not None:
        return unchanged
    utterances, rejects = _read(corpus, source)
    recorded = [utterance.recording for utterance in utterances if utterance.recording is not None]
    facts = inspect(recorded, quality, store, _known(store, last, quality), progress)
    drafts, faulty = _drafts(corpus, utterances, facts)
    drafts, conflicting = _without_conflicts(drafts)
    rejects += faulty + conflicting
    clear_copied_again(store)
    facts_file = _save_facts(store, corpus, listing, facts)
    rows, quarantined = _tables(corpus, drafts, rejects)
    meta = _meta(corpus, rows, quarantined, len({fact.name for fact in facts}))
    parents = {"source": listing}
    if _too_bad(rows, quarantined, quality):
        _commit_failure(store, corpus, quarantined, meta)
        _commit_facts(store, corpus, listing, facts_file, quality, None)
        raise IngestError(summary(corpus, rows, quarantined, quality))
    manifest = _commit(store, corpus, rows, quarantined, meta, parents)
    _commit_facts(store, corpus, listing, facts_file, quality, manifest.address)
    return manifest


def has_own_splits(corpus: Corpus) -> bool:
    """Whether the corpus or its options say in which split some row is; else every row is dealt by a hash.

    Reads labels up to the first row with a split: a manifest of an earlier ingest does not say it.
    """
    if overrides(corpus):
        return True
    location = corpus.location()
    source = open_source(location, corpus.checksum, corpus.source) if location else None
    rows = CORPORA[corpus.kind].read(source, corpus)
    return any(isinstance(row, Utterance) and row.split is not None for row in rows)


def utterances(store: Store, manifest: Manifest) -> pa.Table:
    return conform(first_table(store, manifest))


def quarantine(store: Store, manifest: Manifest) -> pa.Table:
    return store.read_table(manifest.files[-1], manifest=manifest)


def _stated(corpus: Corpus) -> dict[str, Any]:
    """The recipe's corpus as it is hashed: phonemes that nobody asks for make no other version of it."""
    content = {**stated_settings(corpus), "source": corpus.location()}
    if corpus.phonemes is None:
        return content
    return {**content, "phonemiser": phonemiser_version(corpus.phonemes)}


def _already_done(store: Store, corpus: Corpus, last: Manifest | None, listing: str) -> Manifest | None:
    if last is None or last.meta["listing"] != listing or last.meta["utterances"] is None:
        return None
    newest = store.latest(f"utterances/{corpus.name}")
    # Somebody may have committed another version in between, `motet forget` for one: then look again.
    if newest is None or newest.address != last.meta["utterances"]:
        return None
    return None if store.faults(newest) or _damaged_copies(store, newest) else newest


def _damaged_copies(store: Store, manifest: Manifest) -> bool:
    """Whether a recording that the table names lies among those that were found damaged, to be copied again."""
    waiting = damaged_audio(store)
    if not waiting:
        return False
    audio = store.read_table(manifest.files[0], columns=["audio"], manifest=manifest)["audio"]
    return any(uri.removeprefix(STORED) in waiting for uri in audio.unique().to_pylist() if uri)


def _read(corpus: Corpus, source: Source | None) -> tuple[list[Utterance], list[Reject]]:
    """What the corpus states, without what cannot be a row at all."""
    kept: list[Utterance] = []
    rejects: list[Reject] = []
    first: dict[str, Utterance] = {}
    for item in CORPORA[corpus.kind].read(source, corpus):
        if isinstance(item, Reject):
            rejects.append(item)
        elif not_utf8(_strings(item)):
            rejects.append(rejected(item, "bad_row", "a name or label is not UTF-8"))
        elif item.id in first:
            before = first[item.id]
            detail = f"{item.id!r} is also {before.file} row {before.row}, which is kept"
            rejects.append(rejected(item, "duplicate_id", detail))
        else:
            first[item.id] = item
            kept.append(item)
    return kept, rejects


def _strings(utterance: Utterance) -> str:
    """All that would go into the tables as text."""
    recording = utterance.recording
    single = [utterance.id, utterance.text, utterance.speaker, utterance.language]
    single += [value for value in utterance.labels.values() if isinstance(value, str)]
    names = [recording.uri, recording.name] if recording is not None else []
    lists = (utterance.tokens, utterance.slots, utterance.context, utterance.trials, utterance.phones)
    return " ".join(filter(None, [*single, *names, *(word for words in lists for word in words or ())]))


def _known(store: Store, last: Manifest | None, quality: Quality) -> dict[Key, Facts]:
    """Facts of the last ingest, where they were judged by the same limits and the same code."""
    if last is None or last.meta["judged_by"] != _judged_by(quality):
        return {}
    return from_table(usable_table(store, last, FACTS))


def _judged_by(quality: Quality) -> str:
    return fingerprint(VERSION, quality.min_seconds, quality.max_seconds)


def _drafts(corpus: Corpus, found: list[Utterance], facts: list[Facts]) -> tuple[list[_Draft], list[Reject]]:
    drafts: list[_Draft] = []
    rejects: list[Reject] = []
    inspected = iter(facts)
    for utterance in found:
        fact = next(inspected) if utterance.recording is not None else None
        if fact is not None and fact.reason is not None:
            rejects.append(_sound_reject(utterance, fact))
            continue
        try:
            drafts.append(_Draft(_row(corpus, utterance, fact), utterance))
        except LabelError as error:
            rejects.append(rejected(utterance, error.reason, error.detail))
    return drafts, rejects


def _sound_reject(utterance: Utterance, fact: Facts) -> Reject:
    """Points at the recording, and says which row named it."""
    named = f" (named in {utterance.file} row {utterance.row})" if utterance.row is not None else ""
    return Reject(fact.name or utterance.file, None, utterance.id, fact.reason or "", f"{fact.detail}{named}")


def _row(corpus: Corpus, utterance: Utterance, fact: Facts | None) -> dict[str, Any]:
    text, tokens, slots = clean(utterance)
    phones, ends = said(utterance, corpus, fact.duration if fact else None)
    digest = fact.digest if fact else None
    inputs = {column.name: utterance.inputs.get(column.name) for column in input_columns()}
    content = digest or (fingerprint(inputs) if any(inputs.values()) else None)
    return {
        "id": f"{corpus.name}/{utterance.id}",
        "corpus": corpus.name,
        "split": settle(corpus, utterance.split, utterance.speaker, text, content),
        "audio": fact.audio if fact else None,
        "start": fact.start if fact else None,
        "duration": fact.duration if fact else None,
        "sample_rate": fact.sample_rate if fact else None,
        "digest": digest,
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
    """Rows of one recording that contradict each other all go: nobody can tell here which is right."""
    same: dict[str, list[_Draft]] = {}
    for draft in drafts:
        if draft.row["digest"] is not None:
            same.setdefault(draft.row["digest"], []).append(draft)
    faults = {digest: fault for digest, rows in same.items() if len(rows) > 1 and (fault := _conflict(rows))}
    rejects = [
        rejected(draft.origin, "conflicting_labels", faults[draft.row["digest"]])
        for draft in drafts
        if draft.row["digest"] in faults
    ]
    return [draft for draft in drafts if draft.row["digest"] not in faults], rejects


def _conflict(drafts: list[_Draft]) -> str | None:
    """What the rows of one recording disagree about."""
    for column in (*_COMPARED, *(label.name for label in label_columns() if label.compared)):
        values = {json.dumps(draft.row[column]) for draft in drafts if draft.row[column] is not None}
        if len(values) > 1:
            rows = ", ".join(f"{draft.origin.file} row {draft.origin.row}" for draft in drafts[:4])
            return f"the same audio has {column} {' and '.join(sorted(values))[:200]} ({rows})"
    return None


def _tables(corpus: Corpus, drafts: list[_Draft], rejects: list[Reject]) -> tuple[pa.Table, pa.Table]:
    rows = pa.Table.from_pylist([draft.row for draft in drafts], schema=utterance_schema())
    fields = ("file", "row", "id", "reason", "detail")
    bad = [
        {"corpus": corpus.name, **{name: _printable(getattr(reject, name)) for name in fields}} for reject in rejects
    ]
    return rows, pa.Table.from_pylist(bad, schema=QUARANTINE)


def _printable(value: Any) -> Any:
    """File names need not be UTF-8; Arrow's strings must. What a row quotes may be a URL with a password."""
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


def _too_bad(rows: pa.Table, quarantined: pa.Table, quality: Quality) -> bool:
    total = rows.num_rows + quarantined.num_rows
    return rows.num_rows == 0 or quarantined.num_rows / total > quality.max_quarantined


def summary(corpus: Corpus, rows: pa.Table, quarantined: pa.Table, quality: Quality) -> str:
    """What is in quarantine, by reason, each with an example."""
    total = rows.num_rows + quarantined.num_rows
    if not total:
        return f"{corpus.name}: {redact(str(corpus.source))} holds no utterance"
    share = quarantined.num_rows / total
    lines = [
        f"{corpus.name}: {quarantined.num_rows} of {total} utterances ({share:.1%}) are in quarantine, "
        f"quality.max_quarantined allows {quality.max_quarantined:.1%}. See the quarantine table:"
    ]
    examples: dict[str, dict[str, Any]] = {}
    for bad in quarantined.to_pylist():
        examples.setdefault(bad["reason"], bad)
    for reason, count in Counter(quarantined["reason"].to_pylist()).most_common():
        bad = examples[reason]
        row = f" row {bad['row']}" if bad["row"] is not None else ""
        lines.append(f"  {count} {reason}, e.g. {bad['file']}{row}: {bad['detail']}")
    return "\n".join(lines)


def _save_facts(store: Store, corpus: Corpus, listing: str, facts: list[Facts]) -> dict[str, Checksum]:
    key = f"recordings/{corpus.name}/{listing}.parquet"
    return {key: store.write_table(key, to_table(facts), compression="zstd")}


def _commit_facts(
    store: Store, corpus: Corpus, listing: str, file: dict[str, Checksum], quality: Quality, outcome: str | None
) -> None:
    """file: of the facts. outcome: address of the utterances that the listing gave, None where the ingest failed."""
    meta = {"listing": listing, "utterances": outcome, "judged_by": _judged_by(quality)}
    store.commit(f"recordings/{corpus.name}", fingerprint(listing, outcome), file, meta=meta, checksums=file)


def _commit(
    store: Store, corpus: Corpus, rows: pa.Table, quarantined: pa.Table, meta: dict[str, Any], parents: dict[str, str]
) -> Manifest:
    address = _content(rows, quarantined)
    tables = {f"utterances/{corpus.name}": rows, f"quarantine/{corpus.name}": quarantined}
    files = {
        (key := f"{folder}/{address}.parquet"): store.write_table(key, table, compression="zstd")
        for folder, table in tables.items()
    }
    return store.commit(f"utterances/{corpus.name}", address, files, parents, meta, files)


def _commit_failure(store: Store, corpus: Corpus, quarantined: pa.Table, meta: dict[str, Any]) -> None:
    address = _content(quarantined)
    key = f"quarantine/{corpus.name}/{address}.parquet"
    file = {key: store.write_table(key, quarantined, compression="zstd")}
    store.commit(f"quarantine/{corpus.name}", address, file, meta=meta, checksums=file)


def _content(*tables: pa.Table) -> str:
    """Hash of the rows themselves: Parquet's bytes differ between versions of its writer."""
    digest = hashlib.sha256(str(VERSION).encode())
    for table in tables:
        for line in _lines(table):
            digest.update(line)
    return digest.hexdigest()[:16]


def _lines(table: pa.Table) -> Iterator[bytes]:
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            yield json.dumps(stated(row), sort_keys=True).encode()
