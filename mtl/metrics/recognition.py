"""Error rates of recognised words and phones."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer

from mtl.answers import Phones, Prediction, Transcription
from mtl.metrics.floors import EMPTY_TRANSCRIPT, all_deleted
from mtl.metrics.metric import CountsOfRow, Metric, Row, Scorer, Setting
from mtl.metrics.rates import ratio
from mtl.spec import TaskSpec


class TranscriptScorer(Scorer):
    """Word and character error rates; with hot words also their word error rate and that of other words."""

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        def rate(name: str, units: str = "words", examples: bool = True, by_domain: bool = False) -> Metric:
            columns, floor = ("errors", units), EMPTY_TRANSCRIPT
            return Metric(f"{spec.name}/{name}", "lower", columns, ratio, floor, examples=examples, by_domain=by_domain)

        return (
            rate("wer", by_domain=True),
            rate("cer", "characters", examples=False, by_domain=True),
            rate("biased_wer"),
            rate("unbiased_wer"),
        )

    def row(self, spec: TaskSpec, row: Row, prediction: Prediction, setting: Setting) -> dict[str, CountsOfRow]:
        answer, text = prediction.answers[spec.name], row.get(spec.label)
        if not text or not isinstance(answer, Transcription):
            return {}
        counts: dict[str, CountsOfRow] = {
            "wer": (word_errors(text, answer.text), len(text.split())),
            "cer": (character_errors(text, answer.text), len(text)),
        }
        if setting.hot_words:
            counts["biased_wer"], counts["unbiased_wer"] = biased_errors(text, answer.text, setting.hot_words)
        return counts


class PhoneScorer(Scorer):
    """Phone error rate."""

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        floor = all_deleted("no phone")
        return (Metric(f"{spec.name}/per", "lower", ("errors", "phones"), ratio, floor, tolerance=1.0),)

    def row(self, spec: TaskSpec, row: Row, prediction: Prediction, setting: Setting) -> dict[str, CountsOfRow]:
        answer, phones = prediction.answers[spec.name], row.get("phones")
        if not phones or not isinstance(answer, Phones):
            return {}
        return {"per": (word_errors(" ".join(phones), " ".join(answer.phones)), len(phones))}


def word_errors(reference: str, hypothesis: str) -> int:
    """Word substitutions, deletions and insertions; the reference must not be empty."""
    output = jiwer.process_words(reference, hypothesis)
    return output.substitutions + output.deletions + output.insertions


def character_errors(reference: str, hypothesis: str) -> int:
    output = jiwer.process_characters(reference, hypothesis)
    return output.substitutions + output.deletions + output.insertions


def biased_errors(reference: str, hypothesis: str, hot_words: Sequence[str]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(errors, words) of the words in hot phrases, and of all others (Le et al. 2021: B-WER and U-WER)."""
    words, recognised = reference.split(), hypothesis.split()
    hot, hot_recognised = in_phrases(words, hot_words), in_phrases(recognised, hot_words)
    errors = [0, 0]
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        if chunk.type == "insert":
            for position in range(chunk.hyp_start_idx, chunk.hyp_end_idx):
                errors[hot_recognised[position]] += 1
        elif chunk.type != "equal":
            for position in range(chunk.ref_start_idx, chunk.ref_end_idx):
                errors[hot[position]] += 1
    return (errors[True], sum(hot)), (errors[False], len(words) - sum(hot))


def in_phrases(words: Sequence[str], phrases: Sequence[str]) -> list[bool]:
    """Whether each word is part of one of the phrases."""
    inside = [False] * len(words)
    for phrase in phrases:
        target = phrase.split()
        for start in range(len(words) - len(target) + 1):
            if list(words[start : start + len(target)]) == target:
                inside[start : start + len(target)] = [True] * len(target)
    return inside
