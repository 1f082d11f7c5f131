"""The hash that names a saved model: what is made for one model says by it which one that was.

folder_address(Path("predictor"))       # 16 hexadecimal digits
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def folder_address(folder: Path) -> str:
    """Hash of a folder's files, their names and contents."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:16]
