"""A lock file that its process holds for as long as it lives: a free one proves that the last holder is dead."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Lock:
    """An flock beside the store."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held = False

    def acquire(self) -> bool:
        """True when the lock was free, and is this process's from now on; False when anybody holds it, this process included."""
        if self._held:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)  # whom `stop` asks to end, while the lock is held
        self._held = True
        return True

    def close(self) -> None:
        """The lock is free."""
        os.close(self._descriptor)


def is_held(path: Path) -> bool:
    """Some living process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look at once do not take each other for a holder
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def holder_pid(path: Path) -> int:
    """The process that holds the lock; 0 when nobody does."""
    try:
        return int(path.read_text() or 0) if is_held(path) else 0
    except (FileNotFoundError, ValueError):
        return 0
