"""A run's vocabularies in the store: made once, and read again by a resumed run, whose weights are indexed by them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from mtl.inputs.codec import Codec
from pipelines.storage.store import Store, fingerprint

DIGEST = "sha256"  # beside the codec's own fields; files of older versions have none

logger = logging.getLogger(__name__)


def stored_codec(store: Store, key: str, build: Callable[[], Codec]) -> Codec:
    """The codec at this key; a new one of the same rows, which is then stored, where there is none or it is damaged."""
    if store.exists(key):
        try:
            return _read(store.read_bytes(key))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s/%s is damaged, the vocabularies are built again: %r", store.root, key, error)
    content = build().to_json()
    store.put_bytes(key, json.dumps({**content, DIGEST: fingerprint(content)}, ensure_ascii=False).encode())
    return _read(store.read_bytes(key))


def _read(data: bytes) -> Codec:
    content: dict[str, Any] = json.loads(data)
    digest = content.pop(DIGEST, None)
    if digest is not None and digest != fingerprint(content):
        raise ValueError("its content does not match its digest")
    return Codec.from_json(content)
