"""Arguments of `mtl.training.fit` from a recipe and its rows: vocabularies, model, settings, validation.

    dataset = labelled(open_dataset(store, utterances, features), recipe)
    codec, model_config, fit_config = prepare(recipe, dataset)
    job = Job(recipe, utterances, features, store, codec.to_json(), threads=2)     # picklable
    model, loader, validate = job.open(rank=0, world_size=1)
    fit(model, loader, fit_config, validate=validate)

Training, trials of a search and cells of a study all start here, so that they differ only in their recipe.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mtl.answers import Prediction
from mtl.audio.features import bin_centres
from mtl.config.decoding import BeamConfig, DecoderConfig
from mtl.config.model import DomainConfig, ModelConfig, VocoderConfig
from mtl.config.setting import narrow
from mtl.config.training import FitConfig
from mtl.decoding.ngram import NGram
from mtl.inference.predictor import Predictor
from mtl.inputs.codec import Codec
from mtl.inputs.tts import SpeechCode
from mtl.metrics.scoring import by_domain, score_rows, summarise
from mtl.models.joint import SpeechModel, build_model
from mtl.spec import first_with_answer
from mtl.spec import task as task_spec
from mtl.text.normalization import normalise
from mtl.text.units import Characters
from mtl.text.words import tokens_of
from pipelines.data.dataset import Dataset, by_hash, open_dataset
from pipelines.data.loader import Loader, evaluation_batches
from pipelines.data.prosody import MEASURED
from pipelines.recipe import Recipe
from pipelines.storage.roots import sha256
from pipelines.storage.store import Manifest, Store
from pipelines.training.folds import held_out
from pipelines.utterances.row_groups import read_by
from pipelines.utterances.schema import utterance_schema

# Validation runs after every epoch while the other ranks wait, so its cost is bounded, to about that of an hour of
# training audio; the confidence interval of the WER is about half a point.
VALID_SECONDS = 1800.0
VALID_SENTENCES = 2000
SCALING_ROWS = 500  # for the scale of each log-mel bin: half an hour of speech


class PrepareError(ValueError):
    """A recipe and rows that cannot be trained together; the message says what to change."""


class LanguageModelError(PrepareError):
    """The language model of decoding.arpa cannot be used."""


class VocabularyError(PrepareError):
    """Units that cannot be built from the training rows."""


class DomainError(PrepareError):
    """Fewer than two domains among the training recordings, for a model that is conditioned on them."""


class UnlabelledTask(PrepareError):
    """A task without a labelled training row."""


@dataclass(frozen=True)
class Job:
    """Input of a training process, as picklable data.

    codec: the vocabularies as JSON. threads: of torch in one process. share: of the training rows that are used.
    """

    recipe: Recipe
    utterances: list[Manifest]
    features: list[Manifest]
    store: Store
    codec: dict[str, Any] = field(repr=False)
    threads: int = 1
    share: float = 1.0

    def open(self, rank: int = 0, world_size: int = 1) -> tuple[SpeechModel, Loader, Validation | None]:
        """A fresh model, this rank's loader of the train split, and on rank 0 the validation."""
        torch.set_num_threads(self.threads)
        # oneDNN caches compiled primitives of the last 1024 shapes. Batches of speech rarely repeat a shape: a worker
        # grew by a gigabyte within minutes, and is no slower with a small cache. Read at first use.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
        recipe = self.recipe
        dataset = labelled(open_dataset(self.store, self.utterances, self.features), recipe)
        codec = Codec.from_json(self.codec)
        train = dataset.split("train")
        loader = Loader(
            train if self.share == 1 else train.select(sampled(train.rows, self.share)),
            codec,
            recipe.loader,
            hop_ms=recipe.features.hop_ms,
            micro_batches=recipe.trainer.micro_batches,
            rank=rank,
            world_size=world_size,
            seed=recipe.seed,
        )
        torch.manual_seed(recipe.seed)
        model = build_model(model_config(recipe), codec)
        return model, loader, Validation(recipe, dataset) if rank == 0 else None


