"""`$NAME`, `${NAME}` and `~` in a recipe: stored as written, expanded when used.

    expand("https://$USER:$TOKEN@host/calls.tar.gz")       # opened, never stored
    hide_secrets("https://ann:pw@host/calls.tar.gz", "calls")      # 'https://${MOTET_SOURCE_CALLS}@host/calls.tar.gz'

`$$` stands for a dollar sign. A recipe is stored, logged and shown in reports; the values of its variables are not.
"""

from __future__ import annotations

import os
import re

from pipelines.core.redaction import PARAMETER, USER_INFORMATION
from pipelines.recipe.base import RecipeError

_VARIABLE = re.compile(r"\$(?:\$|(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})", re.ASCII)
_QUERY = re.compile(r"(?P<address>\bhttps?://[^\s?#\"'<>]*\?)(?P<query>[^\s#\"'<>]+)", re.IGNORECASE)
HIDDEN_PREFIX = "MOTET_SOURCE_"  # variables for secrets that a recipe or an override contains literally


def expand(text: str) -> str:
    """The text with its variables, and `~` at its beginning, replaced.

    Raises:
        RecipeError: a variable that is not set, by its name.
    """
    missing = undefined(text)
    if missing:
        raise RecipeError(f"{text!r} names {', '.join(missing)}, which is not set; export it")

    def value(match: re.Match[str]) -> str:
        name = _name(match)
        return os.environ[name] if name else "$"

    return os.path.expanduser(_VARIABLE.sub(value, text))


def undefined(text: str) -> list[str]:
    """Names of the variables in the text that the environment lacks."""
    names = (_name(match) for match in _VARIABLE.finditer(text))
    return sorted({name for name in names if name and name not in os.environ})


def escape(text: str) -> str:
    """The text with its dollar signs escaped, for paths from a command line."""
    return text.replace("$", "$$")


def hide_secrets(text: str, owner: str) -> str:
    """The text with passwords and signatures in its URLs replaced by variables.

    The variables are set in this process's environment, so that `expand` restores the text. owner: the corpus,
    for names of variables.
    """

    def user(match: re.Match[str]) -> str:
        name, _, password = match["user"].partition(":")
        if not _VARIABLE.sub("", password or name):
            return match[0]
        return f"{match['scheme']}{_moved(match['user'], owner)}@"

    def query(match: re.Match[str]) -> str:
        literal = any(_VARIABLE.sub("", parameter["value"]) for parameter in PARAMETER.finditer(f"?{match['query']}"))
        return f"{match['address']}{_moved(match['query'], f'{owner}_query')}" if literal else match[0]

    return _QUERY.sub(query, USER_INFORMATION.sub(user, text))


def hide_in_overrides(overrides: list[str] | tuple[str, ...]) -> list[str]:
    """Overrides (`corpora.calls.source=https://…`) without secrets, so that Prefect may store them."""
    hidden = []
    for override in overrides:
        key, equals, value = override.partition("=")
        keys = key.split(".")
        hidden.append(f"{key}{equals}{hide_secrets(value, keys[1] if len(keys) > 1 else keys[0])}")
    return hidden


def _moved(secret: str, owner: str) -> str:
    """Moves the secret into a variable and returns a reference to it."""
    base = HIDDEN_PREFIX + re.sub(r"\W", "_", owner, flags=re.ASCII).upper()
    value, name, number = expand(secret), base, 1
    while os.environ.get(name, value) != value:
        number += 1
        name = f"{base}_{number}"
    os.environ[name] = value
    return f"${{{name}}}"


def _name(match: re.Match[str]) -> str | None:
    name: str | None = match["bare"] or match["braced"]
    return name
