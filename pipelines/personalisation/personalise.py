"""`motet personalise`: a user's adapter from a few utterances, judged on those it did not hear, and registered.

    outcome = personalise("motet-root", "assistant", "ana.jsonl")
    outcome.model, outcome.promoted, outcome.reason         # models:/assistant.ana/1, True, "fewer errors: …"

The adapter (mtl.inference.adaptation) learns the user's voice and keeps the phrases that the base lacks or
rates low. It is a model
of its own, `<base>.<speaker>`: names of recipes hold no dot. It becomes champion of that name if it makes fewer word
errors than the base on the user's own utterances, each recognised by an adapter that heard neither it nor its
words, and if no other task is worse by more than its tolerance. Else it is kept without an alias.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core import progress
from pipelines.nightly import step
from pipelines.recipe import Gates

if TYPE_CHECKING:
    import torch

    from mtl.answers import Prediction
    from mtl.decoding.ngram import NGram
    from mtl.inference.adaptation import About, Personal
    from mtl.inference.enrolment import Fitting, Fold, Utterance
    from mtl.inference.predictor import Predictor
    from pipelines.evaluation.gates import Decision
    from pipelines.personalisation.enrolment import Enrolled
    from pipelines.registry.registry import Registry, Version

RARE = 1e-3  # probability of a word in its place, in the mean over a phrase, below which a phrase is a hot one
PRIMARY = "transcript/wer"


@dataclass(frozen=True)
class Personalised:
    """What came of it. base_wer, wer: percent, cross-fitted, on the user's utterances; steps: of training."""

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
    """An adapter for the speaker of a manifest, as a version of `<model>.<speaker>`.

    speaker: what to call the user where the manifest names none. words: phrases that the user says. steps: of a fit.
    significant: be promoted only when the gain is significant at 95 %.

    Raises:
        PersonaliseError: the model does not transcribe, or the manifest does not fit. IngestError: a recording cannot
        be used; it names each. RegistryError: no such model, or the speaker's is another root's.
    """
    from mtl.inference.enrolment import Fitting
    from pipelines.personalisation.adapters import personal_name
    from pipelines.personalisation.enrolment import base_of, enrol, voices
    from pipelines.registry.registry import Registry

    registry = Registry(root)
    base, predictor = base_of(registry, model)
    fitting = fitting or Fitting()
    if steps is not None:
        fitting = replace(fitting, steps=steps)
    given = enrol(registry.store, predictor, source, speaker)
    registry.check(personal_name(base.name, given.speaker))
    with step("voice") as current:
        voice, mean = voices(registry, base, predictor, given.utterances)
        known = "from the speakers that the base was trained on" if len(voice) > 1 else "the base embeds no voices"
        current.done(known, None)
    about = _about(base, registry.folder(base.uri), given)
    with step("fit") as current, progress.current().bar("fit", "steps") as report:
        made = fitted(predictor, about, voice, mean, given, words, fitting, report)
        before, after = made.held_back_loss()
        current.done(f"{fitting.steps} steps, held-back loss {before:.3f} -> {after:.3f} per unit", None)
    with step("judge") as current:
        decision = judge(predictor, made, given, significant)
        current.done(decision.reason, None)
    return _registered(registry, base, made, given, decision)


def _about(base: Version, folder: Path, given: Enrolled) -> About:
    from mtl.address import folder_address
    from mtl.inference.adaptation import About

    return About(given.speaker, base.name, base.version, folder_address(folder), utterances=len(given.rows))


@dataclass(frozen=True)
class Fitted:
    """The adapter that ships, which heard everything, and the cross-fitted ones by which it is judged."""

    personal: Personal
    folds: list[Fold]
    words: tuple[str, ...]

    def held_back_loss(self) -> tuple[float, float]:
        """Loss per unit on what the folds did not hear: the base's, and theirs."""
        units = sum(fold.units for fold in self.folds)
        return sum(fold.before for fold in self.folds) / units, sum(fold.after for fold in self.folds) / units