def prepare(recipe: Recipe, dataset: Dataset) -> tuple[Codec, ModelConfig, FitConfig]:
    """Vocabularies from the training rows, and the recipe's settings in mtl's terms.

    Raises:
        UnlabelledTask: a task has no labelled row to train on.
        VocabularyError: fewer SentencePiece units than the texts have characters.
        DomainError: the training recordings have fewer than two domains, and the model is conditioned on them.
        LanguageModelError: decoding.arpa has another checksum, or another spelling than the transcripts.
    """
    tasks = tuple(recipe.tasks)
    train = dataset.split("train").rows
    _check_labels(train, recipe)
    if recipe.decoding.reread and not (train["audio"].null_count or recipe.understanding.read):
        raise UnlabelledTask(
            f"recipe {recipe.name!r}: decoding.reread needs training rows of text alone, so that the text front-end is "
            "trained; there are none. Set decoding.reread=false, or understanding.read=true, or add such a corpus"
        )
    by = recipe.domains.by if recipe.domains.on else None
    label_columns = {*utterance_schema().names} - {"text", "tokens", "context", "audio", by}
    labels = [label for label in dict.fromkeys(task_spec(task).label for task in tasks) if label in label_columns]
    columns = ["text", "tokens", "context", *(["audio", by] if by else []), *labels]
    try:
        codec = Codec.build(
            train.select(columns).to_pylist(),
            tasks,
            kind=recipe.text.units,
            pieces=recipe.text.pieces,
            context=recipe.text.context,
            target_kind=recipe.translation.units,
            target_pieces=recipe.translation.pieces,
            domain_by=by,
        )
    except ValueError as error:
        raise VocabularyError(f"recipe {recipe.name!r}, text or translation: {error}") from error
    if recipe.phrased:
        codec = replace(codec, speech=speech_code(recipe, dataset.split("train")))
    if by and len(codec.domains) < 2:
        reason = f"all are {codec.domains[0]!r}" if codec.domains else f"none has a {by}"
        raise DomainError(
            f"recipe {recipe.name!r}: domains.conditioning and domains.adapters need training recordings of two "
            f"domains by their {by}, but {reason}; change domains.by, or leave them out"
        )
    if recipe.decoding.arpa:
        arpa_model(recipe, codec)  # raises before the training if the file cannot be used
    return codec, model_config(recipe), fit_config(recipe)


def speech_code(recipe: Recipe, train: Dataset) -> SpeechCode:
    """Vocabularies and scales of synthesis, from the training rows that have phones."""
    spoken = train.select(np.flatnonzero(train.rows["durations"].is_valid().to_numpy()))
    columns = ["phones", "speaker", "emotion", *MEASURED]
    phonemes = next(corpus.phonemes for corpus in recipe.corpora if corpus.phonemes)
    first = sorted(by_hash(spoken.rows["id"].to_pylist())[:SCALING_ROWS])
    rows, hertz = spoken.rows.select(columns).to_pylist(), bin_centres(recipe.features)
    return SpeechCode.build(rows, spoken.features(first), phonemes, hertz)


def model_config(recipe: Recipe) -> ModelConfig:
    settings = vars(recipe.model) | vars(recipe.understanding) | vars(recipe.synthesis)
    return ModelConfig(
        **settings,
        tasks=tuple(recipe.tasks),
        bins=recipe.features.bins,
        sharing=recipe.sharing,
        decoder=narrow(DecoderConfig, recipe.translation),
        domains=narrow(DomainConfig, recipe.domains),
        vocoder=narrow(VocoderConfig, recipe.vocoder, features=recipe.features),
        reversal=tuple((task, config.reversal) for task, config in recipe.tasks.items() if config.reversal),
    )


def fit_config(recipe: Recipe) -> FitConfig:
    return narrow(
        FitConfig,
        recipe.trainer,
        task_weights={task: config.weight for task, config in recipe.tasks.items()},
        balancing=recipe.balancing,
        checkpoint_seconds=60 * recipe.trainer.checkpoint_minutes,
        seed=recipe.seed,
    )


