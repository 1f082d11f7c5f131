"""Vocabularies of a run in the store; a resumed run reads them, because its weights are indexed by them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from mtl.inputs.codec import Codec
from pipelines.storage.store import Store, fingerprint

DIGEST = "sha256"  # beside the fields of the codec; missing in files of older versions

logger = logging.getLogger(__name__)


def stored_codec(store: Store, key: str, build: Callable[[], Codec]) -> Codec:
    """The codec at this key; builds and stores it if it is missing or damaged."""
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
