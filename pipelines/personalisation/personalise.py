"""`motet personalise`: trains an adapter on a few utterances of a user, evaluates it and registers it.

    outcome = personalise("motet-root", "assistant", "ana.jsonl")
    outcome.model, outcome.promoted, outcome.reason         # models:/assistant.ana/1, True, "fewer errors: …"

The adapter (mtl.inference.adaptation) learns the user's voice, and stores the phrases that the base's language model
lacks or rates low. It is registered as a model of its own, `<base>.<speaker>`; names of recipes contain no dot. It is
evaluated by cross-fitting: each utterance is recognised by an adapter that was trained without it and without its
words. The adapter becomes the champion of its name if it makes fewer word errors than the base and no other task is
worse by more than its tolerance; otherwise it is registered without an alias.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mtl.address import folder_address
from mtl.decoding.hot_words import HotWords
from mtl.decoding.ngram import NGram
from mtl.inference.adaptation import About, Personal, PersonalPredictor
from mtl.inference.enrolment import Fitting, Fold, Utterance, cross_fit, fit, statistics_of
from mtl.inference.predictor import Prediction, Predictor
from mtl.inputs.batch import collate
from mtl.metrics.scoring import METRICS, score_rows
from pipelines.core import progress
from pipelines.core.stage import timed
from pipelines.evaluation.gates import Decision, RowCounts, ScoredModel, decide
from pipelines.personalisation.enrolment import Enrolled, base_of, enrol, voices
from pipelines.recipe import Gates
from pipelines.registry.adapters import personal_name, register_adapter
from pipelines.registry.registry import Registry, Version

RARE = 1e-3  # geometric mean of the word probabilities of a phrase, below which it becomes a hot word
PRIMARY = "transcript/wer"


@dataclass(frozen=True)
class Personalised:
    """The result. base_wer, wer: percent, cross-fitted, on the user's utterances; steps: of training."""

    model: str
    base: str
    speaker: str
    promoted: bool
    reason: str
    utterances: int
    steps: int
    bytes: int
    hot_words: tuple[str, ...]
    base_wer: float
    wer: float
    decision: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def personalise(
    root: str,
    model: str,
    source: str,
    speaker: str | None = None,
    words: Sequence[str] = (),
    steps: int | None = None,
    significant: bool = False,
    fitting: Fitting | None = None,
) -> Personalised:
    """Trains an adapter for the speaker of a manifest and registers it as a version of `<model>.<speaker>`.

    speaker: the user's name, if the manifest has none. words: phrases that the user says. steps: of each training.
    significant: promote only when the gain is significant at 95 %.

    Raises:
        PersonaliseError: the model does not transcribe, or the manifest does not fit. IngestError: recordings that
        cannot be used. RegistryError: no such model, or the adapter's name belongs to another root.
    """
    registry = Registry(root)
    base, predictor = base_of(registry, model)
    fitting = fitting or Fitting()
    if steps is not None:
        fitting = replace(fitting, steps=steps)
    user = enrol(registry.store, predictor, source, speaker)
    registry.check(personal_name(base.name, user.speaker))
    with timed("voice") as line:
        voice, mean = voices(registry, base, predictor, user.utterances)
        known = len(voice) > 1
        line.text = "from the training speakers of the base" if known else "the base has no speaker embeddings"
    about = about_of(base, registry.folder(base.uri), user)
    with timed("fit") as line, progress.current().bar("fit", "steps") as report:
        adapters = fitted(predictor, about, voice, mean, user, words, fitting, report)
        before, after = adapters.held_back_loss()
        line.text = f"{fitting.steps} steps, held-back loss {before:.3f} -> {after:.3f} per unit"
    with timed("judge") as line:
        decision = judge(predictor, adapters, user, significant)
        line.text = decision.reason
    return _registered(registry, base, adapters, user, decision)


def about_of(base: Version, folder: Path, user: Enrolled) -> About:
    return About(user.speaker, base.name, base.version, folder_address(folder), utterances=len(user.rows))