def fitted(
    predictor: Predictor,
    about: About,
    voice: torch.Tensor,
    mean: torch.Tensor,
    given: Enrolled,
    words: Sequence[str],
    fitting: Fitting,
    report: progress.Report | None = None,
) -> Fitted:
    """Cross-fits, then fits the adapter that ships."""
    import torch

    from mtl.inference.adaptation import Personal
    from mtl.inference.enrolment import cross_fit, fit, statistics_of

    def fresh(heard: Sequence[Utterance]) -> Personal:
        torch.manual_seed(fitting.seed)
        return Personal.beside(predictor.model, about, voice, mean, statistics_of(heard))

    total, done = fitting.steps * (min(fitting.folds, len(given.rows)) + 1), 0

    def count(steps: int) -> None:
        nonlocal done
        done += steps
        if report:
            report(done, total, "")

    folds = cross_fit(predictor.model, fresh, given.utterances, predictor.features, fitting, count)
    personal = fit(
        predictor.model, fresh(given.utterances), given.utterances, predictor.features, fitting, report=count
    )
    hot = hot_words(predictor, [row["text"] for row in given.rows], words)
    personal.about = replace(about, hot_words=hot, steps=fitting.steps)
    return Fitted(personal, folds, tuple(words))


def hot_words(predictor: Predictor, texts: Sequence[str], given: Sequence[str] = ()) -> tuple[str, ...]:
    """Words of the texts, and phrases given, that the base's language model lacks or rates low; sorted.

    Without a language model they are those that training never saw.
    """
    from mtl.decoding.hot_words import HotWordError
    from mtl.text.normalization import normalise

    for phrase in given:
        if not normalise(phrase):
            raise HotWordError(f"the hot word {phrase!r} has no letter or digit that could be heard")
    language, known = predictor.language, frozenset(predictor.codec.words)
    phrases = {normalise(phrase) for phrase in given} | {word for text in texts for word in text.split()}
    if language is None:
        return tuple(sorted(phrase for phrase in phrases if not known.issuperset(phrase.split())))
    return tuple(sorted(phrase for phrase in phrases if _surprise(language, phrase) > -math.log(RARE)))


def _surprise(language: NGram, phrase: str) -> float:
    """Mean of -ln P over a phrase's words, infinite where one is not known."""
    context: tuple[str, ...] = ()
    total = 0.0
    for word in phrase.split():
        if word not in language.vocabulary:
            return math.inf
        total -= language.score(context, word)
        context = (*context, word)
    return total / len(context)


def held_back_predictions(predictor: Predictor, made: Fitted, given: Enrolled) -> list[Prediction]:
    """Each utterance as it is heard by an adapter, and with hot words, that owe nothing to it."""
    from mtl.inference.adaptation import PersonalPredictor

    found: dict[int, Prediction] = {}
    for fold in made.folds:
        others = [row["text"] for n, row in enumerate(given.rows) if n not in fold.held_back]
        expected = hot_words(predictor, others, made.words)
        fold.personal.about = replace(fold.personal.about, hot_words=expected)
        mine = PersonalPredictor(predictor, fold.personal)
        heard = predict_rows(mine, [given.utterances[n] for n in fold.held_back])
        found.update(zip(fold.held_back, heard, strict=True))
    return [found[n] for n in range(len(given.rows))]


def predict_rows(predictor: Predictor, utterances: Sequence[Utterance]) -> list[Prediction]:
    from mtl.inputs.batch import collate

    batch = collate([utterance.example for utterance in utterances], [utterance.features for utterance in utterances])
    return predictor.predict_batch(batch)


