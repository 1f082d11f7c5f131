"""Scores as counts per utterance, so that a bootstrap can resample utterances and corpora can be added up.

A metric is the value of summed counts: WER is errors over words, F1 comes from matched, predicted and actual slots.
Rows that are not labelled for a metric are absent. Labels are compared as strings, so one that training never saw
counts as an error. All values are percentages, but for those of synthesis (Metric.unit). BLEU (Papineni et al. 2002)
and chrF (Popović 2015) are sacrebleu's, with its defaults: of whole corpora, case-sensitive, BLEU over 13a's tokens.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import jiwer
import numpy as np

from mtl.groups import group_of
from mtl.heads.regression import SEMITONES
from mtl.heads.slots import bio_values
from mtl.inference.predictor import Prediction
from mtl.inputs.codec import tokens_of
from mtl.metrics import floors
from mtl.metrics.floors import Floor
from mtl.metrics.rates import balanced, bleu, chrf, eer, f1, mean, min_dcf, ratio, root_mean, translation_counts
from mtl.metrics.verification import verification_counts
from mtl.spec import TEXT, TaskSpec, tasks

Row = Mapping[str, Any]
RECOGNITION = ("transcript/wer", "transcript/cer")  # told for each domain alone too
ENROLMENT = 3  # utterances that a speaker is enrolled with before being identified


@dataclass(frozen=True)
class Counts:
    """Per-row counts of one metric: rows (N,) indices into what was scored, counts (N, C)."""

    rows: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Metric:
    """How summed counts become a percentage; counts (..., C) -> (...), nan where there is nothing to divide by.

    columns: of the counts; one that ends in "…" stands for several, as many as there are labels or places.
    floor: what a model that knows nothing reaches on the same rows.
    by_row: whether the counts of a single row say how good that row is.
    """

    name: str
    better: Literal["lower", "higher"]
    columns: tuple[str, ...]
    value: Callable[[np.ndarray], np.ndarray]
    floor: Floor
    by_row: bool = True
    tolerance: float = 0.5  # points that a gate lets it be worse by, where the recipe gives none
    unit: str = "%"


def _accuracy(name: str, floor: Floor) -> Metric:
    return Metric(name, "higher", ("correct", "rows"), ratio, floor)


def _floor(spec: TaskSpec) -> Floor:
    """Of a classification's accuracy."""
    return floors.SAME_SPEAKER if spec.open_set else floors.majority(spec.label)


def _error_rate(name: str, units: str = "words") -> Metric:
    return Metric(name, "lower", ("errors", units), ratio, floors.EMPTY_TRANSCRIPT)


def _heard(task: str) -> tuple[Metric, ...]:
    """Of test rows said from their text, or turned back into sound, as other models hear them; see
    pipelines/evaluation/synthesis.py."""
    errors, beyond, meant = ("errors", "words"), ("errors beyond the recording's", "words"), ("as meant", "rows")
    heard, added = floors.EMPTY_TRANSCRIPT, floors.unintelligible(task)
    return (
        Metric(f"{task}/wer", "lower", errors, ratio, heard, tolerance=2.0),
        Metric(f"{task}/added_wer", "lower", beyond, ratio, added, tolerance=2.0),
        Metric(f"{task}/emotion", "higher", meant, ratio, floors.majority("emotion"), tolerance=3.0),
        Metric(f"{task}/speaker", "higher", meant, ratio, floors.majority("speaker"), tolerance=3.0),
    )


def _measured(
    name: str,
    columns: tuple[str, str],
    floor: Floor,
    tolerance: float,
    unit: str,
    value: Callable[[np.ndarray], np.ndarray] = mean,
) -> Metric:
    """An error in a unit of its own."""
    return Metric(name, "lower", columns, value, floor, tolerance=tolerance, unit=unit)


_BY_LABEL, _TRIALS, _MATCHES = ("correct …", "rows …"), ("targets …", "others …"), ("matched", "predicted", "actual")
_BLEU_COLUMNS = ("length", "wanted", *(f"matched_{n}" for n in range(1, 5)), *(f"total_{n}" for n in range(1, 5)))
_CHRF_COLUMNS = tuple(f"{kind}_{n}" for n in range(1, 7) for kind in ("answer", "wanted", "both"))


