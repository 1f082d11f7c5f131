"""A voice in the report: what its speech is worth, and examples to hear and to look at.

    shown = told(said, voice, test_rows, listening)       # plain data, for Night.speech

Each example has a player and a picture for the recording, for its log-mel turned back into sound, and for the
synthesis; over the pictures lie the borders of the phones: measured or learned, and foretold. Of a vocoder alone there
is its sound beside that of Griffin-Lim.
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
FRAME, BAND, LABEL = 3, 2.5, 24  # pixels of a frame and of a mel bin, and of the line of phones
QUIETEST = 9.0  # nats below the loudest frame: black


def told(said: pa.Table, voice: Voice, dataset: Dataset, listeners: Mapping[str, str]) -> dict[str, Any]:
    """speaks: or is a vocoder alone. figures: kind -> figure -> (value, low, high). listeners: task -> model.
    confusion: of the emotion, as it is heard in what the model makes: labels, counts. examples: what is heard and seen.
    """
    return {
        "speaks": isinstance(voice, Synthesizer),
        "figures": figures(said),
        "listeners": dict(listeners),
        "confusion": _confusion(said, SYNTHESIS if isinstance(voice, Synthesizer) else COPY),
        "examples": _examples(said, voice, dataset),
    }


def _confusion(said: pa.Table, kind: str) -> dict[str, Any]:
    """Of one kind of sound; empty where nobody listened for the emotion."""
    pairs = [
        (row["emotion"], row["heard_emotion"])
        for row in said.to_pylist()
        if row["kind"] == kind and row["emotion"] and row["heard_emotion"]
    ]
    labels = sorted({label for pair in pairs for label in pair})
    return {"labels": labels, "counts": [[pairs.count((one, other)) for other in labels] for one in labels]}


def _examples(said: pa.Table, voice: Voice, dataset: Dataset) -> list[dict[str, Any]]:
    heard: dict[str, dict[str, Any]] = {}
    for row in said.to_pylist():
        heard.setdefault(row["id"], {})[row["kind"]] = row
    places = {id_: place for place, id_ in enumerate(dataset.rows["id"].to_pylist())}
    # A conversion's source need not be among the rows that were said again.
    chosen = _chosen({id_: rows[RECORDING]["emotion"] for id_, rows in heard.items() if RECORDING in rows})
    some = dataset.select([places[id_] for id_ in chosen])
    rows = some.rows.to_pylist()
    if not rows:
        return []
    recordings = [recording_of(row, dataset.store, voice.features.sample_rate) for row in rows]
    hertz = [pitch(wave, voice.features) for wave in recordings]
    sounds = sounds_of(voice, rows, recordings, some.features(range(len(rows))), hertz)
    found = []
    uttered = synthesized_of(voice, rows) if isinstance(voice, Synthesizer) else []
    for number, row in enumerate(rows):
        measured = row["durations"] or ()
        foretold = uttered[number].durations.tolist() if uttered else ()
        views = []
        for kind in SHOWN:
            if kind not in sounds:
                continue
            wave = sounds[kind][number]
            answer = heard[row["id"]][kind]
            views.append(
                {
                    "kind": kind,
                    "audio": base64.b64encode(flac(wave, voice.features.sample_rate)).decode(),
                    "picture": picture(
                        log_mel(wave, voice.features),
                        row["phones"] if row["durations"] else (),
                        foretold if kind == SYNTHESIS else measured,
                    ),
                    "heard": answer["heard"],
                    "mcd": answer["mcd"],
                }
            )
        found.append({**{name: row[name] for name in ("id", "text", "speaker", "emotion")}, "views": views})
    return found


def _chosen(emotions: Mapping[str, str | None]) -> list[str]:
    """Ids, those of one emotion after those of another, each emotion as often as any other."""
    ordered = [list(emotions)[place] for place in by_hash(list(emotions))]
    groups: dict[str, list[str]] = {}
    for id_ in ordered:
        groups.setdefault(emotions[id_] or "", []).append(id_)
    turns = itertools.zip_longest(*(groups[name] for name in sorted(groups)))
    taken = [id_ for turn in turns for id_ in turn if id_ is not None][:EXAMPLES]
    return sorted(taken, key=lambda id_: (emotions[id_] or "", ordered.index(id_)))


def picture(logmel: np.ndarray, phones: Sequence[str], durations: Sequence[int]) -> str:
    """An SVG of (T, F), low pitches below, with the phones and their borders under it."""
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
    """base64 of a picture, one pixel a frame and bin."""
    from matplotlib.image import imsave

    loudest = float(logmel.max())
    file = io.BytesIO()
    imsave(file, logmel.T[::-1], cmap="magma", vmin=loudest - QUIETEST, vmax=loudest, format="png")
    return base64.b64encode(file.getvalue()).decode()


def lines(drawn: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """A line a kind, as it is printed, of what `figures` gives."""
    names = list(dict.fromkeys(name for of_kind in drawn.values() for name in of_kind))  # that some kind has
    return [{"kind": kind, **{name: _cell(of_kind.get(name)) for name in names}} for kind, of_kind in drawn.items()]


def _cell(figure: Sequence[float] | None) -> str | None:
    if figure is None:
        return None
    digits = 2 if abs(figure[0]) < 10 else 1
    return f"{figure[0]:.{digits}f} ({figure[1]:.{digits}f}-{figure[2]:.{digits}f})"
