"""The file that a program's output is appended to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

ROTATE_ABOVE_BYTES = 16 * 1024 * 1024
TAIL_BYTES = 256 * 1024


def tail(file: IO[bytes], lines: int, since: int = 0) -> list[str]:
    """The last lines that were written after `since`, oldest first; reads at most 256 KiB."""
    end = file.seek(0, os.SEEK_END)
    begin = max(since, end - TAIL_BYTES)
    file.seek(begin)
    found = file.read(end - begin).decode(errors="replace").splitlines()
    if begin > since and len(found) > 1:
        del found[0]  # begins in the middle of a line
    return found[-lines:] if lines > 0 else []


def tail_of(path: Path, lines: int) -> list[str]:
    """`tail` of the file at `path`; nothing where there is none."""
    try:
        with path.open("rb") as file:
            return tail(file, lines)
    except FileNotFoundError:
        return []


def rotate(path: Path) -> None:
    """A file above 16 MiB was moved to PATH.1."""
    try:
        if path.stat().st_size > ROTATE_ABOVE_BYTES:
            path.rename(path.with_name(path.name + ".1"))
    except FileNotFoundError:
        return
