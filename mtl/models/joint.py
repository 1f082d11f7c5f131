"""The joint model: a front-end for each input group, one trunk, one head per task.

model = build_model(config, codec)
losses = model.losses(batch)             # {task: (sum, count)}, of the tasks that the batch is labelled for
outputs = model.predict(batch)           # {task: one output per row}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtl.config.model import ModelConfig
from mtl.decoding.alignment import viterbi, word_spans
from mtl.decoding.greedy import Path, best_path
from mtl.groups import GroupSpec, groups, groups_read_by
from mtl.heads import Head, States, Words, build_heads
from mtl.heads.base import Decoding
from mtl.heads.classification import Classification
from mtl.heads.mel import Mel
from mtl.heads.transcript import Transcript
from mtl.inputs.audio import AudioFrontend
from mtl.inputs.batch import IGNORE, Batch, collate
from mtl.inputs.codec import Codec
from mtl.inputs.group import FrontendStates, Inputs, input_group
from mtl.inputs.text import TextFrontend
from mtl.layers.encoder import Encoder
from mtl.layers.gradient_reversal import reverse
from mtl.models.asr_hypotheses import TrainingWords, as_sentences, choose, read, tags_at, tags_of, word_frames
from mtl.models.consistency import consistency_loss
from mtl.models.domains import Domains
from mtl.sharing.base import Trunk
from mtl.spec import AUDIO, TEXT, first_with_answer, with_context
from mtl.spec import task as task_spec

Recogniser = Callable[[Tensor, Tensor], list[Path]]  # log-probabilities (B, T, V) and lengths (B,) to one Path a row


class SpeechModel(nn.Module):
    """The front-end of an input group is the attribute with its name, which is also its prefix in the weights."""

    audio: AudioFrontend
    text: TextFrontend

    def __init__(self, config: ModelConfig, codec: Codec) -> None:
        super().__init__()
        self.config, self.codec = config, codec
        of_tasks = groups_read_by(config.tasks)
        specs = [one for one in groups() if one.always or one in of_tasks]
        self.groups = {one.name: input_group(one.name) for one in specs}
        self._add_front_ends([one for one in specs if one.always])

        def encoder(blocks: int | None = None) -> Encoder:
            return Encoder(
                blocks=config.blocks if blocks is None else blocks,
                width=config.width,
                heads=config.heads,
                kernel=config.kernel,
                expansion=config.expansion,
                dropout=config.dropout,
                hidden=config.hidden,
            )

        self.trunk: Trunk = config.sharing.implementation(
            config.tasks, encoder, config.width, config.dropout, config.sharing.settings
        )
        self.tasks = build_heads(config, codec)
        self.recogniser = first_with_answer(config.tasks, "text")  # name of the task, None where there is none
        self.tagger = first_with_answer(config.tasks, "tags")
        self.frozen = False  # set by mtl.models.consistency.frozen_weights
        self.domains: Domains | None = None
        if config.domains.on:  # last, so that all other parameters are initialised as without them
            self.domains = Domains(len(codec.domains), config.width, config.domains, config.dropout)
        self._add_front_ends([one for one in specs if not one.always])

    def _add_front_ends(self, specs: Sequence[GroupSpec]) -> None:
        for one in specs:
            for name, module in self.groups[one.name].modules(self.config, self.codec).items():
                self.add_module(name, module)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def task(self, name: str) -> Head:
        return cast(Head, self.tasks[name])

    def front_end(self, group: str) -> nn.Module:
        """Raises KeyError if the model has none for this input group."""
        return cast(nn.Module, self._modules[group])

    def lengths(self, batch: Batch) -> Tensor:
        """(B,) states of each row behind its front-end."""
        return self.groups[batch.group].lengths(self, batch.inputs[batch.group])

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Labelled items per task, known before any forward pass."""
        lengths = self.lengths(batch)
        counts = {name: self.task(name).count(batch, lengths) for name in self._tasks_of(batch)}
        if self._reads(batch):  # a recording with a transcript counts again, as a sentence
            sentences = as_sentences(batch, self._recogniser().alignable(batch, lengths))
            for name in self._tasks_of(sentences):
                counts[name] = counts[name] + self.task(name).count(sentences, sentences.word_lengths)
        return counts

    def _tasks_of(self, batch: Batch) -> list[str]:
        present = {batch.group, *self.groups_beside(batch)}
        return [name for name in self.config.tasks if present.intersection(self.task(name).groups)]

    def groups_beside(self, batch: Batch) -> list[str]:
        """Groups whose inputs accompany those of the batch's own group, such as the phones of recordings."""
        return [name for name in batch.inputs if name in self.groups and self.groups[name].spec.beside]

    def _reads(self, batch: Batch) -> bool:
        return self.config.read and batch.group == AUDIO and self.recogniser is not None

    def _recogniser(self) -> Transcript:
        assert self.recogniser is not None, "callers check that there is one"
        return cast(Transcript, self.task(self.recogniser))

    def encode(self, batch: Batch, tasks: Iterable[str], group: str | None = None) -> dict[str, States]:
        """States of one input group for the named tasks, behind the trunk if the group goes through it.

        group: that of the batch, or one beside it of which every row has inputs.
        """
        reader = self.groups[group or batch.group]
        front = reader.states(self, batch)
        hidden = self._shared(front, batch, tuple(tasks), reader.spec)
        of_tasks = {name: States(**front._replace(hidden=state)._asdict()) for name, state in hidden.items()}
        if batch.context is not None:
            for name, turns in self._contexts(batch, batch.context, tuple(with_context(hidden))).items():
                of_tasks[name] = replace(of_tasks[name], context=turns, context_lengths=batch.context.lengths)
        return of_tasks

    def _shared(
        self, front: FrontendStates, batch: Batch, tasks: tuple[str, ...], group: GroupSpec
    ) -> dict[str, Tensor]:
        """States (B, T, D) of each task behind the trunk."""
        x, lengths = front.hidden, front.lengths
        if not group.trunk:
            return dict.fromkeys(tasks, x)
        if self.domains is None or not group.has_domain:
            return self.trunk(x, lengths, tasks)
        domains = self.domains.with_dropout(batch.domains)
        return self.domains.leave(self.trunk(self.domains.enter(x, domains), lengths, tasks), domains)

    def _contexts(self, batch: Batch, context: Inputs, tasks: tuple[str, ...]) -> dict[str, Tensor]:
        """The trunk's states (B, C, D) of the words of the previous turns, for the tasks that attend to them.

        They are zeros in rows without context, which do not enter the trunk: it accepts no row of length 0.
        """
        if not tasks:
            return {}
        rows = context.lengths.nonzero()[:, 0]
        turns = replace(batch, inputs={TEXT: context.select(rows)})
        x, lengths, *_ = self.groups[TEXT].states(self, turns)
        return {
            task: states.new_zeros(len(batch), *states.shape[1:]).index_copy(0, rows, states)
            for task, states in self.trunk(x, lengths, tasks).items()
        }

    def losses(self, batch: Batch, labelled: Sequence[str] | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Summed loss and count of each task with labels in this batch; labelled: these tasks, if known."""
        if labelled is None:
            labelled = [name for name, count in self.counts(batch).items() if count > 0]
        reads = self._reads(batch) and any(TEXT in self.task(name).groups for name in labelled)
        tagged = batch.group == AUDIO and self.tagger in labelled
        recogniser = self.recogniser if reads or tagged else None
        if tagged and recogniser is None:
            raise ValueError(f"{self.tagger} in audio needs a task that recognises words and aligns them")
        groups = self.groups_beside(batch)
        beside = {group: [name for name in labelled if group in self.task(name).groups] for group in groups}
        labelled = [name for name in labelled if not any(name in names for names in beside.values())]
        # The recogniser's states are needed without its loss too: a stage of a curriculum may leave it out.
        needed = [*labelled, recogniser] if recogniser is not None and recogniser not in labelled else labelled
        states = self.encode(batch, needed) if needed else {}
        words = self.training_words(states[recogniser], batch) if recogniser is not None else []
        if tagged and self.tagger is not None:
            states[self.tagger] = replace(states[self.tagger], words=self._tagged(words, batch, self.tagger))
        losses = {name: self._loss(name, states[name], batch) for name in labelled}
        if reads and recogniser is not None:
            self._add_losses_of_words(losses, batch, states[recogniser], words)
        for group, names in beside.items():
            losses |= self._losses_beside(group, names, batch) if names else {}
        return losses

    def _losses_beside(self, group: str, tasks: list[str], batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Losses of tasks that read a group beside the batch's own, of the rows with inputs of it."""
        if self.groups[group].spec.trunk:  # which accepts no row of length 0
            batch = batch.rows(batch.inputs[group].lengths.nonzero()[:, 0])
        return {
            name: self._loss_with_consistency(name, states, batch)
            for name, states in self.encode(batch, tasks, group).items()
        }

    def _loss(self, name: str, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        """A task's own loss, with gradient reversal (Ganin and Lempitsky 2015) for the tasks of config.reversal."""
        if strength := dict(self.config.reversal).get(name):
            states = replace(states, hidden=reverse(states.hidden, strength))
        return self.task(name).loss(states, batch)

    def _loss_with_consistency(self, name: str, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a task; for log-mels with the consistency loss, if the model uses it."""
        mel = self.task(name)
        if not isinstance(mel, Mel) or not self.config.consistency or batch.spoken is None:
            return mel.loss(states, batch)
        mels, lengths = mel(states, batch.spoken)
        loss, count = mel.error(mels, lengths, batch)
        error = consistency_loss(self, mel.raised(mels), lengths, batch)
        return loss + self.config.consistency * (error * lengths).sum(), count

    def _add_losses_of_words(
        self, losses: dict[str, tuple[Tensor, Tensor]], batch: Batch, states: States, words: list[TrainingWords]
    ) -> None:
        """Adds the losses of the recordings' words, encoded as sentences, to those of the recordings."""
        rows = self._recogniser().alignable(batch, states.lengths)
        sentences = as_sentences(batch, rows)
        names = [name for name in losses if name in self._tasks_of(sentences)]
        counts = {name: self.task(name).count(sentences, sentences.word_lengths) for name in names}
        if not names or not rows.any():
            return
        text = read(batch, rows, words, self.codec, self.tagger)
        for name, state in self.encode(text, names).items():
            loss, count = losses[name]
            losses[name] = loss + self._loss(name, state, text)[0], count + counts[name]

    def training_words(self, states: States, batch: Batch) -> list[TrainingWords]:
        """Words that each recording is trained on: the true ones by Viterbi alignment, or those of the greedy path."""
        recogniser = self._recogniser()
        with torch.no_grad():
            log_probs = recogniser.log_probs(states)
        units, lengths = recogniser.targets(batch)
        frames = viterbi(log_probs, states.lengths, units, lengths)
        names = self.codec.labels.get(self.tagger or "", ())
        tagged = None if self.tagger is None else batch.targets.get(self.tagger)
        rows = []
        for row, (numbers, length) in enumerate(zip(units.cpu(), lengths.tolist(), strict=True)):
            spans = word_spans(self.codec.units.pieces(numbers[:length].tolist()), frames[row, :length])
            tags = None if tagged is None else tags_at(tagged.values[row], int(batch.word_lengths[row]), names)
            rows.append(TrainingWords(spans, tags, False))
        if not self.config.recognised:
            return rows
        drawn = torch.rand(len(rows)) < self.config.recognised
        paths = best_path(log_probs, states.lengths)
        for row in drawn.nonzero()[:, 0].tolist():
            pieces = self.codec.units.pieces(paths[row].units.tolist())
            rows[row] = choose(rows[row], word_spans(pieces, paths[row].frames), self.config.error_limit)
        return rows

    def _tagged(self, rows: list[TrainingWords], batch: Batch, tagger: str) -> Words:
        """Frames of the words, with their tags if some words are recognised ones."""
        true = batch.targets[tagger].values
        spans, width = [row.spans for row in rows], true.shape[1]
        if not any(row.recognised for row in rows):
            return word_frames(spans, width, true.device)
        width = max(width, *map(len, spans))
        words = word_frames(spans, width, true.device)
        alignable = self._recogniser().alignable(batch, self.lengths(batch))
        tags = tags_of(rows, self.codec.labels[tagger], width).to(true.device)
        return replace(words, tags=tags.masked_fill(~alignable[:, None], IGNORE))

    @torch.no_grad()
    def predict(
        self, batch: Batch, recogniser: Recogniser | None = None, reread: bool = False, search: bool = False
    ) -> dict[str, list[Any]]:
        """Decoded predictions of every task that reads this batch's input group.

        recogniser: decoder of the transcript; greedy by default. reread: labels of recordings are predicted from the
        product of two probabilities: of the recording, and of its recognised words. search: beam search for
        translations, in place of greedy decoding.

        "transcript": Paths; "words": (word, first frame, last frame) lists; "slots": (tags, probabilities);
        "translation": Generated; "voice": the speaker's embedding (D,); the rest: (class, probability).
        """
        tasks = [name for name in self.config.tasks if batch.group in self.task(name).groups]
        states = self.encode(batch, tasks) if tasks else {}
        outputs: dict[str, list[Any]] = {}
        if (transcript := self.recogniser) in states and transcript is not None:
            head, state = self._recogniser(), states[transcript]
            paths = recogniser(head.log_probs(state), state.lengths) if recogniser else head.decode(state)
            pieces = [self.codec.units.pieces(path.units.tolist()) for path in paths]
            outputs[transcript] = paths
            outputs["words"] = [word_spans(one, path.frames) for one, path in zip(pieces, paths, strict=True)]
        second = self._reread(outputs["words"], batch) if reread and "words" in outputs else {}
        for name in tasks:
            if name == self.tagger and batch.group == AUDIO:
                if "words" not in outputs:
                    continue
                width = max(1, *map(len, outputs["words"]))
                words = word_frames(outputs["words"], width, self.device)
                states[name] = replace(states[name], words=words)
            if name != self.recogniser:
                outputs[name] = self.task(name).decode(states[name], Decoding(second.get(name), search))
        for name in states:
            if task_spec(name).open_set:
                outputs["voice"] = list(cast(Classification, self.task(name)).embed(states[name]).cpu().numpy())
        return outputs

    def _reread(self, rows: list[list[tuple[str, int, int]]], batch: Batch) -> dict[str, Tensor]:
        """Logits (B, classes) of the recognised words, encoded as sentences; zeros for a row without words.

        batch: of the recordings, with their previous turns.
        """
        members = [row for row, words in enumerate(rows) if words]
        heads = map(self.task, self.config.tasks)
        tasks = [head.name for head in heads if isinstance(head, Classification) and TEXT in head.groups]
        if not members or not tasks:
            return {}
        tokens = [[word for word, _, _ in rows[row]] for row in members]
        sentences = collate([self.codec.encode({"tokens": words}) for words in tokens]).to(self.device)
        indices = torch.tensor(members, device=self.device)
        sentences = sentences.with_context_of(batch, indices)
        of_tasks = {}
        for name, states in self.encode(sentences, tasks).items():
            logits = cast(Classification, self.task(name)).logits(states).float()
            of_tasks[name] = logits.new_zeros(len(rows), logits.shape[1]).index_copy(0, indices, logits)
        return of_tasks

    def shared_parameters(self) -> list[nn.Parameter]:
        """The shared parameters of the trunk, on which balancing methods compare the tasks' gradients."""
        return [parameter for part in self.shared_parts().values() for parameter in part]

    def front_parameters(self) -> list[nn.Parameter]:
        """Parameters of the front-ends."""
        return [parameter for part in self.front_parts().values() for parameter in part]

    @contextmanager
    def entries(self) -> Iterator[list[Tensor]]:
        """Collects the trunk's inputs (B, T, D) of each forward pass within the block, with their graphs.

        Passes with frozen weights are left out: they belong to the consistency loss of another task.
        """
        inputs: list[Tensor] = []

        def enter(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if not self.frozen:
                inputs.append(arguments[0])

        with self.trunk.register_forward_pre_hook(enter):
            yield inputs

    def shared_parts(self) -> dict[str, list[nn.Parameter]]:
        """`shared_parameters` by part: blocks of the trunk, its other modules, adapters of domains behind it."""
        shared = {id(p) for p in self.trunk.shared_parameters()}
        parts: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.trunk.named_parameters():
            if id(parameter) in shared:
                parts.setdefault(self.trunk.part(name), []).append(parameter)
        ordered = {name: parts[name] for name in sorted(parts, key=lambda name: not name.startswith("block "))}
        behind = self.domains.exit_parameters() if self.domains is not None else []
        return {**ordered, "domains": behind} if behind else ordered

    def front_parts(self) -> dict[str, list[nn.Parameter]]:
        """`front_parameters` by input group; those of domains before the trunk count as audio."""
        parts = {name: list(self.front_end(name).parameters()) for name in self.groups if name in self._modules}
        if self.domains is not None:
            parts[AUDIO] += self.domains.entry_parameters()
        return parts

    def penalty(self) -> Tensor:
        """The trunk's own loss, such as the distance between softly shared encoders."""
        return self.trunk.penalty()


def build_model(config: ModelConfig, codec: Codec) -> SpeechModel:
    """A newly initialised model; its weights follow from torch's seed."""
    return SpeechModel(config, codec)
