"""Schema-Guided Dialogue (Rastogi et al. 2020): {train,dev,test}/dialogues_*.json, text alone.

    name: sgd, kind: sgd, source: /data/dstc8-schema-guided-dialogue

One row a turn of the user: its words, the turns before it, and
    dialogue_act    the acts of its frames, such as "INFORM" or "INFORM+INFORM_INTENT": all of them, once each, sorted
    system_action   those of the system's turn that follows, such as "REQUEST"; none behind the last turn
    intent, domain  the active intent of its first frame, and that frame's service without its number

All acts of the release are kept: of the user INFORM, REQUEST, AFFIRM, NEGATE, SELECT, REQUEST_ALTS, INFORM_INTENT,
AFFIRM_INTENT, NEGATE_INTENT, THANK_YOU, GOODBYE; of the system INFORM, REQUEST, CONFIRM, OFFER, OFFER_INTENT,
INFORM_COUNT, NOTIFY_SUCCESS, NOTIFY_FAILURE, REQ_MORE, GOODBYE. Their slots and values are not, nor are slot spans.
Option: `services` keeps only dialogues in which all services are named ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from pipelines.corpora.base import SPLIT_NAMES, Reader, check_options, need_source, source_fingerprint
from pipelines.recipe import Corpus
from pipelines.sources.source import Source
from pipelines.utterances.utterance import CorpusError, Reject, Utterance


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """One utterance a user turn.

    Raises:
        CorpusError: no file of this layout, or an unknown option.
    """
    source = need_source(source, corpus)
    check_options(corpus, ("services",))
    paths = [file.path for file in source.files() if _is_dialogues(source, file.path)]
    if not paths:
        raise CorpusError(f"{source.uri}: no <split>/dialogues_*.json in it; expected the layout of SGD")
    for path in sorted(paths):
        yield from _file(source, path, corpus.options.get("services"))


def _is_dialogues(source: Source, path: str) -> bool:
    return fnmatchcase(PurePosixPath(path).name, "dialogues_*.json") and _split(source, path) is not None


def _split(source: Source, path: str) -> str | None:
    """Of the folder's name; of the source's own when the source is one split."""
    name = PurePosixPath(path).parent.name or source.name
    return SPLIT_NAMES.get(name)


def _file(source: Source, path: str, services: list[str] | None) -> Iterator[Utterance | Reject]:
    where, folder = source.locate(path), _split(source, path)
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
                yield from list(_turns(dialogue, folder, where, number))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            name = dialogue.get("dialogue_id") if isinstance(dialogue, dict) else None
            detail = (
                f"dialogue {number} lacks {error}" if isinstance(error, KeyError) else f"dialogue {number}: {error}"
            )
            yield Reject(where, number, None if name is None else str(name), "bad_row", detail)


def _turns(dialogue: Mapping[str, Any], split: str | None, where: str, number: int) -> Iterator[Utterance]:
    turns = dialogue["turns"]
    for place, turn in enumerate(turns):
        if turn["speaker"] != "USER":
            continue
        after = turns[place + 1] if place + 1 < len(turns) else None
        frame = turn["frames"][0] if turn["frames"] else {}
        intent = frame.get("state", {}).get("active_intent")
        yield Utterance(
            id=f"{split}/{dialogue['dialogue_id']}/{place:02d}",
            split=split,
            recording=None,
            text=turn["utterance"],
            context=[before["utterance"] for before in turns[:place]],
            labels={
                "dialogue_act": _acts(turn),
                "system_action": _acts(after) if after is not None and after["speaker"] == "SYSTEM" else None,
                "intent": None if intent in (None, "NONE") else intent,
                "domain": _domain(frame["service"]) if "service" in frame else None,
            },
            file=where,
            row=number,
        )


def _acts(turn: Mapping[str, Any]) -> str | None:
    found = {action["act"] for frame in turn["frames"] for action in frame.get("actions", ())}
    return "+".join(sorted(found)) or None


def _domain(service: str) -> str:
    """ "Restaurants_1" and "Restaurants_2" are two interfaces to one domain."""
    return service.rpartition("_")[0].lower() or service.lower()


READER = Reader(read, source_fingerprint)
