"""Which errors another attempt may solve: network and disk errors, but not a missing file or a wrong recipe."""

from __future__ import annotations

# Errors of the file system that another attempt meets again.
LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
NETWORK_LIBRARIES = ("aiohttp", "botocore", "fsspec", "httpcore", "httpx", "requests", "urllib3")


def is_transient(error: BaseException | None) -> bool:
    """Whether the error, or one that caused it, comes from the network or from a busy disk."""
    depth = 0
    while error is not None and depth < 10:
        if isinstance(error, LASTING):
            return False
        library = type(error).__module__.split(".")[0]
        if isinstance(error, OSError | TimeoutError) or library in NETWORK_LIBRARIES:
            return True
        error, depth = error.__cause__ or error.__context__, depth + 1
    return False
