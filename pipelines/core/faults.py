"""Errors: which of them another attempt may solve, and the base of those that put a row in quarantine."""

from __future__ import annotations

# Errors of the file system that another attempt meets again.
LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
NETWORK_LIBRARIES = ("aiohttp", "botocore", "fsspec", "httpcore", "httpx", "requests", "urllib3")


def is_transient(error: BaseException | None) -> bool:
    """Whether the error, or one that caused it, comes from the network or from a busy disk.

    A missing file or a wrong recipe fails again in every attempt.
    """
    depth = 0
    while error is not None and depth < 10:
        if isinstance(error, LASTING):
            return False
        library = type(error).__module__.split(".")[0]
        if isinstance(error, OSError | TimeoutError) or library in NETWORK_LIBRARIES:
            return True
        error, depth = error.__cause__ or error.__context__, depth + 1
    return False


class InvalidRow(ValueError):
    """A row for the quarantine; `reason` is one of utterances.schema.REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[InvalidRow], tuple[str, str]]:
        # By default an exception is pickled with its message only; Ray sends this one between processes.
        return type(self), (self.reason, self.detail)
