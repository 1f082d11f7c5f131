"""Training on what the recogniser hears: its words, errors and all, under the true words' tags.

A head that was trained on true words alone falls apart on recognised ones. So a stated share of the recordings is
taken as the recogniser writes it down now, by its best path, once that is within a limit of the true words; the
others keep the true ones. A row's draw and its limit are its own, so nothing depends on how rows are batched.

Recognised words may be more or fewer than the true ones. A task's count is that of the true words all the same: it is
known before the forward pass, and each word that was heard weighs as much as a true one.
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
class Heard:
    """The words that one recording is trained on, where they lie, and their tags (None: the row has none).

    recognised: whether they are the recogniser's own, and no longer the true ones.
    """

    spans: list[Span]
    tags: list[str | None] | None
    recognised: bool


def choose(true: Heard, spans: list[Span], limit: float) -> Heard:
    """The recognised words with the true tags, or the true words where the two are too far apart.

    limit: word errors per true word. A row none of whose labelled words was heard keeps its true words too.
    """
    wanted, got = [word for word, _, _ in true.spans], [word for word, _, _ in spans]
    if not wanted or not got:
        return true
    pairs, errors = aligned(wanted, got)
    if errors > limit * len(wanted):
        return true
    if true.tags is None or len(true.tags) != len(wanted):
        return Heard(spans, None, True) if true.tags is None else true
    tags = projected(true.tags, pairs)
    if all(tag is None for tag in tags) and any(tag is not None for tag in true.tags):
        return true
    return Heard(spans, tags, True)


def aligned(wanted: Sequence[str], got: Sequence[str]) -> tuple[list[tuple[int | None, int]], int]:
    """Which true word each recognised word stands for on the cheapest alignment, and its word errors.

    A pair for each recognised word: the true word's position, None for an insertion; and how many true words stand
    before it.
    """
    import jiwer  # in training alone: a packaged model does without

    found = jiwer.process_words(" ".join(wanted), " ".join(got))
    pairs: list[tuple[int | None, int]] = []
    for chunk in found.alignments[0]:
        for offset in range(chunk.hyp_end_idx - chunk.hyp_start_idx):
            inserted = chunk.type == "insert"
            position = chunk.ref_start_idx + (0 if inserted else offset)
            pairs.append((None if inserted else position, position))
    return pairs, found.substitutions + found.deletions + found.insertions


def projected(tags: Sequence[str | None], pairs: Sequence[tuple[int | None, int]]) -> list[str | None]:
    """BIO tags of the recognised words: a word, right or wrong, keeps the tag of the one that it stands for; an
    inserted one continues the slot that it lies within, and is O elsewhere; what was deleted is dropped.

    A slot whose first word was deleted begins with the next one that was heard. None: not labelled.
    """
    slots = _slots(tags)
    found: list[str | None] = []
    last: tuple[int, str] | None = None
    for position, before in pairs:
        if position is not None:
            slot = slots[position]
        else:
            within = 0 < before < len(tags) and slots[before - 1] == slots[before]
            slot = slots[before] if within else None
        if slot is not None:
            found.append(f"{'I' if slot == last else 'B'}-{slot[1]}")
        else:
            found.append("O" if position is None else tags[position])
        last = slot
    return found


def _slots(tags: Sequence[str | None]) -> list[tuple[int, str] | None]:
    """Each word's slot, as its number in the sentence and its name."""
    found: list[tuple[int, str] | None] = []
    number, previous = 0, None
    for tag in tags:
        if tag is None or tag == "O":
            previous = None
        else:
            if tag.startswith("B-") or previous is None or previous[1] != tag[2:]:
                number += 1
            previous = (number, tag[2:])
        found.append(previous)
    return found


def tags_of(rows: Sequence[Heard], names: Sequence[str], width: int) -> Tensor:
    """(B, width) tags of each row's words as numbers, IGNORE where there is none; names: of the tags by number."""
    ids = {tag: number for number, tag in enumerate(names)}
    found = torch.full((len(rows), width), IGNORE)
    for row, heard in enumerate(rows):
        for position, tag in enumerate((heard.tags or ())[:width]):
            found[row, position] = ids.get(tag, IGNORE) if tag is not None else IGNORE
    return found


def readable(batch: Batch, rows: Tensor) -> Batch:
    """A batch of recordings as one of sentences: their true words, and the labels of `rows` (B,) alone."""
    return replace(
        batch,
        group=TEXT,
        inputs={name: inputs for name, inputs in batch.inputs.items() if name != batch.group},
        targets={task: target.only(rows) for task, target in batch.targets.items()},
    )


def read(batch: Batch, rows: Tensor, heard: Sequence[Heard], codec: Codec, tagger: str | None) -> Batch:
    """Those rows (B,) of a batch of recordings as sentences, in the words that they are trained on.

    tagger: the task that tags each word, whose targets follow the words; None where there is none.
    """
    sentences = batch.inputs[TEXT].to("cpu")
    assert isinstance(sentences, TextInputs)
    words, characters, lengths = sentences.words.numpy(), sentences.characters.numpy(), sentences.lengths.tolist()
    tags = batch.targets[tagger].values.cpu().numpy() if tagger is not None else None
    chosen = rows.nonzero()[:, 0]
    examples = []
    for row in chosen.tolist():
        one, end = heard[row], lengths[row]
        if one.recognised:
            column = {} if tagger is None else {task(tagger).label: one.tags}
            encoded = codec.encode({"tokens": [word for word, _, _ in one.spans], **column})
            own = {} if tagger is None else {tagger: encoded.targets[tagger]}
            example = replace(encoded, id=batch.ids[row], targets=own)
        else:
            own = {} if tagger is None or tags is None else {tagger: tags[row, :end]}
            example = Example(batch.ids[row], {TEXT: TextArrays(words[row, :end], characters[row, :end])}, own)
        examples.append(example)
    collated = collate(examples).to(batch.words.device).remembering(batch, chosen)
    others = {name: target.select(chosen) for name, target in batch.targets.items()}
    return replace(collated, targets={**others, **collated.targets})


def tags_at(tags: Tensor, words: int, names: Sequence[str]) -> list[str | None] | None:
    """Names of a row's tags (L,), None for one that is not labelled; None for a row without any."""
    found = [names[tag] if tag != IGNORE else None for tag in tags[:words].tolist()]
    return found if any(tag is not None for tag in found) else None


def placed(rows: list[list[Span]], width: int, device: torch.device) -> Words:
    """Where the words of each row lie; width: of the longest row."""
    spans = torch.full((len(rows), width, 2), -1)
    for row, words in enumerate(rows):
        for position, (_, start, end) in enumerate(words[:width]):
            spans[row, position, 0], spans[row, position, 1] = start, end
    spans = spans.to(device)
    return Words(spans[..., 0], spans[..., 1])
