"""Corpus layouts: one file each, which defines a READER (see base.py). Their names are listed in the recipe's schema.

for row in CORPORA["atis"].read(open_source("/data/atis"), corpus): ...
"""

from __future__ import annotations

from importlib import import_module

from pipelines.corpora.base import Reader
from pipelines.recipe import CORPUS_KINDS

CORPORA: dict[str, Reader] = {kind: import_module(f"pipelines.corpora.{kind}").READER for kind in CORPUS_KINDS}
