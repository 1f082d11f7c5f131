"""Words of a row of the utterance table, and the slots that BIO tags mark among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def tokens_of(row: Mapping[str, Any]) -> list[str]:
    """Words of the row: its tokens, or else its text, split at spaces."""
    tokens = row.get("tokens")
    if tokens is not None:
        return list(tokens)
    return (row.get("text") or "").split()


def bio_values(tokens: Sequence[str], tags: Sequence[str]) -> list[tuple[str, str]]:
    """(slot, value) pairs of a tagged sentence; an I- that does not continue its own slot begins one (CoNLL 2000)."""
    pairs: list[tuple[str, list[str]]] = []
    previous = "O"
    for token, tag in zip(tokens, tags, strict=True):
        if tag != "O":
            slot = tag[2:]
            if tag.startswith("I-") and previous[2:] == slot and previous != "O":
                pairs[-1][1].append(token)
            else:
                pairs.append((slot, [token]))
        previous = tag
    return [(slot, " ".join(value)) for slot, value in pairs]


def bio_spans(tags: Sequence[str]) -> list[tuple[str, str]]:
    """(slot, positions of its words) of each chunk, with the same rule for I-."""
    return bio_values([str(position) for position in range(len(tags))], tags)
