"""Runs: read a recipe, ingest a corpus, run a night, a search, a study or an evaluation, promote a version.

Each function does what the command of the same name does, and raises the errors whose messages the command prints.
Progress is shown on standard error; `quiet=True` hides it. `root` is a folder or an s3:// prefix that holds
everything; if omitted, MOTET_ROOT, else ./motet-root.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtl.config.balancing import METHODS
from mtl.config.sharing import MODES
from mtl.decoding.hot_words import WEIGHT
from pipelines.cli.console import who
from pipelines.cli.results import Evaluation, IngestResult, Promotion, RunResult, SearchResult, StudyResult
from pipelines.core import environment
from pipelines.core.progress import display
from pipelines.recipe import Recipe, load
from pipelines.recipe.variables import hide_in_overrides
from pipelines.stages.context import with_workers
from pipelines.storage.lock import writing
from pipelines.study.options import KINDS, SEEDS, Split


class OptionError(ValueError):
    """An option, or a combination of options, that a run does not take; named as on the command line."""


def recipe(name: str | Path, *settings: str) -> Recipe:
    """Reads and validates a recipe.

    Args:
        name: a shipped recipe ("assistant", "expressive", …) or the path of a YAML file.
        settings: overrides "key.of.the.recipe=value", with the value in YAML.

    Returns:
        The recipe with every default filled in; `to_yaml()` writes it, `address()` identifies it.

    Raises:
        RecipeError: no such recipe, or a key or value that does not fit.

    Example:
        >>> motet.recipe("assistant", "trainer.epochs=2").trainer.epochs
        2
    """
    return load(str(name), hide_in_overrides(settings))


def ingest(
    kind: str,
    source: str | Path | None = None,
    *,
    name: str | None = None,
    root: str | Path | None = None,
    checksum: str | None = None,
    language: str | None = None,
    split_by: str = "release",
    settings: Sequence[str] = (),
    quiet: bool = False,
) -> IngestResult:
    """Reads one corpus into the utterance table; unusable rows go to quarantine with a reason.

    Args:
        kind: layout of the corpus, such as "manifest", "librispeech" or "espeak".
        source: folder, archive, URL or s3:// prefix; None for kinds that need none.
        name: of the corpus in tables and metrics; the kind if omitted.
        checksum: SHA-256 of an archive or download.
        language: BCP 47 tag of rows without one.
        split_by: "release" (the corpus's own splits), "speaker" or "sentence".
        settings: "options.KEY=VALUE" and "quality.KEY=VALUE" of the corpus.

    Raises:
        RecipeError: an option that does not fit. SourceError: no such file. IngestError: too many unusable rows.

    Example:
        >>> result = motet.ingest("manifest", "calls.jsonl", name="calls", split_by="speaker")
        >>> result.meta["rows"], result.meta["reasons"]
        (118, {'undecodable': 2})
    """
    from pipelines.adhoc.prediction import ingest_one

    root = _root(root)
    corpus = {"name": name or kind, "kind": kind, "source": None if source is None else str(source)}
    corpus |= {"checksum": checksum, "language": language, "split_by": split_by}
    with display(quiet=quiet):
        return IngestResult.of(ingest_one(root, corpus, settings))


def nightly(
    recipe: str | Path | Recipe,
    *settings: str,
    root: str | Path | None = None,
    workers: int | None = None,
    again: bool = False,
    wait: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> RunResult:
    """Runs a night: ingest, features, training, evaluation, gate, promotion, report.

    If recipe, data and code are those of an earlier night, nothing is trained and its result is returned.

    Args:
        recipe: a shipped recipe, a YAML file, or what `recipe` returned.
        settings: overrides, as of `recipe`.
        workers: training processes, instead of trainer.workers.
        again: train although nothing is new.
        wait: wait for another run on this root instead of raising Busy.
        verbose: show the logs of Prefect and Ray.

    Raises:
        RecipeError: the recipe is not valid. Busy: another run holds the root. RegistryError: the model's name
        belongs to another root.

    Example:
        >>> result = motet.nightly("assistant", "trainer.epochs=2")
        >>> result.model, result.promoted, result.metrics["transcript/wer"]
        ('models:/assistant/1', True, 4.2)
    """
    root, overrides = _root(root, verbose), hide_in_overrides(settings)
    with _recipe_file(recipe) as name:
        load(name, with_workers(overrides, workers))  # raises before Prefect starts
        with _flows(root, quiet) as flows:
            result = flows.nightly(name, root=root, overrides=overrides, workers=workers, again=again, wait=wait)
    return RunResult(**result, root=root)


def search(
    recipe: str | Path | Recipe,
    *settings: str,
    root: str | Path | None = None,
    trials: int | None = None,
    resume: bool = False,
    train_winner: bool = False,
    pick: str = "best",
    wait: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> SearchResult:
    """Searches task weights, sharing mode and its strength, and learning rate with Ray Tune.

    Args:
        recipe: as of `nightly`; its section `search` holds the space.
        settings: overrides, as of `recipe`.
        wait: as of `nightly`.
        verbose: as of `nightly`.
        trials: how many, instead of search.trials.
        resume: continue an interrupted search; a finished one is returned again.
        train_winner: then run a night of the picked trial.
        pick: "best" (by the objective), "knee" (of the Pareto front) or a trial's name.

    Raises:
        RecipeError, Busy: as of `nightly`. SearchError: nothing to resume, or no trial finished.
        PickError: no such trial.

    Example:
        >>> result = motet.search("assistant", trials=8)
        >>> result.settings("knee")
        ['sharing.mode=mmoe', 'trainer.learning_rate=0.0011', 'tasks.intent.weight=0.42']
    """
    root, overrides = _root(root, verbose), hide_in_overrides(settings)
    with _recipe_file(recipe) as name:
        load(name, overrides)
        with _flows(root, quiet) as flows:
            return SearchResult(flows.search(name, root, overrides, trials, resume, train_winner, wait, pick))


def study(
    recipe: str | Path | Recipe,
    *settings: str,
    root: str | Path | None = None,
    seeds: int = SEEDS,
    cells: Sequence[str] = KINDS,
    split: Split = "valid",
    share: float = 1.0,
    labels: Sequence[float] = (),
    sparse: Sequence[str] = (),
    sharing: Sequence[str] = (),
    balancing: Sequence[str] = (),
    folds: int | None = None,
    wait: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> StudyResult:
    """Compares joint models with single-task models; an interrupted study is resumed.

    By default: every task alone, all together, in pairs, each left out. Instead with `labels`: on shares of the
    labels; with `sharing` or `balancing`: by sharing mode and balancing method; with `folds`: by cross-validation
    over speakers.

    Args:
        recipe: as of `nightly`.
        settings: overrides, as of `recipe`.
        wait: as of `nightly`.
        verbose: as of `nightly`.
        seeds: trainings per cell.
        cells: some of "single", "joint", "pairs", "leave-one-out".
        split: rows to evaluate on, "valid" or "test".
        share: fraction of the training rows, the same for every cell.
        labels: fractions of the labels in (0, 1], for instance (0.01, 0.1, 1).
        sparse: tasks whose labels are reduced; intent and slots if omitted.
        sharing: names of sharing modes.
        balancing: names of balancing methods.
        folds: number of groups of speakers; 0 holds out each speaker in turn.

    Raises:
        OptionError: options that do not fit each other or the recipe.
        RecipeError, Busy: as of `nightly`. StudyError: the recipe or its data allow no such study.

    Example:
        >>> motet.study("assistant", sharing=["hard", "mmoe"], seeds=1)
    """
    root, overrides = _root(root, verbose), hide_in_overrides(settings)
    if bool(labels) + bool(sharing or balancing) + (folds is not None) > 1:
        raise OptionError("--labels, --folds, and --sharing or --balancing are different studies; choose one")
    if sparse and not labels:
        raise OptionError(f"--sparse {','.join(sparse)}: says whose labels are few, and needs --labels, as 0.01,0.1,1")
    if not all(0 < value <= 1 for value in labels):
        raise OptionError(f"--labels {','.join(f'{value:g}' for value in labels)}: expected shares above 0, up to 1")
    with _recipe_file(recipe) as name:
        tasks = load(name, overrides).tasks
        choices = {
            "cells": (cells, KINDS),
            "sharing": (sharing, tuple(MODES)),
            "balancing": (balancing, tuple(METHODS)),
        }
        for option, (values, known) in {**choices, "sparse": (sparse, tuple(tasks))}.items():
            if unknown := sorted(set(values) - set(known)):
                raise OptionError(f"--{option} {', '.join(unknown)}: expected some of {', '.join(known)}")
        chosen = (list(labels), list(sparse), list(sharing), list(balancing), folds)
        with _flows(root, quiet) as flows:
            return StudyResult(flows.study(name, root, overrides, seeds, list(cells), split, share, wait, *chosen))


def evaluate(
    model: str,
    kind: str,
    source: str | Path | None = None,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    name: str | None = None,
    split_by: str = "release",
    settings: Sequence[str] = (),
    greedy: bool = False,
    hot_words: Sequence[str] = (),
    hot_weight: float = WEIGHT,
    distractors: int = 0,
    domain: str | None = None,
    listeners: dict[str, str] | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Evaluates a model on a corpus: WER, CER, intent accuracy, slot F1 … with 95 % bootstrap intervals.

    Args:
        model: "NAME", "NAME/3", "NAME@challenger", a models:/ URI or a folder.
        kind: layout of the corpus, as of `ingest`.
        source: of the corpus, as of `ingest`.
        split_by: as of `ingest`.
        settings: of the corpus, as of `ingest`.
        split: "train", "valid", "test" or "all"; if omitted, "test", or "all" for a corpus without splits.
        name: of the corpus; "evaluation-<kind>" if omitted, so that no corpus of a night is replaced.
        greedy: best-path decoding without a language model.
        hot_words: phrases to expect; every metric is then given with and without them.
        hot_weight: weight of a hot word per character, in nats.
        distractors: for each row, so many more hot words that do not occur in it.
        domain: of all recordings, for a model that is trained with domains.
        listeners: for a model that synthesises: task -> registered model that judges the speech; those of its recipe
            if omitted.

    Raises:
        OptionError: options that exclude each other. RegistryError: no such model. EvaluationError: no rows in the
        split. MissingJudge: no such listener.

    Example:
        >>> scores = motet.evaluate("assistant", "librispeech", "/data/LibriSpeech", split="test")
        >>> scores.metrics["transcript/wer"]["value"]
        9.81
    """
    from pipelines.adhoc.evaluation import evaluate_on
    from pipelines.evaluation.evaluate import Expected

    if greedy and hot_words:
        raise OptionError("--greedy takes no hot words; leave out one of them")
    if distractors and not hot_words:
        raise OptionError("--distractors need hot words; give some")
    root = _root(root)
    expected = Expected(tuple(hot_words), hot_weight, distractors) if hot_words else None
    # A name of its own: another way of splitting must not become the newest version of what nights train on.
    corpus: dict[str, Any] = {"name": name or f"evaluation-{kind}", "kind": kind, "split_by": split_by}
    corpus["source"] = None if source is None else str(source)
    with writing(root, f"evaluation of {model}"), display(quiet=quiet):
        return Evaluation(**evaluate_on(root, model, corpus, split, settings, expected, greedy, domain, listeners))


def promote(
    model: str,
    version: int | None = None,
    *,
    root: str | Path | None = None,
    force: bool = False,
    reason: str = "by hand",
    quiet: bool = False,
    verbose: bool = False,
) -> Promotion:
    """Compares a registered version with the champion and promotes it if the gate allows.

    Args:
        model: name in the registry.
        version: the challenger if omitted.
        force: promote without the gate.
        reason: is recorded with the decision.

    Raises:
        RegistryError: no such version, or it is the champion already.

    Example:
        >>> motet.promote("assistant", 4, force=True, reason="WER is not what counts here")
        models:/assistant/4: promoted (WER is not what counts here)
    """
    from pipelines.stages.gate import challenger

    root = _root(root, verbose)
    with _flows(root, quiet) as flows:
        number = version or challenger(root, model)
        decision = flows.promote(model, number, root=root, force=force, reason=reason, by=who())
    return Promotion(f"models:/{model}/{number}", **decision)


def _root(root: str | Path | None, verbose: bool = False) -> str:
    """The root as text, after the environment is prepared for Prefect, Ray and MLflow."""
    name = environment.default_root() if root is None else str(root)
    environment.prepare(name, verbose=verbose)
    return name


@contextmanager
def _flows(root: str, quiet: bool) -> Iterator[Any]:
    """The module flows, which imports Prefect, within a progress display."""
    import flows

    environment.make_home()
    with display(quiet=quiet):
        yield flows


@contextmanager
def _recipe_file(recipe: str | Path | Recipe) -> Iterator[str]:
    """The name or path of a recipe; of a Recipe, a YAML file that lasts as long as the block."""
    if not isinstance(recipe, Recipe):
        yield str(recipe)
        return
    with tempfile.TemporaryDirectory(prefix="motet-") as folder:
        path = Path(folder) / f"{recipe.name}.yaml"
        path.write_text(recipe.to_yaml(), encoding="utf-8")
        yield str(path)