@dataclass(frozen=True)
class Fitted:
    """The adapter that is registered, trained on all utterances, and the cross-fitted ones that evaluate it."""

    personal: Personal
    folds: list[Fold]
    words: tuple[str, ...]

    def held_back_loss(self) -> tuple[float, float]:
        """Loss per unit on the held-back utterances of the folds: of the base, and of the folds' adapters."""
        units = sum(fold.units for fold in self.folds)
        return sum(fold.before for fold in self.folds) / units, sum(fold.after for fold in self.folds) / units


def fitted(
    predictor: Predictor,
    about: About,
    voice: torch.Tensor,
    mean: torch.Tensor,
    user: Enrolled,
    words: Sequence[str],
    fitting: Fitting,
    report: progress.Report | None = None,
) -> Fitted:
    """Trains the cross-fitted adapters, then the one that is registered."""

    def fresh(utterances: Sequence[Utterance]) -> Personal:
        torch.manual_seed(fitting.seed)
        return Personal.beside(predictor.model, about, voice, mean, statistics_of(utterances))

    total, done = fitting.steps * (min(fitting.folds, len(user.rows)) + 1), 0

    def count(steps: int) -> None:
        nonlocal done
        done += steps
        if report:
            report(done, total, "")

    folds = cross_fit(predictor.model, fresh, user.utterances, predictor.features, fitting, count)
    personal = fit(predictor.model, fresh(user.utterances), user.utterances, predictor.features, fitting, report=count)
    hot = hot_words(predictor, [row["text"] for row in user.rows], words)
    personal.about = replace(about, hot_words=hot, steps=fitting.steps)
    return Fitted(personal, folds, tuple(words))


def hot_words(predictor: Predictor, texts: Sequence[str], phrases: Sequence[str] = ()) -> tuple[str, ...]:
    """Words of the texts, and the phrases, that the base's language model lacks or rates low; sorted.

    Without a language model: those that the training texts lack. Raises HotWordError for a phrase without a letter.
    """
    language, known = predictor.language, frozenset(predictor.codec.words)
    candidates = sorted({*HotWords(phrases).phrases, *(word for text in texts for word in text.split())})
    if language is None:
        return tuple(phrase for phrase in candidates if not known.issuperset(phrase.split()))
    return tuple(phrase for phrase in candidates if _surprise(language, phrase) > -math.log(RARE))


def _surprise(language: NGram, phrase: str) -> float:
    """Mean of -ln P over a phrase's words, infinite where one is not known."""
    words = tuple(phrase.split())
    if any(word not in language.vocabulary for word in words):
        return math.inf
    return -sum(language.score(words[:position], word) for position, word in enumerate(words)) / len(words)


def held_back_predictions(predictor: Predictor, adapters: Fitted, user: Enrolled) -> list[Prediction]:
    """Predictions for each utterance by the adapter and the hot words of the fold that holds it out."""
    predictions: dict[int, Prediction] = {}
    for fold in adapters.folds:
        others = [row["text"] for n, row in enumerate(user.rows) if n not in fold.held_back]
        fold.personal.about = replace(fold.personal.about, hot_words=hot_words(predictor, others, adapters.words))
        held_back = [user.utterances[n] for n in fold.held_back]
        of_fold = predict_rows(PersonalPredictor(predictor, fold.personal), held_back)
        predictions.update(zip(fold.held_back, of_fold, strict=True))
    return [predictions[n] for n in range(len(user.rows))]


def predict_rows(predictor: Predictor, utterances: Sequence[Utterance]) -> list[Prediction]:
    batch = collate([utterance.example for utterance in utterances], [utterance.features for utterance in utterances])
    return predictor.predict_batch(batch)


def judge(predictor: Predictor, adapters: Fitted, user: Enrolled, significant: bool = False) -> Decision:
    """The gate of an adapter: fewer word errors than the base, and no other task worse than its tolerance.

    significant: require a significant gain, which a few utterances seldom show.
    """
    candidate = held_back_predictions(predictor, adapters, user)
    return compare(candidate, predict_rows(predictor, user.utterances), user, predictor, significant)