def _metrics(labelled: Sequence[TaskSpec]) -> tuple[Metric, ...]:
    """All metrics, with those of these classification tasks, in the order of every table."""
    return (
        _error_rate("transcript/wer"),
        _error_rate("transcript/cer", "characters"),
        _error_rate("transcript/biased_wer"),  # of hot words, see biased_errors
        _error_rate("transcript/unbiased_wer"),  # of all others
        *(_accuracy(f"{one.name}/accuracy", _floor(one)) for one in labelled),
        *(_accuracy(f"{one.name}/text_accuracy", _floor(one)) for one in labelled if TEXT in one.groups),
        # Every label alike: of emotions this is the literature's unweighted average recall.
        *(
            Metric(
                f"{one.name}/balanced_accuracy", "higher", _BY_LABEL, balanced, floors.SAME_LABEL, False, tolerance=2.0
            )
            for one in labelled
            if one.balanced
        ),
        # Few speakers decide: half a point would be noise. See mtl.metrics.verification for the trials.
        Metric("speaker/eer", "lower", _TRIALS, eer, floors.SAME_SCORE, by_row=False, tolerance=3.0),
        Metric("speaker/min_dcf", "lower", _TRIALS, min_dcf, floors.SAME_SCORE, by_row=False, tolerance=10.0),
        Metric("slots/f1", "higher", _MATCHES, f1, floors.NO_SLOT),  # audio: (slot, value) pairs
        Metric("slots/text_f1", "higher", _MATCHES, f1, floors.NO_SLOT),  # text: CoNLL spans
        Metric("slots/text_value_f1", "higher", _MATCHES, f1, floors.NO_SLOT),  # text: (slot, value) pairs
        Metric("translation/bleu", "higher", _BLEU_COLUMNS, bleu, floors.SAME_BLEU, by_row=False),
        Metric("translation/chrf", "higher", _CHRF_COLUMNS, chrf, floors.SAME_CHRF),
        Metric("translation/text_bleu", "higher", _BLEU_COLUMNS, bleu, floors.SAME_BLEU, by_row=False),
        Metric("translation/text_chrf", "higher", _CHRF_COLUMNS, chrf, floors.SAME_CHRF),
        Metric("phones/per", "lower", ("errors", "phones"), ratio, floors.NO_PHONE, tolerance=1.0),
        # Against what is measured of the phones; see mtl.heads.regression.
        Metric("tempo/error", "lower", ("percent", "rows"), mean, floors.MEDIAN_TEMPO, tolerance=0.5),
        _measured("intonation/error", ("semitones", "rows"), floors.MEDIAN_INTONATION, 0.1, "semitones"),
        # Of recordings said again by their own durations; see mtl.inference.speech_synthesis.
        _measured("mel/mcd", ("decibels", "frames"), floors.MEAN_MEL, 0.2, "dB"),
        _measured("prosody/duration", ("milliseconds", "phones"), floors.MEDIAN_DURATION, 2.0, "ms"),
        _measured("prosody/pitch", ("cents²", "phones"), floors.MEAN_PITCH, 10.0, "cents", root_mean),
        # Of recordings' log-mels turned back into sound; see mtl.inference.vocoder_metrics.
        _measured("waveform/lsd", ("decibels", "windows"), floors.MEAN_SPECTRUM, 0.2, "dB"),
        _measured("waveform/mcd", ("decibels", "frames"), floors.MEAN_MEL, 0.2, "dB"),
        *(metric for task in ("mel", "waveform") for metric in _heard(task)),
        _accuracy("slots/frame_accuracy", floors.SPOKEN_FRAME),  # intent and every slot right, from audio
        _accuracy("slots/text_frame_accuracy", floors.WRITTEN_FRAME),  # the literature's "whole sentence", from text
    )


@lru_cache(maxsize=8)
def _by_name(specs: tuple[TaskSpec, ...]) -> dict[str, Metric]:
    return {metric.name: metric for metric in _metrics([one for one in specs if one.answer == "label"])}


class _Metrics(Mapping[str, Metric]):
    """The metrics of the tasks that are registered at the moment."""

    def __getitem__(self, name: str) -> Metric:
        return _by_name(tasks())[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_by_name(tasks()))

    def __len__(self) -> int:
        return len(_by_name(tasks()))


METRICS: Mapping[str, Metric] = _Metrics()


def score_rows(
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    hot_words: Sequence[str] = (),
    known_speakers: Collection[str] = (),
) -> dict[str, Counts]:
    """Counts of every metric that some row is labelled for; rows with audio and rows of text may be mixed.

    A row is text when its `audio` is null. Its prediction must have been made from that input. With hot words,
    normalised, the word error rate is told for them and for all other words too. Known speakers are those of training:
    they are no part of the verification, which is an open set.
    """
    found: dict[str, list[tuple[int, tuple[float, ...]]]] = defaultdict(list)
    for position, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
        for metric, counts in _score(row, prediction, hot_words).items():
            found[metric].append((position, counts))
    if identified := identify_speakers(rows, predictions):
        found["speaker/accuracy"] = identified
    if verified := verification_counts(rows, predictions, known_speakers):
        for metric in ("speaker/eer", "speaker/min_dcf"):
            found[metric] = [(row, tuple(counts)) for row, counts in verified.items()]
    for spec in tasks():
        if spec.balanced and (by_label := _by_label(rows, predictions, spec)):
            found[f"{spec.name}/balanced_accuracy"] = by_label
    return {
        metric: Counts(np.array([row for row, _ in pairs]), np.array([counts for _, counts in pairs], dtype=np.float64))
        for metric, pairs in found.items()
    }


