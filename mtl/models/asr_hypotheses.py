"""Training on ASR hypotheses: recognised words, with their errors, and the projected tags of the true words.

Heads that are trained only on true words fail on recognised ones. So a share of the recordings, drawn row by row, is
trained on the recogniser's greedy path if its word error rate is within a limit; the others on the true words.

The count of a task is always that of the true words, because it must be known before the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtl.heads.base import Words
from mtl.inputs.batch import IGNORE, Batch, Example, collate
from mtl.inputs.codec import Codec
from mtl.inputs.text import TextArrays, TextInputs
from mtl.spec import TEXT, task

Span = tuple[str, int, int]  # a word with its first frame and one past its last


@dataclass(frozen=True)
class TrainingWords:
    """Words that one recording is trained on, with their frames. tags: None if the row has none. recognised: whether
    they are an ASR hypothesis."""

    spans: list[Span]
    tags: list[str | None] | None
    recognised: bool


def choose(true: TrainingWords, spans: list[Span], limit: float) -> TrainingWords:
    """The recognised words with projected tags; the true words if there are more than `limit` errors per true word, or
    if no labelled word was recognised."""
    reference, hypothesis = [word for word, _, _ in true.spans], [word for word, _, _ in spans]
    if not reference or not hypothesis:
        return true
    pairs, errors = aligned(reference, hypothesis)
    if errors > limit * len(reference):
        return true
    if true.tags is None:
        return TrainingWords(spans, None, True)
    if len(true.tags) != len(reference):
        return true
    tags = projected(true.tags, pairs)
    if all(tag is None for tag in tags) and any(tag is not None for tag in true.tags):
        return true
    return TrainingWords(spans, tags, True)


def aligned(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[list[tuple[int | None, int]], int]:
    """Minimum edit alignment: a pair for each recognised word, and the number of word errors.

    A pair is the position of the true word, None for an insertion, and the number of true words before it.
    """
    import jiwer  # not a requirement of packaged models

    output = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    pairs: list[tuple[int | None, int]] = []
    for chunk in output.alignments[0]:
        for offset in range(chunk.hyp_end_idx - chunk.hyp_start_idx):
            inserted = chunk.type == "insert"
            position = chunk.ref_start_idx + (0 if inserted else offset)
            pairs.append((None if inserted else position, position))
    return pairs, output.substitutions + output.deletions + output.insertions


def projected(tags: Sequence[str | None], pairs: Sequence[tuple[int | None, int]]) -> list[str | None]:
    """BIO tags of the recognised words, None where not labelled.

    A word has the tag of the true word that it is aligned with; an inserted word continues the slot around it, else it
    is O. A slot whose first word was deleted begins with its next word.
    """
    slots = _slots(tags)
    projection: list[str | None] = []
    last: tuple[int, str] | None = None
    for position, before in pairs:
        if position is not None:
            slot = slots[position]
        else:
            within = 0 < before < len(tags) and slots[before - 1] == slots[before]
            slot = slots[before] if within else None
        if slot is not None:
            projection.append(f"{'I' if slot == last else 'B'}-{slot[1]}")
        else:
            projection.append("O" if position is None else tags[position])
        last = slot
    return projection


def _slots(tags: Sequence[str | None]) -> list[tuple[int, str] | None]:
    """Number and name of the slot of each word."""
    slots: list[tuple[int, str] | None] = []
    number, previous = 0, None
    for tag in tags:
        if tag is None or tag == "O":
            previous = None
        else:
            if tag.startswith("B-") or previous is None or previous[1] != tag[2:]:
                number += 1
            previous = (number, tag[2:])
        slots.append(previous)
    return slots


def tags_of(rows: Sequence[TrainingWords], names: Sequence[str], width: int) -> Tensor:
    """Tags (B, width) of each row's words as numbers, padded with IGNORE; names: of the tags by number."""
    ids = {tag: number for number, tag in enumerate(names)}
    numbers = torch.full((len(rows), width), IGNORE)
    for row, words in enumerate(rows):
        for position, tag in enumerate((words.tags or ())[:width]):
            numbers[row, position] = ids.get(tag, IGNORE) if tag is not None else IGNORE
    return numbers


def as_sentences(batch: Batch, rows: Tensor) -> Batch:
    """A batch of recordings as a batch of their transcripts, with the labels of `rows` (B,) bool only."""
    return replace(
        batch,
        group=TEXT,
        inputs={TEXT: batch.inputs[TEXT]},
        targets={task: target.only(rows) for task, target in batch.targets.items()},
    )


def read(batch: Batch, rows: Tensor, words_of: Sequence[TrainingWords], codec: Codec, tagger: str | None) -> Batch:
    """The chosen rows (B,) bool of a batch of recordings as sentences of their training words.

    words_of: words of each row. tagger: the task that tags words, if any.
    """
    sentences = batch.inputs[TEXT].to("cpu")
    assert isinstance(sentences, TextInputs)
    words, characters, lengths = sentences.words.numpy(), sentences.characters.numpy(), sentences.lengths.tolist()
    tags = batch.targets[tagger].values.cpu().numpy() if tagger is not None else None
    chosen = rows.nonzero()[:, 0]
    examples = []
    for row in chosen.tolist():
        one, end = words_of[row], lengths[row]
        if one.recognised:
            column = {} if tagger is None else {task(tagger).label: one.tags}
            encoded = codec.encode({"tokens": [word for word, _, _ in one.spans], **column})
            own = {} if tagger is None else {tagger: encoded.targets[tagger]}
            example = replace(encoded, id=batch.ids[row], targets=own)
        else:
            own = {} if tagger is None or tags is None else {tagger: tags[row, :end]}
            example = Example(batch.ids[row], {TEXT: TextArrays(words[row, :end], characters[row, :end])}, own)
        examples.append(example)
    collated = collate(examples).to(batch.words.device).with_context_of(batch, chosen)
    others = {name: target.select(chosen) for name, target in batch.targets.items()}
    return replace(collated, targets={**others, **collated.targets})


def tags_at(tags: Tensor, words: int, names: Sequence[str]) -> list[str | None] | None:
    """Names of a row's tags (L,), None where not labelled; None for a row without tags."""
    tagged = [names[tag] if tag != IGNORE else None for tag in tags[:words].tolist()]
    return tagged if any(tag is not None for tag in tagged) else None


def word_frames(rows: list[list[Span]], width: int, device: torch.device) -> Words:
    """Frames of the words of each row, padded to `width` words."""
    spans = torch.full((len(rows), width, 2), -1)
    for row, words in enumerate(rows):
        for position, (_, start, end) in enumerate(words[:width]):
            spans[row, position, 0], spans[row, position, 1] = start, end
    spans = spans.to(device)
    return Words(spans[..., 0], spans[..., 1])
