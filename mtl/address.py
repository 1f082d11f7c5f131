"""Hash of a saved model, which artifacts that depend on the model refer to."""

from __future__ import annotations

import hashlib
from pathlib import Path


def folder_address(folder: Path) -> str:
    """Hash of the names and contents of the files in a folder, 16 hexadecimal digits."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:16]