def language_model(recipe: Recipe, dataset: Dataset, codec: Codec) -> NGram | None:
    """The word n-gram model of decoding.arpa, or one of the training sentences; None for greedy decoding.

    Raises:
        LanguageModelError: see `arpa_model`.
    """
    if recipe.decoding.beam == 1 or first_with_answer(recipe.tasks, "text") is None:
        return None
    if recipe.decoding.arpa:
        return arpa_model(recipe, codec)
    texts = dataset.split("train").rows["text"].drop_null().to_pylist()
    return NGram.train(texts, recipe.decoding.order) if texts else None


def arpa_model(recipe: Recipe, codec: Codec) -> NGram:
    """The language model of decoding.arpa, after checks of its content and spelling.

    Raises:
        LanguageModelError: no such file, no ARPA text, another checksum than that of the recipe, another spelling.
    """
    path = Path(os.path.expanduser(os.path.expandvars(recipe.decoding.arpa or "")))
    try:
        model = NGram.read(path)
        checksum = sha256(path)
    except (OSError, ValueError) as error:
        raise LanguageModelError(f"decoding.arpa: {error}") from None
    if (expected := recipe.decoding.arpa_checksum) not in (None, checksum):
        raise LanguageModelError(
            f"decoding.arpa: {path} has sha256 {checksum}, the recipe says {expected}; "
            "was it changed since the night began?"
        )
    odd = [word for word in model.vocabulary if word != normalise(word)]
    if 2 * len(odd) > len(model.vocabulary):
        raise LanguageModelError(
            f"decoding.arpa: {len(odd):,} of the {len(model.vocabulary):,} words in {path} are spelled unlike "
            f"transcripts, for instance {min(odd)!r}; expected lower case without punctuation"
        )
    if isinstance(codec.units, Characters):
        letters = set(codec.units.symbols)
        if not any(letters.issuperset(word) for word in model.vocabulary):
            raise LanguageModelError(f"decoding.arpa: no word in {path} is made of the letters of the transcripts")
    return model


def beam_config(recipe: Recipe) -> BeamConfig:
    return narrow(BeamConfig, recipe.decoding, width=recipe.decoding.beam)


def labelled(dataset: Dataset, recipe: Recipe) -> Dataset:
    """The dataset without the labels that the recipe does not train on.

    Removes a task's labels from rows of corpora that it does not name, and from training rows beyond its share
    `labels`. With recipe.fold, the splits are those of the fold.
    """
    if recipe.fold is not None:
        dataset = held_out(dataset, *recipe.fold)
    rows = dataset.rows
    for task, config in recipe.tasks.items():
        if config.corpora is not None:
            rows = _without_labels(rows, str(task), pc.is_in(rows["corpus"], pa.array(config.corpora, pa.string())))
        if config.labels < 1:
            rows = _without_labels(rows, str(task), _sparse(rows, str(task), config.labels))
    if rows is dataset.rows:
        return dataset
    change = str({task: config.corpora for task, config in recipe.tasks.items()})
    shares = {task: config.labels for task, config in recipe.tasks.items() if config.labels < 1}
    return dataset.relabelled(rows, f"{change} {shares}" if shares else change)