def metric_of(name: str) -> Metric:
    """The metric that a name stands for; "transcript/wer@digits" is "transcript/wer" of the domain digits."""
    return METRICS[name.partition("@")[0]]


def in_unit(name: str, value: float, digits: int = 2) -> str:
    """A metric's value as it is shown: "1.85 %", "4.20 dB"."""
    return f"{value:.{digits}f} {metric_of(name).unit}"


def by_domain(scores: Mapping[str, Counts], domains: Sequence[str | None]) -> dict[str, Counts]:
    """What recognition got wrong in each domain alone, as "<metric>@<domain>"; domains: of the scored rows."""
    found = {}
    for metric in RECOGNITION:
        if metric not in scores:
            continue
        of_rows = [domains[row] for row in scores[metric].rows.tolist()]
        for domain in sorted({name for name in of_rows if name is not None}):
            chosen = np.array([name == domain for name in of_rows])
            found[f"{metric}@{domain}"] = Counts(scores[metric].rows[chosen], scores[metric].counts[chosen])
    return found


def summarise(scores: Mapping[str, Counts]) -> dict[str, float]:
    """Each metric, in its unit, over all of its rows."""
    return {metric: float(metric_of(metric).value(counts.counts.sum(axis=0))) for metric, counts in scores.items()}


def _score(row: Row, prediction: Prediction, hot_words: Sequence[str]) -> dict[str, tuple[float, ...]]:
    heard, read = row.get("audio") is not None, group_of(row) == TEXT
    prefix = "text_" if read else ""
    found: dict[str, tuple[float, ...]] = {}
    if heard and prediction.text is not None and row.get("text"):
        found["transcript/wer"] = (word_errors(row["text"], prediction.text), len(row["text"].split()))
        found["transcript/cer"] = (character_errors(row["text"], prediction.text), len(row["text"]))
        if hot_words:
            hot, other = biased_errors(row["text"], prediction.text, hot_words)
            found["transcript/biased_wer"], found["transcript/unbiased_wer"] = hot, other
    if heard and prediction.phones is not None and row.get("phones"):
        wrong = word_errors(" ".join(row["phones"]), " ".join(prediction.phones))
        found["phones/per"] = (wrong, len(row["phones"]))
    if heard and row.get("durations") and row.get("duration"):
        if "tempo" in prediction.numbers:
            off = prediction.numbers["tempo"] * row["duration"] / len(row["durations"]) - 1
            found["tempo/error"] = (100 * abs(off), 1.0)
        if "intonation" in prediction.numbers:
            lively = float(np.std(row["pitch"])) * SEMITONES
            if np.isfinite(lively):  # a whisper has no pitch
                found["intonation/error"] = (abs(prediction.numbers["intonation"] - lively), 1.0)
    if echo := prediction.echo:
        if echo.frames:
            found["mel/mcd"] = (echo.distortion, echo.frames)
        if echo.phones:
            found["prosody/duration"] = (echo.duration_error, echo.phones)
            found["prosody/pitch"] = (echo.pitch_error, echo.phones)
    if made := prediction.resounded:
        found["waveform/lsd"] = (made.distance, made.windows)
        found["waveform/mcd"] = (made.distortion, made.frames)
    for spec in tasks():
        if spec.answer == "label" and not spec.open_set and spec.name in prediction.labels:
            label = row.get(spec.label)
            if label is not None and (not read or TEXT in spec.groups):
                right = prediction.labels[spec.name].value == label
                found[f"{spec.name}/{prefix}accuracy"] = (float(right), 1.0)
    if row.get("translation") and "translation" in prediction.labels:
        for name, counts in translation_counts(row["translation"], prediction.labels["translation"].value).items():
            found[f"translation/{prefix}{name}"] = counts
    if row.get("slots") is not None and prediction.tags is not None:
        matched, predicted, actual = slot_counts(row, prediction, spans=not heard)
        found[f"slots/{prefix}f1"] = (matched, predicted, actual)
        if not heard:  # the literature's spans, and what compares with audio
            found["slots/text_value_f1"] = slot_counts(row, prediction, spans=False)
        right = matched == predicted == actual
        if row.get("intent") is not None and "intent" in prediction.labels:
            right = right and prediction.labels["intent"].value == row["intent"]
        found[f"slots/{prefix}frame_accuracy"] = (float(right), 1.0)
    return found


