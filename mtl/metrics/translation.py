"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) from counts per row, with the defaults of sacrebleu."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from mtl.answers import Label, Prediction
from mtl.metrics.floors import Floor, ScoredRows, most_frequent
from mtl.metrics.metric import CountsOfRow, Metric, Row, Scorer, Setting, written_too
from mtl.spec import TaskSpec

CHRF_BETA = 2  # weight of recall relative to precision: chrF2
BLEU_COLUMNS = ("length", "wanted", *(f"matched_{n}" for n in range(1, 5)), *(f"total_{n}" for n in range(1, 5)))
CHRF_COLUMNS = tuple(f"{kind}_{n}" for n in range(1, 7) for kind in ("answer", "wanted", "both"))


class TranslationScorer(Scorer):
    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        def of(prefix: str) -> tuple[Metric, ...]:
            return (
                Metric(f"{prefix}bleu", "higher", BLEU_COLUMNS, bleu, _one_translation(spec, "bleu"), by_row=False),
                Metric(f"{prefix}chrf", "higher", CHRF_COLUMNS, chrf, _one_translation(spec, "chrf")),
            )

        return written_too(spec, of)

    def row(self, spec: TaskSpec, row: Row, prediction: Prediction, setting: Setting) -> dict[str, CountsOfRow]:
        answer, reference = prediction.answers[spec.name], row.get(spec.label)
        return translation_counts(reference, answer.value) if reference and isinstance(answer, Label) else {}


def bleu(counts: np.ndarray) -> np.ndarray:
    """Corpus BLEU from counts (..., 10): words of answer and reference, matched n-grams, all n-grams of the answer.

    Smoothing "exp" of sacrebleu: the k-th order without a match counts as 2^-k matches, unless no order has one.
    """
    length, reference, matched, total = counts[..., 0], counts[..., 1], counts[..., 2:6], counts[..., 6:]
    missed = np.cumsum(matched == 0, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(matched == 0, 0.5**missed, matched) / total
        brevity = np.exp(np.minimum(0.0, 1 - reference / length))
        value = 100 * brevity * np.exp(np.log(precision).mean(axis=-1))
    none = (total == 0).any(axis=-1) | (matched == 0).all(axis=-1)
    return np.where(reference > 0, np.where(none, 0.0, value), np.nan)


def chrf(counts: np.ndarray) -> np.ndarray:
    """chrF2 from counts (..., 18): character n-grams of the answer, the reference and both, for each order."""
    answer, reference, both = counts[..., 0::3], counts[..., 1::3], counts[..., 2::3]
    known = (answer > 0) & (reference > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        orders = known.sum(axis=-1)
        precision = np.where(known, both / answer, 0.0).sum(axis=-1) / orders
        recall = np.where(known, both / reference, 0.0).sum(axis=-1) / orders
        value = 100 * (1 + CHRF_BETA**2) * precision * recall / (CHRF_BETA**2 * precision + recall)
    none = (orders == 0) | (both == 0).all(axis=-1)
    return np.where(reference.sum(axis=-1) > 0, np.where(none, 0.0, value), np.nan)


def translation_counts(reference: str, hypothesis: str) -> dict[str, CountsOfRow]:
    """Counts of BLEU and chrF of one sentence, from the same function as sacrebleu's bootstrap."""
    return {
        name: tuple(metric._extract_corpus_statistics([hypothesis], [[reference]])[0])
        for name, metric in _translation_metrics().items()
    }


@cache
def _translation_metrics() -> dict[str, Any]:
    from sacrebleu.metrics import BLEU, CHRF  # slow to import

    return {"bleu": BLEU(force=True), "chrf": CHRF(beta=CHRF_BETA)}


def _one_translation(spec: TaskSpec, metric: str) -> Floor:
    def counts(scored: ScoredRows) -> np.ndarray:
        references = [row[spec.label] for row in scored.rows]
        constant = most_frequent(references)
        return np.array([translation_counts(reference, constant)[metric] for reference in references], dtype=np.float64)

    return Floor("always the most frequent translation", counts)
