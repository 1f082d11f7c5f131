"""Configuration of Sphinx: `make docs` builds docs/ strictly into build/docs."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import generate  # noqa: E402

generate.write(DOCS / "reference")

project = "Motet"
author = "The Motet authors"
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 4  # a link may name a heading: [gates](evaluation.md#gates)
default_role = "code"  # one backquote in a docstring
smartquotes = False
napoleon_use_ivar = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "Motet"
html_copy_source = False