def judge(predictor: Predictor, made: Fitted, given: Enrolled, significant: bool = False) -> Decision:
    """The gate of a personal model: fewer word errors than the base, and no other task worse than its tolerance.

    A handful of utterances seldom shows a gain at 95 %; the interval is told, and is asked for with `significant`.
    """
    mine, base = held_back_predictions(predictor, made, given), predict_rows(predictor, given.utterances)
    return compare(mine, base, given, predictor, significant)


def compare(
    mine: Sequence[Prediction],
    base: Sequence[Prediction],
    given: Enrolled,
    predictor: Predictor,
    significant: bool = False,
) -> Decision:
    """The same from what the adapter and the base have heard."""
    from mtl.metrics.scoring import METRICS
    from pipelines.evaluation import gates

    candidate = _contender(f"the adapter of {given.speaker}", mine, given, predictor)
    reigning = _contender("the base", base, given, predictor)
    decision = gates.decide(candidate, reigning, Gates(primary=PRIMARY), METRICS)
    primary = next(row for row in decision.comparisons if row.metric == PRIMARY)
    assert primary.gain is not None, "both were scored on the same transcribed rows"
    better = primary.verdict == "better" if significant else primary.gain > 0
    others = [text for text in decision.objections if not text.startswith(PRIMARY)]
    told = (
        f"{PRIMARY} {primary.champion:.2f} % -> {primary.candidate:.2f} % on {primary.rows} utterances held back "
        f"(gain {primary.gain:+.2f}, 90 % interval {primary.low:.2f} to {primary.high:.2f}, p {primary.p:.2g})"
    )
    sure = "significantly fewer errors" if primary.verdict == "better" else "fewer errors, not significantly so"
    verdict = sure if better else "not significantly better" if significant else "no fewer errors than the base"
    reason = f"{verdict}: {told}" + (f", but {others[0]}" if others else "")
    return replace(decision, promote=better and not others, reason=reason)


def _contender(name: str, predictions: Sequence[Prediction], given: Enrolled, predictor: Predictor) -> Any:
    from mtl.metrics.scoring import score_rows
    from pipelines.evaluation.gates import RowCounts, ScoredModel

    ids = [row["id"] for row in given.rows]
    scores = score_rows(given.rows, list(predictions))
    counts = {metric: RowCounts([ids[n] for n in found.rows], found.counts) for metric, found in scores.items()}
    return ScoredModel(name, counts, sum(parameter.numel() for parameter in predictor.model.parameters()))


def _registered(registry: Registry, base: Version, made: Fitted, given: Enrolled, decision: Decision) -> Personalised:
    """The adapter as a version, the decision in its ledger, the alias only if it was promoted."""
    from pipelines.personalisation.adapters import personal_name, register_adapter

    name = personal_name(base.name, given.speaker)
    with step("register") as current, tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "adapter.safetensors"
        made.personal.save(file)
        size = file.stat().st_size
        tags = {
            "motet.speaker": given.speaker,
            "motet.parameters": str(sum(parameter.numel() for parameter in made.personal.parameters())),
        }
        version = register_adapter(registry, name, file, base, tags, [given.manifest])
        metrics = {row.metric: row.candidate for row in decision.comparisons if row.candidate is not None}
        registry.record(version, metrics)
        registry.claim(name)
        champion = registry.state(name).champion
        registry.settle(name, version.version, decision, champion, given.manifest.address, by="personalise")
        current.done(f"{version.uri}, {size:,} bytes, for {base.uri}", None)
    primary = next(row for row in decision.comparisons if row.metric == PRIMARY)
    return Personalised(
        model=version.uri,
        base=base.uri,
        speaker=given.speaker,
        promoted=decision.promote,
        reason=decision.reason,
        utterances=len(given.rows),
        steps=made.personal.about.steps,
        bytes=size,
        hot_words=made.personal.about.hot_words,
        base_wer=primary.champion or 0.0,
        wer=primary.candidate or 0.0,
        decision=decision.to_json(),
    )


def outcome_lines(outcome: Personalised) -> str:
    """What a person is told at the end."""
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
