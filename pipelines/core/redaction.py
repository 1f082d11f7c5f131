"""Removes secrets from texts that are shown or stored.

    redact("postgresql://ann:pw@host/db")       # 'postgresql://***@host/db'
    with redacted_errors():                     # removes secrets from messages of errors
        client.get_run(run_id)
    install_log_redaction()                     # all log records of this process, including tracebacks

Secrets are user information in URLs, signatures and tokens in queries, Authorization headers, AWS keys, and the values
of environment variables whose names end in PASSWORD, SECRET, TOKEN and the like.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

HIDDEN = "***"
SHORTEST = 8  # characters; shorter values of environment variables are not redacted, since they may be words

# The password of a database URL may contain "/" and "?" (SQLAlchemy reads up to the "@"), but must not match a port.
USER_INFORMATION = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)"
    r"(?P<user>(?:[^\s/?#:@\"<>]*:(?!\d+[/?#])[^\s@\"<>]*|[^\s/?#\"<>]*)(?:@[^\s/?#@\"<>]*)*)@",
    re.IGNORECASE,
)
SECRET_NAMES = r"signature|token|secret|passw|pwd|credential|api[_-]?key|access[_-]?key|auth"
PARAMETER = re.compile(
    rf"(?P<name>[?&;](?:[\w%.-]*(?:{SECRET_NAMES})[\w%.-]*|sig|key|pass)=)(?P<value>[^\s&#\"'<>]+)", re.IGNORECASE
)
_ASSIGNED = re.compile(
    r"(?P<name>\b(?:password|passwd|signature|credential|\w*secret(?:_\w+)?|session_token|api_key)\s?=\s?[\"']?)"
    r"[^\s&,;\"'<>]+",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(?P<name>\b(?:proxy-)?authorization[\"']?\s*[:=]\s*(?:b(?=[\"']))?[\"']?)(?:[\w-]+ +)?[^\s\"',}]+", re.IGNORECASE
)
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_VARIABLE = re.compile(
    r"(?:PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIALS?|API_KEY|ACCESS_KEY|ACCESS_KEY_ID|SECRET_KEY|AUTH_STRING)$"
    r"|^MOTET_SOURCE_",
    re.IGNORECASE,
)
_TEXTS = ("message", "msg", "reason", "strerror", "filename", "filename2", "traceback_str", "detail")


def redact(text: str) -> str:
    """The text with each secret replaced by ***."""
    text = USER_INFORMATION.sub(rf"\g<scheme>{HIDDEN}@", text)
    for pattern in (PARAMETER, _ASSIGNED, _HEADER):
        text = pattern.sub(rf"\g<name>{HIDDEN}", text)
    text = _AWS_KEY.sub(HIDDEN, text)
    for value in _secret_values():
        text = text.replace(value, HIDDEN)
    return text


def scrub(error: BaseException) -> None:
    """Redacts the messages of an error and its causes, in place."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        pending += [current.__cause__, current.__context__]
        pending += [item for item in current.args if isinstance(item, BaseException)]
        pending += getattr(current, "exceptions", ())  # of an exception group
        _scrub_one(current)


@contextmanager
def redacted_errors() -> Iterator[None]:
    """Redacts errors that leave the block: libraries quote URLs in their messages."""
    try:
        yield
    except BaseException as error:
        scrub(error)
        raise


class RedactedRecord(logging.LogRecord):
    """A redacted log record."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if self.exc_info and self.exc_info[1] is not None:
            scrub(self.exc_info[1])

    def getMessage(self) -> str:
        return redact(super().getMessage())


def install_log_redaction() -> None:
    """Redacts all further log records of this process."""
    logging.setLogRecordFactory(RedactedRecord)


def _scrub_one(error: BaseException) -> None:
    args = tuple(redact(item) if isinstance(item, str) else item for item in error.args)
    with suppress(AttributeError, TypeError):  # some errors have read-only attributes
        if args != error.args:
            error.args = args
    for name in (*_TEXTS, "__notes__"):
        value = getattr(error, name, None)
        with suppress(AttributeError, TypeError):
            if isinstance(value, str) and redact(value) != value:
                setattr(error, name, redact(value))
            elif name == "__notes__" and value:
                setattr(error, name, [redact(note) for note in value])


def _secret_values() -> list[str]:
    """Values of secret environment variables, the longest first, so that no part of one remains."""
    values = {
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST and _VARIABLE.search(name) and not value.startswith(("/", "~", "$"))
    }
    return sorted(values, key=len, reverse=True)