class Validation:
    """Scores a model on the valid split: `validate(model) -> {"valid/<task>/<metric>": percent}`.

    The same rows every time: those with the smallest hash of their id, up to VALID_SECONDS and VALID_SENTENCES.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.recipe, self.spec = recipe, recipe.features
        valid = dataset.split("valid")
        self.dataset = valid.select(bounded(valid.rows))

    def __call__(self, model: SpeechModel) -> dict[str, float]:
        if not self.dataset.rows.num_rows:
            return {}
        rows = self.dataset.rows.to_pylist()
        predictor = Predictor(model, self.spec)
        predictions: list[Prediction | None] = [None] * len(rows)
        for indices, batch in evaluation_batches(self.dataset, model.codec, self.recipe.loader):
            tokens = [tokens_of(rows[index]) for index in indices] if batch.group == "text" else None
            for index, prediction in zip(indices, predictor.predict_batch(batch, tokens), strict=True):
                predictions[index] = prediction
        known = model.codec.open_set_labels
        scores = score_rows(rows, cast(list[Prediction], predictions), known_speakers=known)
        if self.recipe.domains.on:
            scores |= by_domain(scores, [row[self.recipe.domains.by] for row in rows])
        metrics = summarise(scores)
        return {f"valid/{metric}": value for metric, value in metrics.items() if np.isfinite(value)}


def bounded(rows: pa.Table) -> list[int]:
    """Positions of a fixed sample of the rows: at most VALID_SECONDS of audio and VALID_SENTENCES of text."""
    durations: list[Any] = rows["duration"].to_pylist()
    texts: list[bool] = pc.is_null(rows["audio"]).to_pylist()
    chosen, seconds, sentences = [], 0.0, 0
    for position in by_hash(rows["id"].to_pylist()):
        if texts[position]:
            sentences += 1
            if sentences <= VALID_SENTENCES:
                chosen.append(position)
        elif seconds < VALID_SECONDS:
            seconds += durations[position] or 0.0
            chosen.append(position)
    return sorted(chosen)


def sampled(rows: pa.Table, share: float) -> list[int]:
    """Positions of a fixed share of the rows, at least one; a larger share contains a smaller one."""
    return sorted(_share_of(rows["id"].to_pylist(), share))


def _share_of(ids: list[str], share: float) -> list[int]:
    """Positions of the first `share` of the ids in the order of their hash, at least one."""
    return by_hash(ids)[: max(1, round(share * len(ids)))]


def _without_labels(rows: pa.Table, task: str, mask: Any) -> pa.Table:
    """The rows with the task's labels only where `mask` (N,) is true."""
    column = task_spec(task).label
    if column == "text":  # only the CTC target; text front-end and slots still need the words
        words = pc.if_else(
            pc.and_(pc.invert(mask), pc.is_null(rows["tokens"])), pc.split_pattern(rows["text"], " "), rows["tokens"]
        )
        rows = rows.set_column(rows.schema.get_field_index("tokens"), rows.schema.field("tokens"), words)
    field = rows.schema.field(column)
    values = pc.if_else(mask, rows[column], pa.scalar(None, field.type))
    return rows.set_column(rows.schema.get_field_index(column), field, values)


def trainable(rows: pa.Table, task: str) -> pa.ChunkedArray:
    """(N,) bool: rows with a label that trains the task."""
    spec = task_spec(task)
    labelled = pc.is_valid(rows[spec.label])
    return pc.and_(labelled, pa.array(read_by(rows, spec)))


def _sparse(rows: pa.Table, task: str, share: float) -> pa.Array:
    """(N,) bool: all rows but the training rows that lose their label.

    The hash differs from that of `sampled`: otherwise a share of the rows would contain more than its share of the
    labels. It is the same for every task, as if a share of the utterances had been annotated.
    """
    eligible = pc.and_(pc.equal(rows["split"], "train"), trainable(rows, task)).to_numpy()
    positions = np.flatnonzero(eligible)
    ids = [f"labels/{id_}" for id_ in rows["id"].take(pa.array(positions)).to_pylist()]
    mask = ~eligible
    mask[positions[_share_of(ids, share)]] = True
    return pa.array(mask)


def _check_labels(train: pa.Table, recipe: Recipe) -> None:
    if not train.num_rows:
        raise UnlabelledTask(f"recipe {recipe.name!r}: no row has the split 'train'; check split_by of the corpora")
    for task in recipe.tasks:
        if not pc.any(trainable(train, task)).as_py():
            raise UnlabelledTask(
                f"recipe {recipe.name!r}: no training row is labelled for the task {task!r}; remove tasks.{task}, "
                "add a corpus that has such labels, or widen tasks." + f"{task}.corpora"
            )
