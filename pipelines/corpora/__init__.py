"""Kinds of corpora: one file each, one signature for all (see base.py).

for item in CORPORA["atis"].read(open_source("/data/atis"), corpus): ...
"""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.corpora import atis, commonvoice, covost, emodb, iemocap, librispeech, ljspeech, manifest, sgd, voxceleb
from pipelines.corpora.base import Reader
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import Reject, Utterance


def _read_espeak(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    # Imported late: eSpeak NG is an extra, and what does not need it runs without it.
    from pipelines.corpora import espeak

    return espeak.read(source, corpus)


def _fingerprint_espeak(source: Source | None, corpus: Corpus) -> str:
    from pipelines.corpora import espeak

    return espeak.fingerprint_of(corpus)


CORPORA: dict[str, Reader] = {
    "librispeech": librispeech.READER,
    "commonvoice": commonvoice.READER,
    "voxceleb": voxceleb.READER,
    "atis": atis.READER,
    "sgd": sgd.READER,
    "ljspeech": ljspeech.READER,
    "emodb": emodb.READER,
    "iemocap": iemocap.READER,
    "covost": covost.READER,
    "manifest": manifest.READER,
    "espeak": Reader(_read_espeak, _fingerprint_espeak),
}
