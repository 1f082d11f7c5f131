"""The data stages: utterance tables, features, waveforms and, for speech synthesis, alignment and prosody."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from pipelines.core.progress import Report
from pipelines.core.stage import Stage
from pipelines.data import features as feature_parts
from pipelines.data.alignment import VERSION as ALIGNMENT_VERSION
from pipelines.data.alignment import align
from pipelines.data.alignment import dataset_name as alignment_name
from pipelines.data.features import LOGMEL, PITCH, WAVEFORM, Kind, extract
from pipelines.data.ingest import ingest
from pipelines.data.prosody import VERSION as PROSODY_VERSION
from pipelines.data.prosody import dataset_name as prosody_name
from pipelines.data.prosody import measure
from pipelines.recipe import Recipe
from pipelines.stages.context import Context, corpus_of
from pipelines.storage.store import Manifest

Text = tuple[str, list[Manifest]]
PHRASED, SOUNDS = attrgetter("phrased"), attrgetter("sounds")  # whether a recipe has such tasks


def _ingest(context: Context, corpus: str, report: Report) -> tuple[str, Manifest]:
    """Writes one corpus into its utterance table."""
    recipe, store = context.recipe, context.store
    config = next(item for item in recipe.corpora if item.name == corpus)
    before = store.latest(f"utterances/{corpus}")
    manifest = ingest(config, recipe.quality, store, progress=report)
    return describe_corpus(manifest, before), manifest


def describe_corpus(manifest: Manifest, before: Manifest | None) -> str:
    """'calls: 120 utterances, 0.25 h, +20 rows since version 3'"""
    meta = manifest.meta
    text = f"{corpus_of(manifest)}: {meta['rows']:,} utterances, {meta.get('hours') or 0:.2f} h"
    if meta.get("quarantined"):
        text += f", {meta['quarantined']:,} in quarantine"
    if before is None:
        return f"{text}, all new"
    if before.version == manifest.version:
        return f"{text}, unchanged since version {manifest.version}"
    return f"{text}, {meta['rows'] - before.meta['rows']:+,} rows since version {before.version}"


def _features(context: Context, report: Report) -> Text:
    """log-mel of every recording."""
    return _extract(context, report, LOGMEL)


def _waveforms(context: Context, report: Report) -> Text:
    """Samples at the features' rate, and pitch, of every recording."""
    return _extract(context, report, WAVEFORM, PITCH)


def _extract(context: Context, report: Report, *kinds: Kind) -> Text:
    spec, tables, store = context.recipe.features, context.utterances, context.store
    before = [store.latest(kinds[0].dataset(spec, corpus_of(table))) for table in tables]
    manifests = [extract(tables, spec, store, progress=report, kind=kind) for kind in kinds]
    rows = sum(manifest.meta["rows"] for manifest in manifests[0])
    text = f"{rows:,} recordings, {_count_new('extracted', manifests[0], before):,} extracted"
    return text, [manifest for of_kind in manifests for manifest in of_kind]


def _alignment(context: Context, report: Report) -> Text:
    """The end of each phone in recordings of corpora without phone times."""
    spec, tables, store = context.recipe.features, context.utterances, context.store
    before = [store.latest(alignment_name(spec, corpus_of(table))) for table in tables]
    manifests = align(tables, context.values["features"], spec, store, report)
    rows, short = (sum(manifest.meta[name] for manifest in manifests) for name in ("rows", "short"))
    if not rows + short:
        return "all phone times known", manifests
    new = _count_new("aligned", manifests, before)
    text = f"{rows:,} recordings without phone times, {new:,} aligned"
    return text + (f", {short:,} too short for their phones" if short else ""), manifests


def _prosody(context: Context, report: Report) -> Text:
    """Duration, pitch and energy of every phone."""
    spec, tables, store = context.recipe.features, context.utterances, context.store
    before = [store.latest(prosody_name(spec, corpus_of(table))) for table in tables]
    manifests = measure(tables, spec, store, progress=report, aligned=context.values["alignment"])
    rows = sum(manifest.meta["rows"] for manifest in manifests)
    return f"{rows:,} recordings with phones, {_count_new('measured', manifests, before):,} measured", manifests


def _count_new(key: str, manifests: Sequence[Manifest], before: Sequence[Manifest | None]) -> int:
    """Sum of `meta[key]` over the manifests with a new version."""
    pairs = zip(manifests, before, strict=True)
    return sum(item.meta[key] for item, old in pairs if old is None or old.version != item.version)


def _corpora(recipe: Recipe) -> list[str]:
    return [corpus.name for corpus in recipe.corpora]


INGEST = Stage("ingest", _ingest, kinds=("recordings", "utterances", "quarantine"), unit="utt", parts=_corpora)
FEATURES = Stage(
    "features", _features, inputs=("ingest",), kinds=(LOGMEL.name,), version=feature_parts.VERSION, unit="rec"
)
ALIGNMENT = Stage(
    "alignment",
    _alignment,
    inputs=("ingest", "features"),
    kinds=("alignment",),
    version=ALIGNMENT_VERSION,
    unit="step",
    needed=PHRASED,
)
PROSODY = Stage(
    "prosody",
    _prosody,
    inputs=("ingest", "alignment"),
    kinds=("prosody",),
    version=PROSODY_VERSION,
    unit="rec",
    needed=PHRASED,
)
WAVEFORMS = Stage(
    "waveforms", _waveforms, inputs=("ingest",), kinds=(WAVEFORM.name, PITCH.name), unit="rec", needed=SOUNDS
)
DATA = (FEATURES, ALIGNMENT, PROSODY, WAVEFORMS)
