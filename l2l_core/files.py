"""Files that are replaced whole, and whether one was."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Stamp = tuple[int, int, int]
"""Time in ns, size and inode of a file: files that replace each other differ in one of them, even
within one tick of the clock.
"""


def stamp_of(path: Path | None) -> Stamp | None:
    """A file's or folder's stamp; None if there is none."""
    if path is None or not path.exists():
        return None
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


@contextmanager
def replacing(path: Path, mark: str = "") -> Iterator[Path]:
    """A temporary file, for its owner's eyes only, that takes the place of `path` once it is
    written and on disk. After an error or a crash the old content is still there.

    Args:
        mark: part of the temporary name; writers of the same file at the same time need different
            ones. Without it, what a killed process left is overwritten by the next.
    """
    temporary = path.with_name(f".{path.name}{mark}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=0o600, exist_ok=False)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a small file, whoever else does; readers see the old or the new content."""
    with replacing(path, f".{secrets.token_hex(4)}") as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