def compare(
    candidate: Sequence[Prediction],
    base: Sequence[Prediction],
    user: Enrolled,
    predictor: Predictor,
    significant: bool = False,
) -> Decision:
    """`judge` on predictions of the adapter and of the base."""
    decision = decide(
        _scored(f"the adapter of {user.speaker}", candidate, user, predictor),
        _scored("the base", base, user, predictor),
        Gates(primary=PRIMARY),
        METRICS,
    )
    primary = next(row for row in decision.comparisons if row.metric == PRIMARY)
    assert primary.gain is not None, "both were scored on the same transcribed rows"
    better = primary.verdict == "better" if significant else primary.gain > 0
    others = [text for text in decision.objections if not text.startswith(PRIMARY)]
    numbers = (
        f"{PRIMARY} {primary.champion:.2f} % -> {primary.candidate:.2f} % on {primary.rows} utterances held back "
        f"(gain {primary.gain:+.2f}, 90 % interval {primary.low:.2f} to {primary.high:.2f}, p {primary.p:.2g})"
    )
    sure = "significantly fewer errors" if primary.verdict == "better" else "fewer errors, not significantly so"
    verdict = sure if better else "not significantly better" if significant else "no fewer errors than the base"
    reason = f"{verdict}: {numbers}" + (f", but {others[0]}" if others else "")
    return replace(decision, promote=better and not others, reason=reason)


def _scored(name: str, predictions: Sequence[Prediction], user: Enrolled, predictor: Predictor) -> ScoredModel:
    ids = [row["id"] for row in user.rows]
    scores = score_rows(user.rows, list(predictions))
    counts = {metric: RowCounts([ids[n] for n in rows.rows], rows.counts) for metric, rows in scores.items()}
    return ScoredModel(name, counts, sum(parameter.numel() for parameter in predictor.model.parameters()))


def _registered(
    registry: Registry, base: Version, adapters: Fitted, user: Enrolled, decision: Decision
) -> Personalised:
    """Registers the adapter as a version and records the decision; sets the alias only if it was promoted."""
    name, personal = personal_name(base.name, user.speaker), adapters.personal
    with timed("register") as line, tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "adapter.safetensors"
        personal.save(file)
        size = file.stat().st_size
        parameters = sum(parameter.numel() for parameter in personal.parameters())
        tags = {"motet.speaker": user.speaker, "motet.parameters": str(parameters)}
        version = register_adapter(registry, name, file, base, tags, [user.manifest])
        metrics = {row.metric: row.candidate for row in decision.comparisons if row.candidate is not None}
        registry.record(version, metrics)
        registry.claim(name)
        champion = registry.state(name).champion
        registry.settle(name, version.version, decision, champion, user.manifest.address, by="personalise")
        line.text = f"{version.uri}, {size:,} bytes, for {base.uri}"
    primary = next(row for row in decision.comparisons if row.metric == PRIMARY)
    return Personalised(
        model=version.uri,
        base=base.uri,
        speaker=user.speaker,
        promoted=decision.promote,
        reason=decision.reason,
        utterances=len(user.rows),
        steps=personal.about.steps,
        bytes=size,
        hot_words=personal.about.hot_words,
        base_wer=primary.champion or 0.0,
        wer=primary.candidate or 0.0,
        decision=decision.to_json(),
    )


def outcome_lines(outcome: Personalised) -> str:
    """The result as it is printed."""
    state = "promoted" if outcome.promoted else "not promoted"
    hot = ", ".join(outcome.hot_words[:8]) + (" …" if outcome.hot_words[8:] else "")
    lines = [
        f"{outcome.model}: {state} ({outcome.reason})",
        f"adapter     {outcome.bytes / 1000:.0f} kB, for {outcome.base}",
    ]
    lines += [f"hot words   {hot}"] if hot else []
    if outcome.promoted:
        lines.append(f"try it      motet predict FILE.wav --personal {outcome.speaker}")
    return "\n".join(lines)
