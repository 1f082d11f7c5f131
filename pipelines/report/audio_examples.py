"""Synthesised speech in the report: its scores, and examples with audio players and log-mel plots.

    content = speech_content(table, voice, test_rows, judges)       # plain data, for Night.speech

Each example shows the recording, its copy-synthesis and the synthesis. The plots show the phone boundaries: those of
the recording, or those that the model predicted. For a vocoder without an acoustic model, its copy-synthesis is shown
next to that of Griffin-Lim.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa

from mtl.audio.features import log_mel
from mtl.audio.pitch import pitch
from mtl.inference.synthesizer import Synthesizer
from pipelines.data.dataset import Dataset, by_hash
from pipelines.evaluation.judges import recording_of
from pipelines.evaluation.synthesis import (
    COPY,
    GRIFFIN_LIM,
    RECORDING,
    SYNTHESIS,
    Voice,
    figures,
    sounds_of,
    synthesized_of,
)
from pipelines.sources.audio import flac

EXAMPLES = 6
SHOWN = (RECORDING, GRIFFIN_LIM, COPY, SYNTHESIS)
FRAME, BAND, LABEL = 3, 2.5, 24  # SVG units: width of a frame, height of a mel bin, height of the line of phones
DYNAMIC_RANGE = 9.0  # nats below the loudest frame that are drawn; anything below is black


def speech_content(table: pa.Table, voice: Voice, dataset: Dataset, judges: Mapping[str, str]) -> dict[str, Any]:
    """Plain data for the page; table: of SPEECH_SCHEMA, judges: task -> model.

    Keys: speaks (False for a vocoder alone), figures (kind -> name -> (value, low, high)), judges, confusion (of the
    emotion that the judge recognises: labels, counts), examples.
    """
    speaks = isinstance(voice, Synthesizer)
    return {
        "speaks": speaks,
        "figures": figures(table),
        "judges": dict(judges),
        "confusion": _confusion(table, SYNTHESIS if speaks else COPY),
        "examples": _examples(table, voice, dataset),
    }


def _confusion(table: pa.Table, kind: str) -> dict[str, Any]:
    """Of one kind of sound; empty without a judge of emotions."""
    pairs = [
        (row["emotion"], row["heard_emotion"])
        for row in table.to_pylist()
        if row["kind"] == kind and row["emotion"] and row["heard_emotion"]
    ]
    labels = sorted({label for pair in pairs for label in pair})
    return {"labels": labels, "counts": [[pairs.count((one, other)) for other in labels] for one in labels]}


def _examples(table: pa.Table, voice: Voice, dataset: Dataset) -> list[dict[str, Any]]:
    judged: dict[str, dict[str, Any]] = {}
    for row in table.to_pylist():
        judged.setdefault(row["id"], {})[row["kind"]] = row
    positions = {id_: position for position, id_ in enumerate(dataset.rows["id"].to_pylist())}
    # Sources of conversions have no row of the kind RECORDING.
    chosen = _chosen({id_: rows[RECORDING]["emotion"] for id_, rows in judged.items() if RECORDING in rows})
    some = dataset.select([positions[id_] for id_ in chosen])
    rows, spec = some.rows.to_pylist(), voice.features
    if not rows:
        return []
    recordings = [recording_of(row, dataset.store, spec.sample_rate) for row in rows]
    hertz = [pitch(wave, spec) for wave in recordings]
    sounds = sounds_of(voice, rows, recordings, some.features(range(len(rows))), hertz)
    synthesized = synthesized_of(voice, rows) if isinstance(voice, Synthesizer) else []
    examples = []
    for number, row in enumerate(rows):
        phones, durations = (row["phones"], row["durations"]) if row["durations"] else ((), ())
        predicted = synthesized[number].durations.tolist() if synthesized else ()
        shown = [
            {
                "kind": kind,
                "audio": base64.b64encode(flac(sounds[kind][number], spec.sample_rate)).decode(),
                "plot": spectrogram(
                    log_mel(sounds[kind][number], spec), phones, predicted if kind == SYNTHESIS else durations
                ),
                **{name: judged[row["id"]][kind][name] for name in ("heard", "mcd")},
            }
            for kind in SHOWN
            if kind in sounds
        ]
        examples.append({**{name: row[name] for name in ("id", "text", "speaker", "emotion")}, "sounds": shown})
    return examples


def _chosen(emotions: Mapping[str, str | None]) -> list[str]:
    """Ids sorted by emotion, with each emotion equally often."""
    ordered = [list(emotions)[position] for position in by_hash(list(emotions))]
    groups: dict[str, list[str]] = {}
    for id_ in ordered:
        groups.setdefault(emotions[id_] or "", []).append(id_)
    rounds = itertools.zip_longest(*(groups[name] for name in sorted(groups)))
    chosen = [id_ for one in rounds for id_ in one if id_ is not None][:EXAMPLES]
    return sorted(chosen, key=lambda id_: (emotions[id_] or "", ordered.index(id_)))


def spectrogram(logmel: np.ndarray, phones: Sequence[str], durations: Sequence[int]) -> str:
    """An SVG of a log-mel (T, F), low frequencies at the bottom, above its phones with their boundaries."""
    frames, bins = logmel.shape
    width, height = FRAME * frames, BAND * bins
    parts = [
        f'<svg class="mel" viewBox="0 0 {width} {height + LABEL:g}" style="width:{width / 1.8:g}px" role="img" '
        f'aria-label="{escape(" ".join(phones))}"><image width="{width}" height="{height:g}" '
        f'preserveAspectRatio="none" href="data:image/png;base64,{_png(logmel)}"/>'
    ]
    ends = np.cumsum(durations)
    for phone, length, end in zip(phones, durations, ends.tolist(), strict=True):
        x, middle = FRAME * end, FRAME * (end - length / 2)
        parts.append(f'<line x1="{x}" x2="{x}" y1="0" y2="{height + LABEL:g}" stroke="#fff" stroke-opacity=".35"/>')
        if length * FRAME >= 10:
            label = escape(phone)
            parts.append(f'<text class="tick" x="{middle:g}" y="{height + 18:g}" text-anchor="middle">{label}</text>')
    return "".join([*parts, "</svg>"])


def _png(logmel: np.ndarray) -> str:
    """base64 of an image with one pixel per frame and bin."""
    from matplotlib.image import imsave

    loudest = float(logmel.max())
    file = io.BytesIO()
    imsave(file, logmel.T[::-1], cmap="magma", vmin=loudest - DYNAMIC_RANGE, vmax=loudest, format="png")
    return base64.b64encode(file.getvalue()).decode()


def lines(by_kind: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """`figures` as printed: a line per kind, a column per figure that some kind has."""
    names = list(dict.fromkeys(name for of_kind in by_kind.values() for name in of_kind))
    return [{"kind": kind, **{name: _cell(of_kind.get(name)) for name in names}} for kind, of_kind in by_kind.items()]


def _cell(figure: Sequence[float] | None) -> str | None:
    if figure is None:
        return None
    digits = 2 if abs(figure[0]) < 10 else 1
    return f"{figure[0]:.{digits}f} ({figure[1]:.{digits}f}-{figure[2]:.{digits}f})"