def _by_label(
    rows: Sequence[Row], predictions: Sequence[Prediction], spec: TaskSpec
) -> list[tuple[int, tuple[float, ...]]]:
    """Of each row with audio: right or not, and one, both in the column of its label (2C,)."""
    asked = [
        (position, str(row[spec.label]), prediction.labels[spec.name].value)
        for position, (row, prediction) in enumerate(zip(rows, predictions, strict=True))
        if group_of(row) != TEXT and row.get(spec.label) is not None and spec.name in prediction.labels
    ]
    names = sorted({wanted for _, wanted, _ in asked})
    found = []
    for position, wanted, got in asked:
        place = np.eye(len(names))[names.index(wanted)]
        found.append((position, (*(place * (wanted == got)), *place)))
    return found


def word_errors(reference: str, hypothesis: str) -> int:
    """Substitutions, deletions and insertions of words on the cheapest alignment; reference not empty."""
    found = jiwer.process_words(reference, hypothesis)
    return found.substitutions + found.deletions + found.insertions


def biased_errors(reference: str, hypothesis: str, hot_words: Sequence[str]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(errors, words) of the words in hot phrases, and of all others (Le et al. 2021: B-WER and U-WER).

    An error belongs to the reference word that was substituted or deleted, an inserted word to itself.
    """
    wanted, got = reference.split(), hypothesis.split()
    hot_wanted, hot_got = in_phrases(wanted, hot_words), in_phrases(got, hot_words)
    errors = [0, 0]
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        if chunk.type == "insert":
            for position in range(chunk.hyp_start_idx, chunk.hyp_end_idx):
                errors[hot_got[position]] += 1
        elif chunk.type != "equal":
            for position in range(chunk.ref_start_idx, chunk.ref_end_idx):
                errors[hot_wanted[position]] += 1
    return (errors[True], sum(hot_wanted)), (errors[False], len(wanted) - sum(hot_wanted))


def in_phrases(words: Sequence[str], phrases: Sequence[str]) -> list[bool]:
    """Whether each word stands in one of the phrases."""
    inside = [False] * len(words)
    for phrase in phrases:
        sought = phrase.split()
        for start in range(len(words) - len(sought) + 1):
            if list(words[start : start + len(sought)]) == sought:
                inside[start : start + len(sought)] = [True] * len(sought)
    return inside


def character_errors(reference: str, hypothesis: str) -> int:
    found = jiwer.process_characters(reference, hypothesis)
    return found.substitutions + found.deletions + found.insertions


def slot_counts(row: Row, prediction: Prediction, spans: bool) -> tuple[int, int, int]:
    """Matched, predicted and actual slots: as (slot, first word, end) spans of one text, or as (slot, value) pairs."""
    actual_tags, predicted_tags = list(row["slots"]), list(prediction.tags or ())
    if spans:
        actual = Counter(bio_spans(actual_tags))
        predicted = Counter(bio_spans(predicted_tags))
    else:
        actual = Counter(bio_values(tokens_of(row), actual_tags))
        predicted = Counter(prediction.slots)
    return (actual & predicted).total(), predicted.total(), actual.total()


def bio_spans(tags: Sequence[str]) -> list[tuple[str, str]]:
    """(slot, "first-end") of each chunk, by the conlleval rule for a stray I-."""
    positions = [str(position) for position in range(len(tags))]
    return bio_values(positions, list(tags))


def identify_speakers(rows: Sequence[Row], predictions: Sequence[Prediction]) -> list[tuple[int, tuple[float, ...]]]:
    """Closed-set identification among the speakers present, who need not have been heard in training.

    The first ENROLMENT utterances of each speaker (in the order of their ids) are averaged into an enrolled voice;
    each later one counts as right when the nearest enrolled voice by cosine is its speaker's.
    """
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for position, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
        if row.get("speaker") is not None and prediction.voice is not None:
            by_speaker[f"{row.get('corpus')}/{row['speaker']}"].append(position)
    enrolled: dict[str, np.ndarray] = {}
    asked: list[tuple[int, str]] = []
    for speaker, positions in by_speaker.items():
        positions.sort(key=lambda position: str(rows[position].get("id")))
        if len(positions) > ENROLMENT:
            voices = [_unit(predictions[position].voice) for position in positions[:ENROLMENT]]
            enrolled[speaker] = _unit(np.mean(voices, axis=0))
            asked += [(position, speaker) for position in positions[ENROLMENT:]]
    if len(enrolled) < 2:
        return []
    names, gallery = list(enrolled), np.stack(list(enrolled.values()))
    return [
        (position, (float(names[int(np.argmax(gallery @ _unit(predictions[position].voice)))] == speaker), 1.0))
        for position, speaker in sorted(asked)
    ]


def _unit(vector: Any) -> np.ndarray:
    vector = np.asarray(vector, dtype=np.float64)
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
