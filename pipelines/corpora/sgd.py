"""Schema-Guided Dialogue (Rastogi et al. 2020): {train,dev,test}/dialogues_*.json, text only.

    name: sgd, kind: sgd, source: /data/dstc8-schema-guided-dialogue

One row per user turn: its text, the turns before it as context, and
    dialogue_act    the distinct acts of its frames, sorted, such as "INFORM" or "INFORM+INFORM_INTENT"
    system_action   the acts of the following system turn, such as "REQUEST"; None after the last turn
    intent, domain  the active intent of its first frame, and that frame's service without its number

Slots and values of acts, and slot spans, are not read.
Option: `services` selects the dialogues whose services are all in the list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from pipelines.corpora.base import SPLIT_NAMES, Rows, reader
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance


def read(source: Source, corpus: Corpus) -> Rows:
    """One utterance per user turn."""
    names = (file.path for file in source.files() if fnmatchcase(PurePosixPath(file.path).name, "dialogues_*.json"))
    splits = {path: split for path in sorted(names) if (split := _split(source, path))}
    if not splits:
        raise CorpusError(f"{source.uri}: no <split>/dialogues_*.json in it; expected the layout of SGD")
    for path, split in splits.items():
        yield from _file(source, path, split, corpus.options.get("services"))


def _split(source: Source, path: str) -> str | None:
    """By the folder's name, or the source's name if the source is one split."""
    return SPLIT_NAMES.get(PurePosixPath(path).parent.name or source.name)


def _file(source: Source, path: str, split: str, services: list[str] | None) -> Rows:
    where = source.locate(path)
    try:
        dialogues = json.loads(source.read(path))
    except (ValueError, RecursionError) as error:
        yield Reject(where, None, None, "bad_row", f"not JSON: {error}")
        return
    if not isinstance(dialogues, list):
        yield Reject(where, None, None, "bad_row", f"holds {type(dialogues).__name__}, expected a list of dialogues")
        return
    for number, dialogue in enumerate(dialogues, start=1):
        try:
            if services is None or set(dialogue["services"]) <= set(services):
                yield from list(_turns(dialogue, split, where, number))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            name = dialogue.get("dialogue_id") if isinstance(dialogue, dict) else None
            detail = f" lacks {error}" if isinstance(error, KeyError) else f": {error}"
            yield Reject(where, number, None if name is None else str(name), "bad_row", f"dialogue {number}{detail}")


def _turns(dialogue: Mapping[str, Any], split: str, where: str, number: int) -> Iterator[Utterance]:
    turns = dialogue["turns"]
    for index, turn in enumerate(turns):
        if turn["speaker"] != "USER":
            continue
        reply = turns[index + 1] if index + 1 < len(turns) else None
        frame = turn["frames"][0] if turn["frames"] else {}
        intent = frame.get("state", {}).get("active_intent")
        yield Utterance(
            id=f"{split}/{dialogue['dialogue_id']}/{index:02d}",
            split=split,
            text=turn["utterance"],
            context=[before["utterance"] for before in turns[:index]],
            labels={
                "dialogue_act": _acts(turn),
                "system_action": _acts(reply) if reply is not None and reply["speaker"] == "SYSTEM" else None,
                "intent": None if intent in (None, "NONE") else intent,
                "domain": _domain(frame["service"]) if "service" in frame else None,
            },
            file=where,
            row=number,
        )


def _acts(turn: Mapping[str, Any]) -> str | None:
    acts = {action["act"] for frame in turn["frames"] for action in frame.get("actions", ())}
    return "+".join(sorted(acts)) or None


def _domain(service: str) -> str:
    """The service without its number: "Restaurants_1" and "Restaurants_2" are one domain."""
    return service.rpartition("_")[0].lower() or service.lower()


READER = reader(read, "services")
