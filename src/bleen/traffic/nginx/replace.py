"""Several files changed as one: all of them new, or every old one back as it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NewText:
    text: str
    mode: int


@contextlib.contextmanager
def replaced(files: Mapping[Path, NewText]) -> Iterator[None]:
    """Inside, the files hold their new texts; an exception inside brings back every old one, the very same file."""
    undo: list[tuple[Path, Path | None]] = []
    try:
        for path, new in files.items():
            undo.append((path, _keep(path)))
            _write(path, new)
        yield
    except BaseException:
        for path, kept in reversed(undo):
            if kept is None:
                path.unlink(missing_ok=True)
            else:
                kept.rename(path)
        raise
    for _, kept in undo:
        if kept is not None:
            kept.unlink(missing_ok=True)


def _keep(path: Path) -> Path | None:
    """A second name for the present file. It starts with a dot, so neither `*.conf` nor `*` of an include finds it."""
    kept = path.with_name(f".{path.name}.bleen-old")
    kept.unlink(missing_ok=True)
    try:
        kept.hardlink_to(path)
    except FileNotFoundError:
        return None
    return kept


def _write(path: Path, new: NewText) -> None:
    fresh = path.with_name(f".{path.name}.bleen-new")
    with fresh.open("w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), new.mode)
        file.write(new.text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
