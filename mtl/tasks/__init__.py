"""The tasks that ship, one file each. A new task is a file here and its name below.

Importing this package registers them in mtl.spec. The order is that of messages, tables and the recipe's schema.
"""

from __future__ import annotations

import importlib

SHIPPED = (
    "transcript",
    "intent",
    "slots",
    "domain",
    "speaker",
    "emotion",
    "language",
    "translation",
    "dialogue_act",
    "system_action",
    "prosody",
    "mel",
    "phones",
    "tempo",
    "intonation",
    "waveform",
)

for name in SHIPPED:
    importlib.import_module(f"{__name__}.{name}")
