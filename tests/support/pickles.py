"""Finds pickles under a root by their content, whatever they are called; and plants one that tells when it is read.

assert pickles(root) == []
plant(folder / "tuner.pkl", marker)         # unpickling it writes the file `marker`
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path


def pickles(root: str | Path) -> list[str]:
    """Files below `root` that hold a pickle, or an archive of torch.save or of NumPy objects, which holds one."""
    files = sorted(path for path in Path(root).rglob("*") if path.is_file())
    return [path.relative_to(root).as_posix() for path in files if _holds_pickle(path)]


def _holds_pickle(path: Path) -> bool:
    if path.suffix in (".pkl", ".pickle"):
        return True
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") or _is_pickle(archive.read(name)) for name in archive.namelist())
    with path.open("rb") as file:
        return file.read(8).startswith((b"\x80", b"\x93NUMPY")) and _is_pickle(path.read_bytes())


def _is_pickle(content: bytes) -> bool:
    """Protocol 2 and later: the opcode PROTO first, and STOP at the end of a valid chain of opcodes."""
    if content.startswith(b"\x93NUMPY"):  # an array of Python objects is a pickle behind NumPy's header
        content = content[10 + int.from_bytes(content[8:10], "little") :]
    if content[:1] != b"\x80":
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(content))
    except ValueError:
        return False


class _Marks:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.marker), "w")


def plant(path: Path, marker: Path) -> None:
    """A pickle that creates `marker` when it is read, as an attacker's would run a command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(_Marks(marker)))
